"""One way to open them all."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from tests import http_server
from tests.http_server import Fault
from tf_codistill.corpus.crawl.http_file import RetryPolicy
from tf_codistill.corpus.crawl.opening import file_name, is_http, matching, open_source, stream

LINES = b"".join(b"line %d\n" % number for number in range(40_000))
CONTENT = gzip.compress(LINES, mtime=0)
QUICK = RetryPolicy(num_tries=2, timeout_secs=5.0, sleep=lambda secs: None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http_server.Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_server.serve({"/a.gz": CONTENT}) as running:
        running.misbehave("/a.gz", Fault(cut=30_000))
        yield running


@pytest.mark.parametrize("scheme", ["local", "gfile", "http"])
def test_every_source_gives_the_same_bytes(server: http_server.Server, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "a.gz").write_bytes(CONTENT)
    places = {"local": f"{tmp_path}/a.gz", "gfile": f"file://{tmp_path}/a.gz", "http": f"{server.url}/a.gz"}
    with open_source(places[scheme], QUICK) as file:
        assert file.peek(2).startswith(b"\x1f\x8b")
        assert file.read(1) == CONTENT[:1]
        assert file.tell() == 1
        assert file.read() == CONTENT[1:]
        assert file.read() == b""
    with open_source(places[scheme], QUICK) as file, gzip.GzipFile(fileobj=file) as unpacked:
        assert unpacked.read() == LINES


def test_a_stream_goes_on_after_a_drop(server: http_server.Server) -> None:
    with stream(f"{server.url}/a.gz", QUICK) as file, gzip.GzipFile(fileobj=file) as unpacked:
        assert [*unpacked] == LINES.splitlines(keepends=True)
    assert server.ranges("/a.gz") == [None, "bytes=30000-"]
    assert server.num_bytes("/a.gz") == len(CONTENT)


@pytest.mark.parametrize("place", ["{local}/gone", "file://{local}/gone", "{url}/gone"])
def test_what_is_missing_is_told_on_opening(server: http_server.Server, tmp_path: Path, place: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"/gone.* does not exist"):
        open_source(place.format(local=tmp_path, url=server.url), QUICK)


def test_a_scheme_that_tensorflow_lacks_has_a_remedy() -> None:
    with pytest.raises(OSError, match=r"s9://commoncrawl/a.*install tensorflow-io, or name .* https://"):
        open_source("s9://commoncrawl/a")


def test_errors_of_tensorflow_are_os_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise tf.errors.UnavailableError(None, None, "storage is away")

    (tmp_path / "a").write_bytes(b"content")
    with open_source(f"file://{tmp_path}/a") as file:
        monkeypatch.setattr(tf.io.gfile.GFile, "read", fail)
        with pytest.raises(OSError, match="cannot be read: storage is away"):
            file.read()


def test_directories_are_no_sources(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        open_source(str(tmp_path))


def test_addresses() -> None:
    assert [is_http(place) for place in ("HTTPS://a", "http://a", "gs://a", "/http://", "http")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/data/a b?.warc.wet.gz", "a b?.warc.wet.gz"),
        ("a%20b.wet", "a%20b.wet"),
        ("gs://bucket/crawl/a.wet.gz", "a.wet.gz"),
        ("https://example.org/crawl/a.wet.gz", "a.wet.gz"),
        ("https://example.org/crawl/a.wet.gz?key=x/y.gz&b=1#z/e", "a.wet.gz"),
        ("HTTP://example.org/crawl/a%20b.wet.gz", "a b.wet.gz"),
        ("https://example.org/wet%2Fa.wet.gz", "a.wet.gz"),
    ],
)
def test_a_file_has_one_name_wherever_it_is(source: str, name: str) -> None:
    assert file_name(source) == name


@pytest.mark.parametrize("source", ["/data/", "https://example.org", "https://example.org/?a=b/c", "..", ""])
def test_what_names_no_file_is_told(source: str) -> None:
    with pytest.raises(ValueError, match="names no file; expected one that ends in a file's name"):
        file_name(source)


def test_patterns_stand_for_files_and_addresses_for_themselves(tmp_path: Path) -> None:
    for name in ("b.wet", "a.wet", "c.txt"):
        (tmp_path / name).write_bytes(b"content")
    address = "https://example.org/*.wet"
    assert matching([f"{tmp_path}/*.wet", address, f"{tmp_path}/c.txt"]) == [
        f"{tmp_path}/a.wet",
        f"{tmp_path}/b.wet",
        address,
        f"{tmp_path}/c.txt",
    ]
    (tmp_path / "a[1]").mkdir()
    (tmp_path / "a[1]" / "d.wet").write_bytes(b"content")
    assert matching([f"{tmp_path}/a*", f"{tmp_path}/a.wet", f"{tmp_path}/a[1]/d.wet"]) == [
        f"{tmp_path}/a.wet",
        f"{tmp_path}/a[1]/d.wet",
    ]
    with pytest.raises(
        ValueError, match=r"is a directory; name the files in it, as by '.*/\*\.warc\.wet\.gz'"
    ):
        matching([str(tmp_path)])
    with pytest.raises(ValueError, match=r"\*\.gz' matches no file; check the path, and quote the pattern"):
        matching([f"{tmp_path}/*.wet", f"{tmp_path}/*.gz"])
