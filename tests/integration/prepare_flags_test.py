"""What each flag of `prepare_corpus` does, and what is said of a wrong use before the work begins."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import http_server
from tests.http_server import Fault
from tests.integration.programs import REPOSITORY, TIMEOUT_SECS, Ended, Programs
from tests.toy_crawls import SETTINGS, contents, page_text, write_crawl
from tf_codistill import tokens
from tf_codistill.corpus.crawl.fetching import PAPER_CRAWL, sample
from tf_codistill.files import documents
from tf_codistill.tokenizer.word_pieces import WordPieces

CRAWL = "CC-MAIN-2099-01"
NAMES = [f"crawl-{index}.warc.wet.gz" for index in range(4)]
PATHS = [f"/crawl-data/{CRAWL}/segments/{index}/wet/{name}" for index, name in enumerate(NAMES)]
LIST = f"/crawl-data/{CRAWL}/wet.paths.gz"
BINDINGS = [
    f"--gin_bindings=CorpusSettings.{name} = {getattr(SETTINGS, name)!r}"
    for name in ("num_pieces", "num_shards", "validation_share")
]
NO_PROXY = {"NO_PROXY": "127.0.0.1"}

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed"
)
CRAWL_FLAGS = ("--crawl=", "--num_files=", "--base_url=", "--download_dir=")
BEAM = ["--runner=beam", "--beam_options=--direct_num_workers=1"]


@pytest.fixture(scope="module")
def wet_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_crawl(tmp_path_factory.mktemp("wet_files") / "crawl", num_files=len(NAMES))


@dataclasses.dataclass
class Place:
    """A directory in which the program runs."""

    programs: Programs
    path: pathlib.Path

    def run(self, *flags: str, output_dir: str = "corpus") -> Ended:
        # Starting processes takes longer than all that they would do.
        own = [] if "--runner=beam" in flags else ["--num_processes=1"]
        is_crawl = any(flag.startswith(CRAWL_FLAGS) for flag in flags)
        source = "--source=Crawl" if is_crawl else "--source=WetFiles"
        arguments = [source, f"--output_dir={output_dir}", *BINDINGS, *own, *flags]
        return self.programs.run("prepare_corpus", *arguments, directory=self.path, environment=NO_PROXY)

    def corpus(self, *flags: str, output_dir: str = "corpus") -> dict[str, bytes]:
        """The files of the corpus that the program makes."""
        ended = self.run(*flags, output_dir=output_dir)
        assert ended.status == 0, ended.error
        return contents(self.path / output_dir)

    def refusal(self, *flags: str) -> str:
        """What the program says of flags with which it begins no work."""
        ended = self.run(*flags)
        assert "reading" not in ended.error
        assert "fetching" not in ended.error
        assert not list(self.path.glob("corpus*/*"))
        return ended.sentence()


@pytest.fixture
def place(programs: Programs, tmp_path: pathlib.Path) -> Place:
    return Place(programs, tmp_path)


@pytest.fixture(scope="module")
def expected(
    programs: Programs, wet_files: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The corpus of the local files."""
    return Place(programs, tmp_path_factory.mktemp("expected")).corpus(
        *(f"--files={path}" for path in wet_files)
    )


@pytest.fixture
def server(wet_files: list[str]) -> Iterator[http_server.Server]:
    content = {path: pathlib.Path(file).read_bytes() for path, file in zip(PATHS, wet_files, strict=True)}
    listed = "".join(f"{path[1:]}\n" for path in PATHS)
    with http_server.serve({**content, LIST: gzip.compress(listed.encode())}) as running:
        yield running


def of_crawl(server: http_server.Server, num_files: int = len(NAMES)) -> list[str]:
    return [f"--crawl={CRAWL}", f"--num_files={num_files}", f"--base_url={server.url}/"]


def preparation(corpus: dict[str, bytes]) -> dict[str, object]:
    return json.loads(corpus["preparation.json"])


def counts(corpus: dict[str, bytes]) -> dict[str, object]:
    return json.loads(corpus["manifest.json"])["counts"]


