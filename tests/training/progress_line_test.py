"""Keras's progress line has what matters; logs have everything."""

from __future__ import annotations

import csv
import pathlib
import re

import keras
import pytest

from tests.toy_models import batches, compiled, examples, regression, snapshot_of
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training.codistillation import CodistillationModel

OF_METHOD = {"distillation_loss", "distillation_weight"}
SHOWN = {"accuracy", "loss", "val_loss", "val_accuracy", *OF_METHOD}


def taught() -> CodistillationModel:
    model = compiled(FrozenTeachers(2), metrics=["accuracy"])
    model.build_for_data(batches(*examples(0, 1)).element_spec)
    model.teachers.refresh(0, snapshot_of(regression()))
    return model


def shown(output: str) -> set[str]:
    return set(re.findall(r"(\w+): [\d.]", output))


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_line_has_what_matters_and_the_logs_have_all(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, verbose: int
) -> None:
    model, (x, y) = taught(), examples(0, 4)
    history = model.fit(
        batches(x, y),
        validation_data=batches(x, y),
        epochs=2,
        verbose=verbose,
        shuffle=False,
        callbacks=[keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))],
    ).history
    output = capsys.readouterr().out
    assert output.count("Epoch ") == 2
    assert shown(output) == SHOWN
    assert ("\r" in output or "\b" in output) == (verbose != 2), "a bar moves, a line does not"
    everything = {*model.get_metrics_result(), *(f"val_{name}" for name in model.get_test_results())}
    assert everything > SHOWN
    assert len(everything) > 12
    assert set(history) == everything
    with open(tmp_path / "log.csv", encoding="utf-8") as file:
        (first, _) = csv.DictReader(file)
    assert set(first) == everything | {"epoch"}


def test_nothing_is_shown_if_nothing_shall_be(capsys: pytest.CaptureFixture[str]) -> None:
    taught().fit(batches(*examples(0, 2)), verbose=0)
    assert capsys.readouterr().out == ""


def test_of_several_students_the_means_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = compiled(FellowStudents(2)), batches(*examples(0, 2))
    history = model.fit(data, validation_data=data, verbose=2).history
    assert shown(capsys.readouterr().out) == SHOWN - {"accuracy", "val_accuracy"}
    assert {"student_0_task_loss", "val_student_1_task_loss", "val_ensemble_task_loss"} < set(history)


def test_a_callback_list_shows_what_its_owner_put_into_it(capsys: pytest.CaptureFixture[str]) -> None:
    model = taught()
    quiet = keras.callbacks.CallbackList([keras.callbacks.History()], model=model, epochs=1, steps=2)
    model.fit(batches(*examples(0, 2)), callbacks=quiet, verbose=1)
    assert capsys.readouterr().out == ""
