"""What is in a corpus: facts to look at before a model is trained on it.

    inspection = inspect(tokens.open_corpus("corpus"), seed=0)
    inspection.sections             (("Corpus", (("vocabulary", "24,006 ids"), ...)), ("Documents", ...), ...)
    inspection.windows["train"]     decoded stretches, from anywhere
    inspection.lengths["train"]     tokens of each document

Counts of the manifest and lengths of documents are exact. Pieces, words and special tokens are counted on a
sample of at most `MAX_SAMPLED_TOKENS` of each split, windows of it at positions that the seed fixes, so that
a corpus of any size takes seconds; whether it is a sample is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_codistill import tokens
from tf_codistill.terminal import visible
from tf_codistill.tokenizer.base import Tokenizer
from tf_codistill.tokenizer.opening import open_tokenizer

MAX_SAMPLED_TOKENS = 1 << 20
NUM_WINDOWS = 3
WINDOW_TOKENS = 120
NUM_TOP_PIECES = 40

_STRETCH_TOKENS = 1 << 12

Rows = tuple[tuple[str, str], ...]
Section = tuple[str, Rows]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        directory: Where the corpus is.
        outcomes: What became of the documents that were read: ``kept``, and reasons, with their numbers.
        lengths: Tokens of each document, by split.
        sections: Everything that is a row of text, under titles.
        windows: Stretches of text, by split.
    """

    directory: str
    outcomes: Mapping[str, int]
    lengths: Mapping[str, npt.NDArray[np.int64]]
    sections: tuple[Section, ...]
    windows: Mapping[str, tuple[str, ...]]


def inspect(corpus: tokens.Corpus, seed: int = 0, max_sampled_tokens: int = MAX_SAMPLED_TOKENS) -> Inspection:
    """Looks at a corpus.

    Args:
        corpus: The corpus.
        seed: At least 0; fixes what is drawn.
        max_sampled_tokens: How many tokens of each split to look at, at most.

    Returns:
        What was found.

    Raises:
        ValueError: The tokenizer cannot be read, or a number is out of range.
    """
    if seed < 0 or max_sampled_tokens < 1:
        raise ValueError(
            f"seed is {seed} and max_sampled_tokens is {max_sampled_tokens}; expected at least 0 and 1"
        )
    tokenizer = open_tokenizer(corpus.tokenizer_path)
    rng = np.random.Generator(np.random.PCG64(seed))
    splits = {name: corpus.split(name) for name in sorted(corpus.splits)}
    sections = [("Corpus", _manifest_rows(corpus)), ("What became of the documents", _outcome_rows(corpus))]
    windows = {}
    for name, split in splits.items():
        sample = _sample(split, max_sampled_tokens, rng)
        sections.append((f"{name.capitalize()} documents", _length_rows(split)))
        every = np.concatenate([*sample, np.empty(0, np.int32)])
        counts = np.bincount(every, minlength=tokenizer.vocabulary_size)
        texts = list(map(tokenizer.decode, sample))
        sections.append((_sample_title(name, len(every), split), _text_rows(texts, counts, tokenizer)))
        windows[name] = tuple(_windows(split, tokenizer, rng))
        if name == "train":
            sections.append(("Commonest pieces of train", _top_rows(counts, tokenizer)))
    lengths = {name: np.diff(split.starts) for name, split in splits.items()}
    return Inspection(corpus.directory, _outcomes(corpus.manifest), lengths, tuple(sections), windows)


def _manifest_rows(corpus: tokens.Corpus) -> Rows:
    manifest = corpus.manifest
    num_bytes = sum(entry["bytes"] for entry in manifest["files"].values())
    splits = []
    for name, split in sorted(manifest["splits"].items()):
        shards = f"{len(split['shards'])} shard{'s' if len(split['shards']) != 1 else ''}"
        splits.append(
            (name, f"{split['num_documents']:,} documents, {split['num_tokens']:,} tokens, {shards}")
        )
    return (
        ("directory", visible(corpus.directory)),
        ("size", f"{num_bytes:,} bytes in {len(manifest['files'])} files"),
        ("vocabulary", f"{corpus.vocabulary_size:,} ids, {tokens.NUM_SPECIAL} of them special tokens"),
        ("fingerprint", corpus.fingerprint),
        *splits,
    )


def _outcomes(manifest: Mapping[str, Any]) -> dict[str, int]:
    counts = manifest["counts"]
    reasons = {**counts.get("dropped", {})}
    reasons |= {f"unreadable: {kind}": number for kind, number in counts.get("unreadable", {}).items()}
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return {"kept": counts.get("kept", 0), **dict(ordered)}