def sampled(
    corpus: dict[str, bytes], crawl: str = CRAWL, num_files: int | None = len(NAMES)
) -> dict[str, bytes]:
    """The same corpus when its files were not named one by one: that is noted, and nothing else differs."""
    noted = {**preparation(corpus), "sample": {"crawl": crawl, "num_files": num_files}}
    changed = documents.encode(noted)
    mark = json.loads(corpus["manifest.json"])
    mark["files"]["preparation.json"] = {
        "bytes": len(changed),
        "sha256": hashlib.sha256(changed).hexdigest(),
    }
    return {**corpus, "preparation.json": changed, "manifest.json": documents.encode(mark)}


def test_download_dir_keeps_the_files_and_a_second_run_asks_for_none(
    place: Place, server: http_server.Server, wet_files: list[str], expected: dict[str, bytes]
) -> None:
    flags = [*of_crawl(server), "--download_dir=wet"]
    assert place.corpus(*flags) == sampled(expected)
    kept = contents(place.path / "wet")
    assert {name: kept[name] for name in NAMES} == contents(pathlib.Path(wet_files[0]).parent)
    assert set(kept) == {*NAMES, f"{CRAWL}.wet.paths.gz"}
    assert sorted(request.path for request in server.requests) == sorted([*PATHS, LIST])
    server.requests.clear()
    ended = place.run(*flags)
    assert "is prepared already" in ended.error
    assert place.corpus(*flags, output_dir="another") == sampled(expected)
    assert server.requests == []


def test_without_download_dir_nothing_is_kept(
    place: Place, server: http_server.Server, expected: dict[str, bytes]
) -> None:
    assert place.corpus(*of_crawl(server)) == sampled(expected)
    assert os.listdir(place.path) == ["corpus"]
    assert sorted(request.path for request in server.requests) == sorted([*PATHS, LIST])


@pytest.mark.parametrize("kept", [["--download_dir=wet"], []], ids=["kept", "read as it comes"])
def test_a_server_that_is_busy_or_drops_the_connection_changes_no_byte(
    place: Place, server: http_server.Server, expected: dict[str, bytes], kept: list[str]
) -> None:
    server.misbehave(PATHS[0], Fault(status=503, headers={"Retry-After": "1"}))
    server.misbehave(PATHS[2], Fault(cut=3000))
    assert place.corpus(*of_crawl(server), *kept) == sampled(expected)
    busy, dropped = (
        [request for request in server.requests if request.path == path] for path in (PATHS[0], PATHS[2])
    )
    assert [request.status for request in busy] == [503, 200]
    assert [request.range for request in dropped] == [None, "bytes=3000-"]


@pytest.mark.parametrize("kept", [["--download_dir=wet"], []], ids=["kept", "read as it comes"])
def test_a_finished_corpus_asks_nobody_for_anything(
    place: Place, server: http_server.Server, kept: list[str]
) -> None:
    flags = [*of_crawl(server), *kept]
    before = place.corpus(*flags)
    shutil.rmtree(place.path / "wet", ignore_errors=True)
    server.requests.clear()
    ended = place.run(*flags)
    assert "is prepared already" in ended.error
    assert (ended.status, server.requests, os.listdir(place.path)) == (0, [], ["corpus"])
    mirror = place.run(*flags, "--base_url=https://mirror.invalid/")
    assert (mirror.status, mirror.output) == (0, ended.output), mirror.error
    assert contents(place.path / "corpus") == before


def test_a_finished_corpus_of_other_files_is_told_by_the_list_alone(
    place: Place, server: http_server.Server, wet_files: list[str]
) -> None:
    named = place.corpus(*(f"--files={path}" for path in wet_files))
    server.requests.clear()
    same = place.run(*of_crawl(server), "--download_dir=wet")
    assert same.status == 0, same.error
    sentence = place.run(*of_crawl(server, num_files=3), "--download_dir=wet").sentence()
    told = r"prepared from other WET files: 'crawl-\d\.warc\.wet\.gz' had \d+ bytes, now it has no,"
    assert re.search(told, sentence), sentence
    assert {request.path for request in server.requests} == {LIST}
    assert os.listdir(place.path / "wet") == [f"{CRAWL}.wet.paths.gz"]
    assert contents(place.path / "corpus") == named


