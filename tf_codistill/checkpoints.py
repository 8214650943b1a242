"""A group's own resumable state, private to the group.

    checkpoints/
        checkpoint_00000500/
            shared.index, shared.data-...        written by the chief: what all workers hold alike
            worker_0.index, worker_0.data-...    written by each worker: the recurrent state of its lanes
            worker_1.index, ...
            manifest.json                        the commit mark, by the chief when all have written

Values are arrays by name, so what a checkpoint holds is decided by the caller (`training.experiment`). The
input position is no part of it: batches are a function of the step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tf_codistill import distribution, files, weights
from tf_codistill.groups import decisions

FORMAT_VERSION = 2

Arrays = Mapping[str, Sequence[np.ndarray]]

_CHECKPOINT = re.compile(r"checkpoint_(\d{8,})")


class Checkpoints:
    """The checkpoints of one group."""

    def __init__(self, directory: str, strategy: tf.distribute.Strategy, keep: int = 2) -> None:
        """Takes note of where checkpoints are; touches no file.

        Args:
            directory: Directory of the group's checkpoints.
            strategy: The strategy that trains the group.
            keep: How many of the newest stay, at least 1.

        Raises:
            ValueError: `keep` is less than 1.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}; expected at least 1")
        self._directory = directory
        self._strategy = strategy
        self._keep = keep

    def save(self, step: int, shared: Arrays, own: Arrays) -> None:
        """Writes and commits a checkpoint; all workers of the group must call it.

        Args:
            step: The optimizer step, which names the checkpoint.
            shared: Arrays that all workers hold alike; the chief's are written.
            own: Arrays that belong to this worker.
        """
        directory = self._path(step)
        chief, listing = distribution.is_chief(self._strategy), {}
        if chief:
            files.remove(directory)
            files.make_directory(directory)
            listing = weights.write(files.join(directory, "shared"), **shared)
        decisions.all_agree(self._strategy, True)
        listing |= weights.write(files.join(directory, self._worker_name()), **own)
        decisions.all_agree(self._strategy, True)
        if chief:
            facts = {
                "format_version": FORMAT_VERSION,
                "step": step,
                "num_workers": distribution.num_workers(self._strategy),
                "shared": {name: weights.describe_arrays(arrays) for name, arrays in shared.items()},
                "own": {name: weights.describe_arrays(arrays) for name, arrays in own.items()},
            }
            files.commit(directory, facts, listing)
            for old in committed_steps(self._directory)[: -self._keep]:
                files.remove(self._path(old))

    def latest(self) -> int | None:
        """The step of the newest committed checkpoint, by the chief's view; all workers must call it."""
        steps = committed_steps(self._directory)
        (step,) = decisions.broadcast(self._strategy, [steps[-1] if steps else -1])
        return None if step < 0 else step

    def restore(self, step: int) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
        """Reads a committed checkpoint.

        Args:
            step: Its step.

        Returns:
            What was given to `save` as `shared`, and this worker's `own`.

        Raises:
            ValueError: It is absent or damaged, or was written by another number of workers.
        """
        directory = self._path(step)
        shared, owns = read(directory)
        if len(owns) != distribution.num_workers(self._strategy):
            raise ValueError(
                f"checkpoint {directory!r} was written by {len(owns)} workers, this group has "
                f"{distribution.num_workers(self._strategy)}; start as many, or use another workdir"
            )
        return shared, owns[distribution.worker_index(self._strategy)]

    def _path(self, step: int) -> str:
        return files.join(self._directory, f"checkpoint_{step:08d}")

    def _worker_name(self) -> str:
        return f"worker_{distribution.worker_index(self._strategy)}"


def committed_steps(directory: str) -> list[int]:
    """Steps of the committed checkpoints in a directory, in ascending order."""
    matches = (_CHECKPOINT.fullmatch(name) for name in files.names(directory))
    steps = sorted(int(match.group(1)) for match in matches if match)
    return [
        step for step in steps if files.exists(files.join(directory, f"checkpoint_{step:08d}", files.MARK))
    ]


def read_latest(directory: str) -> tuple[int, dict[str, list[np.ndarray]], list[dict[str, list[np.ndarray]]]]:
    """Reads the newest committed checkpoint of a group, whatever strategy wrote it.

    Args:
        directory: Directory of the group's checkpoints.

    Returns:
        Its step, the shared arrays, and the own arrays of each worker.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    steps = committed_steps(directory)
    if not steps:
        raise ValueError(f"there is no committed checkpoint in {directory!r}; has the group been trained?")
    return (steps[-1], *read(files.join(directory, f"checkpoint_{steps[-1]:08d}")))


def read(path: str) -> tuple[dict[str, list[np.ndarray]], list[dict[str, list[np.ndarray]]]]:
    """Reads one checkpoint with the own arrays of all workers.

    Args:
        path: Directory of the checkpoint.

    Returns:
        The shared arrays, and the own arrays of each worker.

    Raises:
        ValueError: It is absent, damaged, or of another format version.
    """
    mark = files.read_mark(path)
    if mark is None:
        raise ValueError(f"checkpoint {path!r} is not there or not committed")
    if mark.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {path!r} has format version {mark.get('format_version')!r}; "
            f"expected {FORMAT_VERSION}"
        )
    try:
        shared = weights.read(files.join(path, "shared"), mark["files"], **mark["shared"])
        names = [f"worker_{i}" for i in range(mark["num_workers"])]
        return shared, [weights.read(files.join(path, name), mark["files"], **mark["own"]) for name in names]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise files.CorruptError(
            f"{error}; delete {path!r} to go back to the checkpoint before it"
        ) from error
