"""The task of an image classifier: it trains, resumes to the bit, is evaluated, and is served from JPEGs."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_experiments import toy_experiment
from tests.toy_images import CLASSES, contents, jpeg, small, write_folders
from tf_codistill import evaluation, files, runs, weights
from tf_codistill.batches import batch_of
from tf_codistill.experiment import Experiment
from tf_codistill.inputs.images import decoding
from tf_codistill.tasks.base import Part
from tf_codistill.tasks.images import ImageTask, SmoothedCrossEntropy
from tf_codistill.teaching.base import Teaching

SIZE = 8
SERVED = """
import sys, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
images = tf.constant([open(path, "rb").read() for path in sys.argv[2:]])
print(served.serve(images)["probabilities"].numpy().tolist(), "tf_codistill" in sys.modules, sep="|")
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    files = contents(parts={"train": 16, "validation": 3, "test": 2})
    return write_folders(tmp_path_factory.mktemp("images"), files)


def toy(images: str, **changes: Any) -> ImageTask:
    settings: dict[str, Any] = {"model_fn": small, "image_size": SIZE, "batch_size": 8, "data": "same"}
    return ImageTask(data_dir=images, **{**settings, **changes})


def experiment(task: ImageTask, **changes: Any) -> Experiment:
    settings = {"optimizer": lambda: keras.optimizers.SGD(0.2), "distillation_weight": 0.0}
    return toy_experiment(task, teaching=Teaching, **{**settings, **changes})


@pytest.fixture(scope="module")
def trained(images: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[np.ndarray]]:
    """A workdir, and the weights of its model after 20 steps."""
    workdir = str(tmp_path_factory.mktemp("trained"))
    model = experiment(toy(images)).train(workdir)
    return workdir, weights.values([*model.weights, *model.optimizer.variables])


def test_settings_alone_read_nothing() -> None:
    task = ImageTask(data_dir="/nowhere", model_fn=small)
    assert (task.batch_size, task.units) == (256, "images")
    with pytest.raises(ValueError, match="'/nowhere' has no class folders"):
        task.training(Part(0, 1, seed=0))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"augmentation": "incept"}, "augmentation is 'incept'; expected one of 'inception', 'pad_crop'"),
        ({"data": "all"}, "data is 'all'; expected one of 'disjoint', 'same', 'same_batches'"),
        ({"held_out": "train"}, "held_out is 'train'; expected one of 'validation', 'test'"),
        ({"image_size": 0}, "image_size is 0; expected at least 1"),
        ({"num_threads": 0}, "num_threads is 0; expected at least 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; expected 0 to less than 1"),
        ({"batch_size": "many"}, "batch_size is 'many'; expected an integer"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ImageTask(**{"data_dir": "a", "model_fn": small, **settings})


def test_a_stream_yields_images_with_their_keys(images: str) -> None:
    stream = toy(images).training(Part(1, 2, seed=3))
    assert (stream.units_per_step, stream.steps_per_epoch) == (8, 6)
    (first,) = stream.dataset(first_step=2, num_steps=1)
    batch = batch_of(first)
    assert (batch.features.shape, batch.features.dtype) == ((8, SIZE, SIZE, 3), tf.uint8)
    assert (batch.targets.shape, batch.targets.dtype) == ((8,), tf.int32)
    assert batch.sample_weight is None
    assert (batch.keys.dtype, batch.keys.shape) == (tf.int64, (8, 2))


def test_counts_that_are_known_are_checked(images: str) -> None:
    assert toy(images, expected_counts={"classes": 3, "train": 48}).images.class_names == list(CLASSES)
    with pytest.raises(ValueError, match="48 images in part 'train'; expected 49: 1 are missing"):
        toy(images, expected_counts={"train": 49}).validation()


@pytest.mark.parametrize(("data", "is_same"), [("same", False), ("same_batches", True)])
def test_groups_can_be_given_the_same_batches(images: str, data: str, is_same: bool) -> None:
    task = toy(images, data=data)
    one, other = (next(iter(task.training(Part(group, 2, seed=3)).dataset())) for group in (0, 1))
    assert np.array_equal(one.data[0], other.data[0]) == is_same


def test_what_is_held_out_can_be_the_test_part(images: str) -> None:
    streams = [toy(images, held_out=part).validation() for part in ("validation", "test")]
    assert [stream.steps_per_epoch for stream in streams] == [2, 1]


def test_smoothed_labels_are_keras_own() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 4))
    labels = np.array([0, 3, 2, 2, 1, 0])
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = smoothed(np.eye(4)[labels], logits)
    np.testing.assert_allclose(SmoothedCrossEntropy(0.1)(labels, logits), expected, rtol=1e-6)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    by_hand = -(0.9 * log_probabilities[np.arange(6), labels] + 0.1 * log_probabilities.mean(axis=1))
    np.testing.assert_allclose(SmoothedCrossEntropy(0.1)(labels, logits), by_hand.mean(), rtol=1e-6)


