"""All copies in one process, by the real programs and the gin file that is written for it."""

from __future__ import annotations

import json
import pathlib

import keras
import pytest

from tests.integration.programs import Programs, metrics
from tests.toy_experiments import VOCABULARY_SIZE
from tf_codistill import runs


def test_students_of_one_process_are_trained_evaluated_and_reported(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    bindings = [
        *(f"LanguageTask.corpus_dir = {corpus!r}", "LanguageTask.num_lanes = 8", "Experiment.num_steps = 10"),
        *("Experiment.log_every_steps = 5", "Experiment.validate_every_steps = 5"),
        *("Experiment.checkpoint_every_steps = 10", "LanguageModel.embedding_dim = 12"),
        *("LanguageModel.num_units = 16", "BurnIn.steps = 2"),
    ]
    flags = ["--gin_file=gin/one_process.gin", *(f"--gin_bindings={binding}" for binding in bindings)]
    workdir = tmp_path / "run"
    launched = programs.run("launch", f"--workdir={workdir}", "--num_groups=2", *flags)
    assert "the 2 students of one process have no peers; start one group" in launched.sentence()
    programs.succeed("train", f"--workdir={workdir}", *flags)
    train = metrics(workdir, 0, "train")
    assert list(train) == [5, 10]
    assert train[10]["distillation_loss"] > 0
    assert train[10]["staleness_steps"] == 0
    served = [keras.saving.load_model(runs.student_path(str(workdir), 0, number)) for number in (0, 1)]
    assert [model(keras.ops.ones((1, 3), "int32")).shape for model in served] == [(1, 3, VOCABULARY_SIZE)] * 2

    evaluated = tmp_path / "evaluation.json"
    saved = f"--model=saved={runs.student_path(str(workdir), 0, 1)}"
    programs.succeed("evaluate", f"--runs=together={workdir}", saved, f"--output={evaluated}", *flags)
    rows = json.loads(evaluated.read_text())["models"]
    names = ["group 0, student 0", "group 0, student 1", "ensemble"]
    assert set(rows) == {*(f"together, {name}" for name in names), "saved"}
    losses = [rows[f"together, {name}"]["carried_state_loss"] for name in names]
    assert losses[0] != losses[1]
    assert losses[2] < sum(losses[:2]) / 2
    zero = "zero_state_loss"
    assert rows["saved"][zero] == pytest.approx(rows["together, group 0, student 1"][zero], rel=1e-5)

    flags = [f"--runs=together={workdir}", f"--evaluation={evaluated}", f"--output_dir={tmp_path / 'report'}"]
    programs.succeed("report", *flags)
    report = (tmp_path / "report" / "report.md").read_text()
    validation = metrics(workdir, 0, "validation")[10]
    assert (
        f"| together | 0 | {min(v['loss'] for v in metrics(workdir, 0, 'validation').values()):.3f}" in report
    )
    assert "| together, group 0, student 1 |" in report
    assert validation["ensemble_task_loss"] < validation["loss"]
