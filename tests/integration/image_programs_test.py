"""Images through the real programs: prepared, learned by two groups of two workers, evaluated, exported."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from tests.integration.programs import Programs, final_weights, log_of, metrics
from tests.toy_images import CLASSES, EXPERIMENT, contents, jpeg, write_zip
from tf_codistill import files

ONE = "--num_processes=1"
READER = """
import sys, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
images = tf.constant([open(sys.argv[2], "rb").read()])
print(served.serve(images)["probabilities"].shape, "tf_codistill" in sys.modules)
"""


def test_prepare_images_says_what_became_of_them(programs: Programs, tmp_path: pathlib.Path) -> None:
    images = contents(num_images=40) | {"train/ant/7.jpg": jpeg(7)[:99], "train/notes.txt": b"x"}
    flags = [f"--source={write_zip(tmp_path / 'a.zip', images)}", f"--output_dir={tmp_path / 'out'}", ONE]
    more = ["--gin_bindings=ImageSettings.images_per_shard = 50", f"--quarantine_dir={tmp_path / 'kept'}"]
    told = programs.succeed("prepare_images", *flags, *more).output
    assert told.split("\n")[0].endswith("out: 3 classes, files:")
    found = {" ".join(words[:-1]): words[-1] for line in told.splitlines() if (words := line.split())}
    assert (found["read"], found["kept"], found["damaged: damaged_jpeg"]) == ("181", "179", "1")
    assert found["left out: not_an_image"] == "1"
    assert "train 119 images, 39 to 40 of a" in found
    assert len(list((tmp_path / "out").glob("train*.tfrecord"))) == 3
    assert len(list((tmp_path / "kept").iterdir())) == 2
    again = programs.succeed("prepare_images", *flags, *more)
    assert "prepared already" in again.error
    assert again.output == told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--source=nowhere.zip", "--output_dir=out"], "'nowhere.zip' does not exist"),
        (["--source=.", "--output_dir=out", "--beam_options=--x"], "--beam_options has an effect only with"),
        (["--source=.", "--output_dir=out", "--validation_labels=x"], "only with --validation_source"),
        (["--source=out/in", "--output_dir=out"], "--source is 'out/in', inside --output_dir"),
        (["--source=.", "--output_dir=out"], "'.' holds no image by the names of its files"),
        (
            ["--source=.", "--output_dir=out", "--gin_bindings=ImageSettings.jpeg_quality = 0"],
            "jpeg_quality is 0; expected 1 to 100",
        ),
    ],
)
def test_a_wrong_use_of_prepare_images_is_told(
    programs: Programs, tmp_path: pathlib.Path, flags: list[str], told: str
) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert told in programs.run("prepare_images", *flags, directory=tmp_path).sentence()
    assert files.read_manifest(str(tmp_path / "out")) is None


@pytest.mark.slow
def test_two_groups_of_two_workers_learn_from_images(programs: Programs, tmp_path: pathlib.Path) -> None:
    source = write_zip(tmp_path / "a.zip", contents(parts={"train": 12, "validation": 3}))
    programs.succeed("prepare_images", f"--source={source}", f"--output_dir={tmp_path / 'images'}", ONE)
    path = tmp_path / "toy.gin"
    path.write_text(EXPERIMENT + f"ImageTask.data_dir = {str(tmp_path / 'images')!r}\n")
    run = f"--workdir={tmp_path / 'run'}"
    programs.succeed("launch", run, f"--gin_file={path}", "--num_groups=2", "--workers_per_group=2")
    for group in (0, 1):
        ends = {final_weights(log_of(tmp_path / "run", group, worker)) for worker in (0, 1)}
        assert len(ends) == 1
        assert {step for step, _ in ends} == {12}
        validated = metrics(tmp_path / "run", group, "validation")
        assert set(validated) == {6, 12}
        assert {"loss", "accuracy", "error", "cross_entropy"} <= validated[12].keys()
        kept = files.read_manifest(str(tmp_path / "run" / f"group_{group}" / "images"))
        assert kept is not None
        assert kept["class_names"] == list(CLASSES)
    programs.succeed("report", f"--output_dir={tmp_path / 'report'}", f"--runs=one={tmp_path / 'run'}")
    evaluated = programs.succeed("evaluate", f"--runs=one={tmp_path / 'run'}", f"--gin_file={path}").output
    assert "ensemble" in evaluated
    programs.succeed("export", run, f"--output_dir={tmp_path / 'served'}")
    image = tmp_path / "1.jpg"
    image.write_bytes(jpeg(1))
    reader = [sys.executable, "-c", READER, str(tmp_path / "served"), str(image)]
    ended = subprocess.run(reader, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.stdout.endswith("(1, 3) False\n"), ended.stderr
    config = json.loads((tmp_path / "images" / files.MANIFEST).read_text())
    assert config["format"] == "image_records"
