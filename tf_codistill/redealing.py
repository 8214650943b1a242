"""What the workers of a group held, dealt out to another number of workers or of replicas.

    2 workers of 1 replica                 1 worker of 4 replicas
    lanes      0 1 2 3 | 4 5 6 7     ->    0 1 | 2 3 | 4 5 | 6 7      each lane keeps what is its own
    replicas      a    |    b        ->     m  |  m  |  m  |  m       of floats the mean, of others a b a b
    sums          s    |    t        ->     q  |  q  |  q  |  q       4 q = s + t

    redealing = Redealing(before=Layout(2, 1), now=Layout(1, 4), worker=0)
    redealing.lanes([of_worker_0, of_worker_1])

Workers hold the lanes in order, and within a worker its replicas do: so lies a batch, too. Where there are as
many replicas in all as before, each goes on with what one of them had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Over what a group is spread out.

    Attributes:
        num_workers: Its workers.
        num_replicas: Replicas of each.
    """

    num_workers: int
    num_replicas: int

    @property
    def size(self) -> int:
        """Replicas of all workers."""
        return self.num_workers * self.num_replicas


@dataclasses.dataclass(frozen=True)
class Redealing:
    """From what all workers held to what one of other workers is to hold.

    Attributes:
        before: Over what the group was spread out.
        now: Over what it is.
        worker: Which of the new workers is meant, from 0.
    """

    before: Layout
    now: Layout
    worker: int

    def lanes(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """What belongs to the lanes of a batch.

        Args:
            parts: For each old worker an array [its lanes, ...], in order.

        Returns:
            The same of the new worker.

        Raises:
            ValueError: They cannot be dealt out evenly.
        """
        rows = np.concatenate(parts)
        each, rest = divmod(len(rows), self.now.num_workers)
        if rest:
            raise ValueError(
                f"{len(rows)} lanes cannot be dealt out evenly to {self.now.num_workers} workers"
            )
        return rows[self.worker * each :][:each]

    def replicas(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """What each replica holds for itself.

        Args:
            parts: For each old worker an array [its replicas, ...], in order.

        Returns:
            The same of the new worker. Of another number of replicas each has the mean, where that makes
            sense: for floats. Of anything else they take what the old ones had, in turn.
        """
        values = np.concatenate(parts)
        if self.before.size == self.now.size or not is_floating(values):
            return values[self._indices() % len(values)]
        mean = values.astype("float64").mean(axis=0).astype(values.dtype)
        agreed = np.where((values == values[0]).all(axis=0), values[0], mean)
        return np.stack([agreed] * self.now.num_replicas)

    def sums(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Of what only the sum over all replicas counts.

        Args:
            parts: For each old worker an array [its replicas, ...], in order.

        Returns:
            The same of the new worker.
        """
        values = np.concatenate(parts)
        if self.before.size == self.now.size:
            return values[self._indices()]
        if is_floating(values):
            share = (values.astype("float64").sum(axis=0) / self.now.size).astype(values.dtype)
            return np.stack([share] * self.now.num_replicas)
        return np.stack(
            [values[index :: self.now.size].sum(axis=0, dtype=values.dtype) for index in self._indices()]
        )

    def __str__(self) -> str:
        """The numbers in words."""
        now, before = self.now, self.before
        words = _counted(now.num_workers, "worker")
        if now.num_replicas == before.num_replicas == 1:
            return f"{words} in place of {before.num_workers}"
        words = f"{words} of {_counted(now.num_replicas, 'replica')}"
        return f"{words} in place of {before.num_workers} of {before.num_replicas}"

    def _indices(self) -> np.ndarray:
        """Which of all replicas those of the worker are."""
        return self.worker * self.now.num_replicas + np.arange(self.now.num_replicas)


def is_floating(values: np.ndarray) -> bool:
    """Whether values have a mean; bfloat16, say, is no floating type to NumPy."""
    return not (np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
