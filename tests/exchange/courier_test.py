"""The courier: nothing that storage does reaches who sent it, and the newest wins."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tests.faults import failing_storage
from tf_codistill import weights
from tf_codistill.exchange.courier import Costs, Courier, Seat
from tf_codistill.exchange.snapshot import Snapshot
from tf_codistill.exchange.store import Store

MODEL = [{"name": "kernel", "shape": [3], "dtype": "float32"}]


def arrays(value: float) -> list[np.ndarray]:
    return [np.full(3, value, "float32")]


def courier_of(
    directory: pathlib.Path, group: int = 0, peers: tuple[int, ...] = (), **settings: Any
) -> Courier:
    """The chief's, not started, of a group that learns from some peers."""
    store = Store(str(directory), group, run_id="run", **settings)
    seats = [Seat(MODEL, peer=peer) for peer in peers]
    return Courier(store, seats, lambda _, snapshot: snapshot, lambda: store.announce(MODEL, 0), Costs())


def published(directory: pathlib.Path, group: int = 0) -> list[float]:
    """The values of what a group has published, in order."""
    reader = Store(str(directory), group, run_id="run")
    return [float(reader.read(ref, MODEL).weights[0][0]) for ref in reader._refs(group)]


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.01)


def test_what_is_sent_is_published_and_reaches_a_peers_seat(tmp_path: pathlib.Path) -> None:
    writer, reader = courier_of(tmp_path, 0), courier_of(tmp_path, 1, peers=(0,))
    for one in (writer, reader):
        one.start()
    (seat,) = reader.seats
    for step in (5, 10):
        writer.send(step, MODEL, arrays(step), [])
        eventually(lambda: seat.is_ready)
        staged = seat.staged
        assert staged is not None
        assert (staged.step, staged.ref) == (step, seat.requested)
        np.testing.assert_array_equal(staged.weights[0], arrays(step)[0])
        seat.held = staged.ref
        seat.request(None)
    for one in (writer, reader):
        one.close(finish=True)
    assert writer.has_readers
    assert writer._costs.published_bytes == reader._costs.read_bytes > 0


