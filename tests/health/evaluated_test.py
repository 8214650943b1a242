"""What `evaluate --continuous` has found last stands below the groups; without it nothing does."""

import io
import json

import pytest
from rich.console import Console

from tests import toy_runs
from tf_codistill import files, runs
from tf_codistill.health import evaluated, overview, page, table

NOW = 1_800_000_000.0


def _write(workdir, *rounds):
    path = files.join(files.make_directory(runs.evaluation_dir(str(workdir))), "metrics.jsonl")
    for step, figures in rounds:
        runs.append_metrics(path, "validation", step, time=NOW - 12, **figures)
    return path


def _shown(workdir):
    run = overview.read(str(workdir), runs.exchange_dir(str(workdir)), 45.0, NOW)
    console = Console(file=io.StringIO(), width=160)
    console.print(table.tables(run))
    found = json.loads(json.dumps(overview.figures(run), allow_nan=False))["evaluation"]
    return found, console.file.getvalue(), page.page(run)


@pytest.mark.parametrize("loss", ["loss", "carried_state_loss"])
def test_the_last_round_is_shown_everywhere(tmp_path, loss):
    toy_runs.write(tmp_path, NOW)
    figures = {"group_0/loss": 9.0, "ensemble/zero_state_loss": 8.0, "ensemble/disagreement": 0.2144}
    _write(tmp_path, (50, {f"ensemble/{loss}": 7.0}), (1350, {**figures, f"ensemble/{loss}": 3.6114}))
    found, terminal, shown = _shown(tmp_path)
    assert found == {"step": 1350, "ensemble_loss": 3.6114, "disagreement": 0.2144, "at": NOW - 12}
    sentence = "evaluation: step 1350, ensemble 3.611, disagreement 0.214, 0m 12s ago"
    assert terminal.splitlines()[-1] == sentence
    assert f"<p>{sentence}</p>" in shown


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"group_0/loss": 9.0}, None),
        ({"ensemble/loss": float("nan"), "ensemble/disagreement": float("nan")}, None),
        ({"ensemble/loss": "<b>", "ensemble/disagreement": [1]}, None),
    ],
)
def test_what_is_no_figure_is_not_shown(tmp_path, figures, expected):
    toy_runs.write(tmp_path, NOW)
    _write(tmp_path, (50, figures))
    found, terminal, shown = _shown(tmp_path)
    assert found == {"step": 50, "ensemble_loss": expected, "disagreement": expected, "at": NOW - 12}
    assert "evaluation: " not in terminal + shown


def test_without_it_nothing_is_shown(tmp_path):
    toy_runs.write(tmp_path, NOW)
    assert _shown(tmp_path)[0] is None
    files.append(_write(tmp_path, (50, {})), b"nonsense\n")
    assert evaluated.read(str(tmp_path)) is None
    assert "evaluation: " not in _shown(tmp_path)[1]
