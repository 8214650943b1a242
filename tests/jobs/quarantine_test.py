"""The quarantine: every damaged stretch is listed, and kept as it was as long as there is room."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tf_codistill.jobs import quarantine
from tf_codistill.jobs.quarantine import Damage, OpenDamage, Quarantine

NAME = "records.gz"


def rows(directory: Path) -> list[dict[str, object]]:
    lines = (directory / f"{NAME}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_what_could_not_be_read_is_kept_as_it_was(tmp_path: Path) -> None:
    for _ in range(2):  # another pass writes the same
        with Quarantine(str(tmp_path), f"gs://bucket/{NAME}") as kept:
            kept.keep(Damage("bad_data", 7, 5, b"ab\x00\xff\n", "https://example.org/1"))
            kept.keep(Damage("cut_off", 90, 0, b""))
        first = f"{NAME}-0000-byte-7"
        assert sorted(os.listdir(tmp_path)) == [first, f"{NAME}.jsonl"]
        assert (tmp_path / first).read_bytes() == b"ab\x00\xff\n"
        assert rows(tmp_path) == [
            {"kind": "bad_data", "offset": 7, "num_bytes": 5, "url": "https://example.org/1", "kept": first},
            {"kind": "cut_off", "offset": 90, "num_bytes": 0, "url": "", "kept": None},
        ]


def test_room_is_bounded_and_the_list_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MAX_FILE_BYTES", 250)
    with Quarantine(str(tmp_path), NAME) as kept:
        for offset in range(0, 400, 100):
            kept.keep(Damage("bad_data", offset, 100, b"x" * 100, "https://example.org/ü\ud800"))
    assert [bool(row["kept"]) for row in rows(tmp_path)] == [True, True, False, False]
    assert [row["num_bytes"] for row in rows(tmp_path)] == [100] * 4
    assert len(os.listdir(tmp_path)) == 3


def test_long_stretch_is_counted_whole_and_held_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MAX_STRETCH_BYTES", 10)
    lost = OpenDamage("stray_bytes", 7)
    for _ in range(3):
        lost.add(b"abcdef")
    assert lost.close() == Damage("stray_bytes", 7, 18, b"abcdefabcd")


def test_nothing_damaged_leaves_no_list(tmp_path: Path) -> None:
    with Quarantine(str(tmp_path), NAME):
        pass
    assert os.listdir(tmp_path) == []


def test_list_is_written_after_an_exception(tmp_path: Path) -> None:
    def damages() -> Iterator[Damage]:
        yield Damage("stray_bytes", 0, 6, b"<html>")
        raise ValueError("nothing can be read")

    with pytest.raises(ValueError, match="nothing can be read"), Quarantine(str(tmp_path), NAME) as kept:
        list(map(kept.keep, damages()))
    assert len(rows(tmp_path)) == 1


def test_a_list_is_found_by_the_name_of_its_file(tmp_path: Path) -> None:
    with Quarantine(str(tmp_path), NAME) as kept:
        kept.keep(Damage("stray_bytes", 0, 1, b"x"))
    assert quarantine.has(str(tmp_path), f"elsewhere/{NAME}")
    assert not quarantine.has(str(tmp_path), "others.gz")
