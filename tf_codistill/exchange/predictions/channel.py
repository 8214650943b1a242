"""Where predictions are left for others: the seam between whoever exchanges them and what carries them.

    channel = FileChannel("/shared/exchange")             or `server.ServerChannel("host:7000", token)`
    channel.begin("group_0", description, step=100)       whoever predicts; what is from step 100 on goes
    channel.put("group_0", step=100, part=0, content)
    channel.get("group_1", step=100, part=0, wait_secs=1.0)     bytes, or None
    channel.newest("group_1")                             99: nothing of step 100 yet

A source is whoever predicts; its parts are its replicas. Contents are bytes, which nobody here believes.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import Any, Protocol

from tf_codistill import files
from tf_codistill.exchange import manifests

_NAME = re.compile(r"step_(\d{1,15})_part_(\d{1,6})")
_DESCRIPTION = "predictions.json"
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05


class Channel(Protocol):
    """What carries predictions. Whatever fails is an `OSError`."""

    def begin(self, source: str, description: dict[str, Any], step: int) -> None:
        """Describes what a source predicts, and forgets what it has predicted for this step or later ones."""

    def description(self, source: str) -> dict[str, Any] | None:
        """What a source has described; None if it has not."""

    def put(self, source: str, step: int, part: int, content: bytes) -> None:
        """Leaves what has been predicted for a part of a batch."""

    def get(self, source: str, step: int, part: int, wait_secs: float, max_bytes: int) -> bytes | None:
        """Takes what a source has predicted, a `CorruptError` if it is longer; None if it has not in time."""

    def newest(self, source: str) -> int | None:
        """The newest step for which a source has predicted anything."""

    def close(self) -> None:
        """Called at the end."""


class FileChannel:
    """Through a shared directory: a file for each part of a step, there at once or not at all."""

    def __init__(self, directory: str, keep_steps: int = 1000, max_bytes: float = 1e9) -> None:
        """Takes note of where; touches no file.

        Args:
            directory: The exchange.
            keep_steps: How many steps each source of this process keeps, at least 1.
            max_bytes: Size of what each keeps from which on older steps go, whatever `keep_steps` says.

        Raises:
            ValueError: A number is out of range.
        """
        if keep_steps < 1 or max_bytes <= 0:
            raise ValueError(
                f"keep_steps is {keep_steps} and max_bytes is {max_bytes}; expected at least 1, more than 0"
            )
        self._directory, self._keep_steps, self._max_bytes = directory, keep_steps, max_bytes
        self._kept: dict[str, dict[tuple[int, int], int]] = {}
        self._lock = threading.Lock()  # replicas leave their parts at the same time

    def begin(self, source: str, description: dict[str, Any], step: int) -> None:
        """See `Channel`."""
        directory = files.ensure_directory(self._place(source))
        kept, is_known = self._kept.setdefault(source, {}), False
        with contextlib.suppress(files.CorruptError):  # which is written again
            is_known = self.description(source) == description
        names = files.names(directory)
        found = [(int(match[1]), int(match[2])) for match in map(_NAME.fullmatch, names) if match]
        # The newest goes first: what is left must not look as if this source were further on than it is.
        for number, part in sorted(found, reverse=True):
            path = self._path(source, number, part)
            if number < step and is_known:
                kept[number, part] = files.size_bytes(path)
            else:
                files.remove(path)
        for name in names:
            if name.endswith(".partial"):
                files.remove(files.join(directory, name))
        files.write_json(files.join(directory, _DESCRIPTION), description)

    def description(self, source: str) -> dict[str, Any] | None:
        """See `Channel`."""
        with contextlib.suppress(FileNotFoundError):
            return manifests.document(files.join(self._place(source), _DESCRIPTION))
        return None

    def put(self, source: str, step: int, part: int, content: bytes) -> None:
        """See `Channel`."""
        files.write(self._path(source, step, part), content)
        with self._lock:
            kept = self._kept.setdefault(source, {})
            kept[step, part] = len(content)
            superseded = self._superseded(kept, step)
        for old in superseded:
            files.remove(self._path(source, *old))

    def get(self, source: str, step: int, part: int, wait_secs: float, max_bytes: int) -> bytes | None:
        """See `Channel`."""
        path, end, pause = self._path(source, step, part), time.monotonic() + wait_secs, _SHORTEST_PAUSE
        while True:
            with contextlib.suppress(FileNotFoundError):
                return manifests.content(path, max_bytes)
            if time.monotonic() + pause > end:
                return None
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)

    def newest(self, source: str) -> int | None:
        """See `Channel`."""
        matches = map(_NAME.fullmatch, files.names(self._place(source)))
        return max((int(match[1]) for match in matches if match), default=None)

    def close(self) -> None:
        """Nothing is left to be done."""

    def _superseded(self, kept: dict[tuple[int, int], int], step: int) -> list[tuple[int, int]]:
        """Takes out of what is kept what is too old or too much, but nothing of the newest step."""
        size, found = sum(kept.values()), list[tuple[int, int]]()
        for old in sorted(kept):
            if old[0] > step - self._keep_steps and (size <= self._max_bytes or old[0] >= step):
                break
            size -= kept.pop(old)
            found.append(old)
        return found

    def _place(self, source: str) -> str:
        return manifests.check_directory(self._directory, source, "predictions")

    def _path(self, source: str, step: int, part: int) -> str:
        return files.join(self._place(source), f"step_{step}_part_{part}")
