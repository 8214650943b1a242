"""The rounds in which a run is evaluated while it trains, from its first snapshot to its last.

    follow(task, "runs/two")

    look for newer snapshots --> score the groups' newest and their ensemble --> a line --> look again
        ^         |
        +- wait --+ nothing new: the end, once all groups have finished

    group 0, step 1350: 3.712  group 1, step 1300: 3.701  ensemble: 3.611  disagreement: 0.214

Snapshots that come while a round is made are passed over, but for the newest of each group. What fails is
counted and tried again, and ends nothing. A figure is the one that `evaluate` gives of the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tf_codistill import evaluation, reporting, runs
from tf_codistill.exchange.snapshot import Ref
from tf_codistill.following import waiting
from tf_codistill.following.faults import Faults
from tf_codistill.following.findings import Findings
from tf_codistill.following.members import TRIES, Members
from tf_codistill.tasks.base import Task

Clock = Callable[[], float]

_TELL_AFTER_SECS = 60.0
_WHY_NOTHING = (
    "groups publish where others learn from them; of a group alone bind PeerExchange.publish = 'always', and "
    "name --exchange_dir where they exchange elsewhere"
)


def follow(
    task: Task,
    workdir: str,
    exchange_dir: str | None = None,
    output_dir: str | None = None,
    show: waiting.Show = waiting.say,
    sleep: waiting.Sleep = time.sleep,
    clock: Clock = time.monotonic,
) -> None:
    """Evaluates what the groups of a run publish, until all have finished and their last has been scored.

    It can be interrupted at any time; called again it goes on behind the last line that it has written.

    Args:
        task: What the groups learn.
        workdir: Directory of the run.
        exchange_dir: Directory through which its groups exchange; in the workdir if not given.
        output_dir: Where to write; ``evaluation`` in the workdir if not given.
        show: Shows a line.
        sleep: Waits for so many seconds.
        clock: Returns seconds that never go back.

    Raises:
        ValueError: A group trains something else, the directory cannot be written to, or the groups have
            finished and there was nothing to score.
    """
    exchange_dir = exchange_dir or runs.exchange_dir(workdir)
    faults, findings = Faults(), Findings(output_dir or runs.evaluation_dir(workdir))
    members = Members(task, workdir, exchange_dir, faults)
    members.check()
    scoring = _Scoring(task, members, findings, faults, show, clock)
    quiet = _Quiet(exchange_dir, members, show, clock)
    while True:
        # In this order: whoever has finished by now has published its last, which is then seen.
        awaited = waiting.unfinished_yet(workdir, [one.group for one in members.held()], faults)
        is_all = members.look()
        if scoring.is_due():
            if scoring.score():
                quiet.end()
                continue
        elif awaited == [] and is_all:
            break
        quiet.tell(awaited)
        sleep(waiting.poll_secs(workdir, exchange_dir))
    if not findings.scored:
        why = f"there were {faults.number} faults, see the warnings above" if faults.number else _WHY_NOTHING
        raise ValueError(
            f"the groups of {workdir!r} have finished, but there was no snapshot to score: {why}"
        )
    show(f"all groups have finished, faults: {faults.number}, figures: {findings.path}")


class _Scoring:
    """Makes a round when there is something new for it."""

    def __init__(
        self,
        task: Task,
        members: Members,
        findings: Findings,
        faults: Faults,
        show: waiting.Show,
        clock: Clock,
    ) -> None:
        self._task, self._members, self._findings = task, members, findings
        self._faults, self._show, self._clock = faults, show, clock
        self._names: list[str] = []
        self._evaluator: evaluation.Evaluator | None = None
        self._tried: list[Ref | None] = []
        self._failures, self._faults_before = 0, 0

    def is_due(self) -> bool:
        """Whether a snapshot has no figures yet, and has not been tried often enough."""
        held = self._members.held()
        refs = [one.held for one in held]
        if refs != self._tried:
            self._tried, self._failures = refs, 0
        return any(map(self._findings.is_new, held)) and self._failures < TRIES

    def score(self) -> bool:
        """Makes a round; whether that went well."""
        began, members = self._clock(), self._members.held()
        try:
            rows = self._evaluator_of_all().measure({one.name: one.lanes for one in members})
            number = self._faults.number
            self._findings.add(members, rows, self._clock() - began, number - self._faults_before)
        except Exception as error:  # storage may be back the next time
            self._failures += 1
            self._faults.note("scoring", error)
            return False
        self._faults_before = number
        loss = reporting.loss_among(reporting.columns(rows)) or "loss"
        shown = {f"{one.name}, step {one.step}": rows[one.name].get(loss) for one in members}
        if runs.ENSEMBLE in rows:
            shown[runs.ENSEMBLE] = rows[runs.ENSEMBLE].get(loss)
            shown[evaluation.DISAGREEMENT] = rows[runs.ENSEMBLE][evaluation.DISAGREEMENT]
        self._show("  ".join(f"{name}: {value:.4g}" for name, value in shown.items()))
        return True

    def _evaluator_of_all(self) -> evaluation.Evaluator:
        """Made anew when another group has come."""
        models = {one.name: one.model for one in self._members.held()}
        if self._evaluator is None or self._names != list(models):
            self._evaluator = evaluation.Evaluator(self._task, models, disagreement=True)
            self._names = list(models)
        return self._evaluator


class _Quiet:
    """Says once what is waited for, when nothing new has come for a while."""

    def __init__(self, exchange_dir: str, members: Members, show: waiting.Show, clock: Clock) -> None:
        self._exchange_dir, self._members, self._show, self._clock = exchange_dir, members, show, clock
        self._since, self._told = clock(), ""

    def end(self) -> None:
        """Something has come."""
        self._since = self._clock()

    def tell(self, awaited: list[int] | None) -> None:
        """Says it, if it is time to."""
        sentence = "waiting for " + (", ".join(f"group {group}" for group in awaited or ()) or "the storage")
        if not self._members.held():
            sentence = f"warning: no snapshot of this run is in {self._exchange_dir!r} yet: {_WHY_NOTHING}"
        if self._clock() - self._since > _TELL_AFTER_SECS and sentence != self._told:
            self._told = sentence
            self._show(sentence)