def _outcome_rows(corpus: tokens.Corpus) -> Rows:
    counts = corpus.manifest["counts"]
    num_read = counts.get("read", 0)
    rows = [("read", f"{num_read:,}")]
    for name, number in _outcomes(corpus.manifest).items():
        rows.append((visible(name), f"{number:,}" + (f"  {number / num_read:7.2%}" if num_read else "")))
    for name, value in sorted(counts.items()):
        if name not in ("read", "kept", "dropped", "unreadable") and value:
            shown = f"{value:,}" if isinstance(value, int) else visible(str(value))
            rows.append((name.replace("_", " "), shown))
    return tuple(rows)


def _length_rows(split: tokens.Split) -> Rows:
    lengths = np.diff(split.starts)
    if not len(lengths):
        return (("documents", "0"),)
    shares = (0, 10, 50, 90, 100)
    values = np.percentile(lengths, shares)
    names = ("shortest", "a tenth is shorter than", "median", "a tenth is longer than", "longest")
    return (
        ("documents", f"{len(lengths):,}"),
        *((name, f"{value:,.0f} tokens") for name, value in zip(names, values, strict=True)),
        ("mean", f"{lengths.mean():,.0f} tokens"),
    )


def _sample(split: tokens.Split, max_tokens: int, rng: np.random.Generator) -> list[npt.NDArray[np.int32]]:
    """Stretches of a split, all of it where that is not too much."""
    bounds = np.append(np.arange(0, split.num_tokens, _STRETCH_TOKENS), split.num_tokens)
    chosen = np.arange(len(bounds) - 1)
    if split.num_tokens > max_tokens:
        num_stretches = max(1, max_tokens // _STRETCH_TOKENS)
        # Stretches of one length each; drawn again where two fall together, which `unique` finds.
        drawn = np.unique(rng.integers(0, len(chosen), 2 * num_stretches))
        chosen = np.sort(rng.permutation(drawn)[:num_stretches])
    return [split.gather(np.arange(bounds[index], bounds[index + 1])) for index in chosen]


def _sample_title(name: str, num_tokens: int, split: tokens.Split) -> str:
    if num_tokens == split.num_tokens:
        return f"Text of {name}"
    return f"Text of {name}, from a sample of {num_tokens:,} of {split.num_tokens:,} tokens"


def _text_rows(texts: list[str], counts: npt.NDArray[np.int64], tokenizer: Tokenizer) -> Rows:
    num_words, num_characters = sum(len(text.split()) for text in texts), sum(map(len, texts))
    marks = tokens.OUT_OF_VOCABULARY, tokens.SENTENCE_END, tokens.PARAGRAPH_END
    num_unknown, num_sentences, num_paragraphs = (int(counts[mark]) for mark in marks)
    num_pieces = int(counts[tokens.NUM_SPECIAL :].sum()) + num_unknown
    if not num_pieces:
        return (("words", "0"),)
    sentences = (
        ("words per sentence", f"{num_words / max(1, num_sentences):.1f}"),
        ("sentences per paragraph", f"{num_sentences / max(1, num_paragraphs):.1f}"),
    )
    paragraphs = (("words per paragraph", f"{num_words / max(1, num_paragraphs):.1f}"),)
    return (
        ("words", f"{num_words:,}"),
        ("pieces per word (fertility)", f"{num_pieces / max(1, num_words):.3f}"),
        ("characters per piece", f"{num_characters / num_pieces:.2f}"),
        ("out of vocabulary", f"{num_unknown:,} of {num_pieces:,} pieces, {num_unknown / num_pieces:.3%}"),
        *(sentences if tokenizer.marks_sentences else paragraphs),
    )


def _top_rows(counts: npt.NDArray[np.int64], tokenizer: Tokenizer) -> Rows:
    counts = np.where(np.arange(len(counts)) < tokens.NUM_SPECIAL, 0, counts)
    top = [int(index) for index in np.argsort(-counts, kind="stable")[:NUM_TOP_PIECES] if counts[index]]
    shown = [visible(tokenizer.piece(index)).replace(" ", "\u2423").replace("\t", "\u21e5") for index in top]
    total = max(1, counts.sum())
    return tuple(
        (surface, f"{counts[index]:>9,}  {counts[index] / total:6.2%}")
        for index, surface in zip(top, shown, strict=True)
    )


def _windows(split: tokens.Split, tokenizer: Tokenizer, rng: np.random.Generator) -> Iterator[str]:
    """Stretches from anywhere, the first and last word of which may be cut."""
    last = max(0, split.num_tokens - WINDOW_TOKENS)
    for start in sorted(rng.integers(0, last + 1, NUM_WINDOWS)):
        ids = split.gather(np.arange(start, min(start + WINDOW_TOKENS, split.num_tokens)))
        yield visible("\n\n\n".join(tokenizer.decode(document) for document in _documents(ids)))


def _documents(ids: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int32]]:
    ends = np.flatnonzero(ids == tokens.END_OF_DOCUMENT) + 1
    return (part for part in np.split(ids, ends) if part.size)
