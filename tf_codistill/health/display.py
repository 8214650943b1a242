"""What `launch` shows of a run while it trains: its groups, and warnings.

    with Display("runs/two", range(2), console) as display:
        while ...:
            display.update()            looks if the last time is long enough ago

    group  step       tokens/s  loss   validation  distillation  staleness  ETA
    0      1350/2000  7,180     3.812  3.714       4.101         50         1m 31s
    1      1340/2000  7,165     3.790  3.720       4.090         60         1m 33s
    warnings: group 1: fell silent once

A warning is a line of its own above the table when it comes first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from tf_codistill import runs
from tf_codistill.health import overview, signs, table
from tf_codistill.health.alarms import Alarms

LINE_PERIOD_SECS = 10.0


class Display:
    """Shows one line per group: rewritten in place on a terminal, added every ten seconds elsewhere.

    A context manager; on leaving it shows the last state, and what has been warned of. A warning is told
    once, and then counted. Metrics that cannot be read are reported once, and looked at again the next time.
    Those on remote storage are read every ten seconds.

    Args:
        workdir: Directory of the run.
        groups: Groups to show.
        console: Where to.
        exchange_dir: Directory through which groups exchange; that of the workdir by default.
        silent_secs: After so many seconds without a sign a group is warned of.
    """

    def __init__(
        self,
        workdir: str,
        groups: Sequence[int],
        console: Console,
        exchange_dir: str | None = None,
        silent_secs: float = overview.SILENT_SECS,
    ) -> None:
        self._workdir = workdir
        self._exchange_dir = exchange_dir or runs.exchange_dir(workdir)
        self._groups = groups
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown_at = time.monotonic()
        self._trouble = ""
        self._alarms = Alarms(silent_secs, began_at=time.time())

    def __enter__(self) -> Display:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()
        if self._live:
            self._live.__exit__(kind, error, trace)
        elif counted := self._alarms.counted():
            self._console.print(f"warnings: {counted}", markup=False)

    def update(self) -> None:
        """Shows the groups' state if the last time is long enough ago; to be called often."""
        is_quick = self._live and not table.is_slow(self._workdir, self._exchange_dir)
        period_secs = table.TERMINAL_PERIOD_SECS if is_quick else LINE_PERIOD_SECS
        if time.monotonic() - self._shown_at >= period_secs:
            self._show()

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        try:
            healths = [signs.read_signs(self._workdir, self._exchange_dir, one) for one in self._groups]
        except (OSError, ValueError) as error:
            if str(error) != self._trouble:
                self._console.print(f"status: {error}", markup=False)
            self._trouble = str(error)
            return
        self._trouble = ""
        for warning in self._alarms.look(healths, time.time()):
            self._console.print(f"warning: {warning}", markup=False)
        statuses = [health.status for health in healths]
        if self._live:
            counted = self._alarms.counted()
            below = [escape(f"warnings: {counted}")] if counted else []
            self._live.update(Group(table.progress_table(statuses), *below), refresh=True)
            return
        for line in table.lines(statuses):
            self._console.print(line, markup=False)
