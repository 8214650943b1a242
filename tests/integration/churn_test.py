"""The program `churn`, on files of predictions without TensorFlow, and on runs as training leaves them."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from tests import toy_clicks
from tests.help_test import _run as without_tensorflow
from tests.integration.programs import Programs, experiment
from tf_codistill.reproducibility import measures, prediction_files
from tf_codistill.reproducibility.predictions import Predictions

RNG = np.random.default_rng(0)


def write_predictions(directory: pathlib.Path) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    labels, probabilities = RNG.integers(0, 2, 200), [RNG.uniform(size=200) for _ in range(3)]
    np.save(directory / "one.npy", probabilities[0])
    rows = "".join(f"{i},{p!r}\n" for i, p in enumerate(probabilities[1].tolist()))
    (directory / "two.csv").write_text("id,prediction\n" + rows)
    three = Predictions(probabilities[2], labels, np.arange(200))
    prediction_files.write(str(directory / "three.parquet"), three)
    table = "".join(f"{i},{'ab'[i % 2]},{label}\n" for i, label in enumerate(labels.tolist()))
    (directory / "table.csv").write_text("id,origin,label\n" + table)
    return [str(directory / name) for name in ("one.npy", "two.csv", "three.parquet")], probabilities, labels


def test_files_of_predictions_need_no_tensorflow(tmp_path: pathlib.Path) -> None:
    paths, probabilities, labels = write_predictions(tmp_path)
    arguments = [f"--data={tmp_path}/table.csv", "--slice=origin", "--slice=label"]
    outputs = [f"--json={tmp_path}/new/churn.json", f"--output_dir={tmp_path}/page"]
    ended = without_tensorflow("churn", *paths, *arguments, *outputs)
    assert (ended.returncode, ended.stderr) == (0, "")
    found = json.loads((tmp_path / "new" / "churn.json").read_text())
    for pair, (i, j) in zip(found["pairs"], ((0, 1), (0, 2), (1, 2)), strict=True):
        expected = measures.measure(probabilities[i], probabilities[j], labels)
        for name, value in expected.items():
            assert pair[name]["value"] == pytest.approx(value, rel=1e-9), name
            assert pair[name]["low"] <= value <= pair[name]["high"]
    assert set(found["slices"]) == {"origin", "label"}
    assert found["slices"]["origin"]["a"]["num_examples"] == 100
    shown = " ".join(ended.stdout.split())
    assert "Churn: 3 pairs of models on 200 examples" in shown
    assert f"mean absolute difference │ {found['overall']['mean_absolute_difference']['value']:.4g}" in shown
    assert f"page: {tmp_path}/page/index.html" in shown
    assert {path.name for path in (tmp_path / "page").iterdir()} >= {
        "index.html",
        "churn.png",
        "slices_2.png",
    }


def test_mistakes_are_one_sentence(tmp_path: pathlib.Path, programs: Programs) -> None:
    paths, *_ = write_predictions(tmp_path)
    for arguments, sentence in (
        (paths[:1], "1 of at least two things to compare are named"),
        ([*paths[:2], "--slice=air"], "there is no column 'air' to slice or resample by"),
        ([*paths[:2], "--threshold=2"], "threshold is 2.0; expected a probability between 0 and 1"),
        ([*paths[:2], f"--data={paths[0]}"], "one.npy' is of no kind that is known; expected a name in .csv"),
        ([paths[0], str(tmp_path / "absent")], "there is nothing at"),
    ):
        ended = programs.run("churn", *arguments)
        assert ended.sentence().find(sentence) >= 0, ended.error


def test_runs_are_compared_with_the_bindings_that_they_had(
    tmp_path: pathlib.Path, programs: Programs
) -> None:
    kernels = ((1.0, -0.5, 2.0), (0.5, 0.0, 1.0))
    workdirs = [toy_clicks.write_run(str(tmp_path / f"run_{i}"), kernel) for i, kernel in enumerate(kernels)]
    outputs = [f"--json={tmp_path}/churn.json", f"--save_dir={tmp_path}/kept", "--slice=label"]
    programs.succeed("churn", *workdirs, *outputs)
    found = json.loads((tmp_path / "churn.json").read_text())
    rows = toy_clicks.Clicks().validation().arrays()
    expected = measures.measure(*map(toy_clicks.expected, kernels), rows["labels"][:50])
    assert found["num_examples"] == 50
    assert found["overall"]["mean_absolute_difference"]["value"] == pytest.approx(
        expected["mean_absolute_difference"], rel=1e-4
    )
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["run_0.parquet", "run_1.parquet"]
    fewer = programs.succeed("churn", *workdirs, "--gin_file=" + str(_fewer(tmp_path))).output
    assert "on 20 examples" in " ".join(fewer.split())


def _fewer(directory: pathlib.Path) -> pathlib.Path:
    path = directory / "fewer.gin"
    path.write_text(toy_clicks.GIN + "Clicks.num_rows = 20\n")
    return path


@pytest.mark.slow
def test_language_models_that_were_trained(tmp_path: pathlib.Path, programs: Programs, corpus: str) -> None:
    """Two groups that taught each other, and a run of its own: only the latter is churn."""
    flags = experiment(tmp_path, corpus, "Experiment.num_steps = 10")
    workdirs = [f"{tmp_path}/two", f"{tmp_path}/lone"]
    programs.succeed("launch", f"--workdir={workdirs[0]}", "--num_groups=2", *flags)
    lone = [*flags, "--gin_bindings=Experiment.seed = 4"]
    programs.succeed("train", f"--workdir={workdirs[1]}", "--num_groups=1", "--group=0", *lone)
    named = [f"{workdirs[0]}/group_0", f"{workdirs[0]}/group_1", workdirs[1]]
    ended = programs.succeed("churn", *named, f"--json={tmp_path}/churn.json")
    found = json.loads((tmp_path / "churn.json").read_text())
    assert [pair["is_same_run"] for pair in found["pairs"]] == [True, False, False]
    assert "group_0 and group_1 are peers of the same run; their distance is not churn" in ended.output
    assert found["num_positions"] == 4 * found["num_examples"]
    assert found["most_changed"][0]["position"] in range(4)
    independent = [pair["jsd"]["value"] for pair in found["pairs"][1:]]
    assert found["overall"]["jsd"]["value"] == pytest.approx(np.mean(independent))
    assert min(independent) > 0
    losses = [model["log_loss"] for model in found["models"].values()]
    assert all(0 < loss["low"] < loss["value"] < loss["high"] < 10 for loss in losses)
