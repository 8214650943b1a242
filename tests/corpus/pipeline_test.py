"""The pipeline: counts add up, the same input gives the same bytes, nothing half-made is taken for whole."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import gin
import numpy as np
import pytest
import tensorflow as tf

from tests.toy_crawls import SETTINGS, contents, page_text, write_crawl
from tf_codistill import files, tokens
from tf_codistill.corpus import pipeline
from tf_codistill.corpus.filters import English, LongParagraphs
from tf_codistill.corpus.pipeline import check, prepare
from tf_codistill.corpus.report import counts
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages.reading import ReadStage
from tf_codistill.corpus.stages.writing import WriteStage
from tf_codistill.jobs.stages import Advance
from tf_codistill.tokenizer import sentences
from tf_codistill.tokenizer.word_pieces import WordPieces

NUM_GOOD = 60


@pytest.fixture
def wet_files(tmp_path: Path) -> list[str]:
    return write_crawl(tmp_path, num_good=NUM_GOOD)


def documents(directory: str, split: str) -> list[str]:
    corpus = tokens.open_corpus(directory, verify_contents=True)
    pieces = WordPieces(corpus.tokenizer_path)
    part = corpus.split(split)
    spans = zip(part.starts[:-1], part.starts[1:], strict=True)
    return [pieces.decode(part.gather(np.arange(start, end))) for start, end in spans]


def test_every_good_page_is_in_one_split_word_for_word(tmp_path: Path, wet_files: list[str]) -> None:
    output_dir = str(tmp_path / "corpus")
    mark = prepare(WetFiles(wet_files), output_dir, SETTINGS)
    train, validation = documents(output_dir, "train"), documents(output_dir, "validation")
    expected = [page_text(number).removeprefix("Home\n") for number in range(NUM_GOOD)]
    assert sorted(train + validation) == sorted(expected)
    assert 0 < len(validation) < NUM_GOOD / 2
    assert mark["vocabulary_size"] == 120 + tokens.NUM_SPECIAL
    assert len(mark["splits"]["train"]["shards"]) == 3
    assert mark["splits"]["train"]["num_documents"] == len(train)


def test_counts_add_up(tmp_path: Path, wet_files: list[str]) -> None:
    mark = prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    dropped = {"link_list": 2, "no_long_paragraphs": 2, "other_language": 2}
    assert mark["counts"] == {
        "read": NUM_GOOD + 6,
        "unwrapped": 0,
        "kept": NUM_GOOD,
        "dropped": dropped,
        "unreadable": {},
        "dirt": {},
        "unreadable_files": [],
        "truncated_files": [],
        "repeated_paragraphs": 0,
    }
    assert "other_language" in counts.summary(mark, "corpus", SETTINGS)


def test_budget_of_tokens_is_kept_and_counted(tmp_path: Path, wet_files: list[str]) -> None:
    settings = dataclasses.replace(SETTINGS, max_tokens=3000, max_validation_tokens=800)
    mark = prepare(WetFiles(wet_files), str(tmp_path / "corpus"), settings)
    counts = mark["counts"]
    assert 2500 < mark["splits"]["train"]["num_tokens"] <= 3000
    assert 300 < mark["splits"]["validation"]["num_tokens"] <= 800
    assert counts["dropped"]["over_max_tokens"] > 0
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())


def test_held_out_pages_stay_held_out_under_another_budget(tmp_path: Path, wet_files: list[str]) -> None:
    prepare(WetFiles(wet_files), str(tmp_path / "all"), SETTINGS)
    prepare(WetFiles(wet_files), str(tmp_path / "some"), dataclasses.replace(SETTINGS, max_tokens=3000))
    assert documents(str(tmp_path / "some"), "validation") == documents(str(tmp_path / "all"), "validation")
    assert set(documents(str(tmp_path / "some"), "train")) < set(documents(str(tmp_path / "all"), "train"))


def test_a_test_split_comes_out_of_training(tmp_path: Path, wet_files: list[str]) -> None:
    prepare(WetFiles(wet_files), str(tmp_path / "without"), SETTINGS)
    settings = dataclasses.replace(SETTINGS, test_share=0.3, max_validation_tokens=800)
    mark = prepare(WetFiles(wet_files), str(tmp_path / "with"), settings)
    assert 300 < mark["splits"]["test"]["num_tokens"] <= 800
    assert mark["counts"]["read"] == mark["counts"]["kept"] + sum(mark["counts"]["dropped"].values())
    found = {
        split: set(documents(str(tmp_path / "with"), split)) for split in ("train", "validation", "test")
    }
    before = {split: set(documents(str(tmp_path / "without"), split)) for split in ("train", "validation")}
    assert found["validation"] <= before["validation"]
    assert found["train"] < before["train"]
    assert found["test"] <= before["train"] - found["train"]
    assert prepare(WetFiles(wet_files), str(tmp_path / "with"), settings) == mark


def test_same_input_gives_same_bytes_in_any_order(tmp_path: Path, wet_files: list[str]) -> None:
    prepare(WetFiles(wet_files), str(tmp_path / "first"), SETTINGS)
    prepare(WetFiles(wet_files[::-1]), str(tmp_path / "second"), SETTINGS)
    assert contents(str(tmp_path / "first")) == contents(str(tmp_path / "second"))


def test_second_run_returns_what_is_there(tmp_path: Path, wet_files: list[str]) -> None:
    output_dir = str(tmp_path / "corpus")
    first = prepare(WetFiles(wet_files), output_dir, SETTINGS)
    times = {name: os.stat(os.path.join(output_dir, name)).st_mtime_ns for name in os.listdir(output_dir)}
    assert prepare(WetFiles(wet_files), output_dir, SETTINGS) == first
    assert times == {
        name: os.stat(os.path.join(output_dir, name)).st_mtime_ns for name in os.listdir(output_dir)
    }


def test_other_settings_are_not_mistaken_for_the_same(tmp_path: Path, wet_files: list[str]) -> None:
    output_dir = str(tmp_path / "corpus")
    prepare(WetFiles(wet_files), output_dir, SETTINGS)
    with pytest.raises(ValueError, match="prepared with num_pieces = 120, now it is 130"):
        prepare(WetFiles(wet_files), output_dir, dataclasses.replace(SETTINGS, num_pieces=130))
    with pytest.raises(
        ValueError, match="other WET files: 'crawl-1.warc.wet.gz' had [0-9]+ bytes, now it has no"
    ):
        prepare(WetFiles(wet_files[:1]), output_dir, SETTINGS)


FILTERS = """
import dataclasses

