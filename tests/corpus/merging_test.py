"""Merging: the order of the keys, pieces of bounded size, nothing left on disk and nothing in TMPDIR."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest

from tests.toy_crawls import SETTINGS, contents, write_crawl
from tf_codistill import files
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import merging, partitioned

NUM_FILES, NUM_PARTS = 9, 3


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Files of documents of three token shards, some of which have the same key."""
    rng = random.Random(3)
    paths = []
    for index in range(NUM_FILES):
        shards = []
        for part in range(NUM_PARTS):
            keys = sorted(rng.randrange(20) for _ in range(rng.randrange(8)))
            shards.append(
                b"".join(_packed(key, f"file {index} shard {part} place {n}") for n, key in enumerate(keys))
            )
        paths.append(str(tmp_path / f"{index}.documents"))
        partitioned.write(paths[-1], list(map(len, shards)), shards)
    return paths


def _packed(key: int, text: str) -> bytes:
    return partitioned.pack(
        key.to_bytes(partitioned.KEY_DIGITS // 2, "big"), Document("", None, (text,), (0,), "")
    )


def merged(paths: list[str], part: int, runs: str | None) -> list[tuple[str, int, str]]:
    """Key, position and text of all documents."""
    found = []
    for position, content in merging.in_key_order(paths, part, runs):
        found.append(
            (
                content[: partitioned.KEY_DIGITS].decode(),
                position,
                partitioned.unpack(content, "").paragraphs[0],
            )
        )
    return found


@pytest.mark.parametrize("most", [2, 3, 4, NUM_FILES])
@pytest.mark.parametrize("piece_bytes", [99, 1 << 20])
def test_documents_come_in_the_order_of_keys_files_and_places(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, piece_bytes: int
) -> None:
    monkeypatch.setattr(merging, "_MOST_AT_A_TIME", most)
    monkeypatch.setattr(merging, "_PIECE_BYTES", (piece_bytes, piece_bytes))
    for part in range(NUM_PARTS):
        found = merged(paths, part, str(tmp_path / "shard"))
        assert found == merged(paths, part, None) == sorted(found)
        expected = sum(len(list(partitioned.split([partitioned.read(path, part)]))) for path in paths)
        assert len(found) == expected > 0
        assert {int(text.split()[1]) for _, _, text in found} == {position for _, position, _ in found}
    assert len(list(tmp_path.iterdir())) == NUM_FILES, "runs are gone"


def test_runs_lie_where_they_are_told_to_and_go_with_whoever_stops_early(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_MOST_AT_A_TIME", 4)
    entries = merging.in_key_order(paths, 0, str(tmp_path / "shard"))
    next(entries)
    (directory,) = tmp_path.glob("shard.*.runs")
    assert sorted(files.names(str(directory))) == ["000", "001", "002"]
    text = sum(files.size_bytes(str(path)) for path in directory.iterdir())
    documents = [content for _, content in merging.in_key_order(paths, 0)]
    assert text == sum(map(len, documents)) + 4 * len(documents), "the shard once, and no more"
    entries.close()
    assert not directory.exists()


def test_what_is_in_memory_is_bounded() -> None:
    for number in (1, 31, 32, 33, 304, 512):
        assert number * merging._piece_bytes(number) <= merging._MEMORY_BYTES
    assert merging._piece_bytes(512) >= 1 << 18


@pytest.mark.parametrize("most", [512, 2])
def test_a_corpus_is_prepared_without_room_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    wet_files = write_crawl(tmp_path / "crawl", num_files=5)
    prepare(WetFiles(wet_files), str(tmp_path / "expected"), SETTINGS)
    monkeypatch.setattr(merging, "_MOST_AT_A_TIME", most)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "there is none"))
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    assert contents(tmp_path / "corpus") == contents(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "crawl", "expected"]
