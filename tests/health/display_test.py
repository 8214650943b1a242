import io

import pytest
from rich.console import Console

from tests.toy_runs import log, start, train
from tf_codistill import files
from tf_codistill.health import display as displays
from tf_codistill.health import signs, table


def test_display_off_a_terminal_adds_a_line_per_group_when_due(tmp_path, monkeypatch):
    log(tmp_path, 0, start(20), train(10, 5.0, loss=4.0))
    output = io.StringIO()
    monkeypatch.setattr(displays, "LINE_PERIOD_SECS", 3600.0)
    with displays.Display(str(tmp_path), range(2), Console(file=output)) as display:
        display.update()
        assert output.getvalue() == ""
        monkeypatch.setattr(displays, "LINE_PERIOD_SECS", 0.0)
        display.update()
        assert output.getvalue().splitlines() == [
            "group 0  step 10/20  loss 4.000  ETA 0m 05s",
            "group 1  step starting",
        ]
    assert len(output.getvalue().splitlines()) == 4


@pytest.mark.parametrize("is_terminal", [False, True])
def test_metrics_that_cannot_be_read_are_told_once_and_stop_nothing(tmp_path, monkeypatch, is_terminal):
    log(tmp_path, 0, start(20), train(10, 5.0, loss=4.0))
    output = io.StringIO()
    monkeypatch.setattr(displays, "LINE_PERIOD_SECS", 0.0)
    monkeypatch.setattr(table, "TERMINAL_PERIOD_SECS", 0.0)
    with displays.Display(
        str(tmp_path), range(1), Console(file=output, force_terminal=is_terminal, width=80)
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
    monkeypatch.setattr(table, "TERMINAL_PERIOD_SECS", 0.0)
    monkeypatch.setattr(signs, "read_signs", lambda *where: reads.append(where))
    display = displays.Display(
        "ram://status_test", range(1), Console(file=io.StringIO(), force_terminal=True)
    )
    display.update()
    assert not reads


def test_display_on_a_terminal_is_a_table(tmp_path):
    log(tmp_path, 0, start(20, units="images"), train(10, 5.0, loss=4.0))
    output = io.StringIO()
    with displays.Display(str(tmp_path), range(1), Console(file=output, force_terminal=True, width=80)):
        pass
    assert all(name in output.getvalue() for name in ("images/s", "distillation", "validation", "staleness"))
    assert "10/20" in output.getvalue()
