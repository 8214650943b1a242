"""How far a group is, as its metrics file tells.

    status = read_status("runs/two", 0)
    status.step, status.num_steps           1350, 2000
    status.validation_loss, status.eta_secs     3.714, 91.2
    finished_steps("runs/two", range(2))    None: a group has not come to its end

Whoever shows it needs no word with the workers. Of a file of many megabytes only the end is read. What is no
number where one is expected counts as unknown: anybody may have written the file.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tf_codistill import runs, terminal

MAX_METRICS_BYTES = 8 << 20
CURVES = ("validation_loss", "distillation_loss", "staleness_steps")

_RECENT_RECORDS = 5
_MAX_POINTS = 300
_LONGEST_UNITS = 20


@dataclasses.dataclass(frozen=True)
class Status:
    """What one group has reached; None where nothing is known yet.

    Attributes:
        group: Index of the group.
        step: Steps trained.
        num_steps: Steps that the run is to train.
        secs_per_step: Seconds that a step took lately.
        units: What the task counts its data in.
        train: The newest training metrics by name; empty before the first.
        validation_loss: The newest validation loss in nats.
        is_ended: Whether the group has come to the end of its training.
        num_restarts: How often it has been started again after a failure.
        restart_reason: Why it was the last time.
        failed_publications: Attempts to publish a snapshot that failed.
        out_of_order: Where steps of the file go back, see `runs.out_of_order`; None if they do not.
        curves: Steps and values by name, one of `CURVES`, for a picture.
    """

    group: int
    step: int = 0
    num_steps: int | None = None
    secs_per_step: float | None = None
    units: str = "examples"
    train: Mapping[str, float] = dataclasses.field(default_factory=dict)
    validation_loss: float | None = None
    is_ended: bool = False
    num_restarts: int = 0
    restart_reason: str | None = None
    failed_publications: int = 0
    out_of_order: tuple[int, int] | None = None
    curves: Mapping[str, Sequence[tuple[int, float]]] = dataclasses.field(default_factory=dict)

    @property
    def eta_secs(self) -> float | None:
        """Seconds until the last step at the present speed."""
        if self.num_steps is None or self.secs_per_step is None:
            return None
        return max(0, self.num_steps - self.step) * self.secs_per_step

    @property
    def units_per_sec(self) -> float | None:
        """How much the group trains on in a second."""
        return self.train.get(f"{self.units}_per_sec")

    def cells(self) -> dict[str, str]:
        """The status as text by column name, in the order in which it is shown."""
        known = self.num_steps is not None
        return {
            "group": str(self.group),
            "step": f"{self.step}/{self.num_steps}" if known else "starting",
            f"{self.units}/s": _text(self.units_per_sec, ",.0f"),
            "loss": _text(self.train.get("loss"), ".3f"),
            "validation": _text(self.validation_loss, ".3f"),
            "distillation": _text(self.train.get("distillation_loss"), ".3f"),
            "staleness": _text(self.train.get("staleness_steps"), ".0f"),
            "ETA": duration(self.eta_secs),
        }


def read_status(workdir: str, group: int) -> Status:
    """The status of one group.

    Args:
        workdir: Directory of the run.
        group: Index of the group.

    Returns:
        The newest values; a group that has not written any yet is at step 0 with nothing known.

    Raises:
        ValueError: A line of the metrics file is no record.
        OSError: The file is there, but cannot be read.
    """
    records = runs.read_metrics(runs.metrics_path(workdir, group), max_bytes=MAX_METRICS_BYTES)
    by_kind = {kind: [r for r in records if r["kind"] == kind] for kind in runs.KINDS}
    start = by_kind["start"][-1] if by_kind["start"] else {}
    train, validations, restarts = by_kind["train"], by_kind["validation"], by_kind["restart"]
    num_steps, step = finite(start, "num_steps"), records[-1]["step"] if records else 0
    return Status(
        group=group,
        step=step,
        num_steps=None if num_steps is None else int(num_steps),
        secs_per_step=_secs_per_step(train[-_RECENT_RECORDS:]),
        units=terminal.visible(str(start.get("units", "examples")))[:_LONGEST_UNITS],
        train=_numbers(train[-1]) if train else {},
        validation_loss=number(validations[-1], "loss") if validations else None,
        is_ended=bool(records) and records[-1]["kind"] == "end" and step >= (num_steps or 0),
        num_restarts=len(restarts),
        restart_reason=str(restarts[-1].get("reason", "")) if restarts else None,
        failed_publications=int(
            min(sum(finite(record, "failed_publications") or 0.0 for record in train), sys.maxsize)
        ),
        out_of_order=runs.out_of_order(records),
        curves={
            name: _thinned(validations if name == CURVES[0] else train, name.removeprefix("validation_"))
            for name in CURVES
        },
    )


def finished_steps(workdir: str, groups: Sequence[int]) -> int | None:
    """How many steps every group of a finished run has trained.

    Args:
        workdir: Directory of the run.
        groups: Its groups.

    Returns:
        The steps of the group that trained least, or None if a group has not reached its end.
    """
    steps = []
    for group in groups:
        ends = runs.read_metrics(runs.metrics_path(workdir, group), "end", MAX_METRICS_BYTES)
        num_steps = read_status(workdir, group).num_steps
        if not ends or num_steps is None or ends[-1]["step"] < num_steps:
            return None
        steps.append(int(ends[-1]["step"]))
    return min(steps)


def duration(secs: float | None) -> str:
    """A time span in seconds as text, such as ``1m 31s``; ``-`` for None."""
    if secs is None or not math.isfinite(secs):
        return "-"
    minutes, rest = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


def number(record: object, name: str) -> float | None:
    """What a record, read from JSON, says under a name, if it is a number; None otherwise."""
    value = record.get(name) if isinstance(record, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def finite(record: object, name: str) -> float | None:
    """The same, but None for what is infinite or not a number either."""
    value = number(record, name)
    return value if value is not None and math.isfinite(value) else None


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    found = {name: number(record, name) for name in record}
    return {name: value for name, value in found.items() if value is not None}


def _secs_per_step(train: Sequence[Mapping[str, Any]]) -> float | None:
    if not train:
        return None
    first = train[0] if len(train) > 1 else {"step": 0, "elapsed_secs": 0.0}
    steps = train[-1]["step"] - first["step"]
    ends = [finite(record, "elapsed_secs") for record in (first, train[-1])]
    if steps <= 0 or ends[0] is None or ends[1] is None or ends[1] < ends[0]:
        return None
    return (ends[1] - ends[0]) / steps


def _thinned(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Steps and values, of many only every so many, and the last."""
    points = [(r["step"], value) for r in records if (value := finite(r, name)) is not None]
    every = math.ceil(len(points) / _MAX_POINTS) or 1
    return points[-1:0:-every][::-1] if every > 1 else points


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
