"""A file on a server: dropped connections, refusals and changes."""

from __future__ import annotations

import dataclasses
import gzip
import io
import random
import time
from collections.abc import Callable, Iterator

import pytest

from tests import http_server
from tests.http_server import Fault
from tf_codistill.corpus.crawl.http_file import ChangedError, HttpFile, RetryPolicy, Version

PATH = "/crawl/a.warc.wet.gz"
CONTENT = gzip.compress(random.Random(0).randbytes(300_000), mtime=0)
NO_SIZE = {"Content-Length": None, "Connection": "close"}


class Waits(list[float]):
    """What was waited, without waiting."""

    def retry_policy(self, **changes: object) -> RetryPolicy:
        quick = RetryPolicy(num_tries=4, timeout_secs=5.0, sleep=self.append, draw=lambda: 1.0)
        return dataclasses.replace(quick, **changes)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http_server.Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_server.serve({PATH: CONTENT}) as running:
        yield running


def read(server: http_server.Server, retry_policy: RetryPolicy, path: str = PATH) -> bytes:
    with HttpFile(server.url + path, retry_policy) as file:
        return io.BufferedReader(file).read()


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_dropped_connections_are_resumed_by_range(
    server: http_server.Server, waits: Waits, is_reset: bool
) -> None:
    # A reset may take with it what was sent just before, so that less than `cut` bytes arrive.
    server.misbehave(PATH, *[Fault(cut=70_000, is_reset=is_reset)] * 3)
    assert read(server, waits.retry_policy()) == CONTENT
    ranges = server.ranges(PATH)
    assert ranges[0] is None
    assert len(ranges) == 4
    if not is_reset:
        assert ranges[1:] == ["bytes=70000-", "bytes=140000-", "bytes=210000-"]
        assert server.num_bytes(PATH) == len(CONTENT)
        assert waits == [1.0, 1.0, 1.0], "each connection brought something"


def test_a_silent_connection_counts_as_dropped(server: http_server.Server, waits: Waits) -> None:
    server.misbehave(PATH, Fault(cut=100_000, stalls=True))
    assert read(server, waits.retry_policy(timeout_secs=0.2)) == CONTENT
    (_, second) = server.ranges(PATH)
    assert second is not None


@pytest.mark.parametrize("status", [403, 429, 500, 502, 503, 504])
def test_temporary_refusals_are_tried_again(server: http_server.Server, waits: Waits, status: int) -> None:
    server.misbehave(PATH, *[Fault(status=status)] * 3)
    assert read(server, waits.retry_policy()) == CONTENT
    assert waits == [1.0, 2.0, 4.0]


def test_refusals_are_tried_a_bounded_number_of_times(server: http_server.Server, waits: Waits) -> None:
    server.always[PATH] = Fault(status=403)
    with pytest.raises(
        OSError,
        match=r"a\.warc\.wet\.gz cannot be read: it failed 4 times in a row, .* 403 .*fewer connections",
    ):
        read(server, waits.retry_policy())
    assert len(server.requests) == 4
    assert waits == [1.0, 2.0, 4.0]


