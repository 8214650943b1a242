"""The examples run as a reader would run them, in a process of their own."""

from __future__ import annotations

import math
import os
import pathlib
import re
import tempfile
import time
import zipfile
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from examples import images
from tests.forks import forks
from tf_codistill import runs

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_REAL_DATA = os.environ.get("TF_CODISTILL_REAL_DATA", "")


def started(directory: pathlib.Path, example: str, *flags: str, real_data: str = "") -> Callable[[], str]:
    """Starts an example; what is returned waits for its end, and has what it printed."""
    path = str(tempfile.mkstemp(dir=directory)[1])
    pid = forks().start(
        module=f"examples.{example}",
        arguments=flags,
        output=path,
        error=path,
        environment={"TF_CODISTILL_REAL_DATA": real_data},
        timeout_secs=600,
    )

    def output() -> str:
        while (status := forks().poll(pid)) is None:
            time.sleep(0.05)
        text = pathlib.Path(path).read_text(errors="replace")
        assert status == 0, text[-5000:]
        return text

    return output


def numbers(pattern: str, output: str) -> list[float]:
    return [float(number) for number in re.findall(pattern + r" (-?[0-9.e+-]+)", output)]


def test_image_classifier(tmp_path: pathlib.Path) -> None:
    output = started(tmp_path, "image_classifier")()
    assert min(numbers("group [01]: accuracy", output)) > 0.6
    assert numbers("distillation_weight:", output)[-2:] == [1.0, 1.0]
    assert min(numbers("distillation_loss:", output)[-2:]) > 0
    source = (_REPOSITORY / "examples" / "image_classifier.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) <= 30, "it shall be read at a glance"


@pytest.mark.slow
def test_two_outputs(tmp_path: pathlib.Path) -> None:
    output = started(tmp_path, "two_outputs")()
    assert min(numbers("accuracy", output)) > 0.5
    assert max(numbers("error of size", output)) < 0.15
    assert numbers("kind_distillation_weight:", output)[-1] == 1.0
    assert numbers("size_distillation_weight:", output)[-1] == 0.5


@pytest.mark.slow
def test_sorted_letters(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("keras_hub", reason="the extra `hub` is not installed")
    output = started(tmp_path, "sorted_letters")()
    assert min(numbers("group [01]: accuracy", output)) > 0.3, "of six letters each has to be right"
    assert numbers("distillation_weight:", output)[-1] == 1.0
    assert min(numbers("distillation_loss:", output)[-2:]) > 0


def test_two_terminals(tmp_path: pathlib.Path) -> None:
    flags = [f"--exchange={tmp_path}", "--epochs=6"]
    both = [started(tmp_path, "two_terminals", f"--group={group}", *flags) for group in (0, 1)]
    outputs = [output() for output in both]
    weights = [max(numbers(" distillation_weight:", output)) for output in outputs]
    assert max(weights) > 0, "whoever is later finds what the other has published"
    for group in (0, 1):
        student = keras.saving.load_model(tmp_path / f"student_{group}.keras")
        assert student(images.draw(3, seed=5).images).shape == (3, len(images.KINDS))


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not _REAL_DATA, reason="TF_CODISTILL_REAL_DATA is not set")
def test_image_classifier_on_photographs(tmp_path: pathlib.Path) -> None:
    output = started(tmp_path, "image_classifier", real_data=_REAL_DATA)()
    assert min(numbers("group [01]: accuracy", output)) > 0.2


@pytest.mark.slow
@pytest.mark.timeout(620)
@pytest.mark.real_data
@pytest.mark.skipif(not _REAL_DATA, reason="TF_CODISTILL_REAL_DATA is not set")
def test_mobile_net_in_two_groups_of_two_workers(tmp_path: pathlib.Path) -> None:
    archive, *_ = sorted((pathlib.Path(_REAL_DATA) / "images").glob("*.zip"))
    flags = [f"--images={archive}", f"--workdir={tmp_path}", "--num_steps=160", "--log_every_steps=20"]
    started(tmp_path, "image_folder", *flags)()
    for group in (0, 1):
        student = keras.saving.load_model(tmp_path / f"group_{group}" / "student.keras")
        assert student(np.zeros((2, 64, 64, 3))).shape == (2, 10)
        last = runs.read_metrics(runs.metrics_path(str(tmp_path), group), "validation")[-1]
        assert last["step"] == 160
        assert last["loss"] < math.log(10) - 0.1, "chance is log 10"
        assert last["accuracy"] > 0.15, "chance is 0.1, and 0.15 more than two standard deviations from it"
        (start,) = runs.read_metrics(runs.metrics_path(str(tmp_path), group), "start")
        assert start["units"] == "images"
    logs = [(tmp_path / f"group_{group}" / "metrics.jsonl").read_text() for group in (0, 1)]
    assert max(max(numbers('"distillation_weight":', log)) for log in logs) > 0


def test_images_of_a_folder_and_of_a_zip_file_are_the_same(tmp_path: pathlib.Path) -> None:
    drawn = images.draw(6, seed=0).images
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number, pixels in enumerate(drawn):
            name = f"set/{'cat' if number < 4 else 'dog'}/{number}.jpg"
            path = tmp_path / "folder" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_jpeg(pixels, quality=100).numpy())
            archive.write(path, name)
    folder, zipped = (images.read(str(tmp_path / source), 32) for source in ("folder", "images.zip"))
    np.testing.assert_array_equal(folder[0], zipped[0])
    np.testing.assert_array_equal(folder[1], zipped[1])
    assert folder[2] == ["cat", "dog"]
    assert sorted(folder[1]) == [0, 0, 0, 0, 1, 1]
    assert np.abs(np.sort(folder[0].mean((1, 2, 3))) - np.sort(drawn.mean((1, 2, 3)))).max() < 2


def test_a_folder_without_images_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \.jpg or \.jpeg; expected <class>/<name>\.jpg"):
        images.read(str(tmp_path), 32)