def test_the_mean_prediction_is_that_of_probabilities(images: str) -> None:
    logits = [tf.constant(np.random.default_rng(number).normal(size=(3, 4))) for number in range(3)]
    task = toy(images)
    found = task.probabilities(task.mean_prediction(logits))
    np.testing.assert_allclose(
        found, np.mean([task.probabilities(each) for each in logits], axis=0), rtol=1e-12
    )


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    images: str, trained: tuple[str, list[np.ndarray]], tmp_path: pathlib.Path
) -> None:
    experiment(toy(images), num_steps=10).train(str(tmp_path))
    resumed = experiment(toy(images)).train(str(tmp_path))
    for one, other in zip(
        weights.values([*resumed.weights, *resumed.optimizer.variables]), trained[1], strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_two_replicas_equal_one(images: str, tmp_path: pathlib.Path) -> None:
    model = experiment(toy(images), num_steps=10).train(str(tmp_path), strategy=two_replicas())
    straight = experiment(toy(images), num_steps=10).train(str(tmp_path / "one"))
    for one, two in zip(
        weights.values(straight.student.weights), weights.values(model.student.weights), strict=True
    ):
        np.testing.assert_allclose(one, two, atol=1e-5)
    paths = [runs.metrics_path(str(path), 0) for path in (tmp_path, tmp_path / "one")]
    rows = [runs.read_metrics(path, "validation") for path in paths]
    for one, two in zip(*rows, strict=True):
        for name in ("loss", "accuracy", "error"):
            assert one[name] == pytest.approx(two[name], abs=1e-5)


def test_validation_is_the_mean_over_images(images: str, trained: tuple[str, list[np.ndarray]]) -> None:
    """9 images in batches of 8: the second batch has 7 rows of weight 0."""
    task, (workdir, _) = toy(images), trained
    logged = runs.read_metrics(runs.metrics_path(workdir, 0), "validation")[-1]
    model = keras.saving.load_model(runs.student_path(workdir, 0), compile=False)
    part = task.images.part("validation")
    pixels = np.stack([decoding.served_image(tf.constant(one), SIZE, 0.875) for one in part.read(range(9))])
    probabilities = task.probabilities(model(pixels)).numpy()
    loss = -np.log(probabilities[np.arange(9), part.labels]).mean()
    accuracy = (probabilities.argmax(axis=1) == part.labels).mean()
    assert logged["loss"] == pytest.approx(loss, rel=1e-5)
    assert logged["accuracy"] == pytest.approx(accuracy, rel=1e-6)
    assert logged["error"] == pytest.approx(1 - accuracy, rel=1e-5)
    row = evaluation.evaluate(task, evaluation.from_checkpoint(task, workdir, 0))["group 0"]
    assert row["loss"] == pytest.approx(loss, rel=1e-5)
    train = runs.read_metrics(runs.metrics_path(workdir, 0), "train")
    assert train[-1]["loss"] < train[0]["loss"]  # colours tell the classes apart


def test_metrics_follow_from_smoothing_and_number_of_classes(images: str, tmp_path: pathlib.Path) -> None:
    def names(task: ImageTask) -> list[str]:
        return [metric.name for metric in task.metrics()]

    assert names(toy(images)) == ["accuracy"]
    smoothed = toy(images, label_smoothing=0.1)
    assert names(smoothed) == ["accuracy", "cross_entropy"]
    many = {f"train/{name}/1.jpg": jpeg(1) for name in "abcdef"}
    assert names(toy(write_folders(tmp_path, many))) == ["accuracy", "top_5_accuracy"]
    model = small(3, (SIZE, SIZE, 3), 8)
    model.compile(loss=smoothed.loss(), weighted_metrics=smoothed.metrics())
    found = model.evaluate(
        smoothed.validation().dataset(num_steps=2).map(lambda one: one.data), verbose=0, return_dict=True
    )
    assert found["loss"] != pytest.approx(found["cross_entropy"], rel=1e-4)


def test_groups_may_train_other_models(images: str) -> None:
    task = toy(images, peer_model_fns={1: functools.partial(small, width=7)})
    assert task.groups_of_their_own() == {1}
    assert [task.make_model(8, group).layers[2].filters for group in (0, 1, 2)] == [4, 7, 4]
    assert task.make_model().input_shape == (None, SIZE, SIZE, 3)


def test_what_is_kept_beside_the_model_is_checked(images: str, tmp_path: pathlib.Path) -> None:
    directory = str(tmp_path / "group_0")
    toy(images).keep_beside_model(directory, is_writer=False)
    assert not (tmp_path / "group_0").exists()
    toy(images).keep_beside_model(directory)
    kept = files.read_manifest(files.join(directory, "images"))
    assert kept is not None
    assert (kept["class_names"], kept["image_size"]) == (list(CLASSES), SIZE)
    toy(images).keep_beside_model(directory)
    for changes, told in (
        ({"image_size": 9}, "was trained with image_size = 8, not 9"),
        ({"augmentation": "pad_crop"}, "was trained with centre_share = 0.875, not 1.0"),
    ):
        with pytest.raises(ValueError, match=told):
            toy(images, **changes).check_beside_model(directory)
    more = write_folders(tmp_path / "more", contents(parts={"train": 5, "validation": 2}))
    assert toy(more).classes() == toy(images).classes()
    toy(more).check_beside_model(directory)  # other images of the same classes may be evaluated
    with pytest.raises(ValueError, match="are others than those that the run beside"):
        toy(more).keep_beside_model(directory)
    other = write_folders(tmp_path / "other", {f"train/{name}/1.jpg": jpeg(1) for name in ("ant", "dog")})
    assert toy(other).classes() != toy(images).classes()
    with pytest.raises(ValueError, match=r"have 2 classes, .* knows 3, different are \['bee'"):
        toy(other).check_beside_model(directory)


def test_a_served_model_takes_image_files(
    images: str, trained: tuple[str, list[np.ndarray]], tmp_path: pathlib.Path
) -> None:
    task, (workdir, _) = toy("/moved"), trained  # it needs no images
    model = keras.saving.load_model(runs.student_path(workdir, 0), compile=False)
    module = task.serving(model, runs.group_dir(workdir, 0))
    contents = [jpeg(1, 0, 40, 30), jpeg(2, 2)]
    pixels = np.stack([decoding.served_image(tf.constant(one), SIZE, 0.875) for one in contents])
    expected = tf.nn.softmax(model(pixels)).numpy()
    np.testing.assert_allclose(module.serve(tf.constant(contents))["probabilities"], expected, rtol=1e-5)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(tmp_path / "served"), module.serve, options)
    paths = [tmp_path / f"{number}.jpg" for number in range(2)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    command = [sys.executable, "-c", SERVED, str(tmp_path / "served"), *map(str, paths)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    found, imports_us = ended.stdout.strip().split("\n")[-1].split("|")
    np.testing.assert_allclose(json.loads(found), expected, rtol=1e-4)
    assert imports_us == "False"
    assert [name.decode() for name in module.class_names.numpy()] == list(CLASSES)
    with pytest.raises(ValueError, match="was trained with image_size = 8, not 16"):
        toy("/moved", image_size=16).serving(model, runs.group_dir(workdir, 0))