LEAST = {least}

def is_long(document):
    return document if len("".join(document.paragraphs)) >= LEAST else "brief"

@dataclasses.dataclass(frozen=True)
class Long:
    def __call__(self, document):
        return is_long(document)

long = Long()
"""


def with_filter(tmp_path: Path, least: int, name: str = "is_long") -> CorpusSettings:
    """Settings with a filter of a module that has just been written and read, as if by another process."""
    path = tmp_path / "filters_for_a_test.py"
    path.write_text(FILTERS.format(least=least))
    spec = importlib.util.spec_from_file_location("filters_for_a_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dataclasses.replace(SETTINGS, filters=(*SETTINGS.filters, getattr(module, name)))


def test_a_filter_is_known_again_until_its_code_changes(tmp_path: Path, wet_files: list[str]) -> None:
    output_dir = str(tmp_path / "corpus")
    settings = with_filter(tmp_path, 1)
    mark = prepare(WetFiles(wet_files), output_dir, settings)
    again = with_filter(tmp_path, 1)
    assert again.filters[-1] is not settings.filters[-1]
    assert prepare(WetFiles(wet_files), output_dir, again) == mark
    changed = with_filter(tmp_path, 100_000)
    with pytest.raises(ValueError, match="other code of the filter filters_for_a_test.is_long; name another"):
        prepare(WetFiles(wet_files), output_dir, changed)
    described = files.read_json(os.path.join(output_dir, "preparation.json"))["filters"]
    assert described == [*map(repr, SETTINGS.filters), "filters_for_a_test.is_long"]


def test_what_other_code_has_left_unfinished_is_not_mixed_in(tmp_path: Path, wet_files: list[str]) -> None:
    output_dir = str(tmp_path / "corpus")
    first = dataclasses.replace(with_filter(tmp_path, 535, "long"), num_pieces=20_000)
    with pytest.raises(ValueError, match="num_pieces = 20000"):
        prepare(WetFiles(wet_files), output_dir, first)
    read = [files.read_json(str(path)) for path in tmp_path.glob("corpus.work/read-*/*.json")]
    assert sum(task["counts"]["dropped"]["brief"] for task in read) > 20
    mark = prepare(WetFiles(wet_files), output_dir, with_filter(tmp_path, 1, "long"))
    assert "brief" not in mark["counts"]["dropped"]
    assert mark["counts"]["kept"] == NUM_GOOD


def test_a_corpus_without_fingerprints_is_known_by_what_our_filters_are_called(
    tmp_path: Path, wet_files: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As corpora were before: what they are is finished, whatever the code of filters is today."""
    output_dir = str(tmp_path / "corpus")
    published = dataclasses.replace(SETTINGS, unwrap=False, filters=(English(is_html=True), LongParagraphs()))
    theirs = dataclasses.replace(with_filter(tmp_path, 1), unwrap=False)
    for settings, is_ours in ((published, True), (theirs, False)):
        mark = prepare(WetFiles(wet_files), output_dir, settings)
        path = os.path.join(output_dir, "preparation.json")
        preparation = files.read_json(path)
        del preparation["filter_code"], preparation["unwrap"]
        preparation["filters"] = [repr(step).replace(", is_html=True", "") for step in settings.filters]
        files.write_json(path, preparation)
        mark["files"]["preparation.json"] = files.metadata_of(path)
        files.write_json(os.path.join(output_dir, files.MANIFEST), mark)
        if is_ours:
            with caplog.at_level(logging.WARNING, "absl"):
                assert prepare(WetFiles(wet_files), output_dir, settings) == mark
            assert "does not say what the code of its filters was" in caplog.text
            with pytest.raises(ValueError, match=r"unwrap = False, now it is True; .*as_published\.gin"):
                prepare(WetFiles(wet_files), output_dir, dataclasses.replace(settings, unwrap=True))
        else:
            with pytest.raises(ValueError, match="prepared with filters = .*; name another output directory"):
                prepare(WetFiles(wet_files), output_dir, settings)
        shutil.rmtree(output_dir)