def test_num_files_are_drawn_and_no_others_are_asked_for(place: Place, server: http_server.Server) -> None:
    two = place.corpus(*of_crawl(server, num_files=2))
    drawn = sample(PATHS, 2)
    assert list(preparation(two)["wet_files"]) == [os.path.basename(path) for path in drawn]
    assert sorted(request.path for request in server.requests) == sorted([LIST, *drawn])
    server.requests.clear()
    sentence = place.run(*of_crawl(server, num_files=9), output_dir="more").sentence()
    assert "num_files is 9; expected 1 to 4, which the list has" in sentence
    assert [request.path for request in server.requests] == [LIST]


def test_num_files_alone_are_of_the_papers_crawl(place: Place, server: http_server.Server) -> None:
    server.files[LIST.replace(CRAWL, PAPER_CRAWL)] = server.files[LIST]
    corpus = place.corpus("--num_files=1", f"--base_url={server.url}")
    assert len(preparation(corpus)["wet_files"]) == 1


def test_base_url_may_be_a_directory(
    place: Place, server: http_server.Server, expected: dict[str, bytes]
) -> None:
    for path, content in server.files.items():
        file = place.path / "mirror" / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert place.corpus(f"--crawl={CRAWL}", "--base_url=mirror") == sampled(expected, CRAWL, None)
    listed = f"sha256:{hashlib.sha256(server.files[LIST]).hexdigest()}"
    of_list = place.corpus(f"--crawl=mirror{LIST}", "--base_url=mirror/", output_dir="of_a_list")
    assert of_list == sampled(expected, listed, None)


def test_paragraphs_are_looked_up_in_the_list_of_the_mirror(
    place: Place, server: http_server.Server, expected: dict[str, bytes]
) -> None:
    place.corpus(*of_crawl(server))
    listed = "--paragraph_ids=corpus/paragraph_ids.csv"
    again = place.corpus(*of_crawl(server), listed, output_dir="again")
    assert {name for name in expected if again[name] != expected[name]} == {
        "manifest.json",
        "preparation.json",
    }
    server.files[LIST] = gzip.compress("".join(f"{path[1:]}\n" for path in PATHS[:3]).encode())
    sentence = place.run(*of_crawl(server, num_files=1), listed, output_dir="smaller").sentence()
    assert re.search(rf"names '{NAMES[3]}', which crawl '.*{LIST}' does not have", sentence), sentence


@pytest.mark.parametrize("kept", [["--download_dir=wet"], []], ids=["kept", "read as it comes"])
def test_a_file_that_the_server_does_not_have_is_told(
    place: Place, server: http_server.Server, kept: list[str]
) -> None:
    del server.files[PATHS[1]]
    ended = place.run(*of_crawl(server), *kept)
    assert f"{server.url}{PATHS[1]} does not exist: the server answered 404" in ended.sentence()
    assert ("1 of 4 files could not be fetched:" in ended.error) == bool(kept)
    allowed = "--gin_bindings=CorpusSettings.max_unreadable_share = 0.3"
    sentence = place.run(*of_crawl(server), *kept, allowed).sentence()
    assert "the same command goes on from there; if" in sentence
    assert not (place.path / "corpus" / "manifest.json").exists()
    (place.path / "left.paths").write_text("".join(f"{path[1:]}\n" for path in PATHS if path != PATHS[1]))
    corpus = place.corpus("--crawl=./left.paths", f"--base_url={server.url}", *kept)
    assert list(preparation(corpus)["wet_files"]) == [name for name in NAMES if name != NAMES[1]]


