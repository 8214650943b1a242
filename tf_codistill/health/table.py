"""The groups of a run on a terminal: how far they are, and below it how they fare.

    group  step       tokens/s  loss   validation  distillation  staleness  ETA
    0      1350/2000  7,180     3.812  3.714       4.101         50         1m 31s
    1      1340/2000  7,165     3.790  3.720       4.090         60         1m 33s

    group  state          snapshot           failed  teachers            restarts  held by       last error
    0      training       step 1350, 0m 04s  0       group 1, 50 behind  0         node-7, 4711  -
    1      silent 2m 10s  step 1300, 2m 10s  0       group 0, 60 behind  1         -             MemoryError

    evaluation: step 1350, ensemble 3.611, disagreement 0.214, 0m 12s ago

What is old is yellow, what is wrong is red. The last line is there while `evaluate --continuous` follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from tf_codistill import files
from tf_codistill.health import overview
from tf_codistill.health.overview import Overview
from tf_codistill.health.progress import Status, duration

TERMINAL_PERIOD_SECS = 1.0
REMOTE_PERIOD_SECS = 10.0

_STYLES = {"old": "yellow", "bad": "red"}
_LINE_CHARACTERS = 160
WIDE = ("teachers", "held by", "last error")
"""Columns whose text may have several lines."""


def progress_table(statuses: Sequence[Status]) -> Table:
    """How far the groups are; fits 80 characters."""
    rows = [status.cells() for status in statuses]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = (Column(escape(name), justify="right", no_wrap=True) for name in names)
    table = Table(*columns, box=None, header_style="dim", padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*(escape(row.get(name, "-")) for name in names))
    return table


def health_cells(figures: Mapping[str, Any]) -> dict[str, str]:
    """How a group fares, as text by column name.

    Args:
        figures: What `overview.group_figures` says of it.

    Returns:
        The text of each column; ``-`` for what is not known.
    """
    state, error = figures["state"], figures["trouble"] or figures["last_error"]
    snapshot, age = figures["snapshot_step"], figures["snapshot_age_secs"]
    if state == overview.SILENT:
        state = f"{state} {duration(figures['silent_secs'])}"
    failed = figures["failed_publications"]
    holder = [
        str(figures[name])
        for name in ("host", "pid")
        if figures["host"] is not None and figures[name] is not None
    ]
    if figures["heartbeat_age_secs"] is not None:
        holder.append(duration(figures["heartbeat_age_secs"]))
    return {
        "state": state,
        "snapshot": "-" if snapshot is None else f"step {snapshot}, {duration(age)}",
        "failed": str(failed),
        "teachers": "; ".join(map(_teacher, figures["teachers"])) or "-",
        "restarts": str(figures["num_restarts"]),
        "held by": ", ".join(holder) or "-",
        "last error": error or "-",
    }


def marks(figures: Mapping[str, Any], limit_secs: float) -> dict[str, str]:
    """Which columns are to be marked, as ``old`` or as ``bad``.

    Args:
        figures: What `overview.group_figures` says of a group.
        limit_secs: From which age on something is old, in a group that trains.

    Returns:
        The mark by column name.
    """
    found = {}
    if figures["state"] == overview.SILENT:
        found["state"] = "bad"
    if figures["trouble"] or figures["last_error"]:
        found["last error"] = "bad"
    if figures["failed_publications"]:
        found["failed"] = "old"
    for column, name in (("snapshot", "snapshot_age_secs"), ("held by", "heartbeat_age_secs")):
        if figures["state"] != overview.FINISHED and (figures[name] or 0.0) > limit_secs:
            found[column] = "old"
    return found


def tables(run: Overview) -> Group:
    """Both tables of a run, or that it has not begun."""
    if not run.groups:
        return Group(escape(f"{run.workdir}: no group has begun yet"))
    columns: list[Column] = []
    rows: list[list[str]] = []
    for health in run.groups:
        figures = overview.group_figures(run, health)
        marked = marks(figures, run.silent_secs)
        row = {"group": str(health.status.group), **health_cells(figures)}
        columns = columns or [_column(name) for name in row]
        rows.append([_styled(text, marked.get(name)) for name, text in row.items()])
    table = Table(*columns, box=None, header_style="dim", padding=(0, 1, 0, 0))
    for cells in rows:
        table.add_row(*cells)
    below = run.evaluated.sentence(run.at) if run.evaluated else ""
    lines = ["", below] if below else []
    return Group(progress_table([health.status for health in run.groups]), "", table, *lines)


def show(read: Callable[[], Overview], console: Console, is_remote: bool = False) -> None:
    """Shows a run: in place, until Ctrl-C, on a terminal; once elsewhere.

    Args:
        read: Reads it.
        console: Where to.
        is_remote: Whether it is on remote storage, which is read less often.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if not console.is_terminal:
        console.width = _LINE_CHARACTERS
        console.print(tables(read()))
        return
    period_secs = REMOTE_PERIOD_SECS if is_remote else TERMINAL_PERIOD_SECS
    with Live(tables(read()), console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            time.sleep(period_secs)
            try:
                live.update(tables(read()), refresh=True)
            except OSError as error:  # storage may be back the next time
                live.update(escape(f"status: {error}"), refresh=True)


def is_slow(*paths: str) -> bool:
    """Whether reading a run takes long, so that it is not to be done every second."""
    return any(map(files.is_remote, paths))


def _column(name: str) -> Column:
    if name in WIDE:
        return Column(name, overflow="fold")
    return Column(name, justify="right" if name in ("group", "failed", "restarts") else "left", no_wrap=True)


def _styled(text: str, mark: str | None) -> str:
    return f"[{_STYLES[mark]}]{escape(text)}[/]" if mark else escape(text)


def _teacher(teacher: Mapping[str, Any]) -> str:
    behind = teacher["staleness_steps"]
    if behind is None:
        return f"group {teacher['peer']}"
    return f"group {teacher['peer']}, {abs(behind)} {'behind' if behind >= 0 else 'ahead'}"


def lines(statuses: Iterable[Status]) -> list[str]:
    """A line for each group, for where there is no terminal."""
    known = [[f"{k} {v}" for k, v in status.cells().items() if v != "-"] for status in statuses]
    return ["  ".join(parts) for parts in known]
