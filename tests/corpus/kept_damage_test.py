"""Damage of WET files in quarantine: every stretch is kept as it stands in the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tf_codistill.corpus.wet import WetWriter, read_wet
from tf_codistill.jobs.quarantine import Damage, Quarantine

NAME = "pages.warc.wet.gz"


def rows(directory: Path) -> list[dict[str, object]]:
    lines = (directory / f"{NAME}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_what_could_not_be_read_is_kept_as_it_was(tmp_path: Path) -> None:
    path, kept = tmp_path / NAME, tmp_path / "quarantine"
    with WetWriter(str(path), "pages of a test") as writer:
        for number in range(4):
            writer.write(f"https://example.org/{number}", f"Page {number}. " * 50, "eng")
    content = bytearray(path.read_bytes())
    starts = [index for index in range(len(content)) if content.startswith(b"\x1f\x8b\x08", index)]
    content[starts[3] - 6] ^= 1
    path.write_bytes(content[:-9])
    for _ in range(2):  # another pass writes the same
        with Quarantine(str(kept), str(path)) as files:
            for item in read_wet(str(path)):
                if isinstance(item, Damage):
                    files.keep(item)
        first, second = f"{NAME}-0000-byte-{starts[2]}", f"{NAME}-0001-byte-{starts[4]}"
        assert sorted(os.listdir(kept)) == [first, second, f"{NAME}.jsonl"]
        assert (kept / first).read_bytes() == content[starts[2] : starts[3]]
        assert (kept / second).read_bytes() == content[starts[4] : -9]
        assert [(row["kind"], row["offset"], row["kept"]) for row in rows(kept)] == [
            ("wrong_checksum", starts[2], first),
            ("cut_off", starts[4], second),
        ]


def test_list_is_written_after_an_exception(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"<html>")
    kept = Quarantine(str(tmp_path), NAME)
    with pytest.raises(ValueError, match="stray_bytes"), kept:
        list(map(kept.keep, read_wet(str(tmp_path / NAME))))  # type: ignore[arg-type]
    assert len(rows(tmp_path)) == 1
