"""Documents that are nearly others before them: MinHash over word 5-grams (Broder 1997).

    SketchStage, a task for each token shard
        <task>.sketches         of each document its place and its signature, 128 minima of hashes
        <task>.*.hashed         bands of its signature, as hashes in partitions, see shingles.py
    MatchStage, a task for each range of hashes
        <task>.dropped          places of documents to drop, in partitions by token shard

Documents that have a band in common are compared: the share of their minima that are equal estimates the
Jaccard similarity of their sets of 5-grams. If it is `CorpusSettings.near_duplicates` or more, the later
one is dropped, later in the order of WET files and lines, whether or not the earlier one stays itself. So
of near copies the first stays, each that is dropped has a near copy before it, and of those that are kept
no two with a band in common have such an estimate. Pairs decide alone: tasks need to know nothing of each
other, and files that come later change nothing before them.

Compared is what the filters and the search for duplicates have left, within splits and across them.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_codistill import files
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.stages import partitioned, shingles
from tf_codistill.corpus.stages.writing import Kept
from tf_codistill.jobs import stages
from tf_codistill.jobs.stages import Advance, Stage

_LENGTH = 5  # words of an n-gram
_NUM_MINIMA = 128
_RECALL = 0.95  # of pairs that are as similar as the threshold says
_SEED = 1
_ENTRIES_PER_TASK = 1_000_000  # and at most as many signatures of 256 bytes
_BAND = np.dtype([("hash", "<u8"), ("place", "<u8")])
# Of each minimum 16 bits tell others apart.
_SKETCH = np.dtype([("place", "<u8"), ("minima", "<u2", _NUM_MINIMA)])
_SKETCHES_PER_CHUNK = 1 << 14
_PLACE = np.dtype("<u8")
_SKETCHES, _DROPPED = ".sketches", ".dropped"


def check(settings: CorpusSettings) -> None:
    """Raises a ValueError if near duplicates are asked for and a library is missing."""
    if settings.near_duplicates is None:
        return
    try:
        importlib.import_module("rensa")
    except ImportError as error:
        raise ValueError(
            f"CorpusSettings.near_duplicates = {settings.near_duplicates} needs rensa ({error}); run: "
            "pip install 'tf_codistill[near_duplicates]', or set it to None"
        ) from error


def without(kept: Kept, directory: str, num_documents: int, engine: stages.Engine) -> Kept:
    """The documents without those that are nearly others before them, if that is asked for."""
    threshold = kept.settings.near_duplicates
    if threshold is None:
        return kept
    sketch = SketchStage(files.join(directory, "sketches"), kept, threshold, num_documents)
    facts = stages.run(sketch, engine)
    num_bands = sum(task["bands"] for task in facts.values())
    match = MatchStage(files.join(directory, "matches"), sketch, num_bands)
    stages.run(match, engine)
    return dataclasses.replace(kept, also_dropped=(*kept.also_dropped, match))


@dataclasses.dataclass(frozen=True)
class SketchStage(Stage):
    """Computes signatures; a task is a token shard.

    Attributes:
        kept: The documents.
        threshold: Jaccard similarity from which on documents are near.
        num_documents: Number of documents, or somewhat more.
    """

    title = "sketching documents"
    unit = "documents"
    units_per_process = 1000
    preload = ("tf_codistill.corpus.stages.writing",)

    kept: Kept
    threshold: float
    num_documents: int

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of documents expected in each."""
        return partitioned.tasks(self.kept.settings.num_parts, self.num_documents)

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Writes signatures and bands of the documents of a token shard."""
        part, shape = partitioned.part_of(task), bands_and_rows(self.threshold)
        bands = shingles.Spill(self.path(task, ""))
        with files.writing(self.path(task, _SKETCHES)) as file:
            file.write(b"")
            for places, texts in shingles.batches(self.kept.texts(part, self.path(task, "")), advance):
                grams, bounds = shingles.hashes(texts, _LENGTH)
                has_words = np.diff(bounds) > 0  # those without any are no copies of each other
                minima = signatures(grams, bounds)[has_words]
                sketches = np.empty(len(minima), _SKETCH)
                sketches["place"] = np.array(places)[has_words]
                sketches["minima"] = minima
                file.write(sketches.tobytes())
                entries = np.empty((len(minima), shape[0]), _BAND)
                entries["place"] = sketches["place"][:, None]
                entries["hash"] = _band_hashes(minima, *shape)
                bands.add(entries.reshape(-1))
        return {"runs": bands.close(), "bands": bands.num_entries}

    def minima(self, places: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
        """The signatures of documents at some places, which are sorted: a row for each."""
        found = np.empty((len(places), _NUM_MINIMA), np.uint16)
        for task in self.sizes() if len(places) else ():
            step = _SKETCHES_PER_CHUNK * _SKETCH.itemsize
            for piece in partitioned.pieces(self.path(task, _SKETCHES), step):
                sketches = np.frombuffer(piece, _SKETCH)
                rows = np.minimum(np.searchsorted(places, sketches["place"]), len(places) - 1)
                is_asked_for = places[rows] == sketches["place"]
                found[rows[is_asked_for]] = sketches["minima"][is_asked_for]
        return found


@dataclasses.dataclass(frozen=True)
class MatchStage(Stage):
    """Compares documents that have a band in common; a task is a range of hashes of bands.

    Attributes:
        sketch: The stage that has computed the signatures, done.
        num_bands: Number of bands of all documents.
        reason: Why a near duplicate is dropped.
    """

    title = "comparing documents"
    unit = "bands"
    units_per_process = 200_000
    preload = ("tf_codistill.corpus.stages.writing",)

    sketch: SketchStage
    num_bands: int
    reason: str = "near_duplicate"

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of bands expected in each."""
        return partitioned.shares(self._ranges(), shingles.NUM_BUCKETS, self.num_bands)

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Compares the documents of a range and writes which are to be dropped."""
        blocks = shingles.gather(shingles.spilled_by(self.sketch), _BAND, self._ranges()[task])
        entries = np.concatenate(blocks)
        parts = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
        order = np.lexsort((entries["place"], entries["hash"]))
        values, places = entries["hash"][order], entries["place"][order]
        bounds = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
        groups = [(start, end) for start, end in itertools.pairwise(bounds.tolist()) if end - start > 1]
        compared = np.unique(np.concatenate([places[:0], *(places[start:end] for start, end in groups)]))
        minima = self.sketch.minima(compared)
        is_dropped, least = np.zeros(len(entries), np.bool_), math.ceil(self.sketch.threshold * _NUM_MINIMA)
        for start, end in groups:
            rows = minima[np.searchsorted(compared, places[start:end])]
            is_dropped[start:end] = are_near_to_one_before(rows, least)
        owners, found = parts[order[is_dropped]], places[is_dropped]
        partitioned.write_sorted(self.path(task, _DROPPED), owners, found, len(blocks))
        advance(self.sizes()[task])
        return {"compared": len(compared)}

    def dropped(self, part: int) -> npt.NDArray[np.uint64]:
        """The places of the near duplicates of a token shard, see `writing.Dropping`."""
        paths = [self.path(task, _DROPPED) for task in self.sizes()]
        return np.unique(partitioned.read_sorted(paths, part, _PLACE))

    def _ranges(self) -> dict[str, range]:
        return partitioned.ranges(shingles.NUM_BUCKETS, self.num_bands, _ENTRIES_PER_TASK)


def bands_and_rows(threshold: float) -> tuple[int, int]:
    """How a signature is cut: as few pairs as possible are compared, but most of those that have to be.

    Args:
        threshold: Jaccard similarity from which on documents are near, above 0.

    Returns:
        Number of bands, and of minima in each, of which two documents of just that similarity have an equal
        one with a probability of 95 %; of more similar ones with more.
    """
    for rows in range(_NUM_MINIMA, 1, -1):
        bands = _NUM_MINIMA // rows
        if 1.0 - (1.0 - threshold**rows) ** bands >= _RECALL:
            return bands, rows
    return _NUM_MINIMA, 1


def are_near_to_one_before(minima: npt.NDArray[np.uint16], least: int) -> npt.NDArray[np.bool_]:
    """Whether each document, a row of minima, has at least so many equal to those of one before it."""
    found = np.zeros(len(minima), np.bool_)
    waiting = np.arange(1, len(minima))
    for row in range(len(minima) - 1):
        waiting = waiting[waiting > row]
        is_near = np.count_nonzero(minima[waiting] == minima[row], axis=1) >= least
        found[waiting[is_near]] = True
        waiting = waiting[~is_near]
        if not len(waiting):
            break
    return found


def signatures(grams: shingles.Hashes, bounds: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """The signatures of texts, a row for each, of what `shingles.hashes` has found in them."""
    from rensa import RMinHash

    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        grams, bounds.astype(np.uint64), _NUM_MINIMA, _SEED
    )
    return np.array(matrix.to_rows(), np.uint32)


def _band_hashes(minima: npt.NDArray[np.uint32], bands: int, rows: int) -> shingles.Hashes:
    """A hash for each band of each signature."""
    cut = minima[:, : bands * rows].reshape(len(minima), bands, rows).astype(np.uint64)
    values = np.broadcast_to(np.arange(bands, dtype=np.uint64), cut.shape[:2])
    for row in range(rows):
        values = shingles.mixed(values ^ cut[:, :, row])
    return values
