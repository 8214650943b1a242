"""What a Keras user tries with a model that has not been trained yet, or wants back from a file."""

from __future__ import annotations

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.training.codistillation_test import BATCH, NUM_CLASSES, NUM_FEATURES, batches, examples, regression
from tests.workers import run_workers
from tf_codistill import recurrent_state, weights
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training.codistillation import CodistillationModel


class Subclassed(keras.Model):
    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.head = keras.layers.Dense(NUM_CLASSES)

    def call(self, features):
        return self.head(features)


class Stateful(Subclassed):
    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.memory = keras.layers.LSTM(4, stateful=True)

    def call(self, features):
        return self.head(self.memory(features[:, None]))


def stateful_and_built() -> keras.Model:
    model = Stateful()
    model(np.zeros((BATCH, NUM_FEATURES), "float32"))
    return model


def xent() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(model_fn=regression, **options: object) -> CodistillationModel:
    model = CodistillationModel(model_fn, FrozenTeachers(1))
    model.compile(keras.optimizers.Adam(0.1), xent(), **options)
    return model


X, Y = examples(0, 4)

FIRST = {
    "call": lambda model: model(X),
    "call by name": lambda model: model(inputs=tf.constant(X)),
    "predict": lambda model: model.predict(X, verbose=0),
    "predict_on_batch": lambda model: model.predict_on_batch(X),
    "evaluate": lambda model: model.evaluate(X, Y, verbose=0),
    "train_on_batch": lambda model: model.train_on_batch(X, Y),
}


@pytest.fixture(scope="module")
def untouched() -> keras.Model:
    """A student that `fit` has built."""
    model = compiled(Subclassed)
    model.fit(X, Y, verbose=0)
    return model.student


@pytest.mark.parametrize("first", FIRST)
def test_before_the_first_fit(first: str, untouched: keras.Model) -> None:
    model = compiled(Subclassed)
    FIRST[first](model)
    predicted = model.predict(X, verbose=0)
    np.testing.assert_allclose(predicted, model.student(X), atol=1e-6)
    model.fit(X, Y, verbose=0)
    for one in (model.student, *model.teachers.frozen):
        assert weights.description(one) == weights.description(untouched), "peers can read its snapshots"


def test_predict_before_the_first_fit_on_two_replicas() -> None:
    with two_replicas().scope():
        model = compiled(Subclassed)
    predicted = model.predict(X, batch_size=BATCH, verbose=0)
    np.testing.assert_allclose(predicted, model.student(X), atol=1e-6)
    model.fit(X, Y, batch_size=BATCH, verbose=0)
    assert len(weights.local_copies(model.student.weights[0])) == 2


def test_a_stateful_model_is_built_by_model_fn_or_says_so() -> None:
    with pytest.raises(ValueError, match=r"the student, 'stateful.*let model_fn call it once on a batch"):
        compiled(Stateful).predict(X, batch_size=BATCH, verbose=0)
    model = compiled(stateful_and_built)
    lanes = recurrent_state.variables(model.student)
    before = recurrent_state.values(lanes)
    model.predict(X, batch_size=BATCH, verbose=0)
    for kept, state in zip(before, recurrent_state.values(lanes), strict=True):
        np.testing.assert_array_equal(state, kept)


def test_summary_shows_the_student(capsys: pytest.CaptureFixture[str]) -> None:
    model = compiled(Subclassed)
    model.summary()
    assert "unbuilt" in capsys.readouterr().out
    model(X)
    model.summary()
    shown = capsys.readouterr().out
    assert re.search(rf"Trainable params: {(NUM_FEATURES + 1) * NUM_CLASSES} ", shown)
    assert "Non-trainable params: 0 " in shown


@pytest.mark.parametrize(
    "copy",
    [
        lambda model: model.get_config(),
        lambda model: model.to_json(),
        lambda model: keras.models.clone_model(model),
        lambda model: keras.saving.save_model(model, "model.keras"),
    ],
)
def test_what_needs_a_configuration_says_what_to_save(copy, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"model\.student\.save"):
        copy(compiled())


@pytest.mark.parametrize("model_fn", [regression, Subclassed])
def test_save_and_checkpoints_of_whole_models_are_the_students(model_fn, tmp_path: pathlib.Path) -> None:
    model = compiled(model_fn)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True, monitor="loss")
    model.fit(X, Y, verbose=0, callbacks=[checkpoint])
    model.save(tmp_path / "saved.keras")
    for name in ("best", "saved"):
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras", {"Subclassed": Subclassed})
        np.testing.assert_allclose(loaded(X), model.student(X), atol=1e-6)
        assert type(loaded) is type(model.student)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(X), model.student(X), atol=1e-6)


