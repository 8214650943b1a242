import io
import json
import pathlib
import re

import pytest
from rich.console import Console

from tests.toy_runs import age, end, hold, log, start, train, write
from tf_codistill import runs
from tf_codistill.health import overview, page, table

NOW = 1_800_000_000.0
DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "status.md"


def _overview(workdir, now=NOW, silent_secs=45.0):
    return overview.read(str(workdir), runs.exchange_dir(str(workdir)), silent_secs, now)


def _printed(run, **kwargs):
    console = Console(file=io.StringIO(), width=160, **kwargs)
    console.print(table.tables(run))
    return console.file.getvalue()


def test_figures_are_those_that_are_documented(tmp_path):
    write(tmp_path, NOW)
    found = json.loads(json.dumps(overview.figures(_overview(tmp_path)), allow_nan=False))
    told = re.findall(r"^\| `(\w+)`", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert told == [*found, *found["groups"][0], *found["groups"][0]["teachers"][0]]


def test_figures_of_a_group(tmp_path):
    write(tmp_path, NOW - 10)
    hold(tmp_path, 1, token=3, host="node-7", pid=4711, beat_at=NOW - 2, since=NOW - 9, step=1300)
    run = _overview(tmp_path)
    first, second = overview.figures(run)["groups"]
    assert first["host"] is None
    assert second | {"loss": 0, "validation_loss": 0, "distillation_loss": 0} == {
        "group": 1,
        "state": "training",
        "step": 1300,
        "num_steps": 2000,
        "units": "tokens",
        "units_per_sec": 7165.0,
        "eta_secs": pytest.approx(98),
        "staleness_steps": 50.0,
        "loss": 0,
        "validation_loss": 0,
        "distillation_loss": 0,
        "silent_secs": 10.0,
        "snapshot_step": 1300,
        "snapshot_age_secs": 10.0,
        "checkpoint_step": 1000,
        "teachers": [{"peer": 0, "snapshot_step": 1350, "staleness_steps": -50}],
        "num_restarts": 0,
        "failed_publications": 0,
        "last_error": None,
        "host": "node-7",
        "pid": 4711,
        "heartbeat_age_secs": 2.0,
        "trouble": None,
    }


def test_states(tmp_path):
    for group in range(4):
        log(tmp_path, group, start(200), train(50))
        age(runs.metrics_path(str(tmp_path), group), NOW - 10 * group)
    log(tmp_path, 3, end(200))
    (tmp_path / "group_4").mkdir()
    groups = overview.figures(_overview(tmp_path, silent_secs=15.0))["groups"]
    assert [group["state"] for group in groups] == ["training", "training", "silent", "finished", "starting"]


def test_what_is_not_finite_is_null(tmp_path):
    log(tmp_path, 0, start(200), train(50, loss=float("nan"), distillation_loss=float("inf")))
    (group,) = overview.figures(_overview(tmp_path))["groups"]
    assert (group["loss"], group["distillation_loss"]) == (None, None)
    assert overview.figures(_overview(tmp_path, silent_secs=float("inf")))["silent_limit_secs"] is None


def test_tables(tmp_path):
    write(tmp_path, NOW - 10)
    age(runs.metrics_path(str(tmp_path), 1), NOW - 130)
    for manifest in tmp_path.glob("exchange/group_1/snapshot_*/manifest.json"):
        age(manifest, NOW - 131)
    log(tmp_path, 0, train(1400, failed_publications=2))
    age(runs.metrics_path(str(tmp_path), 0), NOW)
    lines = [re.split(r"  +", line.strip()) for line in _printed(_overview(tmp_path)).splitlines()]
    text = "\n".join(" ".join(line) for line in lines)
    assert "0 training step 1350, 0m 10s 2 group 1, 100 behind 0 - -" in text
    assert "1 silent 2m 10s step 1300, 2m 11s 0 group 0, 50 ahead 0 - -" in text
    coloured = _printed(_overview(tmp_path), force_terminal=True, color_system="standard")
    assert "\x1b[31msilent 2m 10s\x1b[0m" in coloured
    assert "\x1b[33mstep 1300, 2m 11s\x1b[0m" in coloured
    assert "\x1b[33mstep 1350" not in coloured


def test_a_run_that_has_not_begun(tmp_path):
    assert "no group has begun yet" in _printed(_overview(tmp_path))
    assert "No group has begun yet" in page.page(_overview(tmp_path))


def test_no_terminal_is_given_the_tables_once(tmp_path):
    write(tmp_path, NOW)
    console = Console(file=io.StringIO())
    table.show(lambda: _overview(tmp_path), console)
    assert console.file.getvalue().count("tokens/s") == 1


def test_a_terminal_is_refreshed_until_it_is_interrupted(tmp_path, monkeypatch):
    write(tmp_path, NOW)
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    answers = iter(
        [_overview(tmp_path), OSError("storage is away"), _overview(tmp_path), KeyboardInterrupt()]
    )

    def read():
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(table, "TERMINAL_PERIOD_SECS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        table.show(read, console)
    shown = console.file.getvalue()
    assert "status: storage is away" in shown
    assert shown.rindex("tokens/s") > shown.index("storage is away")


@pytest.mark.parametrize(("path", "slow"), [("runs/two", False), ("ram://two", True)])
def test_remote_storage_is_read_less_often(path, slow):
    assert table.is_slow("here", path) == slow