@pytest.mark.parametrize("stopped", [(tokens.ShardWriter, "add"), (sentences, "split_sentences")])
def test_run_that_was_stopped_is_done_again(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch, stopped: tuple[object, str]
) -> None:
    output_dir, whole_dir = str(tmp_path / "corpus"), str(tmp_path / "whole")
    prepare(WetFiles(wet_files), whole_dir, SETTINGS)

    with monkeypatch.context() as patch:
        # Ctrl-C, not at the first call: SentencePiece passes on what the first sentence raises.
        patch.setattr(*stopped, mock.Mock(side_effect=[["Once."], KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            prepare(WetFiles(wet_files), output_dir, SETTINGS)
    with pytest.raises(ValueError, match="not finished"):
        tokens.open_corpus(output_dir)
    prepare(WetFiles(wet_files), output_dir, SETTINGS)
    assert contents(output_dir) == contents(whole_dir)


def test_what_an_unfinished_preparation_has_left_goes_and_what_others_have_put_there_stays(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output_dir, whole_dir = tmp_path / "corpus", tmp_path / "whole"
    prepare(WetFiles(wet_files), str(whole_dir), SETTINGS)

    def stop(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "commit_corpus", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(WetFiles(wet_files), str(output_dir), dataclasses.replace(SETTINGS, num_shards=5))
    assert "train-00004-of-00005.tokens" in os.listdir(output_dir)

    theirs = {"thesis.tex", "train-00000-of-00099.tokens", f"manifest.json.{'0a' * 16}", "notes.partial"}
    folders = {"test", "notes", f"validation.{'0a' * 16}.partial"}

    def begin(stage: WriteStage, task: str, advance: Advance) -> object:
        for name in theirs:
            (output_dir / name).write_text("years of work")
        for name in folders:
            (output_dir / name).mkdir(exist_ok=True)
            (output_dir / name / "chapter_1.tex").write_text("years of work")
        return do(stage, task, advance)

    do = WriteStage.do
    monkeypatch.setattr(WriteStage, "do", begin)
    mark = prepare(WetFiles(wet_files), str(output_dir), SETTINGS)
    for name in theirs:
        assert (output_dir / name).read_text() == "years of work"
        (output_dir / name).unlink()
    for name in folders:
        assert (output_dir / name / "chapter_1.tex").read_text() == "years of work"
        shutil.rmtree(output_dir / name)
    assert contents(output_dir) == contents(whole_dir)
    assert mark == files.read_manifest(str(whole_dir))


def test_an_ending_means_one_format(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_commit", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    of_corpus = {path.suffix for path in (tmp_path / "corpus").iterdir()}
    results = (tmp_path / "corpus.work").glob("*-????????????????/*")
    of_work = {path.suffix for path in results}
    assert {".tokens", ".paragraphs"} <= of_corpus
    assert {".documents", ".repeats"} <= of_work
    assert not of_corpus & of_work - {".model", ".json"}


def test_damaged_file_stops_before_anything_is_written(tmp_path: Path, wet_files: list[str]) -> None:
    content = Path(wet_files[1]).read_bytes()
    Path(wet_files[1]).write_bytes(content[:-50])
    with pytest.raises(ValueError, match=r"crawl-1\.warc\.wet\.gz.*truncated"):
        prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    assert not (tmp_path / "corpus").exists()
    (tmp_path / "corpus").mkdir()
    with pytest.raises(ValueError, match="truncated"):
        prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    assert (tmp_path / "corpus").is_dir(), "a user's own directory stays"


def test_damaged_record_is_counted(tmp_path: Path, wet_files: list[str]) -> None:
    body = page_text(5).encode()
    path = tmp_path / "damaged.warc.wet"
    path.write_bytes(
        b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://example.org/x\r\n"
        b"WARC-Block-Digest: sha1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n"
        b"Content-Length: %d\r\n\r\n%b\r\n\r\n" % (len(body), body)
    )
    mark = prepare(WetFiles([*wet_files, str(path)]), str(tmp_path / "corpus"), SETTINGS)
    assert mark["counts"]["unreadable"] == {"wrong_digest": 1}
    assert mark["counts"]["kept"] == NUM_GOOD


@pytest.mark.parametrize(
    "name",
    [
        "chapter_1.tex",
        "notes.model",
        "my_paragraph_ids.csv",
        "my_preparation.json",
        "train.tokens",
        "a.partial",
        # As a corpus would call it, and yet from elsewhere.
        "train-00000-of-00003.tokens",
        "paragraph_ids.csv",
        "test",
    ],
)
def test_directory_with_other_things_is_left_alone(tmp_path: Path, wet_files: list[str], name: str) -> None:
    output_dir = tmp_path / "thesis"
    output_dir.mkdir()
    (output_dir / name).write_text("years of work")
    with pytest.raises(ValueError, match=f"holds '{name}', which nobody is recorded to have written"):
        prepare(WetFiles(wet_files), str(output_dir), SETTINGS)
    assert os.listdir(output_dir) == [name]
    assert not (tmp_path / "thesis.work").exists()


def test_what_others_keep_in_the_directory_of_the_work_stays(tmp_path: Path, wet_files: list[str]) -> None:
    kept = tmp_path / "corpus.work" / "wet"
    kept.mkdir(parents=True)
    moved = [
        os.rename(path, kept / os.path.basename(path)) or str(kept / os.path.basename(path))
        for path in wet_files
    ]
    prepare(WetFiles(moved), str(tmp_path / "corpus"), SETTINGS)
    assert os.listdir(tmp_path / "corpus.work") == ["wet"]
    assert len(os.listdir(kept)) == len(wet_files)
    prepare(WetFiles(moved), str(tmp_path / "other"), SETTINGS)
    assert not (tmp_path / "other.work").exists()


def test_no_file_is_renamed_from_one_directory_to_another(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus may be on another disk than its work, as behind a link or a mount point."""
    crossing = []

    def rename(path: str, target: str, overwrite: bool = False) -> None:
        if not str(path).startswith(f"{os.path.dirname(target)}/"):
            crossing.append((path, target))
        os.replace(path, target)

    monkeypatch.setattr(tf.io.gfile, "rename", rename)
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    assert crossing == []


def test_this_directory_can_be_the_corpus(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match=r"num_pieces = 20000 does not suit this corpus \(it has text for"):
        prepare(WetFiles(wet_files), ".", dataclasses.replace(SETTINGS, num_pieces=20_000))
    assert os.listdir(".") == []
    prepare(WetFiles(wet_files), ".", SETTINGS)
    prepare(WetFiles(wet_files), str(tmp_path / "there"), SETTINGS)
    assert contents(".") == contents(tmp_path / "there")


@pytest.mark.parametrize("other", ["crawl-0.warc.wet.gz", "crawl-0.warc.wet"])
def test_files_of_one_name_are_refused(tmp_path: Path, wet_files: list[str], other: str) -> None:
    with pytest.raises(ValueError, match=f"crawl-0.warc.wet.gz' and 'elsewhere/{other}' have the same name"):
        prepare(WetFiles([*wet_files, f"elsewhere/{other}"]), str(tmp_path / "corpus"), SETTINGS)


def test_the_place_of_the_work_is_checked_with_the_others(tmp_path: Path, wet_files: list[str]) -> None:
    (tmp_path / "corpus.work").write_text("no directory")
    for attempt in (check, prepare):
        with pytest.raises(ValueError, match="corpus.work' cannot be written to"):
            attempt(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
        assert not (tmp_path / "corpus").exists()


def test_a_check_leaves_nothing(tmp_path: Path) -> None:
    assert not check(WetFiles(), str(tmp_path / "corpus"), SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_files_on_a_server_are_named_without_their_query(tmp_path: Path) -> None:
    addresses = [f"https://example.org/{name}.warc.wet.gz?key=a/b" for name in ("one%201", "two")]
    assert list(WetFiles(addresses).parts()) == ["one 1.warc.wet.gz", "two.warc.wet.gz"]


def test_a_file_that_ends_too_early_is_named(tmp_path: Path, wet_files: list[str]) -> None:
    Path(wet_files[1]).write_bytes(Path(wet_files[1]).read_bytes()[:-50])
    settings = dataclasses.replace(SETTINGS, max_unreadable_share=0.9)
    mark = prepare(WetFiles(wet_files), str(tmp_path / "corpus"), settings)
    assert mark["counts"]["truncated_files"] == ["crawl-1.warc.wet.gz"]
    assert "files or other parts that end too early: crawl-1.warc.wet.gz" in counts.summary(
        mark, "corpus", settings
    )


def test_a_damaged_file_is_read_again_if_it_was_mended_or_is_to_be_kept(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    do = ReadStage.do
    monkeypatch.setattr(
        ReadStage, "do", lambda stage, task, advance: read.append(task) or do(stage, task, advance)
    )
    whole, size = Path(wet_files[1]).read_bytes(), os.path.getsize(wet_files[1])
    Path(wet_files[1]).write_bytes(whole[: size // 2] + bytes(64) + whole[size // 2 + 64 :])
    corpus, quarantine = str(tmp_path / "corpus"), tmp_path / "quarantine"
    too_many = dataclasses.replace(SETTINGS, num_pieces=20_000)
    with pytest.raises(ValueError, match="num_pieces"):
        prepare(WetFiles(wet_files), corpus, too_many)
    with pytest.raises(ValueError, match="num_pieces"):
        prepare(WetFiles(wet_files), corpus, too_many, quarantine_dir=str(quarantine))
    assert (quarantine / "crawl-1.warc.wet.gz.jsonl").exists()
    assert read == ["crawl-0.warc.wet.gz", "crawl-1.warc.wet.gz", "crawl-1.warc.wet.gz"]
    for kept in (None, str(quarantine)):
        with pytest.raises(ValueError, match="num_pieces"):
            prepare(WetFiles(wet_files), corpus, too_many, quarantine_dir=kept)
    assert len(read) == 3, "nothing is read again without need"
    Path(wet_files[1]).write_bytes(whole)
    assert prepare(WetFiles(wet_files), corpus, SETTINGS)["counts"]["unreadable"] == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_share": 0.0}, "validation_share is 0.0"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"num_shards": 0}, "num_shards is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"num_pieces": -1}, "num_pieces is -1"),
        ({"num_pieces": 24e3}, "num_pieces is 24000.0; expected a whole number, at least 1"),
        ({"num_shards": True}, "num_shards is True; expected a whole number"),
        ({"num_shards": None}, "num_shards is None; expected a whole number"),
        ({"validation_share": "a"}, "validation_share is 'a'"),
        ({"test_share": 0.8}, "test_share is 0.8; expected 0 to less than what validation_share leaves, 0.8"),
        ({"test_share": -0.1}, "test_share is -0.1"),
        ({"max_unreadable_share": "a"}, "max_unreadable_share is 'a'"),
    ],
)
def test_settings_without_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_share": 1e-9}, "validation split would be empty"),
        ({"test_share": 1e-9}, "test split would be empty.*another test_share"),
        ({"max_tokens": 5}, "train split would be empty.*max_tokens = 5"),
        ({"filters": (lambda document: "nothing_pleases",)}, "nothing_pleases.*66"),
        ({"num_pieces": 20_000}, "num_pieces = 20000"),
    ],
)
def test_corpus_without_text_is_told(
    tmp_path: Path, wet_files: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(WetFiles(wet_files), str(tmp_path / "corpus"), dataclasses.replace(SETTINGS, **changes))
    assert files.read_manifest(str(tmp_path / "corpus")) is None


def test_a_tokenizer_that_is_none_is_told_before_anything_is_read(
    tmp_path: Path, wet_files: list[str]
) -> None:
    wrong = tmp_path / "wrong.model"
    wrong.write_bytes(b"no model")
    Path(wet_files[0]).write_bytes(b"")  # which reading would tell
    remedy = "name the tokenizer of a corpus, or prepare that corpus again"
    for tokenizer, error, message in (
        (str(wrong), ValueError, f"wrong.model' is no SentencePiece model; {remedy}"),
        (str(tmp_path / "absent.model"), FileNotFoundError, "absent.model"),
    ):
        for attempt in (
            lambda given=tokenizer: prepare(
                WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS, tokenizer=given
            ),
            lambda given=tokenizer: check(WetFiles(), str(tmp_path / "corpus"), SETTINGS, tokenizer=given),
        ):
            with pytest.raises(error, match=message):
                attempt()
    assert not (tmp_path / "corpus").exists()
    assert not (tmp_path / "corpus.work").exists()


def test_what_can_be_checked_without_wet_files(tmp_path: Path, wet_files: list[str]) -> None:
    output_dir, other = str(tmp_path / "corpus"), dataclasses.replace(SETTINGS, num_pieces=130)
    assert not check(WetFiles(), output_dir, other, quarantine_dir=str(tmp_path / "quarantine"))
    assert (tmp_path / "quarantine").is_dir()
    prepare(WetFiles(wet_files), output_dir, SETTINGS)
    before = contents(output_dir)
    found = check(WetFiles(), output_dir, SETTINGS)
    assert found is not None
    assert found.mark == files.read_manifest(output_dir)
    assert not found.is_of(None), "nobody has said of what it is"
    with pytest.raises(ValueError, match="prepared with num_pieces = 120, now it is 130"):
        check(WetFiles(), output_dir, other)
    with pytest.raises(ValueError, match="'corpus', which nobody is recorded to have written for this"):
        check(WetFiles(), str(tmp_path), SETTINGS)
    with pytest.raises(ValueError, match="'.*crawl-0.warc.wet.gz' cannot be written to"):
        check(WetFiles(), str(tmp_path / "another"), SETTINGS, quarantine_dir=wet_files[0])
    assert contents(output_dir) == before
    assert not (tmp_path / "another").exists()


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no WET file"):
        prepare(WetFiles([]), str(tmp_path / "corpus"), SETTINGS)
    with pytest.raises(FileNotFoundError, match=r"absent\.warc\.wet\.gz"):
        prepare(WetFiles([str(tmp_path / "absent.warc.wet.gz")]), str(tmp_path / "corpus"), SETTINGS)


def test_gin_reaches_settings_and_filters() -> None:
    gin.parse_config("CorpusSettings.num_pieces = 77\nEnglish.min_percent = 55")
    try:
        settings = CorpusSettings()
    finally:
        gin.clear_config()
    assert settings.num_pieces == 77
    assert any("English(min_percent=55," in repr(step) for step in settings.filters)


def run_program(tmp_path: Path, output_dir: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "tf_codistill.prepare_corpus",
        f"--output_dir={tmp_path}/{output_dir}",
    ]
    arguments = [
        f"--files={tmp_path}/crawl-*.warc.wet.gz",
        "--gin_file=gin/corpus/common_crawl.gin",
        "--gin_bindings=CorpusSettings.num_pieces = 120",
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_program_finds_a_finished_corpus_again(tmp_path: Path, wet_files: list[str]) -> None:
    settings = CorpusSettings(num_pieces=120)
    mark = prepare(WetFiles(wet_files), str(tmp_path / "corpus"), settings)
    again = run_program(tmp_path, "corpus")
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == counts.summary(mark, str(tmp_path / "corpus"), settings)
    assert "prepared already" in again.stderr


def test_program_tells_of_a_damaged_file_in_one_sentence(tmp_path: Path, wet_files: list[str]) -> None:
    Path(wet_files[0]).write_bytes(b"")
    failed = run_program(tmp_path, "corpus")
    assert failed.returncode == 1
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("error: WET file")
    assert "crawl-0.warc.wet.gz' is empty; fetch it again" in last
    assert files.read_manifest(str(tmp_path / "corpus")) is None