@pytest.mark.parametrize("model_fn", [regression, Subclassed])
def test_weights_go_into_a_file_and_back_with_the_optimizer(model_fn, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "last.weights.h5"
    model, again = compiled(model_fn), compiled(model_fn)
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    model.fit(batches(X, Y), verbose=0, shuffle=False, callbacks=[checkpoint])
    again.build_for_data(batches(X, Y).element_spec)
    again.load_weights(path)
    assert again.step() == model.step() == 4
    for one in (model, again):
        one.fit(batches(X, Y), verbose=0, shuffle=False)
    np.testing.assert_allclose(again.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6)
    again.save_weights(tmp_path / "more.weights.h5")
    model.load_weights(tmp_path / "more.weights.h5")


def test_loading_weights_too_early_says_so(tmp_path: pathlib.Path) -> None:
    model = compiled(Subclassed)
    model(X)
    model.save_weights(tmp_path / "some.weights.h5")
    with pytest.raises(ValueError, match="not yet been built"):
        compiled(Subclassed).load_weights(tmp_path / "some.weights.h5")


def test_backup_and_restore(tmp_path: pathlib.Path) -> None:
    def trained(stop: bool) -> CodistillationModel:
        model = compiled()
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)]
        if stop:
            callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=_interrupt_at_2))
        model.fit(batches(X, Y), epochs=4, verbose=0, shuffle=False, callbacks=callbacks)
        return model

    with pytest.raises(KeyboardInterrupt):
        trained(stop=True)
    assert trained(stop=False).step() == 4 * 4, "epochs 0 and 1 were not trained again"


def _interrupt_at_2(epoch: int, logs: object) -> None:
    del logs
    if epoch == 2:
        raise KeyboardInterrupt


def with_everything() -> keras.Model:
    pieces = keras.Input((NUM_FEATURES,), dtype="int32")
    hidden = keras.layers.Flatten()(keras.layers.Embedding(7, 3)(pieces))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(6, "tanh", kernel_regularizer="l2")(hidden))
    return keras.Model(pieces, keras.layers.Dense(NUM_CLASSES)(hidden))


def trained_by_xla(strategy: tf.distribute.Strategy, jit_compile: bool) -> list[list[float]]:
    """Logs and weights after some steps with a teacher; also run in the processes of a group.

    Everything is smooth and no step is divided by a gradient, so that rounding stays rounding.
    """
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 7, (3 * BATCH, NUM_FEATURES)).astype("int32")
    y = rng.integers(0, NUM_CLASSES, 3 * BATCH).astype("int32")
    with strategy.scope():
        model = CodistillationModel(with_everything, FrozenTeachers(1), measure_every_steps=2)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, xent(), metrics=["accuracy"], jit_compile=jit_compile)
    spec = (tf.TensorSpec([BATCH, NUM_FEATURES], tf.int32), tf.TensorSpec([BATCH], tf.int32))
    model.build_for_data(spec)
    taught = [rng.uniform(0.1, 1, weight.shape).astype("float32") for weight in model.student.weights]
    model.teachers.refresh(0, Snapshot(Ref(1), 0, 0.0, taught, [], 0))
    options = {"batch_size": BATCH, "verbose": 0, "shuffle": False}
    logs = model.fit(x, y, epochs=2, validation_data=(x[: 2 * BATCH], y[: 2 * BATCH]), **options).history
    assert logs["teacher_kl"][0] > 0
    predicted = model.predict(x[: 2 * BATCH], batch_size=BATCH, verbose=0)
    numbers = [*logs.values(), *weights.values(model.student.weights), predicted]
    return [np.ravel(number).tolist() for number in numbers]


def assert_equal_but_for_rounding(found: list[list[float]], expected: list[list[float]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_xla_on_two_replicas_where_stock_keras_fails() -> None:
    with two_replicas().scope():
        stock = regression()
        stock.compile("sgd", xent(), jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Trying to access resource"):
        stock.fit(X, Y, batch_size=BATCH, verbose=0)
    assert_equal_but_for_rounding(*(trained_by_xla(two_replicas(), jit) for jit in (True, False)))


_BY_XLA = """
from tf_codistill import distribution
strategy = distribution.create_strategy()
import json
from tests.training.keras_face_test import trained_by_xla
print(json.dumps([trained_by_xla(strategy, jit) for jit in (True, False)]))
"""


@pytest.mark.slow
def test_xla_in_two_processes() -> None:
    for output in run_workers(_BY_XLA, num_workers=2, timeout_secs=280):
        assert_equal_but_for_rounding(*json.loads(output.splitlines()[-1]))


def test_students_in_one_process_by_xla() -> None:
    found = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(1)
        model = CodistillationModel(regression, FellowStudents(), measure_every_steps=2)
        optimizer = keras.optimizers.SGD(0.5, momentum=0.9)
        model.compile(optimizer, xent(), metrics=["accuracy"], jit_compile=jit_compile)
        logs = model.fit(batches(X, Y), epochs=2, verbose=0, shuffle=False).history
        found.append([*logs.values(), *(w.ravel() for s in model.students for w in s.get_weights())])
    assert_equal_but_for_rounding(*found)
