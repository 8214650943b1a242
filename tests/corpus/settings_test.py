"""Settings: where documents go, and what makes results differ."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.jobs.stages import fingerprint


def test_token_shards_take_equal_ranges_of_keys() -> None:
    settings = CorpusSettings(num_shards=4, validation_share=1e-9)
    first = [bytes([value]) + bytes(31) for value in (0x00, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFF)]
    assert [settings.part(key[:-8] + b"\xff" * 8) for key in first] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_held_out_share_is_kept() -> None:
    settings = CorpusSettings(num_shards=3, validation_share=0.25)
    parts = [settings.part(hashlib.sha256(b"%d" % number).digest()) for number in range(2000)]
    assert set(parts) == {0, 1, 2, 3}
    assert 0.22 < parts.count(3) / 2000 < 0.28


def test_a_test_split_takes_nothing_from_validation() -> None:
    keys = [hashlib.sha256(b"%d" % number).digest() for number in range(2000)]
    without = CorpusSettings(num_shards=3, validation_share=0.25)
    settings = dataclasses.replace(without, test_share=0.5)
    assert settings.splits == {"train": range(3), "validation": range(3, 4), "test": range(4, 5)}
    assert (settings.num_parts, without.num_parts) == (5, 4)
    parts = [settings.part(key) for key in keys]
    assert 0.46 < parts.count(4) / 2000 < 0.54
    for part, before in zip(parts, map(without.part, keys), strict=True):
        assert part in ((3,) if before == 3 else (before, 4))


def test_what_does_not_change_pages_does_not_make_them_read_again() -> None:
    settings = CorpusSettings()
    same = dataclasses.replace(settings, num_pieces=100, max_tokens=5, max_learning_characters=10)
    other = dataclasses.replace(settings, duplicates="file")
    assert fingerprint(settings.of_reading()) == fingerprint(same.of_reading())
    assert fingerprint(settings.of_reading()) != fingerprint(other.of_reading())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"duplicates": "all"}, "duplicates is 'all'; expected one of none, file, corpus"),
        ({"min_duplicate_characters": 0}, "min_duplicate_characters is 0"),
        ({"max_unreadable_share": 1.0}, "max_unreadable_share is 1.0"),
    ],
)
def test_settings_without_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorpusSettings(**changes)  # type: ignore[arg-type]
