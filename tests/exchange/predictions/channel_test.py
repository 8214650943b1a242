"""What carries predictions, by files and by a server, keeps what it promises; and who meets there goes on."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest

from tests import faults
from tf_codistill import files
from tf_codistill.exchange.predictions.channel import Channel, FileChannel
from tf_codistill.exchange.predictions.client import ServerChannel
from tf_codistill.exchange.predictions.message import MessageFormat, Predicted
from tf_codistill.exchange.predictions.rendezvous import Received, Rendezvous
from tf_codistill.exchange.predictions.server import PredictionServer, serve
from tf_codistill.files import CorruptError

Make = Callable[[], Channel]


@contextlib.contextmanager
def serving(token: str | None = None, max_bytes: float = 1e6, port: int = 0) -> Iterator[Any]:
    """A server in threads of this process, and its port."""
    server = PredictionServer(max_bytes, token)
    running, port = serve(server, f"localhost:{port}", 1 << 20)
    try:
        yield server, port
    finally:
        running.stop(grace=0).wait()


@pytest.fixture(params=["files", "server"])
def make(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Make]:
    if request.param == "files":
        yield lambda: FileChannel(str(tmp_path))
        return
    with serving("secret") as (_, port):
        yield lambda: ServerChannel(f"localhost:{port}", "run", "secret")


def test_what_one_leaves_another_takes(make: Make) -> None:
    one, other = make(), make()
    assert other.description("group_1") is None
    assert other.newest("group_1") is None
    one.begin("group_1", {"form": "any"}, 0)
    assert other.description("group_1") == {"form": "any"}
    for step in (3, 5):
        one.put("group_1", step, 0, b"%d" % step)
    assert other.newest("group_1") == 5
    assert other.get("group_1", 3, 0, 0.0, 100) == b"3"
    for step, part in ((4, 0), (3, 1)):
        assert other.get("group_1", step, part, 0.01, 100) is None
    assert other.get("group_0", 3, 0, 0.0, 100) is None
    late = threading.Timer(0.2, one.put, ["group_1", 6, 0, b"late"])
    late.start()
    began = time.monotonic()
    assert other.get("group_1", 6, 0, 30.0, 100) == b"late", "it was waited for"
    assert time.monotonic() - began < 20
    late.join()
    one.begin("group_1", {"form": "any"}, 5)
    assert (other.newest("group_1"), other.get("group_1", 5, 0, 0.0, 100)) == (3, None)
    assert other.get("group_1", 3, 0, 0.0, 100) == b"3", "of steps before it stays"
    one.begin("group_1", {"form": "another"}, 5)
    assert other.newest("group_1") is None, "what has another form does not"
    one.put("group_1", 7, 0, b"x" * 101)
    with pytest.raises(CorruptError, match="bytes"):
        other.get("group_1", 7, 0, 0.0, 100)
    for channel in (one, other):
        channel.close()


def test_old_files_go(tmp_path: pathlib.Path) -> None:
    def steps(channel: FileChannel, size: int) -> list[int]:
        channel.begin("group_0", {}, 0)
        for step in range(300):
            channel.put("group_0", step, 0, b"x" * size)
        return [step for step in range(300) if channel.get("group_0", step, 0, 0.0, size) is not None]

    kept = steps(FileChannel(str(tmp_path / "steps"), keep_steps=10), 1)
    assert kept == list(range(290, 300))
    assert steps(FileChannel(str(tmp_path / "bytes"), max_bytes=50), 10) == [295, 296, 297, 298, 299]
    assert steps(FileChannel(str(tmp_path / "one"), max_bytes=5), 10) == [299], "the newest always stays"
    (tmp_path / "steps/group_0/predictions/step_9_part_0.abc.partial").touch()
    again = FileChannel(str(tmp_path / "steps"), keep_steps=10)
    again.begin("group_0", {}, 299)
    names = sorted(path.name for path in (tmp_path / "steps/group_0/predictions").iterdir())
    assert not [name for name in names if "partial" in name or "_299_" in name]


def test_replicas_leave_their_parts_at_the_same_time(tmp_path: pathlib.Path) -> None:
    channel = FileChannel(str(tmp_path), keep_steps=3)
    channel.begin("group_0", {}, 0)

    def leave(part: int) -> None:
        for step in range(50):
            channel.put("group_0", step, part, b"x")

    in_threads(*(functools.partial(leave, part) for part in range(4)))
    left = {path.name for path in (tmp_path / "group_0/predictions").glob("step_*")}
    assert {f"step_49_part_{part}" for part in range(4)} <= left
    assert len(left) <= 4 * 3


def test_whoever_begins_again_never_looks_further_on_than_it_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, newest, remove = FileChannel(str(tmp_path)), list[int | None](), files.remove
    channel.begin("group_0", {}, 0)
    for step in (2, 9, 10, 11):
        channel.put("group_0", step, 0, b"")
    monkeypatch.setattr(
        files, "remove", lambda path: (remove(path), newest.append(channel.newest("group_0")))
    )
    FileChannel(str(tmp_path)).begin("group_0", {}, 5)
    assert newest == [10, 9, 2]


def test_the_server_keeps_to_its_bounds() -> None:
    with serving(max_bytes=10_000) as (server, port):
        channel, other = (ServerChannel(f"localhost:{port}", run) for run in ("run", "another"))
        for one, group in ((channel, "group_0"), (channel, "group_1"), (other, "group_0")):
            one.begin(group, {}, 0)
        for step in range(100):
            channel.put("group_0", step, 0, bytes(1000))
            channel.put("group_1", step, 0, b"")  # a sign of life takes room, too
            assert server.num_bytes <= 10_000
        assert channel.get("group_0", 99, 0, 0.0, 1000) == bytes(1000)
        assert channel.get("group_0", 94, 0, 0.0, 1000) is None, "the oldest went first, read or not"
        assert len([step for step in range(100) if channel.get("group_1", step, 0, 0.0, 1) == b""]) == 5
        with pytest.raises(OSError, match="9500 bytes at once; the server takes 10000 in all"):
            channel.put("group_0", 100, 0, bytes(9500))
        with pytest.raises(OSError, match="bytes describe it; expected at most 65536"):
            channel.begin("group_0", {"form": "x" * 100_000}, 0)
        assert other.newest("group_0") is None, "runs do not see each other"
        for step in range(6):
            other.put("group_0", step, 0, bytes(1000))
        kept = [other.get("group_0", step, 0, 0.0, 1000) for step in range(6)]
        assert kept == [bytes(1000)] * 6, "what an earlier run has left gives way to a new one"
        for one in (channel, other):
            one.close()


def test_strangers_are_told_so(tmp_path: pathlib.Path) -> None:
    with serving("secret") as (_, port):
        for token in (None, "wrong"):
            with pytest.raises(PermissionError, match="it wants another token"):
                ServerChannel(f"localhost:{port}", "run", token).put("group_0", 0, 0, b"")
        with grpc.insecure_channel(f"localhost:{port}") as raw:
            for metadata in [[], [("source", "a b")], [("source", "a"), ("step", "-1")], [("source", "a")]]:
                said = [("authorization", "Bearer secret"), *metadata]
                with pytest.raises(grpc.RpcError) as error:
                    raw.unary_unary("/tf_codistill.Predictions/Put")(b"", timeout=5, metadata=said)
                assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(OSError, match="it is out of reach"):
        ServerChannel(f"localhost:{port}", "run").newest("group_0")


def test_who_hangs_up_holds_no_thread_of_the_server() -> None:
    said = [("source", "a"), ("step", "1"), ("part", "0"), ("wait-ms", "60000")]
    with serving() as (server, port), grpc.insecure_channel(f"localhost:{port}") as raw:
        call = raw.unary_unary("/tf_codistill.Predictions/Get").future(b"", metadata=said)
        until(lambda: server._waiting)
        call.cancel()
        until(lambda: not server._waiting)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


SPECS = [((2,), "float32")]


def meeting(
    channel: Channel, own: int, num_parts: int = 1, wait_secs: float = 20.0, **more: Any
) -> Rendezvous:
    peers = [f"group_{peer}" for peer in range(2) if peer != own]
    description = {"run_id": "run", "num_parts": num_parts, **more}
    made = Rendezvous(channel, MessageFormat("run", SPECS), description, f"group_{own}", peers, wait_secs)
    made.begin(0)
    return made


def rows(keys: range, value: float) -> tuple[np.ndarray, list[np.ndarray]]:
    ids = np.array(keys, np.int64)
    return np.stack([ids, 0 * ids], 1), [np.stack([ids + value, ids], 1).astype(np.float32)]


def exchanged(one: Rendezvous, step: int, keys: range, value: float, part: int = 0) -> Received:
    return one.exchange(step, part, *rows(keys, value))[0]


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    with futures.ThreadPoolExecutor(len(calls)) as threads:
        return [one.result() for one in [threads.submit(call) for call in calls]]


def test_groups_of_other_numbers_of_replicas_find_their_rows(make: Make) -> None:
    """One replica with four rows, two with two each."""
    one, two = meeting(make(), 0), meeting(make(), 1, num_parts=2)
    found = in_threads(
        lambda: exchanged(one, 0, range(4), 10.0),
        lambda: exchanged(two, 0, range(2), 20.0),
        lambda: exchanged(two, 0, range(2, 4), 20.0, part=1),
    )
    assert [one.present_B.tolist() for one in found] == [[1] * 4, [1] * 2, [1] * 2]
    assert [one.parts[0][:, 0].tolist() for one in found] == [[20, 21, 22, 23], [10, 11], [12, 13]]
    assert one.costs.present_rows == 4
    assert one.costs.received_bytes == 2 * MessageFormat("run", SPECS).num_bytes(2)


def test_a_peer_that_begins_again_with_other_replicas_is_found_whole(make: Make) -> None:
    one, peer = meeting(make(), 0, wait_secs=1.0), meeting(make(), 1)
    for step in range(9):
        if step in (1, 5):
            peer = meeting(make(), 1, num_parts=2 if step == 1 else 1)
        parts = [range(2), range(2, 4)] if 1 <= step < 5 else [range(4)]
        theirs = [
            functools.partial(exchanged, peer, step, keys, 2.0, part) for part, keys in enumerate(parts)
        ]
        found, *_ = in_threads(functools.partial(exchanged, one, step, range(4), 1.0), *theirs)
        assert found.present_B.sum() == (2 if step == 1 else 4), step
        if step == 6:
            waited = one.costs.waited_secs
    assert one.costs.waited_secs - waited < 0.5, "for a part that is there no more nobody waits"


def test_who_is_asleep_costs_no_time_until_it_wakes_up(make: Make) -> None:
    one = meeting(make(), 0, wait_secs=0.6)
    assert not exchanged(one, 0, range(2), 1.0).present_B.any()
    waited = one.costs.waited_secs
    assert waited >= 0.6
    for step in range(1, 4):
        assert not exchanged(one, step, range(2), 1.0).present_B.any()
    assert one.costs.waited_secs - waited < 0.5, "three steps without waiting"
    late = meeting(make(), 1, wait_secs=0.6)
    assert exchanged(late, 0, range(2), 2.0).present_B.all(), "what has been predicted is still there"
    before = one.costs.waited_secs
    assert not exchanged(one, 4, range(2), 1.0).present_B.any()
    assert one.costs.waited_secs - before >= 0.6, "it gets on, and is waited for again"
    assert one.costs.absent_peers == 5


def test_one_that_is_behind_is_waited_for_and_catches_up(make: Make) -> None:
    one, behind = meeting(make(), 0, wait_secs=30.0), meeting(make(), 1, wait_secs=30.0)
    for step in range(3):
        exchanged_alone(one, step)
    found = in_threads(
        lambda: [exchanged(behind, step, range(2), 2.0) for step in range(5)],
        lambda: [exchanged(one, step, range(2), 1.0) for step in range(3, 5)],
    )
    assert all(each.present_B.all() for each in found[0] + found[1])


def exchanged_alone(one: Rendezvous, step: int) -> None:
    """As in a step in which nobody was waited for."""
    content = one._format.encode(Predicted(step, step, *rows(range(2), 1.0)))
    one._channel.put("group_0", step, 0, content)


def test_garbage_and_strangers_are_counted_and_leave_nobody_present(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, peer = meeting(make(), 0, wait_secs=0.1), make()
    peer.begin("group_1", {"run_id": "run", "num_parts": 1}, 0)
    other_run = MessageFormat("another", SPECS).encode(Predicted(1, 1, *rows(range(2), 1.0)))
    for step, content in enumerate([b"", other_run, b"garbage" * 60]):
        peer.put("group_1", step, 0, content)
        assert not exchanged(one, step, range(2), 1.0).present_B.any()
    assert one.costs.failed_exchanges == 3
    peer.put("group_1", 3, 0, MessageFormat("run", SPECS).encode(Predicted(3, 3, *rows(range(1, 3), 5.0))))
    found = exchanged(one, 3, range(2), 1.0)
    assert found.present_B.tolist() == [0, 1]
    assert found.parts[0].tolist() == [[0, 0], [6, 1]]
    warnings = [record.message for record in caplog.records if "cannot" in record.message]
    assert len(warnings) == 3, "each kind is told once"


def test_classes_that_mean_something_else_are_told_and_not_believed(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer comes after the first step, when nothing can be refused any more."""
    one = meeting(make(), 0, wait_secs=0.1, classes="tokenizer 1234")
    peer = make()
    peer.begin("group_1", {"run_id": "run", "num_parts": 1, "classes": "tokenizer 5678"}, 0)
    content = MessageFormat("run", SPECS).encode(Predicted(0, 0, *rows(range(2), 2.0)))
    for step in range(3):
        peer.put("group_1", step, 0, content)
        assert not exchanged(one, step, range(2), 1.0).present_B.any()
    assert one.costs.failed_exchanges == one.costs.absent_peers == 3
    (told,) = (record.message for record in caplog.records if "cannot" in record.message)
    assert "group_0 predicts with classes 'tokenizer 1234', group_1 with 'tokenizer 5678'; start" in told


