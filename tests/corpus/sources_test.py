"""Sources of documents of every form: all is read, by whoever does it, and what is none is told apart."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import json
import os
import pathlib
import pickle
import shutil
import sys
import types

import datasets
import huggingface_hub
import pyarrow
import pytest
from pyarrow import parquet

from tests import http_server
from tests.toy_crawls import SETTINGS, contents, page_text, write_crawl
from tests.toy_sources import PACKING, PAGES, WRITERS, json_lines, read, table, write_json_lines
from tf_codistill.corpus.document import Record
from tf_codistill.corpus.paragraph_ids.selection import Selection
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.report import explain
from tf_codistill.corpus.sources import compressed, text_files
from tf_codistill.corpus.sources.base import OutOfReachError, Reading, Source, UnreadableError
from tf_codistill.corpus.sources.hugging_face import HuggingFace
from tf_codistill.corpus.sources.json_lines import JsonLines
from tf_codistill.corpus.sources.parquet import Parquet
from tf_codistill.corpus.sources.text_files import TextFiles
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages.reading import ReadStage
from tf_codistill.jobs.engines import Beam, Local


@pytest.fixture(params=WRITERS)
def source(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Source:
    return WRITERS[request.param](tmp_path / "source")


def texts(records: list[Record]) -> dict[str, str]:
    return {found.url: found.text for found in records}


def unpacked_names(records: list[Record]) -> dict[str, str]:
    """Text by address, without the endings of text files that are packed."""
    return {url.removesuffix(".gz").removesuffix(".zst"): text for url, text in texts(records).items()}


@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
def test_a_part_may_have_more_files_than_may_be_open(tmp_path: pathlib.Path, ending: str) -> None:
    for number in range(20):
        content = page_text(number).encode()
        (tmp_path / f"{number}{ending}").write_bytes(
            gzip.compress(content) if ending == ".txt.gz" else content
        )
    source = TextFiles([str(tmp_path)], num_parts=1).resolved()
    (part,) = source.parts()
    with Reading() as reading:
        numbers = [len(os.listdir("/proc/self/fd")) for _ in reading.of(source, part)]
    assert len(numbers) == 20
    assert max(numbers) - numbers[0] <= 1


def test_all_documents_are_read(source: Source) -> None:
    records, damages = read(pickle.loads(pickle.dumps(source)))
    assert unpacked_names(records) == PAGES
    assert len(records) == len(PAGES)
    assert damages == []
    assert {found.language for found in records} <= {"eng", None}
    assert not any(found.dirt for found in records)


def test_whoever_reads_gives_the_same_bytes(
    source: Source, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReadStage, "units_per_process", 1)
    expected = prepare(source, str(tmp_path / "one"), SETTINGS, Local(1))
    assert expected["counts"]["kept"] == len(PAGES)
    corpus = contents(tmp_path / "one")
    prepare(source, str(tmp_path / "two"), SETTINGS, Local(2))
    assert contents(tmp_path / "two") == corpus
    if importlib.util.find_spec("apache_beam") is not None:
        prepare(source, str(tmp_path / "beam"), SETTINGS, Beam())
        assert contents(tmp_path / "beam") == corpus
    assert prepare(source, str(tmp_path / "one"), SETTINGS) == expected, "it is there"
    listed = Selection.open(str(tmp_path / "one" / "paragraph_ids.csv"))
    prepare(source, str(tmp_path / "again"), SETTINGS, paragraph_ids=listed)
    again = contents(tmp_path / "again")
    assert {name for name in corpus if again[name] != corpus[name]} == {"manifest.json", "preparation.json"}
    recorded = json.loads(corpus["preparation.json"])
    assert recorded["source"].startswith(("tests.toy_sources.Blog(", f"{type(source).__name__}("))
    assert list(recorded["parts"]) == list(source.resolved().parts())


def test_pages_of_any_source_are_explained(source: Source) -> None:
    drawn = explain.draw(source, SETTINGS, num_documents=2)
    assert drawn.counts == {"kept": len(PAGES)}
    assert len(drawn.kept) == 2


def test_a_corpus_is_of_its_fields_and_its_documents_not_of_their_place(tmp_path: pathlib.Path) -> None:
    source = write_json_lines(tmp_path / "here")
    mark = prepare(source, str(tmp_path / "corpus"), SETTINGS)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = dataclasses.replace(source, files=(str(tmp_path / "there" / "*"),))
    assert prepare(moved, str(tmp_path / "corpus"), SETTINGS) == mark
    with pytest.raises(ValueError, match=r"source = \"JsonLines\(.*url='url'.*now it is .*url='lang'"):
        prepare(dataclasses.replace(source, url="lang"), str(tmp_path / "corpus"), SETTINGS)
    with pytest.raises(ValueError, match='source = "JsonLines.*now it is None'):
        prepare(WetFiles(write_crawl(tmp_path / "crawl")), str(tmp_path / "corpus"), SETTINGS)
    (tmp_path / "there" / "pages_0.jsonl").write_bytes(json_lines({"a": page_text(0)}))
    told = "from other JSON lines files: 'pages_0.jsonl' had"
    with pytest.raises(ValueError, match=told):
        prepare(moved, str(tmp_path / "corpus"), SETTINGS)


# JSON lines


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "pages.jsonl"


ODD_LINES = [
    b'{"text": "first", "url": "a"}',
    b"",
    b"   \r",
    b"no JSON at all",
    b'{"text": "cut',
    b'{"txt": "another field"}',
    b'{"text": null}',
    b'["text"]',
    b"[" * 100_000,
    b"1" * 5000,
    b'{"text": "caf\xe9", "url": "b"}\r',
    b'{"text": "half \\ud800 a pair, whole \\ud83d\\ude00", "url": 7}',
    b'{"text": "bell \\u0007", "url": ""}',
    b'{"text": " ", "url": {"x": 1}, "more": NaN}',
    '\ufeff{"text": "mark"}'.encode(),
]
KINDS = ["bad_line"] * 2 + ["no_text"] * 3 + ["bad_line"] * 2


@pytest.mark.parametrize("ending", PACKING)
def test_odd_lines_are_told_apart(path: pathlib.Path, ending: str) -> None:
    path = path.with_name(path.name + ending)
    path.write_bytes(PACKING[ending](b"\n".join(ODD_LINES)))
    records, damages = read(JsonLines([str(path)]))
    assert [(found.url, found.text, found.dirt) for found in records] == [
        ("a", "first", ()),
        ("b", "caf\ufffd", ("bad_utf8",)),
        ("7", "half \ufffd a pair, whole \U0001f600", ("bad_utf8",)),
        (f"{path.name}:13", "bell \x07", ("control_characters",)),
        (f"{path.name}:14", " ", ("empty",)),
        (f"{path.name}:15", "mark", ()),
    ]
    assert [damage.kind for damage in damages] == KINDS
    assert [damage.content for damage in damages] == [ODD_LINES[at] for at in range(3, 10)]
    assert [damage.url for damage in damages] == [f"{path.name}:{at + 1}" for at in range(3, 10)]
    if not ending:
        content = path.read_bytes()
        for damage in damages:
            assert content[damage.offset : damage.offset + damage.num_bytes] == damage.content


def test_bad_lines_are_counted_and_kept_and_fail_a_list(tmp_path: pathlib.Path, path: pathlib.Path) -> None:
    lines = json_lines(PAGES).splitlines()
    lines[5:5] = [b"{", b'{"body": 1}']
    path.write_bytes(b"\n".join(lines))
    source = JsonLines([str(path)], language="lang")
    mark = prepare(source, str(tmp_path / "corpus"), SETTINGS, quarantine_dir=str(tmp_path / "kept"))
    assert mark["counts"]["unreadable"] == {"bad_line": 1, "no_text": 1}
    assert mark["counts"]["read"] == mark["counts"]["kept"] + 2 == len(PAGES) + 2
    rows = [json.loads(row) for row in (tmp_path / "kept" / "pages.jsonl.jsonl").read_text().splitlines()]
    assert [(tmp_path / "kept" / row["kept"]).read_bytes() for row in rows] == lines[5:7]
    listed = Selection.open(str(tmp_path / "corpus" / "paragraph_ids.csv"))
    with pytest.raises(ValueError, match=r"'pages.jsonl' is damaged \(bad_line at byte"):
        prepare(source, str(tmp_path / "again"), SETTINGS, paragraph_ids=listed)


def test_fields_inside_others(path: pathlib.Path) -> None:
    rows = [{"content": "text", "meta": {"uri": "u", "tags": {"lang": "en"}}}, {"content": "t", "meta": 1}]
    path.write_text("\n".join(map(json.dumps, [*rows, {"content": "s", "meta.uri": "flat"}])))
    records, _ = read(JsonLines([str(path)], "content", url="meta.uri", language="meta.tags.lang"))
    assert [(one.url, one.language) for one in records] == [
        ("u", "eng"),
        ("pages.jsonl:2", None),
        ("flat", None),
    ]


@pytest.mark.parametrize("ending", PACKING)
def test_a_giant_line_takes_no_memory(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(compressed, "MAX_DOCUMENT_BYTES", 1000)
    monkeypatch.setattr(compressed, "_READ_BYTES", 64)
    giant = b'{"text": "' + b"x" * 5000 + b'"}'
    path = path.with_name(path.name + ending)
    path.write_bytes(PACKING[ending](b'{"text": "a"}\n' + giant + b'\n{"text": "b"}'))
    records, (damage,) = read(JsonLines([str(path)]))
    assert [found.text for found in records] == ["a", "b"]
    assert (damage.kind, damage.num_bytes, damage.content) == ("giant_line", len(giant), giant)


def test_damage_of_the_packing_costs_what_it_covers(path: pathlib.Path) -> None:
    members = [
        PACKING[".gz"](b'{"text": "0"}\n{"text": "st'),
        PACKING[".gz"](b"arted"),
        PACKING[".gz"](b'"}\n{"text": "1"}\n'),
    ]
    path = path.with_name("pages.jsonl.gz")
    path.write_bytes(b"".join(members))
    assert [one.text for one in read(JsonLines([str(path)]))[0]] == ["0", "started", "1"]
    broken = bytearray(members[1])
    broken[-6] ^= 1
    path.write_bytes(members[0] + bytes(broken) + members[2])
    records, damages = read(JsonLines([str(path)]))
    assert [one.text for one in records] == ["0", "1"]
    assert [damage.kind for damage in damages] == ["bad_line", "wrong_checksum", "bad_line"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_file_that_ends_too_early_is_named(tmp_path: pathlib.Path, path: pathlib.Path, ending: str) -> None:
    path = path.with_name(path.name + ending)
    rows = [json_lines({url: text}) for url, text in PAGES.items()]
    path.write_bytes(b"".join(map(PACKING[ending], rows))[:-20])
    (tmp_path / "more.jsonl").write_bytes(json_lines({"more": page_text(99)}))
    source = JsonLines([str(path), str(tmp_path / "more.jsonl")], language="lang")
    with pytest.raises(ValueError, match=f"{path}' is truncated: it ends inside what begins at byte"):
        prepare(source, str(tmp_path / "corpus"), SETTINGS)
    allowed = dataclasses.replace(SETTINGS, max_unreadable_share=0.9)
    counts = prepare(source, str(tmp_path / "corpus"), allowed)["counts"]
    assert counts["kept"] == len(PAGES) - 1 + 1
    assert counts["truncated_files"] == [path.name]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty; fetch it again"),
        (b'{"body": "x"}\n' * 3, "has no document that can be read: no_text at 0, and so on"),
        (b"[\n]", "has no document that can be read: bad_line at 0"),
    ],
)
def test_files_without_documents_are_told(path: pathlib.Path, content: bytes, told: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=f"pages.jsonl' {told}"):
        read(JsonLines([str(path)]))


def test_blank_lines_alone_are_no_documents_and_no_damage(path: pathlib.Path) -> None:
    path.write_bytes(b"\n \n")
    assert read(JsonLines([str(path)])) == ([], [])


def test_zstandard_damage_ends_a_file(path: pathlib.Path) -> None:
    path = path.with_name("pages.jsonl.zst")
    frames = [PACKING[".zst"](b'{"text": "%d"}\n' % number) for number in range(3)]
    broken = bytearray(frames[1])
    broken[-2] ^= 1  # of its checksum
    path.write_bytes(frames[0] + bytes(broken) + frames[2])
    records, damages = read(JsonLines([str(path)]))
    assert [one.text for one in records] == ["0"]
    assert [(one.kind, one.offset) for one in damages] == [("bad_data", len(frames[0]))]
    assert damages[0].num_bytes == len(frames[1] + frames[2])


# Text files


def test_the_address_of_a_text_is_its_place_below_the_folder(tmp_path: pathlib.Path) -> None:
    for name in ("a.txt", "deep/er/b.txt", "deep/c.TXT", ".hidden.txt", "d.md", "bom.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    (tmp_path / "in" / "bom.txt").write_bytes("\ufeffmark \xe9".encode() + b"\xff")
    (tmp_path / "in" / "empty.txt").touch()
    records, damages = read(TextFiles([str(tmp_path / "in")]))
    assert sorted(found.url for found in records) == ["a.txt", "bom.txt", "deep/er/b.txt", "empty.txt"]
    assert damages == []
    by_url = {found.url: found for found in records}
    assert (by_url["bom.txt"].text, by_url["bom.txt"].dirt) == ("mark \xe9\ufffd", ("bad_utf8",))
    assert by_url["empty.txt"].dirt == ("empty",)
    pattern = str(tmp_path / "in" / "*" / "*" / "*.txt")
    assert [found.url for found in read(TextFiles([pattern]))[0]] == ["deep/er/b.txt"]
    named = [str(tmp_path / "in" / "a.txt"), str(tmp_path / "in" / "deep" / "c.TXT")]
    assert {found.url for found in read(TextFiles(named))[0]} == {"a.txt", "deep/c.TXT"}
    assert {found.url for found in read(TextFiles(named, folder=str(tmp_path)))[0]} == {
        "in/a.txt",
        "in/deep/c.TXT",
    }


def test_damage_of_a_text_file_costs_that_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_BYTES", 1000)
    (tmp_path / "a.txt").write_text("a whole one")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"cut off" * 100)[:-3])
    (tmp_path / "c.txt").write_text("x" * 1001)
    (tmp_path / "d.txt.zst").write_bytes(PACKING[".zst"](b"another")[:-1] + b"\0")
    records, damages = read(TextFiles([str(tmp_path)], num_parts=1))
    assert texts(records) == {"a.txt": "a whole one"}
    assert [(one.url, one.kind) for one in damages] == [
        ("b.txt.gz", "truncated"),
        ("c.txt", "giant_document"),
        ("d.txt.zst", "bad_data"),
    ]


def test_a_text_that_is_added_renamed_or_changed_is_noticed(tmp_path: pathlib.Path) -> None:
    source = WRITERS["text files"](tmp_path / "in")
    mark = prepare(source, str(tmp_path / "corpus"), SETTINGS)
    one = tmp_path / "in" / "shelf_0" / "page_00.txt"
    state = one.stat()
    content = one.read_bytes()
    one.write_bytes(content.replace(b"Page", b"Leaf"))
    os.utime(one, (state.st_mtime + 100, state.st_mtime + 100))
    with pytest.raises(
        ValueError, match="other text files: text file '.*page_00.txt' has another size or checksum now"
    ):
        prepare(source, str(tmp_path / "corpus"), SETTINGS)
    one.write_bytes(content)
    assert prepare(source, str(tmp_path / "corpus"), SETTINGS) == mark
    os.rename(one, one.with_name("page_xx.txt"))
    with pytest.raises(ValueError, match="other text files: 'text-.*' had .* bytes, now it has"):
        prepare(source, str(tmp_path / "corpus"), SETTINGS)


def test_wrong_files_are_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match="no text file was given; name at least one, by --files or TextFiles.fi"
    ):
        TextFiles().resolved()
    with pytest.raises(ValueError, match=r"empty' is a directory; name the files in it"):
        JsonLines([str(tmp_path / "empty")]).resolved()
    with pytest.raises(FileNotFoundError, match="absent.txt' does not exist"):
        TextFiles([str(tmp_path / "absent.txt")]).resolved()
    with pytest.raises(ValueError, match=r"num_parts is 0; expected at least 1"):
        TextFiles(num_parts=0)


# Parquet


def test_a_damaged_row_group_costs_itself(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pages.parquet"
    parquet.write_table(table(PAGES), path, row_group_size=10, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    at = content.index(page_text(25).encode())
    content[at] ^= 1
    path.write_bytes(content)
    records, (damage,) = read(Parquet([str(path)]))
    expected = {url: text for number, (url, text) in enumerate(PAGES.items()) if number not in range(20, 30)}
    assert texts(records) == expected
    assert (damage.kind, damage.offset, damage.num_bytes) == ("bad_row_group", 20, 10)
    path.write_bytes(content[:-300])
    with pytest.raises(UnreadableError, match=r"pages.parquet' cannot be read: .*; fetch it again"):
        read(Parquet([str(path)]))


def test_columns_of_any_kind(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pages.parquet"
    text = pyarrow.array(["one", None, "three", "four"], pyarrow.large_string()).dictionary_encode()
    meta = pyarrow.array([{"id": 1, "lang": "de"}, {"id": 2, "lang": None}, None, {"id": 4, "lang": "en"}])
    parquet.write_table(pyarrow.table({"body": text, "meta": meta}), path)
    records, (damage,) = read(Parquet([str(path)], "body", url="meta.id", language="meta.lang"))
    assert [(one.url, one.text, one.language) for one in records] == [
        ("1", "one", "de"),
        ("pages.parquet:2", "three", None),
        ("4", "four", "eng"),
    ]
    assert (damage.kind, damage.offset, damage.url) == ("no_body", 1, "2")
    with pytest.raises(UnreadableError, match="has no column 'text', but body, meta; bind Parquet.text"):
        read(Parquet([str(path)]))


def test_bytes_that_are_no_utf_8(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pages.parquet"
    column = pyarrow.array([b"caf\xe9", b"fine"], pyarrow.binary())
    buffers = column.buffers()
    parquet.write_table(
        pyarrow.table({"text": pyarrow.StringArray.from_buffers(2, buffers[1], buffers[2])}), path
    )
    records, _ = read(Parquet([str(path)]))
    assert [(one.text, one.dirt) for one in records] == [("caf\ufffd", ("bad_utf8",)), ("fine", ())]


@pytest.mark.parametrize("form", ["text files", "JSON lines", "Parquet"])
def test_files_on_a_server(form: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    source = WRITERS[form](tmp_path / "in")
    paths = sorted(path for path in (tmp_path / "in").rglob("*") if path.is_file())[:3]
    content = {f"/{path.name}": path.read_bytes() for path in paths}
    expected, _ = read(dataclasses.replace(source, files=[str(path) for path in paths]))  # type: ignore[type-var]
    with http_server.serve(content) as server:
        there = dataclasses.replace(source, files=[f"{server.url}{name}?key=1" for name in content])  # type: ignore[type-var]
        records, damages = read(there)
        server.files.clear()
        with pytest.raises(OutOfReachError, match="does not exist: the server answered 404"):
            read(there)
    assert sorted(one.text for one in records) == sorted(one.text for one in expected)
    assert damages == []


# Hugging Face


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    WRITERS["Hugging Face, folder"](tmp_path / "stories")
    return tmp_path / "stories"


def test_a_damaged_shard_ends_there(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (folder / "train_1.jsonl").write_text('{"text": broken\n')
    (folder / "train_2.jsonl").write_text(
        '{"text": null, "url": "u", "lang": "en"}\n' + json_lines(PAGES).decode()
    )
    source = HuggingFace(str(folder), language="lang")
    allowed = dataclasses.replace(SETTINGS, max_unreadable_share=0.5)
    counts = prepare(source, str(tmp_path / "corpus"), allowed)["counts"]
    (lost,) = counts["unreadable_files"]
    assert lost.endswith("-00001-of-00003")
    assert counts["unreadable"] == {"no_text": 1}
    with pytest.raises(
        ValueError, match=r"shard '.*-00001-of-00003' has no document that can be read: bad_shard"
    ):
        prepare(source, str(tmp_path / "another"), SETTINGS)


def test_another_version_of_a_folder_is_told(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = HuggingFace(str(folder), language="lang")
    mark = prepare(source, str(tmp_path / "corpus"), SETTINGS)
    assert prepare(source, str(tmp_path / "corpus"), SETTINGS) == mark
    (folder / "train_1.jsonl").write_bytes(json_lines({"a": page_text(70)}))
    with pytest.raises(ValueError, match="prepared from other shards: 'stories-train-"):
        prepare(source, str(tmp_path / "corpus"), SETTINGS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"split": "dev"}, "Bad split: dev. Available splits"), ({"path": "./absent"}, "absent")],
)
def test_a_data_set_that_is_not_there(folder: pathlib.Path, changes: dict[str, str], told: str) -> None:
    with pytest.raises((ValueError, OSError), match=told):
        read(HuggingFace(**{"path": str(folder), **changes}))


def test_a_revision_is_looked_up_once_and_noted(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the Hub would say in place of the Hub."""
    commit, asked, loaded = "0123456789" * 4, [], []
    load = datasets.load_dataset

    def dataset_info(api: object, path: str, revision: str | None) -> types.SimpleNamespace:
        asked.append((path, revision))
        return types.SimpleNamespace(sha=commit)

    def load_dataset(path: str, revision: str | None, **more: object) -> object:
        loaded.append((path, revision))
        return load(str(folder), **more)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = HuggingFace("me/stories", revision="v2", language="lang")
    mark = prepare(source, str(tmp_path / "corpus"), SETTINGS)
    assert asked == [("me/stories", "v2")]
    assert set(loaded) == {("me/stories", commit)}
    recorded = json.loads((tmp_path / "corpus" / "preparation.json").read_text())
    assert recorded["sample"]["revision"] == commit
    assert list(recorded["parts"])[0] == f"stories-train-{commit[:12]}-00000-of-00003"
    loaded.clear()
    pinned = dataclasses.replace(source, revision=commit)
    assert prepare(pinned, str(tmp_path / "corpus"), SETTINGS) == mark
    assert (len(asked), loaded) == (1, []), "nobody is asked for what is there"
    other = dataclasses.replace(source, revision="f" * 40)
    with pytest.raises(ValueError, match="prepared from other shards"):
        prepare(other, str(tmp_path / "corpus"), SETTINGS)


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def dataset_info(*arguments: object, **more: object) -> None:
        raise RuntimeError("no connection")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    with pytest.raises(OSError, match=r"'me/stories' \(revision 'main'\) is not to be had: no connection"):
        HuggingFace("me/stories").resolved()


def test_what_is_missing_is_named(
    folder: pathlib.Path, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ValueError, match="HuggingFace needs datasets .*; run: pip install"):
        HuggingFace(str(folder)).parts()
    packed = path.with_name("pages.jsonl.zst")
    packed.write_bytes(PACKING[".zst"](b"{}"))
    with pytest.raises(ValueError, match="ending in .zst needs zstandard .*; run: pip install"):
        read(JsonLines([str(packed)]))


def test_the_version_of_a_reading_follows_from_what_was_read(tmp_path: pathlib.Path) -> None:
    source = WRITERS["one's own"](tmp_path / "blog")
    facts = []
    for _ in range(2):
        with Reading() as reading:
            list(reading.of(source, "odd posts"))
            facts.append(reading.facts())
    assert facts[0] == facts[1]
    (tmp_path / "blog" / "posts.txt").write_text("a\nb\n---\nc\nd")
    with Reading() as reading:
        list(reading.of(source, "odd posts"))
    assert reading.facts() != facts[0]
