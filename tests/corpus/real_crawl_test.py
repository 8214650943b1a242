"""The pipeline on a real crawl: novels stay, other languages and link lists go."""

from __future__ import annotations

import collections
import os
from pathlib import Path

import pytest

from tf_codistill import files, tokens
from tf_codistill.corpus.filters import Document
from tf_codistill.corpus.pipeline import CorpusSettings, prepare
from tf_codistill.corpus.wet import read_wet
from tf_codistill.corpus.word_pieces import WordPieces

DATA = os.environ.get("TF_CODISTILL_REAL_DATA", "")

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA, reason="TF_CODISTILL_REAL_DATA is not set"),
]


class Survivors:
    """A last filter that lets everything pass and counts by kind what reaches it."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()

    def __call__(self, document: Document) -> Document:
        self.counts[kind(document.url)] += 1
        return document

    def __repr__(self) -> str:
        return "Survivors()"


def kind(url: str) -> str:
    """``novels``, ``links`` or ``udhr`` (other languages)."""
    return url.split("/")[2].split(".")[0]


def wet_files() -> list[str]:
    return files.glob(os.path.join(DATA, "crawl", "*.warc.wet.gz"))


def test_novels_survive_and_nothing_else_does(tmp_path: Path) -> None:
    read = collections.Counter(kind(record.url) for path in wet_files() for record in read_wet(path))
    survivors = Survivors()
    settings = CorpusSettings(
        num_pieces=500,
        filters=(*CorpusSettings().filters, survivors),
        max_learning_characters=500_000,
        max_tokens=300_000,
    )
    counts = prepare(wet_files(), str(tmp_path), settings)["counts"]
    assert counts["read"] == sum(read.values()) == counts["kept"] + sum(counts["dropped"].values())
    assert set(read) == {"novels", "links", "udhr"}
    assert set(survivors.counts) == {"novels"}
    assert survivors.counts["novels"] >= 0.95 * read["novels"]
    assert counts["kept"] + counts["dropped"]["over_max_tokens"] == survivors.counts["novels"]
    tokens.open_corpus(str(tmp_path), verify_contents=True)


def test_tokenizer_restores_every_page_of_a_file(tmp_path: Path) -> None:
    texts = [record.text for record in read_wet(wet_files()[1])]
    pieces = WordPieces.train(texts[:20], 500, str(tmp_path / "word_pieces.model"))
    assert [text for text in texts[::20] if pieces.decode(pieces.encode(text)) != text] == []


def test_records_of_common_crawl_itself() -> None:
    (record,) = read_wet(os.path.join(DATA, "wet_fixtures", "real_2024_22_one_page.warc.wet.gz"))
    assert record.url == "https://an.wikipedia.org/wiki/Escopete"
    assert record.language == "spa"
    assert record.is_whole
    assert record.text.startswith("Escopete - Biquipedia")


def test_wrong_lengths_hide_no_record() -> None:
    records = list(read_wet(os.path.join(DATA, "wet_fixtures", "malformed_lengths.warc.wet")))
    hosts = [record.url for record in records]
    assert hosts == ["http://sample_english.com", "http://sample_chinese.zh", "http://sample_russian.ru"]
    assert not any(record.is_whole for record in records)


def test_list_of_paths_is_no_wet_file() -> None:
    with pytest.raises(ValueError, match=r"wet\.paths\.gz"):
        list(read_wet(os.path.join(DATA, "wet_fixtures", "CC-MAIN-2018-39.wet.paths.gz")))
