"""What has come out of a torture: faults and what followed, goodput, invariants; as tables and as JSON.

report = Report(settings, outcomes, goodputs, findings)
report.print(console)
files.write_json("torture.json", report.figures())
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tf_codistill.torturing.invariants import Finding
from tf_codistill.torturing.outcomes import Goodput, Outcome


@dataclasses.dataclass(frozen=True)
class Report:
    """What has come out.

    Attributes:
        settings: How the job was tortured, by name.
        outcomes: What followed each fault.
        goodputs: What each group has made of its time.
        findings: Which invariants hold.
    """

    settings: Mapping[str, Any]
    outcomes: Sequence[Outcome]
    goodputs: Sequence[Goodput]
    findings: Sequence[Finding]

    @property
    def holds(self) -> bool:
        """Whether all invariants do."""
        return all(finding.holds for finding in self.findings)

    def figures(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "settings": dict(self.settings),
            "faults": [dataclasses.asdict(one) for one in self.outcomes],
            "goodput": [dataclasses.asdict(one) for one in self.goodputs],
            "invariants": [finding._asdict() for finding in self.findings],
            "holds": self.holds,
        }

    def print(self, console: Console) -> None:
        """Shows faults by kind, goodput and invariants."""
        console.print(_faults(self.outcomes), _goodputs(self.goodputs), _findings(self.findings))


def _faults(outcomes: Sequence[Outcome]) -> Table:
    right = [
        Column(name, justify="right", no_wrap=True)
        for name in ("group", "at", "resumed from", "to a new step")
    ]
    table = Table(Column("fault", no_wrap=True), *right, "what followed", box=None, title="Faults by kind")
    for one in sorted(outcomes, key=lambda one: (one.kind, one.at_secs, one.group)):
        resumed = "-" if one.resumed_step is None else str(one.resumed_step)
        secs = "-" if one.secs_to_new_step is None else f"{one.secs_to_new_step:.1f} s"
        followed = escape(one.followed.splitlines()[0])
        table.add_row(one.kind, str(one.group), f"{one.at_secs:.1f} s", resumed, secs, followed)
    return table


def _goodputs(goodputs: Sequence[Goodput]) -> Table:
    names = ("group", "steps kept", "trained", "time", "steps/s without faults", "goodput")
    columns = (Column(name, justify="right") for name in names)
    table = Table(*columns, box=None, title="Goodput")
    for group, one in enumerate(goodputs):
        cells = (f"{one.kept_steps:,}", f"{one.trained_steps:,}", f"{one.secs:.0f} s")
        table.add_row(str(group), *cells, f"{one.steps_per_sec:.1f}", f"{one.goodput:.2f}")
    if goodputs:
        table.add_row("mean", "", "", "", "", f"{statistics.mean(one.goodput for one in goodputs):.2f}")
    return table


def _findings(findings: Sequence[Finding]) -> Table:
    table = Table(Column("invariant", no_wrap=True), "", "evidence", box=None, title="Invariants")
    for finding in findings:
        holds = "[green]holds[/]" if finding.holds else "[bold red]FAILS[/]"
        table.add_row(finding.name, holds, escape(finding.evidence))
    return table
