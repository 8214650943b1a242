"""Ownership: while a group trains, nobody else writes where it does.

    with Ownership(workdir, group=0, strategy=strategy) as own:      a `ValueError` if another process has it
        Checkpointing(runs.checkpoints_dir(workdir, 0, own.generation))
        model.fit(..., callbacks=[own])                              ends when another process takes over

The lease is on the group's part of the workdir and, where that is elsewhere, on its part of the exchange. The
chief takes them, all workers know the generation. If its last owner may still live, a new generation begins
with a copy of what that has left: the newest complete checkpoint, and the metrics.
"""

from __future__ import annotations

import contextlib
import re
from types import TracebackType
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tf_codistill import checkpoints, distribution, files, leases, runs
from tf_codistill.groups import decisions

_NOT_COPIED = re.compile(r"lease|generation_\d+|checkpoints|tensorboard|worker_\d+\.log|.*\.partial")
_TRIES = 3
_CHUNK_BYTES = 1 << 22


class Ownership(keras.callbacks.Callback):
    """A group's part of a workdir, as one of its workers has it.

    Attributes:
        generation: The generation of the directory that the group writes to, see `runs.group_dir`.
    """

    def __init__(
        self,
        workdir: str,
        group: int,
        strategy: tf.distribute.Strategy,
        exchange_dir: str | None = None,
        take_over: bool = False,
    ) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            workdir: Directory of the run.
            group: The group.
            strategy: Its strategy.
            exchange_dir: Directory through which groups exchange, where that is not in the workdir.
            take_over: Whether to take it from a process that is alive.
        """
        super().__init__()
        self._workdir, self._group, self._strategy, self._takes_over = workdir, group, strategy, take_over
        places = [runs.leased_dir(workdir, group)]
        places += [files.join(exchange_dir, f"group_{group}")] if exchange_dir else []
        self._leases = [leases.Lease(place) for place in places]
        self.generation = 0

    def __enter__(self) -> Ownership:
        """Takes the leases; all workers of the group must call it.

        Returns:
            This.

        Raises:
            ValueError: Another process holds one, or what its owner has left cannot be used.
        """
        generation, error = 0, None
        if distribution.is_chief(self._strategy):
            try:
                generation = self._take()
            except (ValueError, OSError) as failure:
                error = failure
                self.__exit__(None, None, None)
        (self.generation,) = decisions.broadcast(self._strategy, [generation])
        if not self.generation:
            raise ValueError(str(error or "the chief of this group does not get its directory")) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets go of them."""
        for lease in self._leases:
            lease.release()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ends training, by a `TakenOverError`, once another process has taken over."""
        for lease in self._leases:
            lease.step = self.model.batches()
            lease.check()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """The same in a long validation."""
        for lease in self._leases:
            lease.check()

    def _take(self) -> int:
        holders = [lease.acquire(self._takes_over) for lease in self._leases]
        generation = holders[0].generation
        if not runs.has_begun(self._workdir, self._group, generation):
            logging.info("generation %d begins, as its last owner may still write", generation)
            self._begin(generation)
        return generation

    def _begin(self, generation: int) -> None:
        """Copies what the newest generation that has begun holds, and its newest complete checkpoint."""
        source = runs.group_dir(self._workdir, self._group)
        target = runs.group_dir(self._workdir, self._group, generation)
        files.remove(target)  # of an owner who did not come far
        files.ensure_directory(target)
        for name in files.names(source):
            if not _NOT_COPIED.fullmatch(name):
                _copy(files.join(source, name), files.join(target, name))
        self._copy_checkpoint(files.join(source, "checkpoints"), files.join(target, "checkpoints"))
        runs.begin(self._workdir, self._group, generation)

    def _copy_checkpoint(self, source: str, target: str) -> None:
        for attempt in range(_TRIES):
            found = checkpoints.newest_complete(source)
            if found is None:
                return
            # The last owner may save a newer one and delete this one meanwhile.
            with contextlib.suppress(FileNotFoundError):
                path = checkpoints.path_of(target, found[0])
                _copy(checkpoints.path_of(source, found[0]), path)
                return
            logging.info("checkpoint %d was deleted while it was copied, try %d", found[0], attempt + 1)
        raise ValueError(
            f"the checkpoints in {source!r} are deleted faster than they can be copied; stop their owner"
        )


def _copy(path: str, target: str) -> None:
    """Copies a file, or a directory with all that is in it, its manifest last."""
    if files.is_directory(path):
        files.ensure_directory(target)
        for name in sorted(files.names(path), key=lambda name: (name == files.MANIFEST, name)):
            _copy(files.join(path, name), files.join(target, name))
        return
    size = files.size_bytes(path)
    with files.writing(target) as written:
        for start in range(0, max(size, 1), _CHUNK_BYTES):
            written.write(files.read(path, start, _CHUNK_BYTES))
