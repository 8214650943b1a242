"""Table 1 of the paper, of predictions whose churn is known."""

from __future__ import annotations

import json
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from tf_codistill import evaluation, experiment, retraining
from tf_codistill.reproducibility.predictions import Predictions
from tf_codistill.retraining import AGAIN, CHURN, PEERS, Retraining
from tf_codistill.run_matrix import Setting, Trial

LONE, TWO = Setting(gin_files=["lone.gin"]), Setting(gin_files=["two.gin"], bindings=["B = 2"], num_groups=2)
NUMBER = 3000


def table_1() -> Retraining:
    return Retraining(
        settings={"lone": LONE, "codistilled": TWO},
        ensembles={"ensemble of two": "lone"},
        rerun="lone",
        bindings=["A = 1"],
        first_seed=3,
    )


def predict(trial: Trial, group: int) -> Predictions:
    """The truth with noise of a size of its own; peers of a run share all but a tenth of theirs."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.3, 0.7, NUMBER)
    labels = (rng.uniform(size=NUMBER) < truth).astype(int)
    size = 0.04 if trial.name.startswith("lone") else 0.03
    common = np.random.default_rng([1, trial.seed, len(trial.setting.bindings)]).normal(size=NUMBER)
    own = np.random.default_rng([2, trial.seed, group]).normal(size=NUMBER)
    noise = common if trial.setting.num_groups == 1 else 0.995 * common + 0.0999 * own
    return Predictions(truth + size * noise, labels, np.arange(NUMBER), run=trial.workdir)


def test_runs_that_are_needed() -> None:
    trials = table_1().trials("w", num_retrains=2)
    found = {
        name: [trial.seed for trial in trials if trial.name == name] for name in (t.name for t in trials)
    }
    assert found == {"lone": [3, 4, 5, 6], "codistilled": [3, 4], "lone, again": [3]}
    assert trials[0].setting.bindings == ["A = 1"]
    assert trials[1].setting.bindings == ["A = 1", "B = 2"]
    assert len({trial.workdir for trial in trials}) == len(trials)
    with pytest.raises(ValueError, match="num_retrains is 1; expected at least 2"):
        table_1().trials("w", num_retrains=1)


def test_rows_against_what_the_noise_says() -> None:
    """|p - q| of two with normal noise of size s is 2 s / sqrt(pi) in the mean; of ensembles of two less."""
    what = table_1()
    rows = {row.name: row for row in what.rows(what.trials("w", num_retrains=3), predict)}
    assert list(rows) == ["lone", "codistilled", "ensemble of two", "lone" + AGAIN, "codistilled" + PEERS]
    expected = 2 * 0.04 / np.sqrt(np.pi)
    for name, churn in (
        ("lone", expected),
        ("codistilled", 0.75 * expected),
        ("ensemble of two", expected / np.sqrt(2)),
        ("codistilled" + PEERS, 0.75 * 0.0999 * expected),
    ):
        assert rows[name].figures[CHURN][0] == pytest.approx(churn, rel=0.05)
        assert rows[name].number == 3
    assert rows["lone" + AGAIN].figures[CHURN] == (0, 0)
    assert [row.is_control for row in rows.values()] == [False, False, False, True, True]
    mean, half_range = rows["lone"].figures["log_loss"]
    served = [
        predict(trial, 0) for trial in what.trials("w", 3) if (trial.name, trial.seed % 2) == ("lone", 1)
    ]
    by_hand = [
        -np.log(np.where(one.labels, one.probabilities, 1 - one.probabilities)).mean() for one in served
    ]
    assert mean == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert half_range == pytest.approx((max(by_hand) - min(by_hand)) / 2, rel=1e-6)


def test_what_is_written(tmp_path: pathlib.Path) -> None:
    what = table_1()
    table = retraining.write(what.rows(what.trials("w", 2), predict), str(tmp_path))
    assert (tmp_path / "table.md").read_text() == table
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    assert (lines[0][0], lines[0][-1]) == ("", "churn less than lone")
    assert [line[0] for line in lines[2:]][:3] == ["lone", "codistilled", "ensemble of two"]
    assert (lines[2][-1], lines[3][-1][:1], lines[5][-1]) == ("", "2", "no churn")
    rows = json.loads((tmp_path / "retrain.json").read_text())["rows"]
    assert rows[0]["name"] == "lone"
    assert set(rows[0][CHURN]) == {"mean", "half_range"}
    assert rows[1]["reduction"]["low"] < 0.25 < rows[1]["reduction"]["high"]
    assert (tmp_path / "churn.png").read_bytes().startswith(b"\x89PNG")


def test_predictions_without_labels_have_churn_alone(tmp_path: pathlib.Path) -> None:
    what = Retraining(settings={"codistilled": TWO})

    def unlabelled(trial: Trial, group: int) -> Predictions:
        return Predictions(predict(trial, group).probabilities)

    rows = what.rows(what.trials("w", 2), unlabelled)
    assert "log_loss" not in rows[0].figures
    assert "churn" in retraining.write(rows, str(tmp_path))


def test_other_examples_are_named() -> None:
    what = table_1()

    def shuffled(trial: Trial, group: int) -> Predictions:
        found = predict(trial, group)
        keys = np.roll(found.keys, trial.seed)
        return Predictions(found.probabilities, found.labels, keys)

    with pytest.raises(ValueError, match="order"):
        what.rows(what.trials("w", 2), shuffled)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"ensembles": {"two": "alone"}},
            r"ensembles\['two'\] is 'alone'; expected one of the settings \['lone'\]",
        ),
        ({"rerun": "alone"}, "rerun is 'alone'; expected one of the settings"),
        ({"bindings": "A = 1"}, "bindings is 'A = 1'; expected a list of strings"),
    ],
)
def test_what_is_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Retraining(settings={"lone": LONE}, **wrong)


def test_predictions_of_a_setting_with_a_slash_are_kept(tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.setattr(experiment, "of_run", lambda *_: SimpleNamespace(task=None))
    monkeypatch.setattr(evaluation, "from_saved_model", lambda *_: None)
    trial = Trial("lr/0.1", LONE, 1, str(tmp_path))
    monkeypatch.setattr(evaluation, "predictions", lambda *_: predict(trial, 0))
    retraining.Predicting("w", [], str(tmp_path))(trial, 0)
    assert (tmp_path / "predictions" / "lr_0.1_seed_1_group_0.parquet").exists()
