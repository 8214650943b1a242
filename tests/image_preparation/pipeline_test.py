"""Images are prepared whole, whoever does it and however often it is stopped; damage is counted and kept."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import pathlib
import signal
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import tensorflow as tf

from tests import toy_dask
from tests.forks import forks
from tests.image_preparation.archives_test import tar_bytes
from tests.toy_images import CLASSES, contents, fuzzed, grey_jpeg, jpeg, pixels, png, write_folders, write_zip
from tf_codistill import files
from tf_codistill.image_files import formats
from tf_codistill.image_preparation import pipeline, writing
from tf_codistill.image_preparation.pipeline import prepare
from tf_codistill.image_preparation.plan import Sources
from tf_codistill.image_preparation.settings import ImageSettings
from tf_codistill.inputs.images.sources import open_images
from tf_codistill.jobs.engines import Beam, Local
from tf_codistill.jobs.stages import Advance, Stage

SETTINGS = ImageSettings(images_per_shard=10)
REAL_DATA = os.environ.get("TF_CODISTILL_REAL_DATA")

KILLED = """
import os, signal
from tf_codistill.image_preparation import archives, pipeline, writing
from tf_codistill.image_preparation.plan import Sources
from tf_codistill.image_preparation.settings import ImageSettings
number, content = 0, archives.content
def reading(located):
    global number
    number += 1
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return content(located)
archives.content = reading
pipeline.prepare(Sources({source!r}), {output_dir!r}, ImageSettings(images_per_shard=10))
"""


def written(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@dataclasses.dataclass
class Stopping:
    """Runs a few tasks, then stops."""

    num_tasks: int

    def run(self, stage: Stage, tasks: Sequence[str], advance: Advance) -> None:
        for task in tasks[: self.num_tasks]:
            stage(task, advance)
        raise KeyboardInterrupt


@pytest.fixture
def source(tmp_path: pathlib.Path) -> str:
    return write_zip(tmp_path / "images.zip", contents())


def test_records_are_the_images_of_the_source(tmp_path: pathlib.Path, source: str) -> None:
    manifest = prepare(Sources(source), str(tmp_path / "out"), SETTINGS)
    images = contents()
    data = open_images(str(tmp_path / "out"))
    assert data.class_names == list(CLASSES)
    for name, part in data.parts.items():
        found = sorted(zip(part.read(range(part.num_images)), part.labels.tolist(), strict=True))
        expected = [
            (one, CLASSES.index(path.split("/")[1])) for path, one in images.items() if path.startswith(name)
        ]
        assert found == sorted(expected)
    assert manifest["counts"]["parts"] == {
        "train": dict.fromkeys(CLASSES, 8),
        "validation": dict.fromkeys(CLASSES, 4),
    }
    assert (manifest["counts"]["read"], manifest["counts"]["kept"]) == (36, 36)
    assert not (tmp_path / "out.work").exists()
    features = {
        "image/filename": tf.io.FixedLenFeature((), tf.string),
        "image/width": tf.io.FixedLenFeature((), tf.int64),
    }
    paths = sorted(str(path) for path in (tmp_path / "out").glob("*.tfrecord"))
    assert [path.rpartition("/")[2] for path in paths][0] == "train-00000-of-00003.tfrecord"
    parsed = [tf.io.parse_single_example(one, features) for one in tf.data.TFRecordDataset(paths)]
    assert sorted(one["image/filename"].numpy().decode() for one in parsed) == sorted(images)
    assert {int(one["image/width"]) for one in parsed} == {30}


def test_every_kind_of_source_gives_the_same_records(tmp_path: pathlib.Path, source: str) -> None:
    folder = write_folders(tmp_path / "folder", contents())
    (tmp_path / "a.tar").write_bytes(tar_bytes(contents()))
    made = [folder, str(tmp_path / "a.tar"), source]
    for number, one in enumerate(made):
        prepare(Sources(one), str(tmp_path / f"out{number}"), SETTINGS)
    found = [written(tmp_path / f"out{number}") for number in range(3)]
    for each in found:
        del each["manifest.json"]  # it names the source
    assert found[0] == found[1] == found[2]


def test_a_stopped_preparation_goes_on_to_the_same_bytes(
    tmp_path: pathlib.Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(Sources(source), str(tmp_path / "one"), SETTINGS)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prepare(Sources(source), str(tmp_path / "two"), SETTINGS, Stopping(1))
        assert files.read_manifest(str(tmp_path / "two")) is None
    again: list[str] = []
    do = writing.RecordStage.do
    monkeypatch.setattr(
        writing.RecordStage, "do", lambda stage, task, advance: again.append(task) or do(stage, task, advance)
    )
    prepare(Sources(source), str(tmp_path / "two"), SETTINGS)
    assert again == ["train-00002-of-00003", "validation-00000-of-00002", "validation-00001-of-00002"]
    assert written(tmp_path / "two") == written(tmp_path / "one")
    prepare(Sources(source), str(tmp_path / "two"), SETTINGS)  # changes nothing, reads nothing
    assert len(again) == 3


@dataclasses.dataclass
class Joined:
    """Something happens, then the tasks run."""

    happens: Callable[[], object]

    def run(self, stage: Stage, tasks: Sequence[str], advance: Advance) -> None:
        self.happens()
        for task in tasks:
            stage(task, advance)


def test_what_others_have_put_there_stays(tmp_path: pathlib.Path, source: str) -> None:
    output_dir = tmp_path / "out"

    def put() -> None:
        (output_dir / "thesis.tex").write_text("years of work")
        (output_dir / "train-00000-of-00099.tfrecord").mkdir()

    with pytest.raises(KeyboardInterrupt):
        prepare(Sources(source), str(output_dir), dataclasses.replace(SETTINGS, jpeg_quality=50), Stopping(1))
    prepare(Sources(source), str(output_dir), SETTINGS, Joined(put))
    assert (output_dir / "thesis.tex").read_text() == "years of work"
    (output_dir / "thesis.tex").unlink()
    (output_dir / "train-00000-of-00099.tfrecord").rmdir()
    prepare(Sources(source), str(tmp_path / "whole"), SETTINGS)
    assert written(output_dir) == written(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_another_process_may_be_faster(tmp_path: pathlib.Path, source: str, kind: str) -> None:
    sources = Sources(source if kind == "zip" else write_folders(tmp_path / "in", contents()))
    faster = Joined(lambda: prepare(sources, str(tmp_path / "out"), SETTINGS))
    manifest = prepare(sources, str(tmp_path / "out"), SETTINGS, faster)
    assert manifest == prepare(sources, str(tmp_path / "whole"), SETTINGS)
    assert not (tmp_path / "out.work").exists()


def test_a_killed_preparation_goes_on_to_the_same_bytes(tmp_path: pathlib.Path, source: str) -> None:
    output_dir = str(tmp_path / "killed")
    script = KILLED.format(source=source, output_dir=output_dir)
    pid = forks().start(script, output=str(tmp_path / "output"), error=str(tmp_path / "error"))
    while (status := forks().poll(pid)) is None:
        time.sleep(0.05)
    assert status == -signal.SIGKILL, (tmp_path / "error").read_text()
    left = [path.name for path in (tmp_path / "killed").iterdir()]
    assert any(name.endswith(".partial") for name in left)
    assert "train-00000-of-00003.tfrecord" in left
    prepare(Sources(source), output_dir, SETTINGS)
    prepare(Sources(source), str(tmp_path / "one"), SETTINGS)
    assert written(tmp_path / "killed") == written(tmp_path / "one")


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed")
def test_every_engine_gives_the_same_bytes(
    tmp_path: pathlib.Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing.RecordStage, "units_per_process", 1)
    prepare(Sources(source), str(tmp_path / "one"), SETTINGS, Local(1))
    prepare(Sources(source), str(tmp_path / "two"), SETTINGS, Local(2))
    prepare(Sources(source), str(tmp_path / "beam"), SETTINGS, Beam())
    assert written(tmp_path / "one") == written(tmp_path / "two") == written(tmp_path / "beam")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_a_cluster_gives_the_same_bytes(tmp_path: pathlib.Path, source: str) -> None:
    prepare(Sources(source), str(tmp_path / "one"), SETTINGS, Local(1))
    with toy_dask.beam_on_dask() as engine:
        prepare(Sources(source), str(tmp_path / "dask"), SETTINGS, engine)
    assert written(tmp_path / "dask") == written(tmp_path / "one")


def test_what_is_no_rgb_jpeg_is_stored_as_one(tmp_path: pathlib.Path) -> None:
    images = contents(parts={"": 5})
    images |= {"ant/grey.jpg": grey_jpeg(1), "bee/is_png.jpg": png(3), "cow/a.png": png(4)}
    bmp = io.BytesIO()
    expected = {"grey_jpeg": 1}, {"png": 2}
    if image := importlib.util.find_spec("PIL") and importlib.import_module("PIL.Image"):
        cmyk = io.BytesIO()
        image.fromarray(pixels(1)).convert("CMYK").save(cmyk, "JPEG")
        image.fromarray(pixels(1)).save(bmp, "BMP")
        images |= {"ant/cmyk.jpg": cmyk.getvalue(), "ant/a.bmp": bmp.getvalue()}
        expected = {"grey_jpeg": 1}, {"png": 2, "cmyk_jpeg": 1, "bmp": 1}
    settings = dataclasses.replace(SETTINGS, validation_share=0.0)
    manifest = prepare(Sources(write_zip(tmp_path / "a.zip", images)), str(tmp_path / "out"), settings)
    assert manifest["counts"]["as_they_are"] == {"jpeg": 15, **expected[0]}
    assert manifest["counts"]["converted"] == expected[1]
    part = open_images(str(tmp_path / "out")).part("train")
    assert part.num_images == len(images)
    assert {formats.kind_of(content) for content in part.read(range(part.num_images))} == {
        "jpeg",
        "grey_jpeg",
    }
    told = pipeline.summary(manifest, "out")
    assert "stored anew as RGB JPEG: png" in told


def test_damage_is_counted_named_and_kept(tmp_path: pathlib.Path) -> None:
    images = contents(parts={"train": 20, "validation": 2})
    images |= {
        "train/ant/1.jpg": jpeg(1)[:200],
        "train/bee/2.jpg": b"<html>" * 9,
        "validation/cow/1.jpg": b"",
        "train/ant/bad.png": png(1)[:60],
    }
    source = write_folders(tmp_path / "in", images)
    with pytest.raises(
        ValueError, match=r"4 of 67 images cannot be decoded: .*\(damaged_jpeg\).*max_damaged_share"
    ):
        prepare(Sources(source), str(tmp_path / "out"), SETTINGS)
    assert files.read_manifest(str(tmp_path / "out")) is None
    settings = dataclasses.replace(SETTINGS, max_damaged_share=0.1)
    kept = tmp_path / "quarantine"
    manifest = prepare(Sources(source), str(tmp_path / "out"), settings, quarantine_dir=str(kept))
    counts = manifest["counts"]
    assert counts["damaged"] == {"damaged_jpeg": 1, "unknown_format": 1, "empty": 1, "damaged_png": 1}
    assert counts["read"] == 67 == counts["kept"] + 4
    rows = [json.loads(line) for line in (tmp_path / "out" / pipeline.DAMAGED).read_text().splitlines()]
    assert {(row["part"], row["name"], row["kind"]) for row in rows} == {
        ("train", "train/ant/1.jpg", "damaged_jpeg"),
        ("train", "train/bee/2.jpg", "unknown_format"),
        ("validation", "validation/cow/1.jpg", "empty"),
        ("train", "train/ant/bad.png", "damaged_png"),
    }
    stored = {path.read_bytes() for path in kept.iterdir() if path.suffix != ".jsonl"}
    assert stored == {jpeg(1)[:200], b"<html>" * 9, png(1)[:60]}
    listed = [json.loads(line) for path in kept.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert {row["url"] for row in listed} == {row["name"] for row in rows}


def test_a_class_of_which_nothing_can_be_decoded_is_an_error(tmp_path: pathlib.Path) -> None:
    images = contents(parts={"train": 20}) | {f"train/dog/{number}.jpg": b"?" for number in range(2)}
    settings = dataclasses.replace(SETTINGS, max_damaged_share=0.5, validation_share=0.0)
    with pytest.raises(ValueError, match="of class 'dog' no image to train on can be decoded"):
        prepare(Sources(write_folders(tmp_path / "in", images)), str(tmp_path / "out"), settings)


def test_three_hundred_fuzzed_images_add_up(tmp_path: pathlib.Path) -> None:
    images = {
        f"{CLASSES[number % 3]}/{number}.jpg": fuzzed(jpeg(number % 9), number) for number in range(300)
    }
    images |= {f"{name}/good.jpg": jpeg(1) for name in CLASSES}
    settings = ImageSettings(images_per_shard=200, validation_share=0.0, max_damaged_share=0.9)
    source = write_zip(tmp_path / "a.zip", images, zipfile.ZIP_STORED)
    manifest = prepare(
        Sources(source), str(tmp_path / "out"), settings, quarantine_dir=str(tmp_path / "kept")
    )
    counts = manifest["counts"]
    assert counts["read"] == 303 == counts["kept"] + sum(counts["damaged"].values())
    assert 150 < sum(counts["damaged"].values()) < 300
    part = open_images(str(tmp_path / "out")).part("train")
    assert part.num_images == counts["kept"]
    for content in part.read(range(part.num_images)):
        tf.io.decode_jpeg(content, channels=3)  # what has passed can be decoded
    listed = [path.read_text().splitlines() for path in (tmp_path / "kept").glob("*.jsonl")]
    assert sum(map(len, listed)) == sum(counts["damaged"].values())


def test_a_damaged_shard_is_not_taken_for_whole(tmp_path: pathlib.Path, source: str) -> None:
    prepare(Sources(source), str(tmp_path / "out"), SETTINGS)
    shard = tmp_path / "out" / "train-00001-of-00003.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(files.CorruptError, match="train-00001"):
        open_images(str(tmp_path / "out"))
    with pytest.raises(files.CorruptError, match="train-00001"):
        prepare(Sources(source), str(tmp_path / "out"), SETTINGS)


def test_a_directory_that_holds_something_else_is_refused(tmp_path: pathlib.Path, source: str) -> None:
    prepare(Sources(source), str(tmp_path / "out"), SETTINGS)
    with pytest.raises(ValueError, match=r"prepared otherwise \(jpeg_quality\)"):
        prepare(Sources(source), str(tmp_path / "out"), dataclasses.replace(SETTINGS, jpeg_quality=50))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"holds 'thesis\.tex'"):
        prepare(Sources(source), str(tmp_path / "other"), SETTINGS)


def test_damaged_images_that_are_replaced_are_read_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = contents()
    source = Sources(
        write_folders(tmp_path / "in", images | {"train/ant/1.jpg": b"?", "train/bee/2.jpg": b""})
    )
    written_again: list[str] = []
    do = writing.RecordStage.do
    monkeypatch.setattr(
        writing.RecordStage,
        "do",
        lambda stage, task, advance: written_again.append(task) or do(stage, task, advance),
    )
    for number, name in ((2, "train/ant/1.jpg"), (1, "train/bee/2.jpg")):
        with pytest.raises(ValueError, match=f"{number} of 36 images cannot be decoded"):
            prepare(source, str(tmp_path / "out"), SETTINGS)
        write_folders(tmp_path / "in", {name: images[name]})
    prepare(source, str(tmp_path / "out"), SETTINGS)
    assert len(written_again) == 5 + 2
    prepare(Sources(write_folders(tmp_path / "whole" / "in", images)), str(tmp_path / "one"), SETTINGS)
    assert written(tmp_path / "out") == written(tmp_path / "one")


def test_a_folder_that_has_changed_is_told(tmp_path: pathlib.Path) -> None:
    source = Sources(write_folders(tmp_path / "in", contents()))
    first = prepare(source, str(tmp_path / "out"), SETTINGS)
    assert prepare(source, str(tmp_path / "out"), SETTINGS) == first
    write_folders(tmp_path / "in", {"train/ant/new.jpg": jpeg(1)})
    with pytest.raises(ValueError, match="are others than those that .*out' was prepared from"):
        prepare(source, str(tmp_path / "out"), SETTINGS)
    assert not (tmp_path / "out.work").exists()


def test_damage_found_before_gets_into_a_quarantine_that_is_asked_for_later(
    tmp_path: pathlib.Path,
) -> None:
    source = write_folders(tmp_path / "in", contents() | {"train/ant/1.jpg": b"?"})
    with pytest.raises(ValueError, match="1 of 36"):
        prepare(Sources(source), str(tmp_path / "out"), SETTINGS)
    settings = dataclasses.replace(SETTINGS, max_damaged_share=0.1)
    prepare(Sources(source), str(tmp_path / "out"), settings, quarantine_dir=str(tmp_path / "kept"))
    assert [path.read_bytes() for path in (tmp_path / "kept").iterdir() if path.suffix != ".jsonl"] == [b"?"]


@pytest.mark.real_data
@pytest.mark.skipif(REAL_DATA is None, reason="TF_CODISTILL_REAL_DATA is not set")
def test_real_images(tmp_path: pathlib.Path) -> None:
    source = os.path.join(REAL_DATA or "", "images", "cifar10_train_2000.zip")
    manifest = prepare(Sources(source), str(tmp_path / "out"), ImageSettings())
    assert manifest["counts"]["read"] == manifest["counts"]["kept"] == 2000
    data = open_images(str(tmp_path / "out"))
    assert len(data.class_names) == 10
    numbers: Mapping[str, int] = {name: part.num_images for name, part in data.parts.items()}
    assert numbers["validation"] == 2000 - numbers["train"]
    assert 150 < numbers["validation"] < 250
    both = np.bincount(np.concatenate([part.labels for part in data.parts.values()]))
    assert both.tolist() == [200] * 10
