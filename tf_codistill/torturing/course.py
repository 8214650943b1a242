"""The course of a torture: data, a rehearsal, the job under faults, the same job without, a judgement.

report = torture(Settings(workdir="runs/torture", minutes=10, mtbf_secs=20, num_groups=3), console)

<workdir>/rehearsal/       a short run without faults, on data of its own: how many steps fit the time
          data/            rows and table for so many
          tortured/        the run under faults, with its trail
          control_1/ ...   the same with other seeds and without faults: how fast it is, and where it ends
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from rich.console import Console

from tf_codistill import files, runs
from tf_codistill.health import display
from tf_codistill.torturing import evidence, invariants, job, outcomes, plan, trail, victim
from tf_codistill.torturing.report import Report
from tf_codistill.torturing.torment import Torment, torment

_KEPT_SHARE = 0.8  # of the steps that would fit the time without faults, so that all of these find groups
_REHEARSAL_STEPS = 500
_POLL_SECS = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a job is tortured.

    Attributes:
        workdir: Directory of everything; nothing may be there.
        minutes: For how long there are faults, about as long as the job takes under them.
        mtbf_secs: Mean seconds between two of them.
        num_groups: Groups of the job.
        seed: Fixes the faults and the job.
        kinds: What may happen.
        num_controls: Runs without faults.
        hang_secs: That of `launch`.

    Raises:
        ValueError: A value is out of range.
    """

    workdir: str
    minutes: float
    mtbf_secs: float
    num_groups: int
    seed: int = 0
    kinds: Sequence[str] = plan.KINDS
    num_controls: int = 2
    hang_secs: float = 30.0

    def __post_init__(self) -> None:
        self.faults()
        if self.num_controls * self.num_groups < 3:
            raise ValueError(
                f"num_controls is {self.num_controls}; expected so many that they have three groups "
                "at least, to tell what noise is"
            )

    def faults(self) -> list[plan.Planned]:
        """The faults that there will be."""
        return plan.plan(self.seed, 60 * self.minutes, self.mtbf_secs, self.num_groups, self.kinds)

    def job(self, table: str, name: str, num_steps: int, seed: int) -> job.Job:
        """One of the runs."""
        workdir = files.join(self.workdir, name)
        return job.Job(
            workdir=workdir, table_dir=table, num_groups=self.num_groups, num_steps=num_steps, seed=seed
        )


def torture(settings: Settings, console: Console) -> Report:
    """Does all of it; no process is left, however it ends.

    Args:
        settings: How the job is tortured.
        console: Where progress is shown.

    Returns:
        What has come out.

    Raises:
        ValueError: Something is in the directory.
        ChildProcessError: A run without faults fails.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if files.names(settings.workdir):
        raise ValueError(f"in {settings.workdir!r} there is something already; name another directory")
    table, seed = job.make_table(files.join(settings.workdir, "rehearsal_data")), settings.seed
    rehearsal = settings.job(table, "rehearsal", _REHEARSAL_STEPS, seed)
    _run_whole(rehearsal, console)
    every, fitting = job.VALIDATE_EVERY, outcomes.rate(_trails([rehearsal])) * 60 * settings.minutes
    num_steps = max(1, round(_KEPT_SHARE * fitting / every)) * every
    table, faults = job.make_table(files.join(settings.workdir, "data"), num_steps), settings.faults()
    console.print(f"{num_steps} steps under {len(faults)} faults, if all find their groups", markup=False)
    tortured = settings.job(table, "tortured", num_steps, seed)
    done = torment(tortured, faults, console, f"--hang_secs={settings.hang_secs}")
    numbers = range(1, settings.num_controls + 1)
    controls = [settings.job(table, f"control_{one}", num_steps, seed + one) for one in numbers]
    for control in controls:
        _run_whole(control, console)
    return judged(settings, tortured, controls, done)


def judged(settings: Settings, tortured: job.Job, controls: Sequence[job.Job], done: Torment) -> Report:
    """Judges what runs have left.

    Args:
        settings: How the job was tortured.
        tortured: The job.
        controls: The same without faults.
        done: What was done to the first.

    Returns:
        What has come out.
    """
    groups = [evidence.of_group(tortured, group) for group in range(tortured.num_groups)]
    found = evidence.Evidence(
        num_steps=tortured.num_steps,
        log_every=job.LOG_EVERY,
        validate_every=job.VALIDATE_EVERY,
        groups=groups,
        statuses=done.statuses,
        num_killed=done.num_killed,
        processes=done.left,
        control_losses=[
            loss for one in controls for loss in evidence.final_losses(one.workdir, one.num_groups)
        ],
    )
    rate = outcomes.rate(_trails(controls))
    restarts = [
        runs.read_metrics(runs.metrics_path(tortured.workdir, group), "restart")
        for group in range(tortured.num_groups)
    ]
    starts = [group.starts for group in groups]
    return Report(
        dataclasses.asdict(settings) | {"num_steps": tortured.num_steps},
        outcomes.outcomes(done.hits, done.began, starts, restarts),
        [outcomes.goodput(one, rate) for one in starts],
        invariants.judge(found),
    )


def _trails(jobs: Sequence[job.Job]) -> list[list[trail.Start]]:
    return [trail.read(one.trail_dir, group) for one in jobs for group in range(one.num_groups)]


def _run_whole(of: job.Job, console: Console) -> None:
    """A run without faults."""
    console.print(f"{of.num_groups} x {of.num_steps} steps without faults", markup=False)
    with victim.Victim(of) as running, display.Display(of.workdir, range(of.num_groups), console) as shown:
        while running.poll() is None:
            shown.update()
            time.sleep(_POLL_SECS)
    if running.statuses != [0]:
        said = files.read(running.log_path).decode("utf-8", "replace").strip().splitlines()
        raise ChildProcessError(
            f"{of.workdir!r} has ended with exit status {running.statuses[-1]} although there was no fault: "
            f"{said[-1] if said else ''}"
        )
