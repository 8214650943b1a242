"""The pipeline on a real crawl: novels stay, other languages and link lists go."""

from __future__ import annotations

import collections
import os
from pathlib import Path

import pytest

from tf_codistill import files, tokens
from tf_codistill.corpus.filters import Document
from tf_codistill.corpus.paragraph_ids.selection import Selection
from tf_codistill.corpus.pipeline import CorpusSettings, prepare
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import listing
from tf_codistill.corpus.wet import Damage, Record, read_wet
from tf_codistill.jobs.engines import Local
from tf_codistill.tokenizer.word_pieces import WordPieces

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
    counts = prepare(WetFiles(wet_files()), str(tmp_path), settings)["counts"]
    assert counts["read"] == sum(read.values()) == counts["kept"] + sum(counts["dropped"].values())
    assert set(read) == {"novels", "links", "udhr"}
    assert set(survivors.counts) == {"novels"}
    assert survivors.counts["novels"] >= 0.95 * read["novels"]
    assert counts["kept"] + counts["dropped"]["over_max_tokens"] == survivors.counts["novels"]
    tokens.open_corpus(str(tmp_path), verify_contents=True)


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [None, 1_000_000])
def test_a_list_rebuilds_the_corpus(tmp_path: Path, max_tokens: int | None) -> None:
    settings = CorpusSettings(num_pieces=2000, max_learning_characters=2_000_000, max_tokens=max_tokens)
    counts = prepare(WetFiles(wet_files()), str(tmp_path / "corpus"), settings, Local(2))["counts"]
    assert counts["kept"] > 400
    listed = Selection.open(str(tmp_path / "corpus" / listing.LIST))
    tokenizer = str(tmp_path / "corpus" / tokens.TOKENIZER) if max_tokens else None
    mark = prepare(
        WetFiles(wet_files()),
        str(tmp_path / "rebuilt"),
        settings,
        Local(2),
        tokenizer=tokenizer,
        paragraph_ids=listed,
    )
    assert mark["counts"]["kept"] == counts["kept"]
    names = {name for name in os.listdir(tmp_path / "corpus") if not name.endswith(".json")}
    assert names == {name for name in os.listdir(tmp_path / "rebuilt") if not name.endswith(".json")}
    for name in names:
        assert files.checksum(str(tmp_path / "rebuilt" / name)) == mark["files"][name]["sha256"]
        assert files.checksum(str(tmp_path / "corpus" / name)) == mark["files"][name]["sha256"], name


def test_tokenizer_restores_every_page_of_a_file(tmp_path: Path) -> None:
    texts = [record.text for record in read_wet(wet_files()[1])]
    pieces = WordPieces.train(texts[:20], 500, str(tmp_path / "word_pieces.model"))
    assert [text for text in texts[::20] if pieces.decode(pieces.encode(text)) != text] == []


def test_records_of_common_crawl_itself() -> None:
    (record,) = read_wet(os.path.join(DATA, "wet_fixtures", "real_2024_22_one_page.warc.wet.gz"))
    assert isinstance(record, Record)
    assert record.url == "https://an.wikipedia.org/wiki/Escopete"
    assert record.language == "spa"
    assert record.record_id == "<urn:uuid:ba729a40-ff84-4085-8d48-0a5b2ee0c42d>"
    assert record.text.startswith("Escopete - Biquipedia")
    assert (len(record.text.encode()), record.dirt) == (4456, ())


def test_wrong_lengths_hide_no_record() -> None:
    path = os.path.join(DATA, "wet_fixtures", "malformed_lengths.warc.wet")
    damages = [item for item in read_wet(path) if isinstance(item, Damage)]
    # The fixture's texts do not fit their checksums either.
    assert [(item.kind, item.url) for item in damages] == [
        ("wrong_length", "http://sample_english.com"),
        ("wrong_length", "http://sample_chinese.zh"),
        ("wrong_length", "http://sample_russian.ru"),
    ]
    content = Path(path).read_bytes()
    assert b"".join(item.content for item in damages) == content[damages[0].offset :]


def test_list_of_paths_is_no_wet_file() -> None:
    with pytest.raises(ValueError, match=r"wet\.paths\.gz"):
        list(read_wet(os.path.join(DATA, "wet_fixtures", "CC-MAIN-2018-39.wet.paths.gz")))
