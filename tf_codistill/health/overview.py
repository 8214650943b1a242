"""A run at one moment: the health of all its groups, and the same as figures by name.

    overview = read("runs/two", "runs/two/exchange", silent_secs=45.0, now=time.time())
    figures(overview)    {"workdir": "runs/two", "time": 1.7e9, "silent_limit_secs": 45.0, "groups": [
                             {"group": 0, "state": "training", "step": 1350, ...}, ...],
                          "evaluation": {"step": 1350, "ensemble_loss": 3.61, ...}}

The figures are what ``status --json`` prints; docs/status.md says what each is. All text that comes from the
run's files is cut to a sensible length, and without what would do something to a terminal.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tf_codistill import terminal
from tf_codistill.health import evaluated, signs
from tf_codistill.health.evaluated import Evaluated
from tf_codistill.health.signs import Health

SILENT_SECS = 45.0
"""After so many seconds without a line of metrics or a snapshot a group counts as silent."""

STARTING, TRAINING, SILENT, FINISHED = "starting", "training", "silent", "finished"

_LONGEST_TEXT = 300


@dataclasses.dataclass(frozen=True)
class Overview:
    """A run at one moment.

    Attributes:
        workdir: Directory of the run.
        at: The moment, in seconds since the epoch.
        silent_secs: After so many seconds a group counts as silent.
        groups: The health of each group.
        evaluated: What `evaluate --continuous` has found last; None if it does not follow the run.
    """

    workdir: str
    at: float
    silent_secs: float
    groups: tuple[Health, ...]
    evaluated: Evaluated | None = None

    def state(self, health: Health) -> str:
        """What a group is doing: `STARTING`, `TRAINING`, `SILENT` or `FINISHED`."""
        silent_secs = health.silent_secs(self.at)
        if health.status.is_ended:
            return FINISHED
        if silent_secs is not None and silent_secs > self.silent_secs:
            return SILENT
        return STARTING if health.status.num_steps is None else TRAINING


def read(workdir: str, exchange_dir: str, silent_secs: float, now: float) -> Overview:
    """Reads a run.

    Args:
        workdir: Directory of the run.
        exchange_dir: Directory through which its groups exchange.
        silent_secs: After so many seconds a group counts as silent.
        now: The time in seconds since the epoch.

    Returns:
        All its groups; none if it has not begun.

    Raises:
        OSError: The directories cannot be read.
    """
    found = (signs.read(workdir, exchange_dir, group) for group in signs.groups(workdir, exchange_dir))
    return Overview(workdir, now, silent_secs, tuple(found), evaluated.read(workdir))


def figures(overview: Overview) -> dict[str, Any]:
    """A run as plain values that JSON knows.

    Args:
        overview: The run.

    Returns:
        The fields that docs/status.md describes; None for what is not known or not finite.
    """
    return {
        "workdir": text(overview.workdir),
        "time": overview.at,
        "silent_limit_secs": None if _is_odd(overview.silent_secs) else overview.silent_secs,
        "groups": [group_figures(overview, health) for health in overview.groups],
        "evaluation": overview.evaluated and dataclasses.asdict(overview.evaluated),
    }


def group_figures(overview: Overview, health: Health) -> dict[str, Any]:
    """One group as plain values.

    Args:
        overview: The run.
        health: The group.

    Returns:
        Its figures by name.
    """
    status, published, held_by = health.status, health.published, health.held_by
    beat_at = held_by.beat_at if held_by else None
    found = {
        "group": status.group,
        "state": overview.state(health),
        "step": status.step,
        "num_steps": status.num_steps,
        "units": text(status.units),
        "units_per_sec": status.units_per_sec,
        "eta_secs": status.eta_secs,
        "loss": status.train.get("loss"),
        "validation_loss": status.validation_loss,
        "distillation_loss": status.train.get("distillation_loss"),
        "staleness_steps": status.train.get("staleness_steps"),
        "silent_secs": health.silent_secs(overview.at),
        "snapshot_step": published.step if published else None,
        "snapshot_age_secs": max(0.0, overview.at - published.at) if published else None,
        "checkpoint_step": health.checkpoint_step,
        "teachers": [dataclasses.asdict(teacher) for teacher in health.teachers],
        "num_restarts": status.num_restarts,
        "failed_publications": status.failed_publications,
        "last_error": text(health.last_error),
        "host": text(held_by.host) if held_by else None,
        "pid": held_by.pid if held_by else None,
        "heartbeat_age_secs": None if beat_at is None else max(0.0, overview.at - beat_at),
        "trouble": text(health.trouble),
    }
    return {name: None if _is_odd(value) else value for name, value in found.items()}


def text(found: str | None) -> str | None:
    """A text of the run, in one line, not too long, without what would do something to a terminal."""
    if found is None:
        return None
    line = " ".join(terminal.visible(found).split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}..."


def _is_odd(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
