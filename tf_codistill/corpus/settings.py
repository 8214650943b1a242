"""How a corpus is prepared: what a gin file says.

CorpusSettings.num_pieces = 24_000
CorpusSettings.duplicates = "corpus"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin

from tf_codistill.corpus.filters import (
    Boilerplate,
    English,
    Filter,
    Length,
    LinkList,
    LongParagraphs,
    fingerprints,
)
from tf_codistill.tokenizer.base import Tokenizer

SCOPES = ("none", "file", "corpus")
"""Where a paragraph may not occur twice."""

FILTER_CODE = "filter_code"
"""Under which the settings of a corpus have a fingerprint of the code of each filter."""

_LIMITS = ("max_tokens", "max_validation_tokens")
_WHOLE_NUMBERS = ("num_pieces", "num_shards", "min_duplicate_characters", "max_learning_characters", *_LIMITS)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """How a corpus is prepared.

    Attributes:
        num_pieces: Size of the vocabulary without the marks; the paper has 24,000.
        unwrap: Whether a document that is hard-wrapped, all its lines ending near one width, is joined to
            paragraphs before the filters see it, see `wrapping`. Without, each line is a paragraph, as in the
            paper.
        filters: What documents pass, in order.
        duplicates: Where a long paragraph is kept only once: ``none``, ``file`` (each part of the source for
            itself) or ``corpus``. Documents that have too little left are counted as ``duplicate``.
        min_duplicate_characters: Shorter paragraphs may occur any number of times, as in dialogue.
        near_duplicates: Jaccard similarity, above 0 and at most 1, from which on a document is dropped as a
            ``near_duplicate`` of one before it, see `near_duplicates`; 0.8 is usual, None looks for none.
        decontaminate: Whether training documents that are nearly held-out ones are dropped as
            ``contaminated``, see `contamination`.
        num_shards: Number of token shards of the training split.
        validation_share: Share of the documents held out, above 0 and below 1, by a hash of the address.
        test_share: Share held out for a test as well, 0 for none; what is held out for validation stays.
        max_tokens: Most tokens in the training split, in equal shares for its shards, None for no limit;
            documents beyond are counted as ``over_max_tokens``.
        max_validation_tokens: The same for each of the splits that are held out.
        max_learning_characters: Word pieces are learned from at most this many characters of training text.
        tokenizer: What reads the text: path of a file that `tokenizer.opening` opens, or a dataclass of one's
            own, see `tokenizer.own_class`; by default word pieces are learned.
        max_unreadable_share: The preparation stops before learning when a larger share of the parts
            is damaged, so that nothing of them can be read, or they end too early. One that is out of reach
            stops it at once.

    Raises:
        ValueError: A number is outside its range, or the scope of duplicates is unknown.
    """

    num_pieces: int = 24_000
    unwrap: bool = True
    filters: Sequence[Filter] = dataclasses.field(
        default_factory=lambda: (English(), LinkList(), Boilerplate(), LongParagraphs(), Length())
    )
    duplicates: str = "corpus"
    min_duplicate_characters: int = 100
    near_duplicates: float | None = None
    decontaminate: bool = True
    num_shards: int = 4
    validation_share: float = 0.02
    test_share: float = 0.0
    max_tokens: int | None = None
    max_validation_tokens: int | None = None
    max_learning_characters: int = 20_000_000
    tokenizer: str | Tokenizer | None = None
    max_unreadable_share: float = 0.1

    def __post_init__(self) -> None:
        share: Any = self.validation_share
        if not isinstance(share, float) or not 0.0 < share < 1.0:
            raise ValueError(f"validation_share is {share!r}; expected more than 0 and less than 1, as 0.02")
        test: Any = self.test_share
        if not isinstance(test, int | float) or not 0.0 <= test < 1.0 - share:
            raise ValueError(
                f"test_share is {test!r}; expected 0 to less than what validation_share leaves, {1.0 - share}"
            )
        share = self.max_unreadable_share
        if not isinstance(share, int | float) or not 0.0 <= share < 1.0:
            raise ValueError(f"max_unreadable_share is {share!r}; expected 0 to less than 1, as 0.1")
        near: Any = self.near_duplicates
        if near is not None and (type(near) not in (int, float) or not 0.0 < near <= 1.0):
            raise ValueError(f"near_duplicates is {near!r}; expected more than 0 and at most 1, or None")
        if self.duplicates not in SCOPES:
            raise ValueError(f"duplicates is {self.duplicates!r}; expected one of {', '.join(SCOPES)}")
        for name in _WHOLE_NUMBERS:
            value = getattr(self, name)
            if not (value is None and name in _LIMITS) and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}; expected a whole number, at least 1")

    def describe(self) -> dict[str, Any]:
        """The settings as JSON takes them, filters by what they are called, with fingerprints of their code.

        Returns:
            Values by name.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["tokenizer"]  # its content counts
        filters = [fingerprints.describe(step) for step in self.filters]
        return {**values, "filters": filters, FILTER_CODE: list(map(fingerprints.code_of, self.filters))}

    def of_reading(self) -> dict[str, Any]:
        """Those settings that decide about the results of stage 1, as JSON takes them.

        Returns:
            Values by name.
        """
        names = ("filters", FILTER_CODE, "unwrap", "duplicates", "min_duplicate_characters")
        values = self.describe()
        return {name: values[name] for name in (*names, "num_shards", "validation_share", "test_share")}

    @property
    def splits(self) -> dict[str, range]:
        """The numbers of the token shards of each split."""
        held_out = ("validation", "test") if self.test_share else ("validation",)
        numbers = {name: range(number, number + 1) for number, name in enumerate(held_out, self.num_shards)}
        return {"train": range(self.num_shards), **numbers}

    @property
    def num_parts(self) -> int:
        """Number of token shards of all splits."""
        return sum(map(len, self.splits.values()))

    def part(self, key: bytes) -> int:
        """The number of the token shard that a document belongs to.

        Args:
            key: Its key, see `reading`.

        Returns:
            0 to ``num_shards - 1`` for training, ``num_shards`` for validation, the next for a test.
        """
        place = int.from_bytes(key[24:32], "big")
        if place < int(self.validation_share * (1 << 64)):
            return self.num_shards
        if place < int((self.validation_share + self.test_share) * (1 << 64)):
            return self.num_shards + 1
        return int.from_bytes(key[:8], "big") * self.num_shards >> 64