def test_who_predicts_something_else_is_told_at_the_beginning(make: Make) -> None:
    meeting(make(), 0, form="Logits()")
    with pytest.raises(ValueError, match=r"group_1 predicts with form 'TopK\(\)', group_0 with 'Logits\(\)'"):
        meeting(make(), 1, form="TopK()")


def test_a_description_that_is_damaged_ends_no_run(tmp_path: pathlib.Path) -> None:
    """As a machine may leave it that loses its power."""
    for group in range(2):
        directory = files.ensure_directory(str(tmp_path / f"group_{group}" / "predictions"))
        files.write(files.join(directory, "predictions.json"), b"")
    pair = [meeting(FileChannel(str(tmp_path)), group) for group in range(2)]
    found = in_threads(*(functools.partial(exchanged, one, 0, range(2), 1.0) for one in pair))
    assert all(one.present_B.all() for one in found)
    assert pair[0].costs.failed_exchanges == 1


def test_a_server_that_is_killed_and_comes_back_is_missed_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as (_, port):
        pair = [meeting(ServerChannel(f"localhost:{port}", "run"), own, wait_secs=5.0) for own in range(2)]

        def both(step: int) -> list[Received]:
            return in_threads(*(lambda one=one: exchanged(one, step, range(2), 1.0) for one in pair))

        assert all(found.present_B.all() for found in both(0))
    assert not any(found.present_B.any() for found in both(1)), "nobody there, and training goes on"
    with serving(port=port):
        end = time.monotonic() + 60
        for step in range(2, 10**6):
            if all(found.present_B.all() for found in both(step)):
                break
            assert time.monotonic() < end, "they never met again"
            time.sleep(0.1)
    for one in pair:
        one.close()


