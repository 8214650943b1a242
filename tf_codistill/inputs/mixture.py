"""Several corpora as one: each lane reads one of them, and lanes are allocated by weight.

    corpus_dir                       a path, or {"corpora/crawl": 3, "corpora/books": 1}
    64 lanes   | crawl: 48 lanes ........................................ | books: 16 lanes ........ |

    corpora = open_corpora({"corpora/crawl": 3, "corpora/books": 1})
    stream = corpora.stream("train", seed=1, num_lanes=64)
    inputs_BT, targets_BT = stream.batch(step=1370)

Lanes are dealt by the method of largest remainders, and every corpus has at least one. Each corpus has epochs
of its own: a small one with a large weight comes round more often. A batch is still a function of its step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tf_codistill import tokens
from tf_codistill.inputs import language

_STREAM_BITS = 48  # of an id; those above tell the streams apart


def allocate_lanes(num_lanes: int, weights: Mapping[str, float]) -> dict[str, int]:
    """How many lanes each corpus gets.

    Args:
        num_lanes: Lanes of the group.
        weights: A positive weight for each corpus.

    Returns:
        Lanes by corpus, in the same order; they sum to `num_lanes`, and none is 0.

    Raises:
        ValueError: A weight is not positive, or there are fewer lanes than corpora.
    """
    for name, weight in weights.items():
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"weight of corpus {name!r} is {weight}; expected a positive number")
    if num_lanes < len(weights):
        raise ValueError(
            f"num_lanes is {num_lanes} for {len(weights)} corpora, but each needs a lane of its own; "
            "use more lanes or fewer corpora"
        )
    quotas = {name: num_lanes * weight / sum(weights.values()) for name, weight in weights.items()}
    lanes = {name: max(1, math.floor(quota)) for name, quota in quotas.items()}
    # Of equal remainders the first in the order given counts as largest.
    while missing := num_lanes - sum(lanes.values()):
        change = 1 if missing > 0 else -1
        open_to_it = [name for name in lanes if change > 0 or lanes[name] > 1]
        lanes[max(open_to_it, key=lambda name: change * (quotas[name] - lanes[name]))] += change
    return lanes


class MixedLanes:
    """The batches of several streams, their lanes one below the other.

    Args:
        streams: What each run of lanes reads; with the same `window_tokens`.

    Attributes:
        num_lanes: Lanes of all streams together.
        window_tokens: Tokens of each lane in one batch.
        steps_per_epoch: Steps until the first stream is exhausted.
    """

    def __init__(self, streams: Sequence[language.LaneBatches]) -> None:
        self._streams = list(streams)
        self._ends = np.cumsum([stream.num_lanes for stream in streams])
        self.num_lanes = int(self._ends[-1])
        self.window_tokens = streams[0].window_tokens
        self.steps_per_epoch = min(stream.steps_per_epoch for stream in streams)

    def batch(
        self, step: int, lanes: range | slice | None = None
    ) -> tuple[language.Int32Array, language.Int32Array]:
        """Inputs and targets of a step, see `language.LaneStream.batch`."""
        if not isinstance(lanes, range):
            lanes = range(self.num_lanes)[lanes or slice(None)]
        if len(lanes) and (min(lanes) < 0 or max(lanes) >= self.num_lanes):
            raise ValueError(f"lanes are {lanes}; expected lanes 0 to {self.num_lanes - 1}")
        ids = np.empty((2, len(lanes), self.window_tokens), np.int32)
        for _, stream, rows, own in self._own_lanes(lanes):
            ids[:, rows] = stream.batch(step, own)
        return ids[0], ids[1]

    def keys(self, step: int, lanes: range) -> language.Int64Array:
        """Id and visit of each row of a step, int64 ``[B, 2]``; ids of different streams differ."""
        keys = np.empty((len(lanes), 2), np.int64)
        for index, stream, rows, own in self._own_lanes(lanes):
            keys[rows] = stream.keys(step, own) + [index << _STREAM_BITS, 0]
        return keys

    def _own_lanes(self, lanes: range) -> Iterator[tuple[int, language.LaneBatches, Any, range]]:
        """The streams that read some of these lanes, with which rows they are and which lanes of theirs."""
        readers = np.searchsorted(self._ends, np.array(lanes), side="right")
        for index, stream in enumerate(self._streams):
            (rows,) = np.nonzero(readers == index)
            if rows.size:
                first_lane = int(self._ends[index]) - stream.num_lanes
                own = lanes[rows[0] : rows[-1] + 1]
                yield index, stream, rows, range(own.start - first_lane, own.stop - first_lane, own.step)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpora:
    """Corpora with one vocabulary, each with a weight.

    Attributes:
        corpora: The open corpora by directory.
        weights: Their weights.
    """

    corpora: Mapping[str, tokens.Corpus]
    weights: Mapping[str, float]

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, special tokens included; the same in all corpora."""
        return next(iter(self.corpora.values())).vocabulary_size

    @property
    def fingerprint(self) -> str:
        """That of the tokenizer with which all of them were encoded."""
        return next(iter(self.corpora.values())).fingerprint

    def stream(self, split: str, *, num_lanes: int, **arguments: Any) -> language.LaneBatches:
        """The batches of a split of all corpora.

        Args:
            split: Name of the split.
            num_lanes: Lanes of the group, allocated to the corpora.
            **arguments: What else `language.LaneStream` takes.

        Returns:
            Batches by step; those of a `LaneStream` if there is one corpus.

        Raises:
            ValueError: A corpus has no such split, its partition is too small for its lanes, or there are
                fewer lanes than corpora.
        """
        lanes = allocate_lanes(num_lanes, self.weights)
        streams = [
            language.LaneStream(corpus.split(split), num_lanes=lanes[name], **arguments)
            for name, corpus in self.corpora.items()
        ]
        return streams[0] if len(streams) == 1 else MixedLanes(streams)


def open_corpora(corpus_dir: str | Mapping[str, float]) -> Corpora:
    """Opens a corpus, or several to be mixed.

    Args:
        corpus_dir: Directory of the corpus, or a weight for each of several directories.

    Returns:
        The corpora, open for reading.

    Raises:
        ValueError: A corpus cannot be read, a weight is not positive, or vocabularies differ.
    """
    weights = {corpus_dir: 1.0} if isinstance(corpus_dir, str) else dict(corpus_dir)
    if not weights:
        raise ValueError("corpus_dir names no corpus; give a directory, or a weight for each of several")
    allocate_lanes(len(weights), weights)
    corpora = {name: tokens.open_corpus(name) for name in weights}
    first, *others = corpora
    for other in others:
        if corpora[other].fingerprint != corpora[first].fingerprint:
            raise ValueError(
                f"corpora {first!r} and {other!r} have different vocabularies (fingerprints "
                f"{corpora[first].fingerprint[:12]} and {corpora[other].fingerprint[:12]}); prepare one of "
                "them again with the other's tokenizer"
            )
    return Corpora(corpora, weights)
