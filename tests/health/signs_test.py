import os
import pathlib

import pytest

from tests.toy_runs import (
    INCARNATION,
    age,
    checkpoint,
    end,
    hold,
    learns_from,
    log,
    publish,
    restart,
    start,
    swap,
    train,
    write,
    write_log,
)
from tf_codistill import files, runs
from tf_codistill.health import signs
from tf_codistill.health.signs import HeldBy, Tutor

NOW = 1_800_000_000.0


def _read(workdir, group=0):
    return signs.read(str(workdir), runs.exchange_dir(str(workdir)), group)


def _contents(directory):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size) for path in pathlib.Path(directory).rglob("*")
    }


def test_groups_are_those_that_any_directory_tells_of(tmp_path):
    assert signs.groups(str(tmp_path / "absent"), str(tmp_path / "nowhere")) == []
    for name in ("run/group_2", "run/group_x", "run/exchange", "exchange/group_10", "exchange/group_2"):
        (tmp_path / name).mkdir(parents=True)
    assert signs.groups(str(tmp_path / "run"), str(tmp_path / "exchange")) == [2, 10]


def test_nothing_is_known_of_a_group_that_has_not_begun(tmp_path):
    health = _read(tmp_path, 3)
    assert health == signs.Health(health.status)
    assert (health.status.group, health.status.step) == (3, 0)
    assert health.silent_secs(NOW) is None


def test_everything_is_read_and_nothing_written(tmp_path):
    write(tmp_path, NOW - 10)
    hold(tmp_path, 0, token=3, host="node-7", pid=4711, since=NOW - 100, beat_at=NOW - 2, step=1350)
    log(tmp_path, 0, restart(1350, "worker 1 was killed by SIGKILL"), restart(1350, "lost"))
    before = _contents(tmp_path)
    health = _read(tmp_path)
    assert _contents(tmp_path) == before
    assert health.trouble is None
    assert (health.published.step, health.published.at) == (1350, NOW - 10)
    assert health.checkpoint_step == 1000
    assert health.held_by == HeldBy("node-7", 4711, NOW - 2)
    assert health.teachers == (Tutor(peer=1, snapshot_step=1300, staleness_steps=50),)
    assert (health.status.num_restarts, health.last_error) == (2, "lost")


def test_an_error_of_any_worker_comes_before_the_reason_of_a_restart(tmp_path):
    log(tmp_path, 0, start(200), restart(0, "lost"))
    write_log(tmp_path, 0, "$ train", worker=0)
    write_log(tmp_path, 0, "$ train", "MemoryError", worker=11)
    assert _read(tmp_path).last_error == "MemoryError"


def test_silence_counts_from_the_later_of_metrics_and_snapshot(tmp_path):
    path = log(tmp_path, 0, start(200), train(50))
    age(path, NOW - 100)
    assert _read(tmp_path).silent_secs(NOW) == 100
    age(publish(tmp_path, 0, serial=1, step=50) / files.MANIFEST, NOW - 30)
    assert _read(tmp_path).silent_secs(NOW) == 30
    age(path, NOW + 5)  # by another clock
    assert _read(tmp_path).silent_secs(NOW) == 0
    log(tmp_path, 0, end(200))
    assert _read(tmp_path).silent_secs(NOW) is None


def test_the_newest_snapshot_is_whole_and_of_this_run(tmp_path):
    exchange = runs.exchange_dir(str(tmp_path))
    assert signs.newest_snapshot(exchange, 0) is None
    publish(tmp_path, 0, serial=9, step=450)
    publish(tmp_path, 0, serial=10, step=500)
    publish(tmp_path, 0, serial=11, step=550, run_id="another")
    publish(tmp_path, 0, serial=12, step=600, is_whole=False)
    assert signs.newest_snapshot(exchange, 0).step == 500


def test_the_newest_checkpoint_is_whole(tmp_path):
    for step, is_whole in ((50, True), (100, True), (150, False)):
        checkpoint(tmp_path, 0, step, is_whole)
    assert signs.checkpoint_step(str(tmp_path), 0) == 100


def test_teachers_are_known_without_a_log(tmp_path):
    log(tmp_path, 0, start(200), train(100, staleness_steps=0.0))
    learns_from(tmp_path, 0, peer=2)
    assert _read(tmp_path).teachers == (Tutor(2),)
    log(tmp_path, 0, train(150, staleness_steps=40.0))
    assert _read(tmp_path).teachers == (Tutor(2, 110, 40),)
    log(tmp_path, 0, train(160, staleness_steps=float("inf")))
    assert _read(tmp_path).teachers == (Tutor(2),)
    learns_from(tmp_path, 0, peer=1)
    assert _read(tmp_path).teachers == (Tutor(1), Tutor(2)), "the mean over two is of neither"


