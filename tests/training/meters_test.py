"""What is logged of a step: names, means over steps and students, and what counts in which step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_codistill import losses
from tf_codistill.batches import Batch
from tf_codistill.teaching.base import Taught, Teaching
from tf_codistill.training.distillation import Distillation, SoftTargets
from tf_codistill.training.meters import Meters
from tf_codistill.training.task_losses import StudentStep, TaskLosses

OF_METHOD = {"total_loss", "distillation_loss", "distillation_weight", "staleness_steps", "dropped_teachers"}
MEASURED = {"teacher_agreement", "teacher_kl", "teacher_task_loss", "chance_task_loss"}
OF_EACH = ("task_loss", "distillation_loss", "teacher_agreement", "teacher_kl")
LOGITS = tf.constant([[0.0, 1.0], [2.0, 0.0]])
TEACHER_LOGITS = tf.constant([[1.0, 0.0], [3.0, 0.0]])


class Table(Teaching):
    """Who teaches whom, and nothing else."""

    def __init__(self, *taught_by: tuple[int, ...]) -> None:
        self.taught_by = taught_by

    def names(self) -> list[str]:
        return [f"teacher {number}" for number in sorted({one for row in self.taught_by for one in row})]


def meters(*taught_by: tuple[int, ...], psi: Any = None) -> tuple[Meters, Distillation]:
    distillation = Distillation(psi)
    return Meters(distillation, Table(*taught_by), every_steps=1), distillation


def student(
    distillation: Distillation, task_loss: float, psi: float, weight: float, present: list[list[float]]
) -> tuple[StudentStep, SoftTargets, dict[str, tf.Tensor]]:
    """What a student with one teacher for each row of `present` does, learns from, and its psi."""
    taught = Taught([TEACHER_LOGITS] * len(present), tf.constant(present, shape=[len(present), 2]))
    given = distillation.teacher_weights(taught)
    targets = distillation.soft_targets(taught, given, {"": tf.constant(weight)})
    psis = {"": tf.constant(psi)} if present else {}
    return step_of(task_loss), targets, psis


def step_of(task_loss: float) -> StudentStep:
    return StudentStep(Batch(None), LOGITS, {}, TaskLosses(None, None, None), tf.constant(task_loss))


def note(found: Meters, step: int, staleness: float, loss: float, *students: tuple[Any, ...]) -> None:
    found.note(tf.constant(step), tf.constant(staleness), tf.constant(loss), *zip(*students, strict=True))


def results(found: Meters) -> dict[str, float]:
    return {name: float(value) for name, value in found.result().items()}


def test_a_lone_model_has_the_parts_of_the_method_alone() -> None:
    found, distillation = meters(())
    assert set(found.names) == OF_METHOD | MEASURED
    note(found, 0, 0.0, 2.0, student(distillation, 2.0, 0.0, 1.0, []))
    expected = dict.fromkeys(OF_METHOD | MEASURED, 0.0) | {"total_loss": 2.0}
    assert results(found) == expected


def test_several_teachers_have_a_task_loss_each_and_named_outputs_their_parts() -> None:
    found, _ = meters((0, 1), psi={"kind": losses.SoftCrossEntropy()})
    own = {"teacher_0_task_loss", "teacher_1_task_loss", "kind_distillation_loss", "kind_distillation_weight"}
    assert set(found.names) == OF_METHOD | MEASURED | own


def test_several_students_have_parts_of_their_own_and_an_ensemble() -> None:
    found, _ = meters((1,), (0,))
    of_each = {f"student_{number}_{part}" for number in range(2) for part in OF_EACH}
    more = {"teacher_0_task_loss", "teacher_1_task_loss", "ensemble_task_loss", *of_each}
    names = set(found.names)
    assert names == OF_METHOD | MEASURED | more
    assert found.hidden(validation=False) == {"ensemble_task_loss"}
    assert names - found.hidden(validation=True) == {
        "student_0_task_loss",
        "student_1_task_loss",
        "ensemble_task_loss",
    }


def test_what_is_taught_counts_in_steps_in_which_it_is_taught() -> None:
    found, distillation = meters((0,))
    steps = [
        (1.0, 5.0, 0.0, [[1.0, 1.0]]),  # burn-in
        (2.0, 0.0, 0.5, [[0.0, 0.0]]),  # nobody present
        (3.0, 7.0, 0.5, [[1.0, 1.0]]),
        (6.0, 3.0, 1.0, [[1.0, 0.0]]),  # of one row
    ]
    for number, step in enumerate(steps):
        loss = step[0] + step[1] * step[2]
        note(found, number, 10.0 * number, loss, student(distillation, *step))
    logs = results(found)
    assert logs["total_loss"] == (1.0 + 2.0 + 6.5 + 9.0) / 4
    assert logs["distillation_loss"] == 5.0
    assert logs["distillation_weight"] == pytest.approx((0 + 0 + 0.5 + 1.0) / 4)
    assert logs["staleness_steps"] == pytest.approx((0 + 20 + 30) / 3)
    assert logs["teacher_agreement"] == pytest.approx((0.5 + 0.5 + 0.0) / 3)


def test_a_broken_row_is_a_part_of_a_dropped_teacher() -> None:
    found, distillation = meters((0,))
    broken = tf.constant([[np.nan, 0.0], [3.0, 0.0]])
    taught = Taught([broken], tf.ones([1, 2]))
    given = distillation.teacher_weights(taught)
    targets = distillation.soft_targets(taught, given, {"": tf.constant(1.0)})
    np.testing.assert_array_equal(targets.taught_B(), [0.0, 1.0])
    note(found, 0, 0.0, 2.0, (step_of(1.0), targets, {"": tf.constant(1.0)}))
    assert results(found)["dropped_teachers"] == 0.5
    assert results(found)["teacher_agreement"] == 1.0


def test_means_over_students_and_each_by_itself() -> None:
    found, distillation = meters((1,), (0,))
    present = [[1.0, 1.0]]
    students = [student(distillation, 2.0, 1.0, 0.5, present), student(distillation, 4.0, 5.0, 0.5, present)]
    note(found, 0, 0.0, 9.0, *students)
    logs = results(found)
    assert (logs["total_loss"], logs["student_0_task_loss"], logs["student_1_task_loss"]) == (4.5, 2.0, 4.0)
    assert [logs[f"{who}distillation_loss"] for who in ("", "student_0_", "student_1_")] == [3.0, 1.0, 5.0]


def test_validation_notes_each_student_and_the_ensemble() -> None:
    found, _ = meters((1,), (0,))
    found.note_task_losses([tf.constant(1.0), tf.constant(2.0)], tf.constant(6.0), tf.constant(0.5))
    found.note_task_losses([tf.constant(3.0), tf.constant(6.0)], tf.constant(2.0), tf.constant(1.5))
    logs = results(found)
    assert (logs["student_0_task_loss"], logs["student_1_task_loss"]) == (1.5, 3.0)
    assert logs["ensemble_task_loss"] == 0.75
    alone, _ = meters(())
    alone.note_task_losses([tf.constant(1.0)], tf.constant(6.0))
    assert set(results(alone).values()) == {0.0}, "Keras's own loss says it already"


def test_keras_resets_what_is_noted() -> None:
    model = keras.Sequential()
    found, _ = meters((1,), (0,))
    model.mine = found
    found.note_task_losses([tf.constant(1.0), tf.constant(2.0)], tf.constant(6.0), tf.constant(0.5))
    model.reset_metrics()
    assert set(results(found).values()) == {0.0}
