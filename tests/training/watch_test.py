"""When a warning is due, and when not: of peers, of saved teachers, and of students of one process."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tests.training.codistillation_test import batches, compiled, examples, regression
from tests.training.distillation_test import xent
from tests.training.measures_test import trained
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.saved import SavedTeachers
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.watch import IDENTICAL_KL, Watch


@contextlib.contextmanager
def warned() -> Iterator[list[str]]:
    """The warnings that are given within it."""
    warnings: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging, "warning", lambda text, *args: warnings.append(text % args))
        yield warnings


class Named(Teaching):
    """Group 0, and what its teachers are called."""

    def __init__(self, teachers: list[str]) -> None:
        self._teachers = teachers

    def learners(self) -> list[str]:
        return ["group 0"]

    def names(self) -> list[str]:
        return self._teachers


def warnings_of(logs: dict[str, float], teachers: list[str], watch: Watch | None = None) -> list[str]:
    watch = watch or Watch()
    strategy = tf.distribute.get_strategy()
    watch.set_model(types.SimpleNamespace(teachers=Named(teachers), distribute_strategy=strategy))
    with warned() as warnings:
        watch.on_epoch_end(0, logs)
    return warnings


FINE = {"teacher_agreement": 0.9, "teacher_kl": 0.1, "teacher_task_loss": 1.0, "chance_task_loss": 2.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"teacher_kl": IDENTICAL_KL / 2}, "nearly identical"),
        ({"teacher_kl": IDENTICAL_KL * 2}, None),
        ({"teacher_kl": 0.0, "teacher_agreement": 0.0}, None),  # not measured
        ({"teacher_task_loss": 2.1}, "the teacher from group 1 is worse than chance: task loss 2.1, 2 with"),
        ({"teacher_task_loss": 1.9}, None),
        ({"teacher_task_loss": 5.0, "chance_task_loss": 0.0}, None),  # no classes
        ({"dropped_teachers": 0.5}, "0.5 teachers of a student dropped"),
        ({"dropped_teachers": 0.0}, None),
    ],
)
def test_each_warning_comes_when_it_is_due(changes: dict[str, float], expected: str | None) -> None:
    warnings = warnings_of({**FINE, **changes}, ["group 1"])
    assert len(warnings) == (expected is not None)
    if expected:
        assert warnings[0].startswith("group 0: ")
        assert expected in warnings[0]


def test_a_warning_comes_once_until_its_condition_clears() -> None:
    watch = Watch()
    bad, unknown = {**FINE, "teacher_task_loss": 3.0}, {}
    numbers = [len(warnings_of(logs, ["group 1"], watch)) for logs in (bad, bad, unknown, bad, FINE, bad)]
    assert numbers == [1, 0, 0, 0, 0, 1]


def test_the_bad_one_of_several_teachers_is_named() -> None:
    logs = {**FINE, "teacher_task_loss": 3.0, "teacher_0_task_loss": 1.0, "teacher_1_task_loss": 5.0}
    (warning,) = warnings_of(logs, ["group 2", "group 7"])
    assert "group 7 is worse than chance" in warning


@pytest.mark.parametrize(
    ("teacher", "expected"), [("itself", "identical"), ("inverted", "chance"), ("nan", "dropped")]
)
def test_real_teachers_cause_the_warnings(teacher: str, expected: str) -> None:
    x, _ = examples(0, 2)
    kernel, bias = regression().get_weights()
    y = np.argmax(x @ kernel + bias, -1)
    scale = {"itself": 1.0, "inverted": -50.0, "nan": np.nan}[teacher]
    bad = regression()
    bad.set_weights([kernel * scale, bias])

    def student() -> keras.Model:
        made = regression()
        made.set_weights([kernel, bias])
        return made

    _, logs = trained(student, [bad], batches(x, y), xent())
    assert [expected in warning for warning in warnings_of(logs, ["group 1"])] == [True]


def test_nothing_is_warned_of_where_nothing_was_measured() -> None:
    assert not warnings_of({}, [])
    assert not warnings_of(dict.fromkeys(FINE, 0.0), ["group 1"])


def batches_of(number: int, x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(number, drop_remainder=True)


def labelled_by(kernel: np.ndarray, bias: np.ndarray, num_steps: int = 2) -> tuple[np.ndarray, np.ndarray]:
    x, _ = examples(0, num_steps)
    return x, np.argmax(x @ kernel + bias, -1).astype("int32")


SCALES = {"itself": 1.0, "inverted": -50.0, "nan": np.nan, "fine": 0.5}
EXPECTED = {"itself": "nearly identical", "inverted": "worse than chance", "nan": "not finite", "fine": None}


@pytest.mark.parametrize("kind", SCALES)
def test_saved_teachers_that_are_of_no_use_are_warned_of_once(tmp_path, kind: str) -> None:
    kernel, bias = regression().get_weights()
    teacher = regression()
    teacher.set_weights([kernel * SCALES[kind], bias])
    source = str(tmp_path / "teacher.keras")
    teacher.save(source)
    model = compiled(SavedTeachers([source]), rate=0.0)
    model.student.set_weights([kernel, bias])
    with warned() as warnings:
        model.fit(batches(*labelled_by(kernel, bias)), epochs=2, verbose=0)
    assert len(warnings) == (EXPECTED[kind] is not None)
    if warnings:
        assert EXPECTED[kind] in warnings[0]
        assert warnings[0].startswith("student: ")
    if kind == "inverted":
        assert source in warnings[0]


def students(scales: list[float], **options: object) -> tuple[CodistillationModel, np.ndarray, np.ndarray]:
    keras.utils.set_random_seed(4)
    teachers = FellowStudents(len(scales), **options)
    model = CodistillationModel(regression, teachers, measure_every_steps=1)
    model.compile(keras.optimizers.SGD(0.0), xent(), jit_compile=False)
    kernel, bias = model.students[0].get_weights()
    for student, scale in zip(model.students, scales, strict=True):
        student.set_weights([kernel * scale, bias])
    x, y = labelled_by(kernel, bias, 6)
    return model, x, y


DELAYED = {"batches": "different", "refresh_every_steps": 2}


@pytest.mark.parametrize("form", [{}, pytest.param(DELAYED, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize(
    ("scales", "topology", "expected"),
    [
        ([1.0, 0.5, 2.0], "fully_connected", []),
        ([1.0, 1.0, 2.0], "ring", ["student 1: teachers and student have become nearly identical"]),
        ([1.0, 0.5, -50.0], "fully_connected", ["students: the teacher from student 2 is worse than chance"]),
        ([1.0, 0.5, -50.0], {0: [1], 1: [0], 2: [0, 1]}, []),  # it teaches nobody
        ([1.0, np.nan, 0.5], "fully_connected", ["students: 0.67 teachers of a student dropped"]),
    ],
)
def test_students_of_no_use_to_each_other_are_warned_of_once(scales, topology, expected, form) -> None:
    model, x, y = students(scales, topology=topology, **form)
    with warned() as warnings:
        model.fit(batches_of(6, x, y), epochs=2, verbose=0)
    assert len(warnings) == len(expected)
    for sentence, beginning in zip(warnings, expected, strict=True):
        assert sentence.startswith(beginning)


def test_each_student_that_teaches_has_a_task_loss_of_its_own() -> None:
    model, x, y = students([1.0, 0.5, -2.0], topology={0: [2], 1: [0, 2], 2: []})
    logs = model.fit(batches(x, y), verbose=0).history
    own = [float(xent()(y, student(x))) for student in model.students]
    found = [logs[f"teacher_{number}_task_loss"][0] for number in range(3)]
    assert found == pytest.approx([own[0], 0.0, own[2]], rel=1e-5)


def test_callbacks_may_be_given_in_any_way_that_keras_takes() -> None:
    seen: list[str] = []

    class Seen(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            seen.append(type(self.model).__name__)

    model, x, y = students([1.0, 1.0])
    mine = keras.callbacks.CallbackList([Seen()], model=model, epochs=1, steps=2)
    for callbacks in (None, [], [Seen()], Seen(), mine):
        with warned() as warnings:
            model.fit(x, y, 8, 1, 0, callbacks)
            model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
        assert len(warnings) == 4, "two students are warned of each time"
    assert len(seen) == 6
    assert len(mine.callbacks) == 1, "what is the user's stays as it is"
