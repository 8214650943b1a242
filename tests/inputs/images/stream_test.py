"""Batches of images are a function of seed, group, worker and step."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_images import CLASSES, contents, jpeg, write_folders
from tf_codistill.inputs.images import decoding
from tf_codistill.inputs.images.sources import ImageData, open_images
from tf_codistill.inputs.images.stream import HeldOutImages, ImageStream
from tf_codistill.inputs.order import Order

SIZE = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    files = contents(parts={"train": 9, "validation": 5})
    return open_images(write_folders(tmp_path_factory.mktemp("images"), files))


def stream_of(
    images: ImageData, group: int = 0, num_groups: int = 2, data: str = "same", seed: int = 1, **more: Any
) -> ImageStream:
    part = images.part("train")
    order = Order.of_group(part.num_images, group, num_groups, seed, data)
    return ImageStream(part=part, size=SIZE, batch_size=8, order=order, seed=order.seed or (), **more)


def arrays(dataset: tf.data.Dataset) -> list[list[np.ndarray]]:
    return [[one.numpy() for one in tf.nest.flatten(element)] for element in dataset]


def assert_same(found: list[list[np.ndarray]], expected: list[list[np.ndarray]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for array, wanted in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("augmentation", decoding.AUGMENTATIONS)
def test_to_resume_at_a_step_is_to_request_it(images: ImageData, augmentation: str) -> None:
    stream = stream_of(images, augmentation=augmentation)
    steps = arrays(stream.dataset(num_steps=9))  # 72 images, more than two epochs of 27
    for first in (1, 4, 8):
        assert_same(arrays(stream.dataset(first_step=first, num_steps=9 - first)), steps[first:])
    assert_same(arrays(stream_of(images, augmentation=augmentation).dataset().take(9)), steps)


@pytest.mark.parametrize(("num_workers", "num_replicas"), [(1, 2), (2, 1), (2, 2), (4, 2)])
def test_workers_and_replicas_share_the_rows_of_one(
    images: ImageData, num_workers: int, num_replicas: int
) -> None:
    stream = stream_of(images, num_threads=3)
    expected = arrays(stream.dataset(first_step=2, num_steps=4))
    where = {"num_workers": num_workers, "num_replicas": num_replicas}
    parts = [
        arrays(stream.dataset(first_step=2, num_steps=4, worker=worker, **where))
        for worker in range(num_workers)
    ]
    for step, whole in enumerate(expected):
        rows = [part[step * num_replicas + replica] for part in parts for replica in range(num_replicas)]
        assert_same([[np.concatenate(column) for column in zip(*rows, strict=True)]], [whole])


def test_every_visit_of_an_image_has_another_augmentation(images: ImageData) -> None:
    batches = arrays(stream_of(images).dataset(num_steps=27))  # 8 epochs
    of_one = {
        tuple(key): image for pixels, _, keys in batches for key, image in zip(keys, pixels, strict=True)
    }
    assert len(of_one) == 27 * 8
    first = [of_one[5, visit].tobytes() for visit in range(8)]
    assert len(set(first)) == 8


def test_labels_belong_to_images(images: ImageData) -> None:
    part = images.part("train")
    for pixels, labels, keys in arrays(stream_of(images, augmentation="none").dataset(num_steps=4)):
        np.testing.assert_array_equal(labels, part.labels[keys[:, 0]])
        assert [images.class_names[label] for label in labels] == [
            part.name(image).split("/")[-2] for image, _ in keys
        ]
        content = part.read(keys[:1, 0])[0]
        np.testing.assert_array_equal(decoding.served_image(tf.constant(content), SIZE, 1.0), pixels[0])


def test_parts_of_groups(images: ImageData) -> None:
    def read(group: int, data: str, seed: int = 1) -> list[list[np.ndarray]]:
        return arrays(stream_of(images, group, data=data, seed=seed).dataset(num_steps=6))

    def ids(batches: list[list[np.ndarray]]) -> set[int]:
        return {int(key[0]) for _, _, keys in batches for key in keys}

    apart = [ids(read(group, "disjoint")) for group in (0, 1)]
    assert not apart[0] & apart[1]
    assert apart[0] | apart[1] == set(range(27))
    same = [read(group, "same") for group in (0, 1)]
    assert ids(same[0]) == ids(same[1]) == set(range(27))
    assert not np.array_equal(same[0][0][2], same[1][0][2])
    shared = [read(group, "same_batches") for group in (0, 1)]
    assert_same(*shared)  # the augmentation, too
    other = read(0, "same_batches", seed=2)
    assert not np.array_equal(shared[0][0][2], other[0][2])


def test_groups_that_read_the_same_see_other_augmentations(images: ImageData) -> None:
    def first_visits(group: int) -> dict[int, bytes]:
        batches = arrays(stream_of(images, group, data="same").dataset(num_steps=4))
        rows = ((key, image) for pixels, _, keys in batches for key, image in zip(keys, pixels, strict=True))
        return {int(key[0]): image.tobytes() for key, image in rows if key[1] == 0}

    one, other = first_visits(0), first_visits(1)
    assert len(one) == len(other) == 27
    assert not any(one[image] == other[image] for image in one)


def test_held_out_images_are_each_evaluated_once(images: ImageData) -> None:
    held_out = HeldOutImages(part=images.part("validation"), size=SIZE, batch_size=8, share=1.0)
    assert held_out.steps_per_epoch == 2
    batches = arrays(held_out.dataset(num_steps=4))
    for epoch in (batches[:2], batches[2:]):
        rows = [
            (int(key[0]), float(weight))
            for _, _, weights, keys in epoch
            for weight, key in zip(weights, keys, strict=True)
        ]
        assert [image for image, weight in rows if weight] == list(range(15))
        assert {weight for _, weight in rows} == {0.0, np.float32(16 / 15)}
    assert_same([batch[:3] for batch in batches[2:]], [batch[:3] for batch in batches[:2]])
    by_label = np.concatenate([labels for _, labels, _, _ in batches[:2]])
    weights = np.concatenate([weights for _, _, weights, _ in batches[:2]])
    of_batches = [(labels * weights).mean() for _, labels, weights, _ in batches[:2]]
    assert np.mean(of_batches) == pytest.approx(images.part("validation").labels.mean(), rel=1e-6)
    assert by_label.shape == weights.shape == (16,)


def test_damaged_images_are_grey_and_told_once(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: told.append(text % values))
    files = contents(parts={"train": 8})
    files["train/bee/3.jpg"] = files["train/bee/3.jpg"][:90]
    part = open_images(write_folders(tmp_path, files)).part("train")
    stream = ImageStream(part=part, size=SIZE, batch_size=8, order=Order(24), seed=(1,))
    batches = arrays(stream.dataset(num_steps=9))
    images = {
        tuple(key): image for pixels, _, keys in batches for key, image in zip(keys, pixels, strict=True)
    }
    for visit in range(3):
        assert set(np.unique(images.pop((11, visit)))) == {decoding.GREY}
    assert not any((image == decoding.GREY).all() for image in images.values())
    path = tmp_path / "train/bee/3.jpg"
    assert told == [f"image {path} cannot be decoded: a grey one takes its place (1 so far)"]


def test_too_many_damaged_images_stop_the_stream(tmp_path: pathlib.Path) -> None:
    files = contents(parts={"train": 8})
    files |= {f"train/cow/{number}.jpg": b"\xff\xd8\xff no more" for number in range(3)}
    part = open_images(write_folders(tmp_path, files)).part("train")
    stream = ImageStream(
        part=part, size=SIZE, batch_size=8, order=Order(24), seed=(1,), max_damaged_share=0.1
    )
    with pytest.raises(
        tf.errors.OpError, match=r"3 of 24 images cannot be decoded, the last is .*cow/\d.jpg"
    ):
        arrays(stream.dataset(num_steps=3))


def test_a_file_that_is_gone_stops_the_stream(tmp_path: pathlib.Path) -> None:
    part = open_images(write_folders(tmp_path, contents(parts={"train": 8}))).part("train")
    (tmp_path / "train" / CLASSES[0] / "0.jpg").unlink()
    with pytest.raises(tf.errors.OpError, match=r"ant/0\.jpg"):
        arrays(ImageStream(part=part, size=SIZE, batch_size=8, order=Order(24)).dataset(num_steps=3))


def test_batches_must_be_shared_out_evenly(images: ImageData) -> None:
    for where in ({"num_workers": 3}, {"num_replicas": 16}, {"worker": 2, "num_workers": 2}):
        with pytest.raises(ValueError, match="batch_size is 8; expected a multiple"):
            stream_of(images).dataset(**where)


def test_a_png_that_is_called_jpg_is_read(tmp_path: pathlib.Path) -> None:
    files = contents(parts={"train": 2})
    files["train/ant/0.jpg"] = tf.io.encode_png(tf.io.decode_jpeg(jpeg(0))).numpy()
    part = open_images(write_folders(tmp_path, files)).part("train")
    for augmentation in decoding.AUGMENTATIONS:
        stream = ImageStream(part=part, size=SIZE, batch_size=6, order=Order(6), augmentation=augmentation)
        ((pixels, _, _),) = arrays(stream.dataset(num_steps=1))
        assert not any((image == decoding.GREY).all() for image in pixels)