def test_memory_is_reserved_beside_training_and_twice_where_storage_is_slow(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[tuple[str, int]] = []

    def reserve(copies: int) -> None:
        reserved.append((threading.current_thread().name, copies))
        raise MemoryError  # which ends nothing

    store = Store(str(tmp_path), 0, run_id="run")
    courier = Courier(
        store,
        [],
        lambda _, snapshot: snapshot,
        lambda: store.announce(MODEL, 0),
        Costs(),
        reserve=reserve,
    )
    write = weights.write
    monkeypatch.setattr(weights, "write", lambda *args, **kwargs: time.sleep(0.5) or write(*args, **kwargs))
    courier.start()
    courier.is_time()
    courier.is_time()  # an interval of next to nothing
    courier.send(5, MODEL, arrays(5), [])
    eventually(lambda: ("courier", 2) in reserved)
    courier.close(finish=True)
    assert reserved[0] == ("courier", 1)
    assert published(tmp_path) == [5]


def test_sending_never_waits_and_the_newest_wins(tmp_path: pathlib.Path, monkeypatch) -> None:
    may_write, write = threading.Event(), weights.write

    def slow(*args: Any, **kwargs: Any) -> Any:
        assert may_write.wait(60)
        return write(*args, **kwargs)

    monkeypatch.setattr(weights, "write", slow)
    courier = courier_of(tmp_path)
    courier.start()
    courier.send(1, MODEL, arrays(1), [])
    eventually(lambda: courier._outbox is None)
    began = time.monotonic()
    for step in range(2, 6):
        courier.send(step, MODEL, arrays(step), [])
    assert time.monotonic() - began < 10
    may_write.set()
    courier.close(finish=True)
    assert published(tmp_path) == [1, 5]
    assert courier._costs.skipped_publications == 3


def test_nobody_waits_for_storage_that_hangs_when_training_is_broken_off(
    tmp_path: pathlib.Path, monkeypatch
) -> None:
    may_write = threading.Event()
    monkeypatch.setattr(weights, "write", lambda *_, **__: may_write.wait(60) and {})
    monkeypatch.setattr("tf_codistill.exchange.courier._MOST_WORK_SECS", 1.0)
    courier = courier_of(tmp_path)
    courier.start()
    courier.send(1, MODEL, arrays(1), [])
    eventually(lambda: courier._outbox is None)
    courier.send(2, MODEL, arrays(2), [])
    began = time.monotonic()
    courier.close(finish=False)
    assert time.monotonic() - began < 10
    may_write.set()
    assert courier._thread is not None
    courier._thread.join(60)  # so that it is in the way of no other test


def test_what_fails_is_counted_logged_once_and_tried_again(tmp_path: pathlib.Path, monkeypatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
    writer, reader = courier_of(tmp_path, 0), courier_of(tmp_path, 1, peers=(0,))
    writer.send(5, MODEL, arrays(5), [])
    with failing_storage(lambda call: True):
        for one in (writer, reader) * 3:
            one.work()
    # The reader announces itself, too, and has nothing to read as long as it cannot say so.
    assert (writer._costs.failed_publications, reader._costs.failed_publications) == (3, 3)
    assert reader._costs.failed_reads == 3
    assert len([text for text in messages if "group 0" in text]) == 1, messages
    for one in (writer, reader):
        one.work()
    assert published(tmp_path) == [5]
    assert reader.seats[0].is_ready


def test_every_call_of_storage_may_fail(tmp_path: pathlib.Path) -> None:
    """Whatever call fails, the next round makes good for it, and never is there more or less than before."""
    for number in range(1, 200):
        directory = tmp_path / str(number)
        writer, reader = (
            courier_of(directory, 0, keep=1, min_age_secs=0),
            courier_of(directory, 1, peers=(0,)),
        )
        (seat,) = reader.seats
        with failing_storage(lambda call: call == number) as calls:  # noqa: B023
            for step in (5, 10, 15):
                writer.send(step, MODEL, arrays(step), [])
                for one in (writer, reader, writer, reader):
                    one.work()
                staged = seat.staged
                if seat.is_ready and staged is not None:
                    np.testing.assert_array_equal(staged.weights[0], arrays(staged.step)[0])
                    seat.held = staged.ref
                    seat.request(None)
        writer.work()  # a superseded one that could not be deleted goes with the next
        writer.send(20, MODEL, arrays(20), [])
        writer.work()
        reader.work()
        staged = seat.staged
        assert staged is not None, calls[number - 1]
        assert staged.step == 20, calls[number - 1]
        assert published(directory) == [20], calls[number - 1]
        assert writer._costs.skipped_publications == 0
        failures = [one._costs.failed_publications + one._costs.failed_reads for one in (writer, reader)]
        assert sum(failures) <= 1
        if len(calls) < number:
            break
    assert number > 60
    assert failures == [0, 0]


@pytest.mark.parametrize("damage", [b"", b"rubbish"])
def test_a_damaged_snapshot_is_passed_over_for_the_next(tmp_path: pathlib.Path, damage: bytes) -> None:
    writer, reader = courier_of(tmp_path, 0), courier_of(tmp_path, 1, peers=(0,))
    writer.send(5, MODEL, arrays(5), [])
    writer.work()
    (data,) = (tmp_path / "group_0").glob("snapshot_*/*.data*")
    data.write_bytes(damage)
    for tries in (1, 2, 3):
        reader.work()
        assert reader._costs.failed_reads == tries
    assert reader.seats[0].has_failed
    writer.send(10, MODEL, arrays(10), [])
    writer.work()
    reader.work()
    staged = reader.seats[0].staged
    assert staged is not None
    assert staged.step == 10
    assert reader._costs.failed_reads == 3


def test_a_seat_that_only_reads_what_is_requested_looks_nowhere(tmp_path: pathlib.Path) -> None:
    writer = courier_of(tmp_path, 0)
    for step in (5, 10):
        writer.send(step, MODEL, arrays(step), [])
        writer.work()
    store = Store(str(tmp_path), 1, run_id="run")
    first, _ = store._refs(0)
    worker = Courier(store, [Seat(MODEL)], lambda _, snapshot: snapshot, None, Costs())
    worker.work()
    assert worker.seats[0].staged is None
    worker.seats[0].request(first)
    worker.work()
    staged = worker.seats[0].staged
    assert staged is not None
    assert staged.step == 5
    assert not (tmp_path / "group_1").exists(), "it is not the chief"


def test_polls_and_grace_follow_the_interval_between_exchanges(tmp_path: pathlib.Path, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    courier = courier_of(tmp_path)
    courier._thread = threading.Thread()  # as if it were started
    for interval, period, grace in ((0.01, 0.05, 0.03), (20.0, 2.0, 60.0), (3600.0, 30.0, 600.0)):
        courier.is_time()
        now[0] += interval
        courier.is_time()
        assert courier._period == pytest.approx(period)
        assert courier._store.min_age_secs == pytest.approx(grace)


def test_it_touches_files_and_host_arrays_only(tmp_path: pathlib.Path, monkeypatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a variable or a collective in the courier's thread")

    writer, reader = courier_of(tmp_path, 0), courier_of(tmp_path, 1, peers=(0,))
    monkeypatch.setattr(tf, "Variable", never)
    monkeypatch.setattr(tf.distribute.Strategy, "reduce", never)
    writer.send(5, MODEL, arrays(5), arrays(6))
    for one in (writer, reader):
        one.work()
    staged = reader.seats[0].staged
    assert isinstance(staged, Snapshot)
    assert all(isinstance(array, np.ndarray) for array in [*staged.weights, *staged.states])
