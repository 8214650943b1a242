"""Table 1 by one command, of real runs: interrupted, continued, with controls that are what they must be."""

from __future__ import annotations

import json
import os
import pathlib
import signal

import pytest

from tests.integration.programs import Programs
from tests.toy_tables import write_experiment
from tf_codistill import run_matrix

LONE = """
Retraining.settings = {'lone': @lone/Setting()}
Retraining.rerun = 'lone'
Retraining.measured_with = ["ClickTask.held_out = 'test'"]
lone/Setting.gin_files = ['{place}/toy.gin']
"""
TWO = """
Retraining.settings = {'lone': @lone/Setting(), 'codistilled': @two/Setting()}
Retraining.ensembles = {'ensemble of two': 'lone'}
two/Setting.gin_files = ['{place}/toy.gin']
two/Setting.num_groups = 2
"""


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    write_experiment(tmp_path)
    (tmp_path / "lone.gin").write_text(LONE.replace("{place}", str(tmp_path)))
    (tmp_path / "two.gin").write_text((LONE + TWO).replace("{place}", str(tmp_path)))
    return tmp_path


def flags(place: pathlib.Path, name: str) -> list[str]:
    return [f"--workdir={place / 'runs'}", f"--gin_file={place / name}", "--num_retrains=2"]


def rows(place: pathlib.Path) -> dict[str, dict]:
    found = json.loads((place / "runs" / "retrain.json").read_text())["rows"]
    return {row["name"]: row for row in found}


def test_a_lone_network_and_its_control(programs: Programs, place: pathlib.Path) -> None:
    ended = programs.succeed("retrain", *flags(place, "lone.gin"))
    found = rows(place)
    assert list(found) == ["lone", "lone, again"]
    assert found["lone"]["mean_absolute_difference"]["mean"] > 0.001
    assert found["lone, again"]["mean_absolute_difference"]["mean"] == 0
    assert 0 < found["lone"]["log_loss"]["mean"] < 1
    assert "| lone, again |" in ended.output
    assert [row["status"] for row in run_matrix.rows(str(place / "runs"))] == ["done"] * 3
    kept = sorted(path.name for path in (place / "runs" / "predictions").iterdir())
    assert kept[:2] == ["lone, again_seed_1_group_0.parquet", "lone_seed_1_group_0.parquet"]
    compared = programs.succeed("churn", *(str(place / "runs" / "predictions" / name) for name in kept[1:3]))
    assert f"{found['lone']['mean_absolute_difference']['mean']:.4f}"[:5] in compared.output


@pytest.mark.slow
def test_all_rows_interrupted_and_continued(programs: Programs, place: pathlib.Path) -> None:
    with programs.started("retrain", *flags(place, "two.gin"), "--max_workers=2") as running:
        running.wait_until(lambda: len(run_matrix.rows(str(place / "runs"))) > 1)
        os.kill(running.pid, signal.SIGINT)
        assert running.wait().status == 130
    before = len(run_matrix.rows(str(place / "runs")))
    programs.succeed("retrain", *flags(place, "two.gin"))
    done = [row for row in run_matrix.rows(str(place / "runs")) if row["status"] == "done"]
    assert len(done) == 4 + 2 + 1
    assert before < len(done)
    found = rows(place)
    assert list(found) == [
        "lone",
        "codistilled",
        "ensemble of two",
        "lone, again",
        "codistilled, peers of a run",
    ]
    assert found["lone, again"]["mean_absolute_difference"]["mean"] == 0
    reduction = found["ensemble of two"]["reduction"]
    assert reduction["low"] <= reduction["value"] <= reduction["high"]
