import sys

import pytest

from tests import toy_runs
from tests.toy_runs import end, log, start, train, validation
from tf_codistill.health import progress


def test_group_without_metrics_is_starting(tmp_path):
    state = progress.read_status(str(tmp_path), 3)
    assert state.step == 0
    assert state.eta_secs is None
    assert state.cells()["step"] == "starting"
    assert state.cells()["loss"] == "-"


def test_newest_values_are_shown(tmp_path):
    log(
        tmp_path,
        1,
        start(200),
        train(50, 10.0, loss=6.0, tokens_per_sec=1000.0),
        validation(50, 5.5),
        train(
            100,
            15.0,
            loss=5.0,
            total_loss=9.25,
            distillation_loss=4.25,
            staleness_steps=50.0,
            tokens_per_sec=12345.6,
        ),
    )
    assert progress.read_status(str(tmp_path), 1).cells() == {
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
    slow = [train(step, 10.0 * step) for step in range(1, 11)]
    fast = [train(10 + step, 100.0 + step) for step in range(1, 11)]
    log(tmp_path, 0, start(120), *slow, *fast)
    assert progress.read_status(str(tmp_path), 0).eta_secs == pytest.approx(100.0)


@pytest.mark.parametrize(("secs", "text"), [(None, "-"), (0.4, "0m 00s"), (91, "1m 31s"), (7260, "2h 01m")])
def test_duration(secs, text):
    assert progress.duration(secs) == text


def test_a_run_is_finished_when_every_group_is(tmp_path):
    log(tmp_path, 0, start(20), end(20))
    assert progress.finished_steps(str(tmp_path), range(1)) == 20
    assert progress.finished_steps(str(tmp_path), range(2)) is None
    log(tmp_path, 1, start(20), train(10, 1.0))
    assert progress.finished_steps(str(tmp_path), range(2)) is None
    log(tmp_path, 1, end(20))
    assert progress.finished_steps(str(tmp_path), range(2)) == 20


def test_an_end_before_the_last_step_is_not_finished(tmp_path):
    log(tmp_path, 0, start(20), end(20), start(30, step=20))
    assert progress.finished_steps(str(tmp_path), range(1)) is None


def test_figures_that_nobody_expects_are_unknown(tmp_path):
    toy_runs.log(tmp_path, 0, toy_runs.start(100), *2 * [toy_runs.train(10, 9.0, failed_publications=1e308)])
    toy_runs.log(tmp_path, 0, toy_runs.train(20, 5.0))  # time does not go back
    status = progress.read_status(str(tmp_path), 0)
    assert (status.failed_publications, status.eta_secs) == (sys.maxsize, None)
