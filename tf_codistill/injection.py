"""Faults on purpose: what a cluster does to a run, at a step of one's choice, once.

    --inject=kill@1:0:120           worker 0 of group 1 is killed at step 120
    --inject=storage_503@0:0:50     for half a minute from step 50 on no storage answers worker 0 of group 0

    kill                                   the process, by SIGKILL
    hang                                   the training thread, for ever
    slow                                   twenty steps, by half a second each
    nan                                    the student's first weight
    corrupt_snapshot truncate_snapshot     a file of the newest snapshot that this group has published
    delete_snapshot                        all of it
    full_disk                              whatever is written in the next half minute fails with ENOSPC
    storage_503                            whatever is read, written or listed then fails

A file in the group's directory remembers what has been done, so that a group that is started again does not
meet the same fault at the same step.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from absl import logging

from tf_codistill import files, runs
from tf_codistill.files import storage

OUTAGE_SECS = 30.0
_SLOW_STEPS, _SLOW_SECS = 20, 0.5
_READING = frozenset({"exists", "isdir", "listdir", "glob", "stat"})
_WRITING = frozenset({"makedirs", "rename", "remove", "rmtree"})


class Fault(NamedTuple):
    """One fault.

    Attributes:
        kind: What happens, one of `KINDS`.
        group: To which group.
        worker: To which of its workers.
        step: After how many steps.
    """

    kind: str
    group: int
    worker: int
    step: int

    def __str__(self) -> str:
        return f"{self.kind}@{self.group}:{self.worker}:{self.step}"


def parse(text: str) -> Fault:
    """Reads what ``--inject`` says.

    Args:
        text: Such as ``kill@1:0:120``.

    Returns:
        The fault.

    Raises:
        ValueError: It has another form, or there is no such kind.
    """
    match = re.fullmatch(r"(\w+)@(\d+):(\d+):(\d+)", text)
    if match is None or match.group(1) not in KINDS:
        raise ValueError(
            f"--inject={text} is not understood; expected kind@group:worker:step with a kind of "
            f"{', '.join(KINDS)}"
        )
    return Fault(match.group(1), *(int(number) for number in match.groups()[1:]))


class Injection(keras.callbacks.Callback):
    """Lets faults happen to one worker."""

    def __init__(
        self, faults: Sequence[Fault], group: int, worker: int, directory: str, exchange: str
    ) -> None:
        """Takes note of those that are for this worker.

        Args:
            faults: The faults of the run.
            group: This worker's group.
            worker: Which of its workers it is.
            directory: The group's directory.
            exchange: Directory through which groups exchange.
        """
        super().__init__()
        self._faults = [fault for fault in faults if (fault.group, fault.worker) == (group, worker)]
        self._done_dir = files.join(directory, "injected")
        self._published_dir = files.join(exchange, f"group_{group}")
        self._num_slow = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Lets those happen whose step has come."""
        if self._num_slow:
            self._num_slow -= 1
            time.sleep(_SLOW_SECS)
        for fault in self._faults:
            if self.model.step() >= fault.step and self._is_new(fault):
                logging.warning("injected: %s", fault)
                KINDS[fault.kind](self)

    def _is_new(self, fault: Fault) -> bool:
        done = files.join(self._done_dir, str(fault).replace(":", "_"))
        if files.exists(done):
            return False
        files.ensure_directory(self._done_dir)
        files.write(done, b"")
        return True

    def kill(self) -> None:
        """Ends this process at once."""
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self) -> None:
        """Makes no step any more."""
        while True:
            time.sleep(1.0)

    def slow(self) -> None:
        """Makes the next steps slow."""
        self._num_slow = _SLOW_STEPS

    def nan(self) -> None:
        """Makes the student's predictions NaN."""
        weight = self.model.students[0].trainable_variables[0]
        weight.assign(weight * float("nan"))

    def corrupt_snapshot(self) -> None:
        """Flips a bit in the middle of every file of the newest snapshot."""
        for path in self._newest_files():
            content = bytearray(files.read(path))
            if content:
                content[len(content) // 2] ^= 1
                files.write(path, bytes(content))

    def truncate_snapshot(self) -> None:
        """Leaves half of every file of the newest snapshot."""
        for path in self._newest_files():
            files.write(path, files.read(path)[: files.size_bytes(path) // 2])

    def delete_snapshot(self) -> None:
        """Deletes the newest snapshot."""
        if directory := self._newest():
            files.remove(directory)

    def full_disk(self) -> None:
        """Lets no file be written for a while."""
        _break(_WRITING, lambda mode: mode != "rb", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def storage_503(self) -> None:
        """Lets no storage answer for a while."""
        error = OSError(errno.EIO, "503 Service Unavailable")
        _break(_READING | _WRITING, lambda mode: True, error)

    def _newest(self) -> str | None:
        found = [name for name in files.names(self._published_dir) if runs.SNAPSHOT.fullmatch(name)]
        return files.join(self._published_dir, found[-1]) if found else None

    def _newest_files(self) -> list[str]:
        directory = self._newest()
        return [files.join(directory, name) for name in files.names(directory)] if directory else []


KINDS: dict[str, Callable[[Injection], None]] = {
    "kill": Injection.kill,
    "hang": Injection.hang,
    "slow": Injection.slow,
    "nan": Injection.nan,
    "corrupt_snapshot": Injection.corrupt_snapshot,
    "truncate_snapshot": Injection.truncate_snapshot,
    "delete_snapshot": Injection.delete_snapshot,
    "full_disk": Injection.full_disk,
    "storage_503": Injection.storage_503,
}
"""What can happen, by name."""


def _break(verbs: frozenset[str], is_broken: Callable[[str], bool], error: OSError) -> None:
    """Lets some verbs of every storage fail for a while, and opening files in some modes."""
    whole, until = storage.of, time.monotonic() + OUTAGE_SECS

    class Broken:
        def __init__(self, place: Any) -> None:
            self._place = place

        def __getattr__(self, verb: str) -> Any:
            if verb in verbs and time.monotonic() < until:
                raise error
            return getattr(self._place, verb)

        def GFile(self, path: str, mode: str) -> Any:  # noqa: N802 - as TensorFlow calls it
            if is_broken(mode) and time.monotonic() < until:
                raise error
            return self._place.GFile(path, mode)

    def of(path: str) -> Any:
        if time.monotonic() >= until:
            storage.of = whole
        return Broken(whole(path))

    storage.of = of
