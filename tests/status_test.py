import io

import pytest
from rich.console import Console

from tf_codistill import files, runs, status


def _log(workdir, group, *records):
    (workdir / f"group_{group}").mkdir(parents=True, exist_ok=True)
    for record in records:
        runs.append_metrics(runs.metrics_path(str(workdir), group), **record)


def _train(step, elapsed_secs, **values):
    return {"kind": "train", "step": step, "elapsed_secs": elapsed_secs, **values}


def test_group_without_metrics_is_starting(tmp_path):
    state = status.read_status(str(tmp_path), 3)
    assert state.step == 0
    assert state.eta_secs is None
    assert state.cells()["step"] == "starting"
    assert state.cells()["loss"] == "-"


def test_newest_values_are_shown(tmp_path):
    _log(
        tmp_path,
        1,
        {"kind": "start", "step": 0, "num_steps": 200, "units": "tokens"},
        _train(50, 10.0, loss=6.0, tokens_per_sec=1000.0),
        {"kind": "validation", "step": 50, "loss": 5.5},
        _train(
            100,
            15.0,
            loss=5.0,
            total_loss=9.25,
            distillation_loss=4.25,
            staleness_steps=50.0,
            tokens_per_sec=12345.6,
        ),
    )
    assert status.read_status(str(tmp_path), 1).cells() == {
        "group": "1",
        "step": "100/200",
        "tokens/s": "12,346",
        "loss": "5.000",
        "validation": "5.500",
        "distillation": "4.250",
        "staleness": "50",
        "ETA": "0m 10s",
    }


def test_eta_follows_the_recent_speed(tmp_path):
    slow = [_train(step, 10.0 * step) for step in range(1, 11)]
    fast = [_train(10 + step, 100.0 + step) for step in range(1, 11)]
    _log(tmp_path, 0, {"kind": "start", "step": 0, "num_steps": 120}, *slow, *fast)
    assert status.read_status(str(tmp_path), 0).eta_secs == pytest.approx(100.0)


@pytest.mark.parametrize(("secs", "text"), [(None, "-"), (0.4, "0m 00s"), (91, "1m 31s"), (7260, "2h 01m")])
def test_duration(secs, text):
    assert status.duration(secs) == text


def test_a_run_is_finished_when_every_group_is(tmp_path):
    start, end = {"kind": "start", "step": 0, "num_steps": 20}, {"kind": "end", "step": 20}
    _log(tmp_path, 0, start, end)
    assert status.finished_steps(str(tmp_path), 1) == 20
    assert status.finished_steps(str(tmp_path), 2) is None
    _log(tmp_path, 1, start, _train(10, 1.0))
    assert status.finished_steps(str(tmp_path), 2) is None
    _log(tmp_path, 1, end)
    assert status.finished_steps(str(tmp_path), 2) == 20


def test_an_end_before_the_last_step_is_not_finished(tmp_path):
    _log(tmp_path, 0, {"kind": "start", "step": 0, "num_steps": 20}, {"kind": "end", "step": 20})
    _log(tmp_path, 0, {"kind": "start", "step": 20, "num_steps": 30})
    assert status.finished_steps(str(tmp_path), 1) is None


def test_display_off_a_terminal_adds_a_line_per_group_when_due(tmp_path, monkeypatch):
    _log(tmp_path, 0, {"kind": "start", "step": 0, "num_steps": 20}, _train(10, 5.0, loss=4.0))
    output = io.StringIO()
    monkeypatch.setattr(status, "LINE_PERIOD_SECS", 3600.0)
    with status.Display(str(tmp_path), 2, Console(file=output)) as display:
        display.update()
        assert output.getvalue() == ""
        monkeypatch.setattr(status, "LINE_PERIOD_SECS", 0.0)
        display.update()
        assert output.getvalue().splitlines() == [
            "group 0  step 10/20  loss 4.000  ETA 0m 05s",
            "group 1  step starting",
        ]
    assert len(output.getvalue().splitlines()) == 4


@pytest.mark.parametrize("is_terminal", [False, True])
def test_metrics_that_cannot_be_read_are_told_once_and_stop_nothing(tmp_path, monkeypatch, is_terminal):
    _log(tmp_path, 0, {"kind": "start", "step": 0, "num_steps": 20}, _train(10, 5.0, loss=4.0))
    output = io.StringIO()
    monkeypatch.setattr(status, "LINE_PERIOD_SECS", 0.0)
    monkeypatch.setattr(status, "TERMINAL_PERIOD_SECS", 0.0)
    with status.Display(
        str(tmp_path), 1, Console(file=output, force_terminal=is_terminal, width=80)
    ) as display:
        with monkeypatch.context() as faulty:
            faulty.setattr(files, "read", _fail)
            display.update()
            display.update()
        assert output.getvalue().count("status: storage is away") == 1
    assert "10/20" in output.getvalue()


def _fail(path):
    raise OSError("storage is away")


def test_remote_metrics_are_read_less_often(monkeypatch):
    files.make_directory("ram://status_test/group_0")
    reads = []
    monkeypatch.setattr(status, "TERMINAL_PERIOD_SECS", 0.0)
    monkeypatch.setattr(status, "read_status", lambda *where: reads.append(where))
    display = status.Display("ram://status_test", 1, Console(file=io.StringIO(), force_terminal=True))
    display.update()
    assert not reads


def test_display_on_a_terminal_is_a_table(tmp_path):
    start = {"kind": "start", "step": 0, "num_steps": 20, "units": "images"}
    _log(tmp_path, 0, start, _train(10, 5.0, loss=4.0))
    output = io.StringIO()
    with status.Display(str(tmp_path), 1, Console(file=output, force_terminal=True, width=80)):
        pass
    assert all(name in output.getvalue() for name in ("images/s", "distillation", "validation", "staleness"))
    assert "10/20" in output.getvalue()