def test_a_server_that_comes_back_is_told_again_who_predicts_what() -> None:
    """Else a group that begins again would not know in how many parts its peer predicts."""

    def channel() -> ServerChannel:
        return ServerChannel(f"localhost:{port}", "run")

    with serving() as (_, port):
        peer, worker = meeting(channel(), 1, num_parts=2), channel()
    with serving(port=port):
        with pytest.raises(OSError, match="does not know what 'group_1' predicts"):
            worker.put("group_1", 0, 1, b"of a worker that does not speak for its group")
        again = meeting(channel(), 0)
        found, *_ = in_threads(
            lambda: exchanged(again, 1, range(4), 1.0),
            lambda: exchanged(peer, 1, range(2), 2.0, part=0),
            lambda: exchanged(peer, 1, range(2, 4), 2.0, part=1),
        )
        assert exchanged(again, 1, range(4), 1.0).present_B.all()
        worker.put("group_1", 2, 1, b"")


def test_storage_that_fails_costs_predictions_alone(tmp_path: pathlib.Path) -> None:
    one = meeting(FileChannel(str(tmp_path)), 0, wait_secs=0.0)
    with faults.failing_storage(lambda number: True):
        found = [exchanged(one, step, range(2), 1.0) for step in range(3)]
    assert not any(each.present_B.any() for each in found)
    assert one.costs.failed_exchanges >= 3
    assert exchanged(one, 3, range(2), 1.0) is not None
    assert FileChannel(str(tmp_path)).get("group_0", 3, 0, 0.0, 1000)