def test_a_server_that_drops_at_one_place_is_given_up(server: http_server.Server, waits: Waits) -> None:
    server.misbehave(PATH, Fault(cut=1000))
    server.always[PATH] = Fault(cut=0)
    with pytest.raises(OSError, match="failed 4 times in a row"):
        read(server, waits.retry_policy())
    assert len(server.requests) == 1 + 4 - 1, "the first drop counts, too"


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 8.0), ("Sun, 09 Sep 2001 01:47:10 GMT", 31.0), ("soon", 1.0)]
)
def test_retry_after_is_respected(
    server: http_server.Server, waits: Waits, asked: str, waited: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    server.misbehave(PATH, Fault(status=503, headers={"Retry-After": asked}))
    assert read(server, waits.retry_policy()) == CONTENT
    assert waits == [waited]


def test_too_long_a_wait_is_told_at_once(server: http_server.Server, waits: Waits) -> None:
    server.always[PATH] = Fault(status=429, headers={"Retry-After": "7200"})
    with pytest.raises(OSError, match="429 .*asking for a wait of 7200 s; start again after that"):
        read(server, waits.retry_policy())
    assert waits == []


def test_waits_are_bounded_and_differ() -> None:
    rng = random.Random(0)
    retry_policy = RetryPolicy(draw=rng.random)
    waits = [retry_policy.wait_secs(20) for _ in range(100)]
    assert 30.0 <= min(waits) < 40.0 < 50.0 < max(waits) <= 60.0


@pytest.mark.parametrize(
    ("status", "error"), [(404, FileNotFoundError), (410, FileNotFoundError), (400, OSError)]
)
def test_lasting_refusals_are_told_at_once(
    server: http_server.Server, waits: Waits, status: int, error: type[OSError]
) -> None:
    server.always[PATH] = Fault(status=status)
    with pytest.raises(error, match=f"{server.url}{PATH} .*{status}"):
        read(server, waits.retry_policy())
    assert len(server.requests) == 1


def test_nobody_listens(waits: Waits) -> None:
    with http_server.serve({}) as gone:
        pass
    with pytest.raises(OSError, match=r"failed 4 times in a row, .*refused"):
        read(gone, waits.retry_policy())


def test_no_address() -> None:
    with pytest.raises(ValueError, match="'http://' is not understood"):
        HttpFile("http://").connect()


def test_a_server_without_ranges_is_read_again_from_the_beginning(
    server: http_server.Server, waits: Waits
) -> None:
    server.misbehave(PATH, Fault(cut=200_000), Fault(is_whole=True))
    assert read(server, waits.retry_policy()) == CONTENT
    assert server.num_bytes(PATH) == 200_000 + len(CONTENT)


def test_a_range_that_is_shorter_than_asked_is_taken(server: http_server.Server, waits: Waits) -> None:
    told = {"Content-Range": f"bytes 9000-19999/{len(CONTENT)}"}
    server.misbehave(PATH, Fault(cut=9_000), Fault(status=206, body=CONTENT[9000:20_000], headers=told))
    assert read(server, waits.retry_policy()) == CONTENT
    assert server.ranges(PATH) == [None, "bytes=9000-", "bytes=20000-"]


@pytest.mark.parametrize("told", ["bytes 5-300000/300001", "nonsense", None])
def test_a_range_that_was_not_asked_is_not_taken(
    server: http_server.Server, waits: Waits, told: str | None
) -> None:
    server.misbehave(PATH, Fault(cut=9_000), Fault(headers={"Content-Range": told}))
    assert read(server, waits.retry_policy()) == CONTENT
    assert server.ranges(PATH) == [None, "bytes=9000-", None]


@pytest.mark.parametrize("size", [300_000, 300_500], ids=["other tag", "longer"])
@pytest.mark.parametrize("is_whole", [False, True], ids=["range", "whole"])
def test_a_changed_file_is_not_spliced(
    server: http_server.Server, waits: Waits, size: int, is_whole: bool
) -> None:
    other = gzip.compress(random.Random(1).randbytes(size), mtime=0)
    server.misbehave(PATH, Fault(cut=50_000), Fault(becomes=other, is_whole=is_whole))
    with pytest.raises(ChangedError, match=r"has changed since it was read up to byte 50000"):
        read(server, waits.retry_policy())


def test_a_file_that_became_shorter_has_changed(server: http_server.Server, waits: Waits) -> None:
    server.misbehave(PATH, Fault(cut=50_000), Fault(becomes=b"short"))
    with pytest.raises(ChangedError, match="has no byte 50000 any more"):
        read(server, waits.retry_policy())


def test_what_a_server_says_where_nothing_is_missing_is_no_part_of_the_file(
    server: http_server.Server, waits: Waits
) -> None:
    told = {"Content-Range": f"bytes */{len(CONTENT)}"}
    server.misbehave(PATH, Fault(status=416, body=b"no such range", headers=told))
    with HttpFile(server.url + PATH, waits.retry_policy(), len(CONTENT), Version()) as file:
        assert file.read(100) == b""


def test_a_size_that_is_not_told_may_end_anywhere(server: http_server.Server, waits: Waits) -> None:
    server.misbehave(PATH, Fault(headers=NO_SIZE))
    assert read(server, waits.retry_policy()) == CONTENT


def test_a_file_that_is_said_to_be_packed_is_left_as_it_is(server: http_server.Server, waits: Waits) -> None:
    server.misbehave(PATH, Fault(headers={"Content-Encoding": "gzip"}, cut=99_000))
    server.always[PATH] = Fault(headers={"Content-Encoding": "x-gzip"})
    assert read(server, waits.retry_policy()) == CONTENT
    assert server.requests[0].headers["Accept-Encoding"] == "identity"
    assert server.ranges(PATH) == [None, "bytes=99000-"]


@pytest.mark.parametrize("path", [PATH, "/list"])
def test_a_file_that_is_packed_on_the_way_is_unpacked(
    server: http_server.Server, waits: Waits, path: str
) -> None:
    server.files[path] = CONTENT if path == PATH else b"crawl-data/a\n" * 50_000
    packed = gzip.compress(server.files[path])
    fault = Fault(body=packed, headers={"Content-Encoding": "gzip"})
    ends_early = {"headers": {**fault.headers, **NO_SIZE}, "cut": len(packed) - 3}
    server.misbehave(path, dataclasses.replace(fault, **ends_early), fault)
    assert read(server, waits.retry_policy(), path) == server.files[path]
    assert server.ranges(path) == [None, None]


def test_a_program_knows_where_it_is(server: http_server.Server, waits: Waits) -> None:
    with io.BufferedReader(HttpFile(server.url + PATH, waits.retry_policy())) as file:
        file.read(1000)
        assert file.tell() == 1000
        assert file.read(77) == CONTENT[1000:1077]
        assert not file.seekable()


def test_versions() -> None:
    assert not Version().differs(Version('"a"', None, 7))
    assert Version('"a"').differs(Version('"b"'))
    assert Version('"a"', None, 7).differs(Version('"a"', None, 8))


@pytest.mark.parametrize("change", [{"num_tries": 0}, {"timeout_secs": 0.0}])
def test_a_retry_policy_of_nothing_is_refused(waits: Waits, change: dict[str, float]) -> None:
    make: Callable[..., RetryPolicy] = waits.retry_policy
    with pytest.raises(ValueError, match="expected at least one try and a time above 0"):
        make(**change)
