"""How far each group of a run is: one readable line per group.

    group  step       points/s  loss   validation  distillation  staleness  ETA
    0      1350/2000  7,180     3.812  3.714       4.101         50         1m 31s
    1      1340/2000  7,165     3.790  3.720       4.090         60         1m 33s

Everything is read from the groups' metrics files, so that whoever shows it needs no word with the workers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from tf_codistill import files, runs

TERMINAL_PERIOD_SECS = 1.0
LINE_PERIOD_SECS = 10.0

_RECENT_RECORDS = 5


@dataclasses.dataclass(frozen=True)
class Status:
    """What one group has reached, as read from its metrics file; None where nothing is known yet.

    Attributes:
        group: Index of the group.
        step: Steps trained.
        num_steps: Steps that the run is to train.
        secs_per_step: Seconds that a step took lately.
        units: What the task counts its data in.
        train: The newest training metrics by name; empty before the first.
        validation_loss: The newest validation loss in nats.
    """

    group: int
    step: int
    num_steps: int | None
    secs_per_step: float | None
    units: str
    train: dict[str, float]
    validation_loss: float | None

    @property
    def eta_secs(self) -> float | None:
        """Seconds until the last step at the present speed."""
        if self.num_steps is None or self.secs_per_step is None:
            return None
        return max(0, self.num_steps - self.step) * self.secs_per_step

    def cells(self) -> dict[str, str]:
        """The status as text by column name, in the order in which it is shown."""
        known = self.num_steps is not None
        return {
            "group": str(self.group),
            "step": f"{self.step}/{self.num_steps}" if known else "starting",
            f"{self.units}/s": _number(self.train.get(f"{self.units}_per_sec"), ",.0f"),
            "loss": _number(self.train.get("loss"), ".3f"),
            "validation": _number(self.validation_loss, ".3f"),
            "distillation": _number(self.train.get("distillation_loss"), ".3f"),
            "staleness": _number(self.train.get("staleness_steps"), ".0f"),
            "ETA": duration(self.eta_secs),
        }


def read_status(workdir: str, group: int) -> Status:
    """The status of one group, read from its metrics file.

    Args:
        workdir: Directory of the run.
        group: Index of the group.

    Returns:
        The newest values; a group that has not written any yet is at step 0 with nothing known.
    """
    records = runs.read_metrics(runs.metrics_path(workdir, group))
    by_kind = {kind: [r for r in records if r["kind"] == kind] for kind in runs.KINDS}
    start = by_kind["start"][-1] if by_kind["start"] else {}
    train, validation = by_kind["train"], by_kind["validation"]
    return Status(
        group=group,
        step=records[-1]["step"] if records else 0,
        num_steps=start.get("num_steps"),
        secs_per_step=_secs_per_step(train[-_RECENT_RECORDS:]),
        units=start.get("units", "examples"),
        train=train[-1] if train else {},
        validation_loss=validation[-1]["loss"] if validation else None,
    )


def finished_steps(workdir: str, num_groups: int) -> int | None:
    """How many steps every group of a finished run has trained.

    Args:
        workdir: Directory of the run.
        num_groups: Groups that the run has.

    Returns:
        The steps of the group that trained least, or None if a group has not reached its end.
    """
    steps = []
    for group in range(num_groups):
        ends = runs.read_metrics(runs.metrics_path(workdir, group), "end")
        num_steps = read_status(workdir, group).num_steps
        if not ends or num_steps is None or ends[-1]["step"] < num_steps:
            return None
        steps.append(int(ends[-1]["step"]))
    return min(steps)


def duration(secs: float | None) -> str:
    """A time span in seconds as text, such as ``1m 31s``; ``-`` for None."""
    if secs is None:
        return "-"
    minutes, rest = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


class Display:
    """Shows one line per group: rewritten in place on a terminal, added every ten seconds elsewhere.

    A context manager; on leaving it shows the last state. Metrics that cannot be read are reported once, and
    looked at again the next time. Those on remote storage are read every ten seconds.

    Args:
        workdir: Directory of the run.
        num_groups: Groups to show.
        console: Where to.
    """

    def __init__(self, workdir: str, num_groups: int, console: Console) -> None:
        self._workdir = workdir
        self._num_groups = num_groups
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown_at = time.monotonic()
        self._trouble = ""

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

    def update(self) -> None:
        """Shows the groups' state if the last time is long enough ago; to be called often."""
        is_quick = self._live and not files.is_remote(self._workdir)
        period_secs = TERMINAL_PERIOD_SECS if is_quick else LINE_PERIOD_SECS
        if time.monotonic() - self._shown_at >= period_secs:
            self._show()

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        try:
            rows = [read_status(self._workdir, group).cells() for group in range(self._num_groups)]
        except (OSError, ValueError) as error:
            if str(error) != self._trouble:
                self._console.print(f"status: {error}", markup=False)
            self._trouble = str(error)
            return
        self._trouble = ""
        if self._live:
            columns = (Column(name, justify="right", no_wrap=True) for name in rows[0])
            table = Table(*columns, box=None, header_style="dim", padding=(0, 1, 0, 0))  # fits 80 characters
            for row in rows:
                table.add_row(*row.values())
            self._live.update(table, refresh=True)
            return
        for row in rows:
            known = (f"{name} {value}" for name, value in row.items() if value != "-")
            self._console.print("  ".join(known), markup=False)


def _secs_per_step(train: Sequence[dict[str, float]]) -> float | None:
    if not train:
        return None
    first = train[0] if len(train) > 1 else {"step": 0, "elapsed_secs": 0.0}
    steps = train[-1]["step"] - first["step"]
    return (train[-1]["elapsed_secs"] - first["elapsed_secs"]) / steps if steps > 0 else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
