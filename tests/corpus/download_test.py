"""Files fetched into a directory: whole or not there, and never the same byte twice."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import gzip
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import http_server
from tests.http_server import Fault
from tf_codistill.corpus.crawl import download
from tf_codistill.corpus.crawl.download import fetch, fetch_file, gzip_damage
from tf_codistill.corpus.crawl.http_file import RetryPolicy

QUICK = RetryPolicy(num_tries=3, timeout_secs=5.0, sleep=lambda secs: None)


def packed(seed: int, num_bytes: int = 300_000) -> bytes:
    """A gzip file of three members."""
    rng = random.Random(seed)
    return b"".join(gzip.compress(rng.randbytes(num_bytes // 3), mtime=0) for _ in range(3))


FILES = {f"/crawl/{name}.warc.wet.gz": packed(seed) for seed, name in enumerate("abcde")}
A, B = list(FILES)[:2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http_server.Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_server.serve(FILES) as running:
        yield running


def contents(directory: Path) -> dict[str, bytes]:
    return {f"/crawl/{path.name}": path.read_bytes() for path in directory.iterdir()}


def stop_early(server: http_server.Server, directory: Path, num_bytes: int = 100_000) -> Path:
    """Leaves a partial file of A in the directory; returns its path, and makes the server count afresh."""
    server.misbehave(A, Fault(cut=num_bytes), *[Fault(status=503)] * 2)
    assert fetch([server.url + A], str(directory), retry_policy=QUICK).failures
    partial = directory / "a.warc.wet.gz.partial"
    assert partial.read_bytes() == FILES[A][:num_bytes]
    server.requests.clear()
    return partial


def test_files_are_fetched_in_parallel_and_once(
    server: http_server.Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [server.url + path for path in FILES]
    for _ in range(2):
        fetched = fetch(urls, str(tmp_path / "new"), num_connections=2, retry_policy=QUICK)
        assert [Path(path).name for path in fetched.sources] == [Path(path).name for path in FILES]
        assert fetched.failures == {}
        assert fetched.summary() == ""
        assert contents(tmp_path / "new") == FILES
    assert len(server.requests) == len(FILES)
    total = sum(map(len, FILES.values()))
    assert f"fetching 5 files: {total:,} of {total:,} bytes in " in capsys.readouterr().err


def test_sizes_that_are_not_known_yet_are_taken_for_the_mean(
    server: http_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals: list[int] = []

    class Shown(download.Progress):
        def expect(self, total: int) -> None:
            totals.append(total)
            super().expect(total)

    monkeypatch.setattr(download, "Progress", Shown)
    (tmp_path / "b.warc.wet.gz").write_bytes(b"there already")
    fetch([server.url + path for path in FILES], str(tmp_path), num_connections=1, retry_policy=QUICK)
    size = len(FILES[A])
    assert totals[0] == 5 * size
    assert totals[-1] == 4 * size


def test_what_was_packed_on_the_way_is_not_resumed(server: http_server.Server, tmp_path: Path) -> None:
    server.files["/list"] = random.Random(0).randbytes(200_000)
    body = gzip.compress(server.files["/list"])
    packed_so = Fault(body=body, headers={"Content-Encoding": "gzip", "ETag": '"x"'})
    server.misbehave("/list", dataclasses.replace(packed_so, cut=150_000), *[Fault(status=503)] * 2)
    for _ in range(2):
        fetch([server.url + "/list"], str(tmp_path), retry_policy=QUICK)
        server.always["/list"] = packed_so
    assert (tmp_path / "list").read_bytes() == server.files["/list"]
    assert set(server.ranges("/list")) == {None}


def test_parallelism_is_bounded(
    server: http_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, now_open, most = threading.Barrier(2), set(), []

    class Counted(download.HttpFile):
        def connect(self) -> None:
            now_open.add(self)
            both.wait(20)  # so there are two
            most.append(len(now_open))
            super().connect()

        def close(self) -> None:
            now_open.discard(self)
            super().close()

    monkeypatch.setattr(download, "HttpFile", Counted)
    fetch(
        [server.url + path for path in list(FILES)[:4]], str(tmp_path), num_connections=2, retry_policy=QUICK
    )
    assert len(contents(tmp_path)) == len(most) == 4
    assert max(most) == 2


def test_dropped_connections_cost_no_byte(server: http_server.Server, tmp_path: Path) -> None:
    server.misbehave(A, *[Fault(cut=50_000)] * 4)
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: FILES[A]}
    assert server.num_bytes(A) == len(FILES[A])


def test_a_later_run_goes_on_by_range(server: http_server.Server, tmp_path: Path) -> None:
    stop_early(server, tmp_path)
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: FILES[A]}
    assert server.ranges(A) == ["bytes=100000-"]
    assert server.num_bytes(A) == len(FILES[A]) - 100_000


def test_a_later_run_finds_everything_there(server: http_server.Server, tmp_path: Path) -> None:
    partial = stop_early(server, tmp_path)
    partial.write_bytes(FILES[A])
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: FILES[A]}
    assert server.requests == []


def test_all_arrived_of_a_size_that_was_never_told(server: http_server.Server, tmp_path: Path) -> None:
    partial = stop_early(server, tmp_path)
    facts = json.loads(Path(f"{partial}.json").read_text())
    Path(f"{partial}.json").write_text(json.dumps({**facts, "num_bytes": None}))
    partial.write_bytes(FILES[A])
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: FILES[A]}
    assert [request.status for request in server.requests] == [416]


@pytest.mark.parametrize("knows_size", [True, False])
def test_a_partial_file_that_is_too_long_is_thrown_away(
    server: http_server.Server, tmp_path: Path, knows_size: bool
) -> None:
    partial = stop_early(server, tmp_path)
    if not knows_size:
        facts = json.loads(Path(f"{partial}.json").read_text())
        Path(f"{partial}.json").write_text(json.dumps({**facts, "num_bytes": None}))
    partial.write_bytes(FILES[A] + b"more")
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: FILES[A]}
    assert server.ranges(A) == ([None] if knows_size else [f"bytes={len(FILES[A]) + 4}-", None])


@pytest.mark.parametrize(
    "facts",
    [None, "not JSON", "{}", "[]", '{"url": "", "etag": null, "last_modified": null, "num_bytes": null}'],
)
def test_a_partial_file_of_nobody_knows_what_is_thrown_away(
    server: http_server.Server, tmp_path: Path, facts: str | None
) -> None:
    mark = Path(f"{stop_early(server, tmp_path)}.json")
    mark.write_text(facts) if facts is not None else mark.unlink()
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: FILES[A]}
    assert server.ranges(A) == [None]


@pytest.mark.parametrize("has_etag", [True, False], ids=["etag", "size alone"])
def test_a_file_that_changes_between_runs_is_fetched_anew(
    server: http_server.Server, tmp_path: Path, has_etag: bool
) -> None:
    headers = {} if has_etag else {"ETag": None}
    server.misbehave(A, Fault(cut=100_000, headers=headers), *[Fault(status=503)] * 2)
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    server.requests.clear()
    server.files[A] = packed(77, 300_000 if has_etag else 330_000)
    server.always[A] = Fault(headers=headers)
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: server.files[A]}
    assert server.ranges(A) == ["bytes=100000-", None]


def test_a_change_that_nothing_tells_is_found_by_the_checksums(
    server: http_server.Server, tmp_path: Path
) -> None:
    server.always[A] = Fault(headers={"ETag": None})
    server.misbehave(A, Fault(cut=150_000, headers={"ETag": None}), *[Fault(status=503)] * 2)
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    server.files[A] = packed(77)
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: server.files[A]}


def test_a_file_that_changes_meanwhile_is_fetched_anew(server: http_server.Server, tmp_path: Path) -> None:
    server.misbehave(A, Fault(cut=100_000), Fault(becomes=packed(77)))
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: packed(77)}


def test_a_file_that_never_rests_is_given_up(server: http_server.Server, tmp_path: Path) -> None:
    for seed in range(10):
        server.misbehave(A, Fault(cut=1000, becomes=packed(seed + 100)))
    fetched = fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    (reason,) = fetched.failures.values()
    assert "3 times from its beginning" in reason
    assert "has changed" in reason
    assert fetched.damaged == (), "nobody knows whether it is"


@pytest.mark.parametrize("damage", ["cut", "bit", "rest", "empty", "cut with no size told"])
def test_a_damaged_file_is_no_file(server: http_server.Server, tmp_path: Path, damage: str) -> None:
    broken = {
        "bit": FILES[A][:50_000] + bytes([FILES[A][50_000] ^ 4]) + FILES[A][50_001:],
        "rest": FILES[A] + b"rest",
        "empty": b"",
    }
    server.files[A] = broken.get(damage, FILES[A][:-9])
    if "size" in damage:
        server.always[A] = Fault(headers={"Content-Length": None, "Connection": "close"})
    fetched = fetch([server.url + A, server.url + B], str(tmp_path), retry_policy=QUICK)
    assert [Path(path).name for path in fetched.sources] == ["b.warc.wet.gz"]
    ((url, reason),) = fetched.failures.items()
    assert url == server.url + A
    assert reason.startswith(f"{url} did not arrive whole, 3 times from its beginning: the ")
    assert reason.endswith("leave it out, or try again later")
    assert fetched.damaged == (url,)
    assert fetched.of_all() == [*fetched.sources, url], "so that its damage is counted"
    assert not (tmp_path / "a.warc.wet.gz").exists()


def test_damage_on_the_way_is_repaired(server: http_server.Server, tmp_path: Path) -> None:
    server.misbehave(A, Fault(body=FILES[A][:-4] + b"\0\0\0\0"))
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: FILES[A]}


def test_one_file_that_is_missing_does_not_stop_the_others(
    server: http_server.Server, tmp_path: Path
) -> None:
    server.always[B] = Fault(status=503)
    urls = [server.url + path for path in ("/crawl/gone.gz", *FILES)]
    fetched = fetch(urls, str(tmp_path), num_connections=2, retry_policy=QUICK)
    assert [Path(path).name[0] for path in fetched.sources] == list("acde")
    first, second, third = fetched.summary().splitlines()
    assert first == "2 of 6 files could not be fetched:"
    assert (
        second
        == f"  {urls[0]} does not exist: the server answered 404 Not Found; check the crawl and the path"
    )
    assert third.startswith(f"  {server.url}{B} cannot be read: it failed 3 times in a row, at last because ")
    assert len([request for request in server.requests if "gone" in request.path]) == 1
    assert len(list(tmp_path.iterdir())) == 4, "nothing is left of those of which nothing came"
    assert fetched.damaged == ()
    told = r"2 of 6 files could not be fetched; the first: .*/gone\.gz does not exist: .*goes on from there"
    with pytest.raises(OSError, match=told):
        fetched.of_all()


def test_one_file_by_itself(server: http_server.Server, tmp_path: Path) -> None:
    for _ in range(2):
        fetch_file(server.url + A, str(tmp_path / "other.gz"), QUICK)
    assert (tmp_path / "other.gz").read_bytes() == FILES[A]
    assert len(server.requests) == 1
    with pytest.raises(FileNotFoundError, match="/gone does not exist"):
        fetch_file(server.url + "/gone", str(tmp_path / "gone"), QUICK)


def test_what_is_not_on_a_server_is_read_where_it_is(server: http_server.Server, tmp_path: Path) -> None:
    sources = ["gs://bucket/x.wet.gz", server.url + A, "/data/y.wet.gz"]
    fetched = fetch(sources, str(tmp_path), retry_policy=QUICK)
    assert fetched.sources == (sources[0], str(tmp_path / "a.warc.wet.gz"), sources[2])
    assert fetch(sources[::2], "gs://anything").sources == tuple(sources[::2])


def test_what_is_wrong_is_told_before_anything_is_fetched(server: http_server.Server, tmp_path: Path) -> None:
    url = server.url + A
    with pytest.raises(ValueError, match=r"would both be fetched as 'a\.warc\.wet\.gz'"):
        fetch([url, server.url + "/other/a.warc.wet.gz?key=1"], str(tmp_path))
    with pytest.raises(ValueError, match="directory 'gs://bucket' is not local"):
        fetch([url], "gs://bucket")
    with pytest.raises(ValueError, match="names no file"):
        fetch([server.url + "/"], str(tmp_path))
    with pytest.raises(ValueError, match="num_connections is 0; expected at least 1"):
        fetch([url], str(tmp_path), num_connections=0)
    assert server.requests == []


def test_another_program_at_work_is_noticed(server: http_server.Server, tmp_path: Path) -> None:
    with open(tmp_path / "a.warc.wet.gz.partial", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fetched = fetch([server.url + A, server.url + B], str(tmp_path), retry_policy=QUICK)
    assert len(fetched.sources) == 1
    assert "is being fetched into" in fetched.summary()


def test_a_full_disk_stops_everything(
    server: http_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        fetch([server.url + path for path in FILES], str(tmp_path), num_connections=1, retry_policy=QUICK)
    assert len(server.requests) == 1
    monkeypatch.undo()
    fetch([server.url + A], str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: FILES[A]}


_PROGRAM = """
import sys
from tf_codistill.corpus.crawl.download import fetch
fetch(sys.argv[2:], sys.argv[1])
"""


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_is_stopped_goes_on_later(
    server: http_server.Server, tmp_path: Path, kill: signal.Signals
) -> None:
    server.misbehave(A, Fault(cut=200_000, stalls=True))
    server.misbehave(B, Fault(status=503, headers={"Retry-After": "500"}))
    urls = [server.url + A, server.url + B]
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(tmp_path), *urls], stderr=subprocess.PIPE, text=True
    )
    partial = tmp_path / "a.warc.wet.gz.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 100_000) or len(server.requests) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    program.send_signal(kill)
    start = time.monotonic()
    _, errors = program.communicate(timeout=30)
    assert time.monotonic() - start < 10, "it waits neither for the silent server nor for the busy one"
    assert program.returncode != 0
    assert ("KeyboardInterrupt" in errors) == (kill == signal.SIGINT)
    size = partial.stat().st_size
    assert partial.read_bytes() == FILES[A][:size]
    assert not (tmp_path / "a.warc.wet.gz").exists()
    server.requests.clear()
    fetch(urls, str(tmp_path), retry_policy=QUICK)
    assert contents(tmp_path) == {A: FILES[A], B: FILES[B]}
    assert server.num_bytes(A) == len(FILES[A]) - size


def test_gzip_damage_finds_each_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    whole = gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0)
    path.write_bytes(whole)
    assert gzip_damage(str(path)) is None
    path.write_bytes(whole + bytes(512))
    assert gzip_damage(str(path)) is None, "tapes end with zeros"
    for end in itertools.chain(range(len(whole) // 2), range(len(whole) // 2 + 1, len(whole))):
        path.write_bytes(whole[:end])
        assert gzip_damage(str(path)), end
