"""Stage 3: token shards hold documents in the order of their keys, each with the place that it came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from tests.toy_crawls import SETTINGS, contents, page_text, write_crawl
from tf_codistill import tokens
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.tokenizer.word_pieces import WordPieces


def test_how_pages_are_shared_out_to_files_does_not_show(tmp_path: Path) -> None:
    for num_files in (1, 4):
        wet_files = write_crawl(tmp_path / f"crawl-{num_files}", num_files)
        prepare(WetFiles(wet_files), str(tmp_path / f"corpus-{num_files}"), SETTINGS)
    one, four = (contents(tmp_path / f"corpus-{num_files}") for num_files in (1, 4))
    for name in one:
        if name.endswith((".tokens", ".starts", ".model")):
            assert one[name] == four[name], name


def test_documents_are_in_the_order_of_their_keys_beside_their_places(tmp_path: Path) -> None:
    wet_files = write_crawl(tmp_path / "crawl", num_files=2)
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    corpus = tokens.open_corpus(str(tmp_path / "corpus"))
    pieces = WordPieces(corpus.tokenizer_path)
    by_text = {page_text(number).removeprefix("Home\n"): number for number in range(60)}
    for split, num_shards in (("train", 3), ("validation", 1)):
        part = corpus.split(split)
        spans = zip(part.starts[:-1], part.starts[1:], strict=True)
        numbers = [by_text[pieces.decode(part.gather(np.arange(*span)))] for span in spans]
        keys = [hashlib.sha256(f"https://example.org/{number}".encode()).digest() for number in numbers]
        assert keys == sorted(keys)
        names = [f"{split}-{index:05d}-of-{num_shards:05d}.paragraphs" for index in range(num_shards)]
        lines = "".join((tmp_path / "corpus" / name).read_text() for name in names).splitlines()
        places = [json.loads(line) for line in lines]
        # Every second page is in the other file; each has three lines there, the first of which is a menu's.
        assert [place["wet_file"] for place in places] == [f"crawl-{n % 2}.warc.wet.gz" for n in numbers]
        assert [place["numbers"] for place in places] == [[n // 2 * 3 + 1, n // 2 * 3 + 2] for n in numbers]


def test_a_budget_takes_the_smallest_keys_of_each_shard(tmp_path: Path) -> None:
    wet_files = write_crawl(tmp_path / "crawl")
    prepare(WetFiles(wet_files), str(tmp_path / "all"), SETTINGS)
    mark = prepare(
        WetFiles(wet_files), str(tmp_path / "some"), dataclasses.replace(SETTINGS, max_tokens=3000)
    )
    counts, (every, some) = mark["counts"], (contents(tmp_path / name) for name in ("all", "some"))
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    for name in (name for name in some if name.startswith("train") and name.endswith(".tokens")):
        assert every[name].startswith(some[name])
        assert 0 < len(some[name]) <= 2 * 1000


def test_a_given_tokenizer_is_used(tmp_path: Path) -> None:
    wet_files = write_crawl(tmp_path / "crawl")
    prepare(WetFiles(wet_files), str(tmp_path / "first"), SETTINGS)
    tokenizer = str(tmp_path / "first" / tokens.TOKENIZER)
    other = dataclasses.replace(SETTINGS, num_pieces=7000)  # more than could be learned
    prepare(WetFiles(wet_files), str(tmp_path / "second"), other, tokenizer=tokenizer)
    first, second = (contents(tmp_path / name) for name in ("first", "second"))
    assert {name for name in first if first[name] != second[name]} <= {"manifest.json", "preparation.json"}
