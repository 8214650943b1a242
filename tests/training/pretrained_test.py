"""A student whose `model_fn` loads weights starts with them, whoever teaches it; at a rate of 0 they stay."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_experiments import toy_experiment, toy_model, toy_task, write_language_corpus
from tests.toy_models import batches, compiled, examples, publish, regression
from tf_codistill import runs, weights
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.saved import SavedTeachers
from tf_codistill.teaching.snapshots import PeerExchange


@pytest.fixture
def given(tmp_path: pathlib.Path) -> str:
    """A model that has been trained elsewhere."""
    path = str(tmp_path / "given.keras")
    keras.utils.set_random_seed(11)
    regression().save(path)
    return path


def nobody(place: pathlib.Path) -> None:
    return None


def peers(place: pathlib.Path) -> Teaching:
    other = keras.saving.load_model(place / "given.keras")
    other.set_weights(regression().get_weights())
    publish(str(place / "exchange"), 1, 3, other)
    return PeerExchange(str(place / "exchange"), 0, 2, every_steps=2, wait=True)


def saved(place: pathlib.Path) -> Teaching:
    regression().save(place / "teacher.keras")
    return SavedTeachers([str(place / "teacher.keras")])


def fellows(place: pathlib.Path) -> Teaching:
    return FellowStudents(2, refresh_every_steps=2)


@pytest.mark.parametrize(
    ("teaching", "strategy"),
    [
        *((kind, tf.distribute.get_strategy) for kind in (nobody, peers, saved, fellows)),
        (saved, two_replicas),
    ],
)
def test_it_starts_as_given(
    given: str,
    tmp_path: pathlib.Path,
    teaching: Callable[[pathlib.Path], Teaching | None],
    strategy: Callable[[], tf.distribute.Strategy],
) -> None:
    expected = keras.saving.load_model(given)
    x, y = examples(0, 3)
    keras.utils.set_random_seed(12)
    with strategy().scope():
        teachers = teaching(tmp_path)
        model = compiled(teachers, rate=0.0, model_fn=functools.partial(keras.saving.load_model, given))
    logs = model.fit(batches(x, y), shuffle=False, verbose=0).history
    for student in model.students:
        for value, array in zip(weights.values(student.weights), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(value, array)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert logs["loss"][0] == pytest.approx(float(loss(y, expected(x))), rel=1e-5)
    if isinstance(teachers, PeerExchange | SavedTeachers):
        taught = weights.values(teachers.frozen[0].weights)[0]
        assert np.abs(taught - expected.get_weights()[0]).max() > 0.1, "the teacher is another one"
    if isinstance(teachers, FellowStudents):
        assert len(teachers.copies) == 2
        for copy in teachers.copies.values():
            np.testing.assert_array_equal(copy.get_weights()[0], expected.get_weights()[0])


def test_an_experiment_starts_it_as_given(tmp_path: pathlib.Path) -> None:
    keras.utils.set_random_seed(11)
    made = toy_model(40, batch_size=None)
    path = str(tmp_path / "given.weights.h5")
    made.save_weights(path)

    def pretrained(vocabulary_size: int, batch_size: int | None) -> keras.Model:
        model = toy_model(vocabulary_size, batch_size)
        model.load_weights(path)
        return model

    task = toy_task(write_language_corpus(str(tmp_path / "corpus")), model_fn=pretrained)
    experiment = toy_experiment(task, num_steps=5, optimizer=lambda: keras.optimizers.SGD(0.0))
    model = experiment.train(str(tmp_path / "run"), 0, 2)
    served = keras.saving.load_model(runs.student_path(str(tmp_path / "run"), 0))
    for student in (model.student, served, *model.teachers.frozen):
        for value, array in zip(weights.values(student.weights), made.get_weights(), strict=True):
            np.testing.assert_array_equal(value, array)