@pytest.mark.parametrize("kept", [["--download_dir=wet"], []], ids=["kept", "read as it comes"])
def test_a_file_that_the_server_has_damaged_is_counted(
    place: Place, server: http_server.Server, kept: list[str]
) -> None:
    server.files[PATHS[1]] = server.files[PATHS[1]][:-50]
    allowed = "--gin_bindings=CorpusSettings.max_unreadable_share = 0.3"
    found = counts(place.corpus(*of_crawl(server), *kept, allowed))
    assert found["unreadable"] == {"cut_off": 1}
    assert found["truncated_files"] == [NAMES[1]]


def test_a_crawl_that_the_server_does_not_have(place: Place, server: http_server.Server) -> None:
    flags = ["--crawl=CC-MAIN-2098-01", "--num_files=4", f"--base_url={server.url}"]
    for kept in ([], ["--download_dir=wet"]):
        sentence = place.refusal(*flags, *kept)
        assert f"{server.url}/crawl-data/CC-MAIN-2098-01/wet.paths.gz does not exist: " in sentence
        assert "404 Not Found; check the crawl" in sentence
    assert len(server.requests) == 2


def damaged(path: pathlib.Path, wet_file: str) -> bytes:
    """Writes a copy of a WET file, one gzip member of which has a wrong checksum; returns that member."""
    content = bytearray(pathlib.Path(wet_file).read_bytes())
    starts = [match.start() for match in re.finditer(rb"\x1f\x8b\x08", content)]
    content[starts[4] - 6] ^= 1
    path.write_bytes(content)
    return bytes(content[starts[3] : starts[4]])


def test_quarantine_dir_gets_what_cannot_be_read(place: Place, wet_files: list[str]) -> None:
    member = damaged(place.path / NAMES[0], wet_files[0])
    files = [f"--files={path}" for path in (place.path / NAMES[0], *wet_files[1:])]
    without = place.corpus(*files, output_dir="without")
    assert sorted(os.listdir(place.path)) == [NAMES[0], "without"]
    ended = place.run(*files, "--quarantine_dir=kept/here")
    assert re.search(r"unreadable: wrong_checksum +1\n", ended.output), ended
    assert contents(place.path / "corpus") == without
    found = counts(without)
    assert found["unreadable"] == {"wrong_checksum": 1}
    assert found["read"] == found["kept"] + sum(found["dropped"].values()) + 1
    kept = contents(place.path / "kept" / "here")
    row = json.loads(kept.pop(f"{NAMES[0]}.jsonl"))
    assert kept == {row["kept"]: member}
    assert row["kind"] == "wrong_checksum"
    assert place.run(*files, "--quarantine_dir=kept/here").status == 0, "all is there"
    sentence = place.run(*files, "--quarantine_dir=elsewhere").sentence()
    assert f"quarantine 'elsewhere' would get nothing of what was damaged in '{NAMES[0]}'" in sentence
    assert not (place.path / "elsewhere").exists()


