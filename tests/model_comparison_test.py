"""Runs, saved models and files of predictions, compared by what a task or arrays say."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import pytest

from tests import evaluation_test, predicted_test, toy_clicks
from tests.evaluation_test import _task as task_fixture  # noqa: F401 - the fixture "task"
from tf_codistill import evaluation, runs
from tf_codistill.evaluation import Member
from tf_codistill.model_comparison import compare
from tf_codistill.reproducibility import measures, prediction_files
from tf_codistill.reproducibility.comparison import ModelComparison
from tf_codistill.reproducibility.predictions import Predictions
from tf_codistill.reproducibility.questions import Question
from tf_codistill.reproducibility.sources import parse
from tf_codistill.tasks.language import LanguageTask

KERNELS = ((1.0, -0.5, 2.0), (0.5, 0.0, 1.0), (1.2, -0.3, 1.5))
TASK = toy_clicks.Clicks()
ROWS = {name: array[:50] for name, array in TASK.validation().arrays().items()}


@pytest.fixture(name="workdirs", scope="module")
def _workdirs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("runs")
    lone = [toy_clicks.write_run(str(directory / f"lone_{i}"), kernel) for i, kernel in enumerate(KERNELS)]
    return [*lone, toy_clicks.write_run(str(directory / "two"), *KERNELS[:2])]


def check(
    comparison: ModelComparison, kernels: Sequence[tuple[float, ...]], labels: np.ndarray | None
) -> None:
    first, second = (toy_clicks.expected(kernel) for kernel in kernels)
    expected = measures.measure(first, second, labels)
    found = {name: estimate.value for name, estimate in comparison.pairs[0].figures.items()}
    assert found == pytest.approx(expected, rel=1e-3)


def test_runs_are_compared_on_the_task(workdirs: list[str]) -> None:
    comparison = compare(parse(workdirs[:3]), TASK, Question(slices=["numeric[1]", "side"]))
    assert comparison.num_examples == 50
    assert len(comparison.pairs) == 3
    check(comparison, KERNELS[:2], ROWS["labels"])
    assert {one.value for one in comparison.slices["side"]} == {"0", "1"}
    assert len(comparison.slices["numeric[1]"]) == 10
    assert comparison.most_changed[0].key.startswith("10")
    assert not any("peers" in note for note in comparison.notes)
    with pytest.raises(ValueError, match=r"no column 'numeric' to slice"):
        compare(parse(workdirs[:2]), TASK, Question(slices=["numeric"]))


def test_groups_of_one_run_are_peers(workdirs: list[str]) -> None:
    two = [f"{workdirs[3]}/group_0", f"{workdirs[3]}/group_1/student.keras"]
    comparison = compare(parse(two), TASK, Question())
    assert not comparison.is_churn
    assert "group_0 and student are peers of the same run; their distance is not churn" in comparison.notes
    comparison = compare(parse([workdirs[0], workdirs[3]]), TASK, Question())
    assert comparison.is_churn
    assert "group 0 speaks for the run two, which has 2 groups" in comparison.notes


def test_predictions_that_were_kept_take_a_models_place(workdirs: list[str], tmp_path: pathlib.Path) -> None:
    expected = compare(parse(workdirs[:2]), TASK, Question())
    kept = compare(parse(workdirs[:2]), TASK, Question(save_dir=str(tmp_path)))
    assert kept.overall == pytest.approx(expected.overall)
    saved = prediction_files.read(str(tmp_path / "lone_0.parquet"))
    np.testing.assert_array_equal(saved.keys, ROWS["keys"])
    assert saved.run == parse(workdirs)[0].run
    later = compare(parse([f"old={tmp_path}/lone_0.parquet", workdirs[1]]), TASK, Question())
    assert later.overall == pytest.approx(expected.overall)


def test_a_table_names_what_the_task_does_not(workdirs: list[str], tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "table.csv")
    ids = ROWS["keys"][::-1, 0]
    pathlib.Path(path).write_text("id,origin\n" + "".join(f"{i},o{i % 2}\n" for i in ids))
    table = prediction_files.read_table(path)
    comparison = compare(parse(workdirs[:2]), TASK, Question(table=table, slices=["origin"]))
    assert [one.num_examples for one in comparison.slices["origin"]] == [25, 25]
    assert comparison.most_changed[0].columns["origin"] == f"o{int(comparison.most_changed[0].example) % 2}"
    pathlib.Path(path).write_text("origin\n" + "o\n" * 50)
    with pytest.raises(ValueError, match="has no column id, or the task no keys; expected both"):
        compare(parse(workdirs[:2]), TASK, Question(table=prediction_files.read_table(path)))


def test_saved_models_of_no_task_are_given_arrays(workdirs: list[str], tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "rows.npz")
    np.savez(
        path, numeric=ROWS["numeric"], side=ROWS["side"], label=ROWS["labels"], origin=ROWS["keys"][:, 0] % 3
    )
    models = parse([f"{run}/group_0/student.keras" for run in workdirs[:2]])
    table = prediction_files.read_table(path)
    comparison = compare(models, None, Question(table=table, from_logits=True, slices=["origin"]))
    check(comparison, KERNELS[:2], ROWS["labels"])
    with pytest.raises(
        ValueError, match="student.keras' for example .* expected a probability, 0 to 1; .*--from_l"
    ):
        compare(models, None, Question(table=table))
    with pytest.raises(ValueError, match="is a model, but there is nothing to predict; give --gin_file"):
        compare(models, None, Question())
    np.savez(path, numeric=ROWS["numeric"])
    with pytest.raises(
        ValueError, match=r"rows\.npz' lacks side of the inputs of model .*; expected arrays named"
    ):
        compare(models, None, Question(table=prediction_files.read_table(path)))


def test_a_softmax_of_one_input(tmp_path: pathlib.Path) -> None:
    for index in range(2):
        keras.utils.set_random_seed(index)
        layers = [keras.Input((3,)), keras.layers.Dense(4, "softmax")]
        keras.Sequential(layers).save(tmp_path / f"m{index}.keras")
    np.savez(tmp_path / "x.npz", features=ROWS["numeric"], id=np.arange(50))
    table = prediction_files.read_table(str(tmp_path / "x.npz"))
    comparison = compare(parse([f"{tmp_path}/m{i}.keras" for i in range(2)]), None, Question(table=table))
    p, q = (
        keras.saving.load_model(tmp_path / f"m{i}.keras").predict(ROWS["numeric"], verbose=0)
        for i in range(2)
    )
    expected = measures.measure(p, q)
    assert comparison.overall["jsd"].value == pytest.approx(expected["jsd"], rel=1e-4)
    assert comparison.most_changed[0].key is not None


def test_language_models_are_compared_position_by_position(
    task: LanguageTask, tmp_path: pathlib.Path
) -> None:
    members = []
    for index in range(2):
        workdir = str(tmp_path / f"run_{index}")
        member = Member(evaluation_test.language_model(index), evaluation_test.lanes_of(index))
        evaluation_test.save_checkpoint(workdir, member.model, member.lanes)
        runs.append_metrics(runs.metrics_path(workdir, 1), "validation", 500, loss=1.0)
        task.keep_beside_model(runs.group_dir(workdir, 1))
        members.append(member)
    comparison = compare(parse([f"{tmp_path}/run_{index}" for index in range(2)]), task, Question())
    p, q = (predicted_test.language_probabilities(task, member) for member in members)
    labels = evaluation.predictions(task, members[:1]).labels
    found = {name: estimate.value for name, estimate in comparison.pairs[0].figures.items()}
    assert found == pytest.approx(measures.measure(p, q, labels), rel=1e-3)
    assert (comparison.num_examples, comparison.num_positions) == (len(p), len(p) * evaluation_test.WINDOW)
    members[1].model.save(tmp_path / "student.keras")
    both = parse([f"{tmp_path}/run_0", f"{tmp_path}/student.keras"])
    zero = [dataclasses.replace(member, lanes=None) for member in members]
    p_zero, q_zero = (predicted_test.language_probabilities(task, member) for member in zero)
    for question in (Question(), Question(save_dir=str(tmp_path / "kept"))):
        mixed = compare(both, task, question).overall["mean_absolute_difference"].value
        assert mixed == pytest.approx(np.abs(p_zero - q_zero).sum(axis=-1).mean() / 2, rel=1e-3)
    difference = np.abs(p - q).sum(axis=-1) / 2
    worst = comparison.most_changed[0]
    assert worst.difference == pytest.approx(difference.max(), rel=1e-3)
    assert (worst.example, worst.position) == np.unravel_index(difference.argmax(), difference.shape)


def test_outputs_that_do_not_match_are_named(workdirs: list[str], tmp_path: pathlib.Path) -> None:
    other = str(tmp_path / "other.npy")
    np.save(other, np.full(49, 0.5))
    with pytest.raises(
        ValueError, match="'lone_0' has 50 examples and 'other' has 49; expected predictions of"
    ):
        compare(parse([workdirs[0], other]), TASK, Question())
    np.save(other, np.full((50, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"'lone_0' have the shape \[50\], those of 'other' \[50, 3\]"):
        compare(parse([workdirs[0], other]), TASK, Question())
    prediction_files.write(
        str(tmp_path / "x.parquet"), Predictions(np.full(50, 0.5), keys=ROWS["keys"][::-1])
    )
    with pytest.raises(
        ValueError, match="key of example 0 is 1000 visit 0 in 'lone_0' and 1049 visit 0 in 'x'; both"
    ):
        compare(parse([workdirs[0], str(tmp_path / "x.parquet")]), TASK, Question())
    toy_clicks.write_run(str(tmp_path / "diverged"), (np.nan, 0, 0))
    with pytest.raises(ValueError, match="prediction of 'diverged' for example 0 is nan; expected a number"):
        compare(parse([workdirs[0], str(tmp_path / "diverged")]), TASK, Question())
