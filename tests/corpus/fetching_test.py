"""Lists of crawls and samples of them."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import http_server
from tests.http_server import Fault
from tf_codistill.corpus.crawl.fetching import (
    BASE_URL,
    PAPER_CRAWL,
    fetch_crawl,
    list_source,
    read_paths,
    sample,
)
from tf_codistill.corpus.crawl.http_file import RetryPolicy
from tf_codistill.corpus.crawl.opening import open_source

DATA = os.environ.get("TF_CODISTILL_REAL_DATA", "")
QUICK = RetryPolicy(num_tries=2, timeout_secs=5.0, sleep=lambda secs: None)
PATHS = [f"crawl-data/{PAPER_CRAWL}/segments/1/wet/file-{number:05d}.warc.wet.gz" for number in range(12)]
LIST = f"/mirror/crawl-data/{PAPER_CRAWL}/wet.paths.gz"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http_server.Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    crawl = {f"/mirror/{path}": gzip.compress(path.encode(), mtime=0) for path in PATHS}
    with http_server.serve({**crawl, LIST: gzip.compress("\n".join([*PATHS, ""]).encode())}) as running:
        yield running


def written(directory: Path, content: bytes) -> str:
    path = directory / "wet.paths.gz"
    path.write_bytes(content)
    return str(path)


def test_the_papers_crawl_at_common_crawl_is_what_is_meant() -> None:
    assert list_source(PAPER_CRAWL) == (
        "https://data.commoncrawl.org/crawl-data/CC-MAIN-2017-26/wet.paths.gz"
    )
    assert list_source("CC-MAIN-2018-39", "gs://mirror/cc") == (
        "gs://mirror/cc/crawl-data/CC-MAIN-2018-39/wet.paths.gz"
    )


def test_a_crawl_is_fetched(server: http_server.Server, tmp_path: Path) -> None:
    arguments = {"base_url": f"{server.url}/mirror", "directory": str(tmp_path), "retry_policy": QUICK}
    first = fetch_crawl(num_files=3, seed=5, **arguments)
    assert len(first.sources) == 3
    for source in first.sources:
        assert (
            gzip.decompress(Path(source).read_bytes()).decode()
            == f"{os.path.dirname(PATHS[0])}/{Path(source).name}"
        )
    assert len(server.requests) == 4
    again = fetch_crawl(num_files=3, seed=5, **arguments)
    assert again == first
    assert len(server.requests) == 4, "the list is there, too"
    more = fetch_crawl(num_files=5, seed=5, **arguments)
    assert set(first.sources) < set(more.sources)
    assert len(server.requests) == 6
    assert len(fetch_crawl(**arguments).sources) == len(PATHS)


def test_a_crawl_need_not_be_kept(server: http_server.Server, tmp_path: Path) -> None:
    fetched = fetch_crawl(num_files=2, base_url=f"{server.url}/mirror/", retry_policy=QUICK)
    assert len(server.requests) == 1
    for source in fetched.sources:
        assert source.startswith(f"{server.url}/mirror/crawl-data/")
        with open_source(source, QUICK) as file:
            assert gzip.decompress(file.read()).decode() in source


def test_one_file_that_is_missing_is_told_and_all_are_an_error(
    server: http_server.Server, tmp_path: Path
) -> None:
    del server.files[f"/mirror/{PATHS[4]}"]
    arguments = {"base_url": f"{server.url}/mirror", "directory": str(tmp_path), "retry_policy": QUICK}
    fetched = fetch_crawl(**arguments)
    assert len(fetched.sources) == len(PATHS) - 1
    assert list(fetched.failures) == [f"{server.url}/mirror/{PATHS[4]}"]
    for path in [*server.files]:
        server.always[path] = Fault(status=403)
    with pytest.raises(OSError, match=r"none of 12 WET files could be fetched; the first: .* 403 "):
        fetch_crawl(
            **{**arguments, "directory": str(tmp_path / "other")},
            crawl=str(tmp_path / f"{PAPER_CRAWL}.wet.paths.gz"),
        )


def test_a_crawl_that_does_not_exist(server: http_server.Server, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CC-MAIN-2099-01/wet\.paths\.gz does not exist: .*404"):
        fetch_crawl("CC-MAIN-2099-01", 1, str(tmp_path), base_url=server.url, retry_policy=QUICK)
    with pytest.raises(ValueError, match=r"crawl 'CC-MAIN-17-26' is neither an identifier such as"):
        fetch_crawl("CC-MAIN-17-26")
    with pytest.raises(FileNotFoundError, match="/lists/gone"):
        read_paths(f"{tmp_path}/lists/gone")
    with pytest.raises(ValueError, match="num_files is 0"):
        fetch_crawl(num_files=0)


def test_a_directory_that_cannot_take_the_files_is_told_before_anything_is_fetched(
    server: http_server.Server, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    for directory, told in (
        ("ram://somewhere", "directory 'ram://somewhere' is not local.*; name a local one"),
        (str(tmp_path / "file"), "cannot be written to"),
    ):
        with pytest.raises(ValueError, match=told):
            fetch_crawl(num_files=1, directory=directory, base_url=f"{server.url}/mirror", retry_policy=QUICK)
    assert server.requests == []


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["packed", "plain"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_of_ones_own(tmp_path: Path, pack: type[bytes], end: str) -> None:
    lines = ["\ufeffa/x.warc.wet.gz", "", "gs://b/y.warc.wet.gz ", "/local/z.warc.wet"]
    paths = read_paths(written(tmp_path, pack(end.join(lines).encode())))
    assert paths == [f"{BASE_URL}a/x.warc.wet.gz", "gs://b/y.warc.wet.gz", "/local/z.warc.wet"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty; expected one path of a WET file per line"),
        (b"\n\n", "is empty"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", r"line 1 of list .* is \"<\?xml"),
        (
            b"a.warc.wet.gz\nb.warc.gz\n",
            r"line 2 of list .* is 'b\.warc\.gz'; expected the path of a WET file",
        ),
        (b"a.warc.wet.gz b.warc.wet.gz", "without spaces"),
        (b"a.warc.wet.gz\n\nb.warc.wet.gz\na.warc.wet.gz", r"line 4 of list .* repeats line 1, 'a\.warc"),
        (b"WARC/1.0\r\nWARC-Type: warcinfo\r\n", r"line 1 of list .* is 'WARC/1\.0'"),
        (b"x" * 1_000_000, "line 1 of list .* is 'x{80}';"),
        (gzip.compress(b"\0" * 1_000_000), "line 1 of list"),
        (gzip.compress("\n".join(PATHS).encode())[:-5], "is truncated or damaged: .*fetch it again"),
        (gzip.compress(b"a.wet.gz\n", mtime=0) + b"rest", "is truncated or damaged"),
        (b"\x1f\x8b\x08\x00nonsense", "is truncated or damaged"),
        (b"\xff\xfe\x00", "line 1 of list"),
    ],
)
def test_malformed_lists_are_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=told) as error:
        read_paths(path)
    assert path in str(error.value)


def test_a_sample_depends_on_the_seed_and_the_names_alone() -> None:
    drawn = sample(PATHS, 5, seed=1)
    shuffled = random.Random(0).sample(PATHS, len(PATHS))
    assert sample(shuffled, 5, seed=1) == drawn == sorted(drawn)
    assert set(drawn) < set(PATHS)
    assert sample(PATHS, 5, seed=2) != drawn
    assert sample(PATHS, None) == sample(PATHS, len(PATHS)) == PATHS
    assert [f"/m/{path}" for path in drawn] == sample([f"/m/{path}" for path in PATHS], 5, seed=1)
    signed = [f"https://m.org/{path}?signature={number}/x" for number, path in enumerate(PATHS)]
    assert [url.partition("?")[0] for url in sample(signed, 5, seed=1)] == [
        f"https://m.org/{path}" for path in drawn
    ]


@pytest.mark.parametrize("num_files", [-1, 0, 13])
def test_a_sample_of_more_than_there_is(num_files: int) -> None:
    with pytest.raises(ValueError, match=f"num_files is {num_files}; expected 1 to 12, which the list has"):
        sample(PATHS, num_files)


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="TF_CODISTILL_REAL_DATA is not set")
def test_the_list_of_a_whole_crawl() -> None:
    paths = read_paths(os.path.join(DATA, "wet_fixtures", "CC-MAIN-2018-39.wet.paths.gz"))
    assert len(set(paths)) == 56_320
    assert paths[0] == (
        f"{BASE_URL}crawl-data/CC-MAIN-2018-39/segments/1537267155413.17/wet/"
        "CC-MAIN-20180918130631-20180918150631-00000.warc.wet.gz"
    )
    drawn = sample(paths, 100, seed=7)
    assert sample(reversed(paths), 100, seed=7) == drawn
    assert set(sample(paths, 50, seed=7)) < set(drawn)
    assert len({path.split("/")[-3] for path in drawn}) > 50, "from all over the crawl"
    # Whoever prepares a corpus from a seed today gets it from the same files in years.
    assert hashlib.sha256("\n".join(drawn).encode()).hexdigest() == (
        "575044c842b2f6d5a900e796bc7e0624d24299cc0b0522011f9496fcf1f0812a"
    )
