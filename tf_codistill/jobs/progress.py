"""What a long step shows on standard error: share done, rate and time left.

    with Progress("reading", total=25_459_805, unit="bytes") as progress:
        progress.advance(65_536)

On a terminal it is a bar, elsewhere a plain line every few seconds and one at the end.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich import console as rich_console
from rich import progress as rich_progress

_LINE_EVERY_SECS = 10.0


class Progress:
    """Progress of one step; a context manager.

    Args:
        title: What is being done, such as ``reading``.
        total: Number of units until it is done.
        unit: What is counted, in plural.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title = title
        self._total = max(total, 1)
        self._unit = unit
        self._done = 0
        self._bar = _bar(unit) if sys.stderr.isatty() else None
        self._task = self._bar.add_task(title, total=self._total, rate="") if self._bar else None
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        """Starts the display."""
        self._start = self._last_line = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the display."""
        if self._bar:
            self._bar.stop()
        elif kind is None:
            self._print_line()

    def advance(self, number: int = 1) -> None:
        """Counts units as done.

        Args:
            number: How many.
        """
        self._done += number
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate())
        elif self._done < self._total and time.monotonic() - self._last_line > _LINE_EVERY_SECS:
            self._last_line = time.monotonic()
            secs_left = (self._last_line - self._start) * (self._total / max(self._done, 1) - 1)
            self._print_line(f", {secs_left:.0f} s left")

    def expect(self, total: int) -> None:
        """Corrects the number of units until it is done, where that is learned on the way.

        Args:
            total: Number of units, those done already included.
        """
        self._total = max(total, 1)
        if self._bar and self._task is not None:
            self._bar.update(self._task, total=self._total)

    def _rate(self) -> str:
        return f"{self._done / max(time.monotonic() - self._start, 1e-3):,.0f} {self._unit}/s"

    def _print_line(self, ending: str = "") -> None:
        elapsed = time.monotonic() - self._start
        done = f"{self._done:,} of {self._total:,} {self._unit}"
        print(
            f"{self._title}: {done} in {elapsed:.1f} s ({self._rate()}{ending})", file=sys.stderr, flush=True
        )


def _bar(unit: str) -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description:<20}"),
        rich_progress.BarColumn(),
        rich_progress.TaskProgressColumn(),
        rich_progress.TextColumn("{task.fields[rate]}"),
        rich_progress.TimeRemainingColumn(),
        console=rich_console.Console(stderr=True),
    )
