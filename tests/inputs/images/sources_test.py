"""Images of class folders, of our records and of those of others are the same images."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_images import CLASSES, contents, example, jpeg, write_folders, write_records
from tf_codistill import files
from tf_codistill.image_files import records
from tf_codistill.inputs.images import others, sources
from tf_codistill.inputs.images.sources import open_images


def write_others(directory: pathlib.Path, first_label: int = 1, num_shards: int = 2) -> dict[str, bytes]:
    """Records as others write them; returns the images by name."""
    images = contents(num_images=4)
    for part in ("train", "validation"):
        own = [name for name in images if name.startswith(part)]
        for shard in range(num_shards):
            examples = [
                example(
                    image__encoded=images[name],
                    image__class__label=CLASSES.index(name.split("/")[1]) + first_label,
                    image__class__synset=name.split("/")[1],
                )
                for name in own[shard::num_shards]
            ]
            write_records(directory / f"{part}-{shard:05d}-of-{num_shards:05d}", examples)
    return images


def test_class_folders(tmp_path: pathlib.Path) -> None:
    images = contents()
    data = open_images(write_folders(tmp_path, images))
    assert data.class_names == list(CLASSES)
    assert {name: part.num_images for name, part in data.parts.items()} == {"train": 24, "validation": 12}
    for part in data.parts.values():
        for image in range(part.num_images):
            name = os.path.relpath(part.name(image), tmp_path)
            assert part.read([image]) == [images[name]]
            assert CLASSES[part.labels[image]] == name.split("/")[1]
    assert data.fingerprint == open_images(str(tmp_path)).fingerprint
    (tmp_path / "train/ant/new.jpg").write_bytes(b"")
    assert data.fingerprint != open_images(str(tmp_path)).fingerprint


def noting(read: Callable[..., bytes], opened: list[str], path: str, *span: int) -> bytes:
    opened.append(path)
    return read(path, *span)


@pytest.mark.parametrize("is_small", [False, True])
def test_small_parts_are_read_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, is_small: bool
) -> None:
    images = contents()
    monkeypatch.setattr(sources, "_SMALL_BYTES", 1 << 28 if is_small else 1000)
    for directory in (write_folders(tmp_path / "folders", images), str(tmp_path / "records")):
        if directory.endswith("records"):
            write_others(tmp_path / "records")
        part = open_images(directory).part("train")
        assert part.num_bytes() == pytest.approx(sum(map(len, part.read(range(part.num_images)))), rel=0.1)
        first = part.read([5, 3, 5])
        opened: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(files, "read", functools.partial(noting, files.read, opened))
            assert part.read([5, 3, 5]) == first
        assert len(opened) == (0 if is_small else 3)


def test_images_may_be_far_away(tmp_path: pathlib.Path) -> None:
    write_others(tmp_path)
    for path in tmp_path.iterdir():
        tf.io.gfile.copy(str(path), f"ram://images/{path.name}", overwrite=True)
    for name, content in contents(parts={"train": 3, "validation": 2}).items():
        tf.io.gfile.makedirs(f"ram://folders/{name.rpartition('/')[0]}")
        tf.io.gfile.GFile(f"ram://folders/{name}", "wb").write(content)
    near, far = open_images(str(tmp_path)), open_images("ram://images")
    assert far.fingerprint == near.fingerprint
    assert far.part("train").read([0, 11]) == near.part("train").read([0, 11])
    part = open_images("ram://folders").part("validation")
    assert part.read([5]) == [contents(parts={"train": 3, "validation": 2})["validation/cow/1.jpg"]]


@pytest.mark.parametrize("first_label", [0, 1])
def test_records_of_others(tmp_path: pathlib.Path, first_label: int) -> None:
    images = write_others(tmp_path, first_label)
    data = open_images(str(tmp_path))
    assert data.class_names == list(CLASSES)
    for name, part in data.parts.items():
        found = sorted(zip(part.read(range(part.num_images)), part.labels.tolist(), strict=True))
        expected = [
            (one, CLASSES.index(path.split("/")[1])) for path, one in images.items() if path.startswith(name)
        ]
        assert found == sorted(expected)
    assert "train-00001-of-00002, image at byte" in data.part("train").name(11)


def test_the_index_of_records_is_made_once_and_again_when_files_change(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_others(tmp_path)
    fingerprint = open_images(str(tmp_path)).fingerprint
    scanned: list[str] = []
    scan = records.scan
    monkeypatch.setattr(others.records, "scan", lambda path: scanned.append(path) or scan(path))
    assert open_images(str(tmp_path)).fingerprint == fingerprint
    assert scanned == []
    kept = tmp_path / "image_index-train.npz"
    for damaged in (b"PK damaged", kept.read_bytes()[:-99]):
        kept.write_bytes(damaged)
        assert open_images(str(tmp_path)).fingerprint == fingerprint
    assert len(scanned) == 4
    write_others(tmp_path, first_label=0)  # of the same sizes
    assert open_images(str(tmp_path)).fingerprint != fingerprint
    assert len(scanned) == 8


def test_a_part_may_be_one_file(tmp_path: pathlib.Path) -> None:
    write_others(tmp_path)
    (tmp_path / "train-00000-of-00002").rename(tmp_path / "train.tfrecord")
    assert open_images(str(tmp_path)).part("train").num_images == 12


def test_an_index_that_cannot_be_kept_is_made_anew(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_others(tmp_path)

    def refuse(path: str, content: bytes) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(files, "write", refuse)
    assert open_images(str(tmp_path)).part("train").num_images == 12
    assert not list(tmp_path.glob("*.npz"))


def test_records_without_features_are_named_and_left_out(tmp_path: pathlib.Path) -> None:
    write_others(tmp_path)
    bad = [example(image__encoded=jpeg(1)), example(image__class__label=2)]
    write_records(tmp_path / "train-00002-of-00003", bad)
    with pytest.raises(
        ValueError, match=r"2 of 14 records in part 'train' .* train-00002-of-00003, record 0: missing_label"
    ):
        open_images(str(tmp_path))
    assert open_images(str(tmp_path), max_damaged_share=0.2).part("train").num_images == 12


def test_labels_that_do_not_fit_are_named(tmp_path: pathlib.Path) -> None:
    write_others(tmp_path, first_label=3)
    with pytest.raises(ValueError, match="labels to train on are 3 to 5; expected 0 or 1"):
        open_images(str(tmp_path))
    write_others(tmp_path, first_label=1)
    write_records(
        tmp_path / "validation-00002-of-00003", [example(image__encoded=b"1", image__class__label=9)]
    )
    with pytest.raises(ValueError, match="1 of 7 images in part 'validation' .* lacks, among them 'label 9'"):
        open_images(str(tmp_path))
    data = open_images(str(tmp_path), max_damaged_share=0.2)
    assert data.part("validation").num_images == 6
    assert data.part("validation").labels.max() == 2


def test_what_is_not_there_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="no class folders train/<class>/ and no image records"):
        open_images(str(tmp_path / "nowhere"))
    data = open_images(write_folders(tmp_path, contents(parts={"train": 2})))
    with pytest.raises(ValueError, match=r"no part 'validation', only 'train'; .*prepare_images"):
        data.part("validation")


def test_classes_that_do_not_fit_are_left_out_or_an_error(tmp_path: pathlib.Path) -> None:
    images = contents(parts={"train": 3, "validation": 3}) | {"validation/dog/1.jpg": jpeg(1)}
    directory = write_folders(tmp_path, images)
    (tmp_path / "train/eel").mkdir()
    with pytest.raises(ValueError, match="1 of 4 classes .* have no image to train on, among them 'eel'"):
        open_images(directory)
    (tmp_path / "train/eel").rmdir()
    with pytest.raises(
        ValueError, match="1 of 10 images in part 'validation' .* training lacks, among them 'dog'"
    ):
        open_images(directory)
    (tmp_path / "train/eel").mkdir()
    data = open_images(directory, max_damaged_share=0.3)
    assert data.class_names == list(CLASSES)
    np.testing.assert_array_equal(data.part("validation").labels, np.repeat([0, 1, 2], 3))


def test_files_that_are_no_images_are_found_before_training(tmp_path: pathlib.Path) -> None:
    images = contents() | {"train/ant/1.jpg": b"<html>"}
    assert open_images(write_folders(tmp_path, images)).part("train").num_images == 24  # one may always be
    write_folders(tmp_path, {"train/bee/1.jpg": b""})
    with pytest.raises(ValueError, match=r"2 of 24 files that were looked at are no images, .*ant/1\.jpg"):
        open_images(str(tmp_path))
    open_images(str(tmp_path), max_damaged_share=0.1)


def test_something_else_with_a_manifest_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    files.commit(str(tmp_path), {"format": "tokens"})
    with pytest.raises(ValueError, match="holds something else than images"):
        open_images(str(tmp_path))