def test_dropped_dir_gets_what_is_dropped(
    place: Place, wet_files: list[str], expected: dict[str, bytes]
) -> None:
    files = [f"--files={path}" for path in wet_files]
    assert place.corpus(*files, "--dropped_dir=dropped") == expected
    kept = list((place.path / "dropped").rglob("*.jsonl.gz"))
    rows = [json.loads(line) for path in kept for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert len(rows) == sum(counts(expected)["dropped"].values()) == 3 * len(wet_files)
    assert {row["text"] for row in rows if row["reason"] == "no_long_paragraphs"} == {"One short sentence."}


def test_the_given_tokenizer_is_used(place: Place, wet_files: list[str], expected: dict[str, bytes]) -> None:
    given = place.path / "given.model"
    WordPieces.train(map(page_text, range(500, 520)), 110, str(given))
    flags = [f"--files={path}" for path in wet_files]
    ended = place.run(*flags, f"--tokenizer={given}")
    assert "learning" not in ended.error
    corpus = contents(place.path / "corpus")
    assert corpus[tokens.TOKENIZER] == given.read_bytes() != expected[tokens.TOKENIZER]
    assert f"vocabulary {110 + tokens.NUM_SPECIAL:,}," in ended.output
    assert preparation(corpus)["num_pieces"] is None
    # Its own tokenizer gives a corpus its own token shards.
    own = place.path / "own.model"
    own.write_bytes(expected[tokens.TOKENIZER])
    again = place.corpus(*flags, f"--tokenizer={own}", output_dir="again")
    shards = [name for name in expected if name.endswith(".tokens")]
    assert [again[name] for name in shards] == [expected[name] for name in shards]
    assert [corpus[name] for name in shards] != [expected[name] for name in shards]


@needs_beam
def test_beam_gives_the_same_bytes(place: Place, wet_files: list[str], expected: dict[str, bytes]) -> None:
    files = [f"--files={path}" for path in wet_files]
    assert place.corpus(*files, *BEAM) == expected


@needs_beam
@pytest.mark.parametrize(
    ("option", "reason"),
    [("--runner=Nobody", "runner: Nobody"), ("--direct_num_workers=many", "invalid int value: 'many'")],
)
def test_options_that_beam_refuses_are_told_before_anything_is_fetched(
    place: Place, server: http_server.Server, option: str, reason: str
) -> None:
    sentence = place.refusal(*of_crawl(server), "--runner=beam", f"--beam_options={option}")
    assert reason in sentence
    assert server.requests == []


@needs_beam
def test_beam_reads_from_a_server_as_well(
    place: Place, server: http_server.Server, expected: dict[str, bytes]
) -> None:
    assert place.corpus(*of_crawl(server), *BEAM) == sampled(expected)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "no WET file was given; name at least one, by --files"),
        (
            ["--source=Nobody"],
            "--source=Nobody is not known: .*; name one of Crawl, .*WetFiles, or one that a",
        ),
        (["--source=English"], "English.* is no source; expected a class derived from"),
        (["--source="], "no source is named; name one by --source, of Crawl, .*WetFiles, or by a gin file"),
        (["--download_dir=wet"], "Crawl has neither crawl nor num_files"),
        (["--num_files=0"], "num_files is 0; expected at least 1"),
        (["--crawl=CC-MAIN-17-26"], "crawl 'CC-MAIN-17-26' is neither an identifier such as"),
        (["--crawl=lists/absent.gz"], "lists/absent.gz.* does not exist"),
        ([f"--crawl={CRAWL}", "--base_url=absent"], "absent/crawl-data/.*wet.paths.gz.* does not exist"),
        (["--num_files=4", "--download_dir=in_the_way/wet"], "'in_the_way/wet' cannot be written to.*name"),
        (["--num_files=4", "--download_dir=gs://bucket"], "'gs://bucket' is not local.*; name a local one"),
        (["--files=*.gz"], r"'\*\.gz' matches no file; check the path"),
        (["--files=FILE", "--explain_seed=3"], "--explain_seed has an effect only with --explain"),
        (["--files=FILE", "--explain_reason=kept"], "--explain_reason has an effect only with --explain"),
        (
            ["--num_files=1", "--download_dir=corpus/wet"],
            "--download_dir is 'corpus/wet', inside --output_dir",
        ),
        (["--files=FILE", "--dropped_dir=corpus"], "--dropped_dir is 'corpus', inside --output_dir"),
        (
            ["--files=FILE", "--quarantine_dir=corpus/"],
            "--quarantine_dir is 'corpus/', inside --output_dir",
        ),
        (
            ["--files=FILE", "--paragraph_ids=corpus/paragraph_ids.csv"],
            "--paragraph_ids is 'corpus/paragraph_ids.csv', inside --output_dir",
        ),
        (
            ["--source=WetFiles", "--files=FILE", "--crawl=X"],
            "--crawl has no effect with the source WetFiles, which has files",
        ),
        (
            ["--source=WetFiles", "--files=FILE", "--num_files=1"],
            "--num_files has no effect with the source WetFiles, which has files",
        ),
        (
            ["--source=WetFiles", "--files=FILE", "--base_url=X"],
            "--base_url has no effect with the source WetFiles, which has files",
        ),
        (
            ["--source=WetFiles", "--files=FILE", "--download_dir=X"],
            "--download_dir has no effect with the source WetFiles, which has files",
        ),
        (["--files=FILE", "--output_dir="], "--output_dir is not given; name the directory"),
        (["--files=FILE", "--num_processes=0"], "num_processes is 0; expected at least 1"),
        (["--files=FILE", "--tokenizer=absent"], "'absent' does not exist"),
        (["--files=FILE", "--tokenizer=in_the_way"], "tokenizer 'in_the_way' is no SentencePiece model"),
        (["--files=FILE", "--quarantine_dir=in_the_way/x"], "'in_the_way/x' cannot be written to.*name"),
        (["--files=FILE", "--output_dir=in_the_way/x"], "in_the_way/x/.* cannot be used: .*Not a dir"),
        (
            ["--files=FILE", "--output_dir=."],
            "'.' holds 'in_the_way', which nobody is recorded to have written",
        ),
        (
            ["--files=FILE", "--beam_options=--x=1"],
            "--beam_options has an effect only with --runner=beam",
        ),
        (
            ["--files=FILE", "--runner=beam", "--num_processes=2"],
            "--num_processes has an effect only with --runner=local",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_flags_are_told_before_the_work(
    place: Place, wet_files: list[str], flags: list[str], sentence: str
) -> None:
    (place.path / "in_the_way").write_text("no tokenizer and no directory")
    said = place.refusal(*(flag.replace("FILE", wet_files[0]) for flag in flags))
    assert re.search(sentence, said), said
    assert not {"corpus", "corpus.work"}.intersection(os.listdir(place.path))


@pytest.mark.parametrize(
    "flags",
    [
        ["--tokenizer=absent"],
        ["--tokenizer=in_the_way"],
        ["--quarantine_dir=in_the_way/x"],
        ["--paragraph_ids=absent"],
        ["--output_dir="],
        ["--output_dir=in_the_way/x"],
        ["--output_dir=."],
        ["--num_processes=0"],
        ["--beam_options=--x=1"],
    ],
    ids=" ".join,
)
def test_wrong_flags_are_told_before_anything_is_fetched(
    place: Place, server: http_server.Server, flags: list[str]
) -> None:
    (place.path / "in_the_way").write_text("no tokenizer and no directory")
    assert place.refusal(*of_crawl(server), "--download_dir=wet", *flags)
    assert server.requests == []


def test_a_corpus_that_was_prepared_otherwise_is_told_before_anything_is_fetched(
    place: Place, server: http_server.Server
) -> None:
    before = place.corpus(*of_crawl(server))
    server.requests.clear()
    other = [f"--tokenizer={place.path}/corpus/{tokens.TOKENIZER}"]
    for flags in (["--gin_bindings=CorpusSettings.num_pieces = 110"], other):
        sentence = place.run(*of_crawl(server), "--download_dir=wet", *flags).sentence()
        assert "holds a corpus prepared with num_pieces = 120, now it is" in sentence
    assert server.requests == []
    assert contents(place.path / "corpus") == before


def test_explain_takes_the_files_from_where_the_corpus_would(
    place: Place, server: http_server.Server
) -> None:
    ended = place.run(*of_crawl(server), "--explain=1")
    assert "72 pages read: 60 kept, " in ended.output
    ended = place.run(*of_crawl(server), "--explain=1", "--explain_reason=link_list")
    assert ended.output.startswith("dropped  https://example.org/links/")
    assert "kept     " not in ended.output
    assert os.listdir(place.path) == []


def test_processes_of_their_own(place: Place, server: http_server.Server, expected: dict[str, bytes]) -> None:
    """Once without the short cuts of `Programs` and of a single process."""
    command = [sys.executable, "-m", "tf_codistill.prepare_corpus", "--source=Crawl", "--num_processes=2"]
    flags = [*of_crawl(server), *BINDINGS, f"--output_dir={place.path / 'corpus'}"]
    ended = subprocess.run(
        [*command, *flags],
        cwd=REPOSITORY,
        env={**os.environ, **NO_PROXY},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert contents(place.path / "corpus") == sampled(expected)
