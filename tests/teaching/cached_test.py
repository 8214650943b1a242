"""Predictions that are kept by example: each is asked about once, and numbers stay as they are."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import BATCH, NUM_CLASSES, NUM_FEATURES, compiled, examples, lstm, regression
from tests.training.distillation_test import features_and_targets, two_headed
from tf_codistill.batches import Keyed
from tf_codistill.teaching.base import Place
from tf_codistill.teaching.cached import Cache
from tf_codistill.teaching.saved import SavedTeachers
from tf_codistill.training.codistillation import CodistillationModel

STEPS = 3
X, Y = examples(0, STEPS)


@keras.saving.register_keras_serializable()
class CountedRows(keras.layers.Layer):
    """Counts the rows about which it is asked where nothing is learned."""

    rows: list[int] = []

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            tf.py_function(lambda rows: self.rows.append(int(rows)), [tf.shape(inputs)[0]], [])
        return inputs


def counted() -> keras.Model:
    return keras.Sequential([keras.Input((NUM_FEATURES,)), CountedRows(), keras.layers.Dense(NUM_CLASSES)])


def keyed(x: Any = X, y: Any = Y, visits: int = 1) -> tf.data.Dataset:
    """Every visit in another order, as our streams have it."""

    def visit(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(x)), [1, number])
        keys = tf.stack([tf.cast(order, tf.int64), tf.fill([len(x)], tf.cast(number, tf.int64))], 1)
        data = keras.tree.map_structure(lambda part: tf.gather(part, order), (x, y))
        return tf.data.Dataset.from_tensor_slices(Keyed(data, keys))

    return tf.data.Dataset.range(visits).flat_map(visit).batch(BATCH, drop_remainder=True)


def taught(path: str, cache_bytes: float | None, **options: Any) -> CodistillationModel:
    keras.utils.set_random_seed(1)
    return compiled(SavedTeachers([path], cache_bytes=cache_bytes), model_fn=counted, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("saved") / "teacher.keras")
    keras.utils.set_random_seed(5)
    counted().save(path)
    return path


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_second_visit_asks_no_teacher_and_changes_no_number(saved: str, replicas: int) -> None:
    found, logs = [], []
    strategy = two_replicas() if replicas == 2 else tf.distribute.get_strategy()
    for cache_bytes in (None, 1e6):
        CountedRows.rows.clear()
        with strategy.scope():
            model = taught(saved, cache_bytes)
        data = strategy.experimental_distribute_dataset(keyed(visits=3))
        logs.append(model.fit(data, steps_per_epoch=3 * STEPS, verbose=0).history)
        assert sum(CountedRows.rows) == len(Y) * (3 if cache_bytes is None else 1)
        found.append(np.array(model.student.get_weights()[0]))
    assert len(model.teachers.cache) == model.teachers.cache.num_asked == len(Y)
    np.testing.assert_allclose(found[1], found[0], atol=1e-3)
    assert np.abs(found[1] - found[0]).max() > 0, "float16 is rounded"
    assert logs[1]["distillation_loss"] == pytest.approx(logs[0]["distillation_loss"], rel=1e-3)


def test_a_visit_is_taught_what_the_first_was(saved: str) -> None:
    model = taught(saved, 1e6, rate=0.0)
    logs = model.fit(keyed(visits=2), epochs=2, steps_per_epoch=STEPS, verbose=0).history
    assert logs["distillation_loss"][0] == pytest.approx(logs["distillation_loss"][1], rel=1e-6)


def test_with_a_share_of_the_rows_each_is_still_asked_about_once(saved: str) -> None:
    CountedRows.rows.clear()
    model = taught(saved, 1e6, teaching_share=0.5)
    model.fit(keyed(visits=8), verbose=0)
    cache = model.teachers.cache
    assert sum(CountedRows.rows) == cache.num_asked == len(cache)
    assert len(Y) / 2 < len(cache) <= len(Y)


def test_what_does_not_fit_is_asked_about_at_each_visit(saved: str, caplog: pytest.LogCaptureFixture) -> None:
    CountedRows.rows.clear()
    model = taught(saved, 10 * (160 + 2 * NUM_CLASSES))
    with caplog.at_level(logging.WARNING, logger="absl"):
        model.fit(keyed(visits=2), verbose=0)
    assert len(model.teachers.cache) == 10
    assert sum(CountedRows.rows) == 2 * len(Y) - 10
    assert "predictions of 10 examples take up the 1.68e+03 bytes of cache_bytes" in caplog.text


def test_other_features_of_an_example_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    cache, keys = Cache(1e6), tf.constant([[7, 0], [8, 0]], tf.int64)
    asked = []

    def ask(features: Any) -> list[Any]:
        asked.append(features["a"].numpy().tolist())
        return [[features["a"] * 2, tf.cast(features["a"] * 3, tf.float64)]]

    def predictions(first: float, second: float, names: list[bytes]) -> list[list[float]]:
        features = {"a": tf.constant([[first], [second]]), "names": tf.constant(names)}
        like = [[tf.zeros([2, 1]), tf.zeros([2, 1], tf.float64)]]
        ((one, other),) = cache.predictions(ask, features, keys, like)
        assert other.dtype == tf.float64
        np.testing.assert_array_equal(other, 1.5 * tf.cast(one, tf.float64))
        return one.numpy().ravel().tolist()

    with caplog.at_level(logging.WARNING, logger="absl"):
        assert predictions(1.0, 2.0, [b"x", b"y"]) == [2.0, 4.0]
        assert predictions(1.0, 2.0, [b"x", b"y"]) == [2.0, 4.0]
        assert not caplog.text
        assert predictions(1.0, 3.0, [b"x", b"y"]) == [2.0, 6.0]
        assert predictions(1.0, 3.0, [b"z", b"y"]) == [2.0, 6.0]
    assert asked == [[[1.0], [2.0]], [[3.0]], [[1.0]]]
    assert "example 8 has other features" in caplog.text


def test_examples_of_other_lengths_are_refused_in_words() -> None:
    cache, keys = Cache(1e6), tf.constant([[7, 0], [8, 0]], tf.int64)
    for length in (3, 3, 4):
        features = tf.fill([2, length, 5], float(length))
        with contextlib.ExitStack() as stack:
            if length == 4:
                words = r"shapes \[\(4, 5\)\], those that are kept have \[\(3, 5\)\]; pad all"
                stack.enter_context(pytest.raises(ValueError, match=words))
            found = cache.predictions(lambda x: [x], features, keys, [features])
            np.testing.assert_array_equal(found, [features])


def test_several_outputs_and_teachers(tmp_path) -> None:
    keras.utils.set_random_seed(2)
    for name in ("one.keras", "two.keras"):
        two_headed().save(tmp_path / name)
    losses = []
    for cache_bytes in (None, 1e6):
        keras.utils.set_random_seed(3)
        sources = [str(tmp_path / name) for name in ("one.keras", "two.keras")]
        teachers = SavedTeachers(sources, cache_bytes=cache_bytes)
        model = CodistillationModel(two_headed, teachers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), {"kind": loss, "place": loss}, jit_compile=False)
        x, y = features_and_targets(num_examples=len(Y))
        data = keyed(x, y, visits=2)
        losses.append(model.fit(data, verbose=0).history["distillation_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_other_teachers_are_asked_anew(saved: str) -> None:
    model = taught(saved, 1e6)
    model.fit(keyed(), verbose=0)
    assert len(model.teachers.cache) == len(Y)
    model.teachers.restore(*model.teachers.state())
    assert len(model.teachers.cache) == 0


def test_what_cannot_be_kept_is_refused_before_training(saved: str, tmp_path) -> None:
    with pytest.raises(ValueError, match="cache_bytes is 0; expected more than 0"):
        SavedTeachers([saved], cache_bytes=0)
    model = taught(saved, 1e6)
    with pytest.raises(ValueError, match="the data has no keys, by which examples are known"):
        model.fit(X, Y, batch_size=BATCH, verbose=0)
    with pytest.raises(ValueError, match="a teacher with a recurrent state predicts depends on all"):
        compiled(SavedTeachers([saved], cache_bytes=1e6), model_fn=lstm)
    with pytest.raises(ValueError, match="SavedTeachers with cache_bytes, leaves the graph"):
        taught(saved, 1e6, jit_compile=True).fit(keyed(), verbose=0)
    with pytest.raises(ValueError, match="the task augments its examples"):
        model.teachers.join(Place("", 0, 1, lambda group: regression, augments=True))
    assert model.step() == 0
