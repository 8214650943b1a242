"""What models say of what a task holds out: its rows, labels, keys and positions, in order."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests import evaluation_test, toy_clicks
from tests.evaluation_test import _task as task_fixture  # noqa: F401 - the fixture "task"
from tf_codistill import evaluation
from tf_codistill.batches import Batch
from tf_codistill.evaluation import Member
from tf_codistill.tasks.language import LanguageTask

KERNEL, OTHER = (1.0, -0.5, 2.0), (0.5, 0.0, 1.0)


def clicks(kernel: tuple[float, ...]) -> Member:
    return Member(toy_clicks.model_of(kernel), None)


def test_all_rows_and_no_others_with_their_labels_and_keys() -> None:
    task = toy_clicks.Clicks()
    found = evaluation.predictions(task, [clicks(KERNEL)], run="abc")
    found.check("found")
    rows = task.validation().arrays()
    np.testing.assert_allclose(found.probabilities, toy_clicks.expected(KERNEL), rtol=1e-5)
    np.testing.assert_array_equal(found.labels, rows["labels"][:50])
    np.testing.assert_array_equal(found.keys, rows["keys"][:50])
    assert found.run == "abc"
    assert found.counted is None


def test_an_ensemble_is_one_model() -> None:
    found = evaluation.predictions(toy_clicks.Clicks(), [clicks(KERNEL), clicks(OTHER)])
    expected = (toy_clicks.expected(KERNEL) + toy_clicks.expected(OTHER)) / 2
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4)


def test_batches_of_several_models_with_their_features() -> None:
    task = toy_clicks.Clicks(num_rows=32)
    batches = list(evaluation.predicted(task, [[clicks(KERNEL)], [clicks(OTHER)]]))
    assert [len(batch.keys) for batch in batches] == [16, 16]
    for index, kernel in enumerate((KERNEL, OTHER)):
        found = np.concatenate([batch.probabilities[index] for batch in batches])
        np.testing.assert_allclose(found, toy_clicks.expected(kernel, task), rtol=1e-5)
    features = np.concatenate([batch.features["numeric"] for batch in batches])
    np.testing.assert_array_equal(features, task.validation().arrays()["numeric"])


def language_probabilities(task: LanguageTask, member: Member) -> np.ndarray:
    """The whole pass in the order of batches, [steps * B, T, V]."""
    stream = task.validation()
    states = member.lanes or evaluation_test.zeros()
    whole = evaluation_test.all_probabilities(member.model, stream, states)
    steps = np.split(whole, stream.steps_per_epoch, axis=1)
    return np.concatenate(steps)


def test_language_models_begin_with_the_state_that_they_carry(task: LanguageTask) -> None:
    one = Member(evaluation_test.language_model(0), evaluation_test.lanes_of(7))
    found = evaluation.predictions(task, [one])
    found.check("found")
    np.testing.assert_allclose(found.probabilities, language_probabilities(task, one), rtol=1e-3, atol=1e-5)
    from_zero = language_probabilities(task, dataclasses.replace(one, lanes=None))
    assert np.abs(found.probabilities - from_zero).max() > 1e-3, "far more than the tolerance"
    targets = [element.data[1] for element in task.validation().dataset(num_steps=len(found) // 2)]
    np.testing.assert_array_equal(found.labels, np.concatenate(targets))
    assert found.keys.shape == (len(found), 2)


def test_language_models_begin_alike_where_one_carries_no_state(task: LanguageTask) -> None:
    one = Member(evaluation_test.language_model(0), evaluation_test.lanes_of(7))
    saved = Member(evaluation_test.language_model(1), None)
    batches = list(evaluation.predicted(task, [[one], [saved]]))
    for index, member in enumerate((dataclasses.replace(one, lanes=None), saved)):
        found = np.concatenate([batch.probabilities[index] for batch in batches])
        np.testing.assert_allclose(found, language_probabilities(task, member), rtol=1e-3, atol=1e-5)


def batch(targets: Any, weights: Any, predictions: np.ndarray) -> evaluation.PredictedBatch:
    return evaluation._predicted_batch(Batch(np.zeros((4, 2)), targets, weights), [predictions])


def test_shapes_that_tasks_may_have() -> None:
    one_hot = np.eye(3)[[2, 0, 1, 1]]
    found = batch(one_hot, np.array([1, 0, 1, 1]), np.full((4, 3), 1 / 3))
    np.testing.assert_array_equal(found.labels, [2, 1, 1])
    assert found.features.shape == (3, 2)
    found = batch(np.zeros((4, 5, 6)), None, np.full((4, 5, 6, 2), 0.5))
    assert found.probabilities[0].shape == (4, 30, 2)
    assert found.labels.shape == (4, 30)
    found = batch(np.zeros((4, 5)), None, np.full((4, 5, 1), 0.25))
    np.testing.assert_array_equal(found.probabilities[0], np.full((4, 5, 2), [0.75, 0.25]))
    found = batch(
        np.zeros((4, 3)), np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1]]), np.full((4, 3, 2), 0.5)
    )
    np.testing.assert_array_equal(found.counted, [[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    assert batch(None, None, np.full((4, 2), 0.5)).labels is None


def test_targets_that_are_no_classes_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"targets have the shape \[4, 7\] beside predictions of the shape \[4, 3"
    ):
        batch(np.zeros((4, 7)), None, np.full((4, 3), 1 / 3))
    with pytest.raises(ValueError, match="expected one class for each position, of one output"):
        batch({"a": np.zeros(4), "b": np.zeros(4)}, None, np.full((4, 3), 1 / 3))