def test_a_snapshot_that_teaches_may_be_deleted_by_now(tmp_path):
    log(tmp_path, 0, start(200), train(100, staleness_steps=70.0))
    publish(tmp_path, 2, serial=4, step=90)
    write_log(tmp_path, 0, swap(90, peer=1, serial=1), swap(95, peer=2, serial=4, seat=1))
    assert _read(tmp_path).teachers == (Tutor(1), Tutor(2, 90, 10))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("group_0/metrics.jsonl", b"nonsense\n", "line 1 of metrics file"),
        ("group_0/lease/token_000001.json", b"[]", "names no holder"),
        ("group_0/lease/token_000001.json", b"{", "is not JSON"),
        ("group_0/lease/token_000001.json", b"[" * 100_000, "recursion"),
        (f"exchange/group_0/snapshot_{INCARNATION}_000028/manifest.json", b'{"step": "1"}', "says no step"),
        ("exchange/run.json", b" " * 100, "has 100 bytes; at most 99 are read"),
    ],
)
def test_what_is_damaged_is_told_and_the_rest_is_shown(tmp_path, monkeypatch, name, content, told):
    write(tmp_path, NOW)
    if told.startswith("has "):
        monkeypatch.setattr(signs, "MAX_JSON_BYTES", 99)
    path = tmp_path / name
    hold(tmp_path, 0, NOW, host="node", pid=1)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    health = _read(tmp_path)
    assert told in health.trouble
    assert health.checkpoint_step == 1000


def test_two_writers_are_told(tmp_path):
    log(tmp_path, 0, start(200), train(100), train(50))
    assert _read(tmp_path).trouble == "step 50 comes after step 100: do two processes train this group?"


def test_what_is_no_number_is_unknown(tmp_path):
    odd = "<b>many</b>"
    log(
        tmp_path,
        0,
        start(200) | {"num_steps": odd},
        train(50, elapsed_secs=odd, loss=odd, tokens_per_sec=10**400),
    )
    log(tmp_path, 0, {"kind": "validation", "step": 50, "loss": odd}, train(60, failed_publications=odd))
    hold(tmp_path, 0, host=["x"], pid=odd, beat_at=odd)
    health = _read(tmp_path)
    assert health.trouble is None
    assert (health.status.num_steps, health.status.eta_secs, health.status.validation_loss) == (
        None,
        None,
        None,
    )
    assert health.status.cells()["tokens/s"] == "-"
    assert health.held_by == HeldBy("['x']", None, None)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([(150, 160), (150, 160)], "stopped at step 160 (checkpoint 160); the same command goes on"),
        (
            [(170, 160), (150, 150)],
            "stopped at steps 170 and 150 (checkpoints 160 and 150); the same command goes on",
        ),
        (
            [(20, None), (30, None)],
            "stopped at steps 20 and 30 (no checkpoint); the same command begins anew",
        ),
        (
            [(20, None), (30, 30), (30, 30)],
            "stopped at steps 20, 30 and 30 (checkpoints none, 30 and 30); the same command goes on",
        ),
        ([(None, None)], "stopped at step 0 (no checkpoint); the same command begins anew"),
    ],
)
def test_where_a_run_has_stopped(tmp_path, steps, told):
    for group, (step, saved) in enumerate(steps):
        if step is not None:
            log(tmp_path, group, start(200), train(step))
        if saved is not None:
            checkpoint(tmp_path, group, saved)
    assert signs.stopped(str(tmp_path), range(len(steps))) == told


def test_a_stop_is_told_even_if_the_metrics_are_damaged(tmp_path):
    os.makedirs(runs.group_dir(str(tmp_path), 0))
    pathlib.Path(runs.metrics_path(str(tmp_path), 0)).write_text("nonsense\n")
    checkpoint(tmp_path, 0, 160)
    assert signs.stopped(str(tmp_path), range(1)).startswith("stopped at step 160 (checkpoint 160); ")


def test_signs_are_read_without_logs(tmp_path):
    write(tmp_path, NOW)
    (tmp_path / "group_0" / "worker_0.log").write_bytes(b"MemoryError\n")
    health = signs.read_signs(str(tmp_path), runs.exchange_dir(str(tmp_path)), 0)
    assert (health.sign_at, health.published.step, health.last_error) == (NOW, 1350, None)
