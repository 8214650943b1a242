"""An outage is no damage: what cannot be reached stops a preparation, which goes on once it can."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests import http_server
from tests.http_server import Fault
from tests.toy_crawls import SETTINGS, contents, write_crawl
from tf_codistill import files
from tf_codistill.corpus.crawl.http_file import RetryPolicy
from tf_codistill.corpus.crawl.opening import open_source
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.sources import base
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import reading
from tf_codistill.jobs.engines import Beam, Local
from tf_codistill.jobs.stages import Advance, Engine, Stage

NUM_FILES = 11  # one of them is less than the tenth that may be damaged
QUICK = RetryPolicy(num_tries=2, timeout_secs=5.0, sleep=lambda secs: None)
GOES_ON = "what was read of other WET files is kept, and the same command goes on from there"

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed"
)


@pytest.fixture
def wet_files(tmp_path: Path) -> list[str]:
    return sorted(write_crawl(tmp_path / "crawl", num_files=NUM_FILES))


@pytest.fixture
def server(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[http_server.Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(base, "open_source", lambda source: open_source(source, QUICK))
    content = {f"/{Path(path).name}": Path(path).read_bytes() for path in wet_files}
    with http_server.serve(content) as running:
        yield running


def addresses(server: http_server.Server) -> list[str]:
    return [server.url + path for path in server.files]


@pytest.mark.parametrize(
    ("faults", "always", "told"),
    [
        ([], Fault(status=503), "failed 2 times in a row, at last because the server answered 503"),
        ([], Fault(status=404), "does not exist: the server answered 404"),
        ([], Fault(status=410), "does not exist: the server answered 410"),
        ([Fault(cut=500)], Fault(status=503), "at last because the server answered 503"),
        ([Fault(cut=500)], Fault(becomes=b"another"), "has no byte 500 any more"),
    ],
    ids=["503", "404", "410", "503 in the middle", "another file in the middle"],
)
def test_a_file_out_of_reach_stops_the_preparation_which_goes_on_later(
    server: http_server.Server, tmp_path: Path, faults: Sequence[Fault], always: Fault, told: str
) -> None:
    whole = dict(server.files)
    urls, lost = addresses(server), list(server.files)[-2]
    prepare(WetFiles(urls), str(tmp_path / "whole"), SETTINGS)
    server.misbehave(lost, *faults)
    server.always[lost] = always
    server.requests.clear()
    with pytest.raises(OSError, match=f"{lost} .*{told}.*{GOES_ON}"):
        prepare(WetFiles(urls), str(tmp_path / "corpus"), SETTINGS)
    assert files.read_manifest(str(tmp_path / "corpus")) is None
    assert {request.path for request in server.requests} == {*list(whole)[:-1]}, "the next waits for its turn"
    server.always.clear()
    server.files.update(whole)
    server.requests.clear()
    prepare(WetFiles(urls), str(tmp_path / "corpus"), SETTINGS)
    assert [request.path for request in server.requests] == list(whole)[-2:], "the others have been read"
    assert contents(tmp_path / "corpus") == contents(tmp_path / "whole")


class Between:
    """An engine before whose tasks something happens."""

    def __init__(self, event: Callable[[], object], engine: Engine) -> None:
        self._event = event
        self._engine = engine

    def run(self, stage: Stage, tasks: Sequence[str], advance: Advance) -> None:
        self._event()
        self._engine.run(stage, tasks, advance)


@pytest.mark.parametrize(
    "engine",
    [
        lambda: Local(1),
        pytest.param(lambda: Local(2), marks=pytest.mark.slow),
        pytest.param(Beam, marks=needs_beam),
    ],
    ids=["here", "two processes", "beam"],
)
def test_a_file_that_disappears_is_told_in_one_sentence_whoever_reads_it(
    wet_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Callable[[], Engine]
) -> None:
    monkeypatch.setattr(reading.ReadStage, "units_per_process", 1)
    away = tmp_path / "away"
    gone = Between(lambda: os.rename(wet_files[3], away), engine())
    with pytest.raises(OSError, match=f"crawl-2.warc.wet.gz' does not exist; .*{GOES_ON}"):
        prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS, gone)
    os.rename(away, wet_files[3])
    assert prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)["counts"]["kept"] == 60


def test_a_storage_that_fails_in_the_middle_is_no_damage(
    wet_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            content = super().read(300)
            if content:
                return content
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def failing_source(source: str) -> io.BufferedIOBase:
        return Failing(Path(source).read_bytes()[:900]) if source == wet_files[-1] else open_source(source)

    with monkeypatch.context() as patch:
        patch.setattr(base, "open_source", failing_source)
        told = f"{wet_files[-1]}' cannot be read: .*Input/output error; .*{GOES_ON}"
        with pytest.raises(OSError, match=told):
            prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    read_again: list[str] = []
    monkeypatch.setattr(base, "open_source", lambda source: read_again.append(source) or open_source(source))
    assert prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)["counts"]["kept"] == 60
    assert read_again == wet_files[-1:]


def test_an_address_that_is_none_is_no_damaged_file(wet_files: list[str], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="address 'http:///z.warc.wet.gz' is not understood"):
        prepare(WetFiles([*wet_files, "http:///z.warc.wet.gz"]), str(tmp_path / "corpus"), SETTINGS)
