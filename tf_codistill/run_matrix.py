"""Many runs of one question: settings x seeds, several at a time, each going on where it stopped.

    <workdir>/
        lone/seed_1/           the workdir of a run, as `launch` makes it; launch.log: what that printed;
                               setting.json: setting and commit that it began with
        lone/seed_2/
        codistilled/seed_1/
        ...
        runs.jsonl             {"setting": "lone", "seed": 1, "status": "done", "secs": 81.2, ...} each

    settings = {"lone": Setting(gin_files=["gin/quickstart_alone.gin"]), ...}
    planned = plan("runs/matrix", {"lone": [1, 2, 3], "codistilled": [1, 2, 3]}, settings)
    train(planned, "runs/matrix", max_workers=2)

Every run has the same threads, however many there are at a time, and operations that TensorFlow keeps
deterministic: a group alone ends with the same bits at the same seed; of several it depends on what they have
published when. Ctrl-C lets each run write a checkpoint. A run that began with another setting is refused.
"""

# Annotations are not postponed here: constructors of subclasses in other modules are made of these fields,
# and whoever asks such a constructor for its types (the API reference does) would look the names up there.

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
import psutil

from tf_codistill import children, files, runs, settings
from tf_codistill.health import progress
from tf_codistill.jobs.progress import Progress

_POLL_SECS = 0.5
_GRACE_SECS = 60.0
_LOG = "launch.log"
_ROWS = "runs.jsonl"
_SETTING = "setting.json"


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How the runs of a setting are trained.

    Attributes:
        gin_files: Configurations of an `Experiment`, as ``--gin_file`` of `launch`.
        bindings: Further bindings, as its ``--gin_bindings``.
        num_groups: Groups of a run.
        workers_per_group: Processes of each group.
    """

    gin_files: Sequence[str]
    bindings: Sequence[str] = ()
    num_groups: int = 1
    workers_per_group: int = 1

    def __post_init__(self) -> None:
        settings.check_types(self)

    @property
    def num_workers(self) -> int:
        """Processes of a run."""
        return self.num_groups * self.workers_per_group


@dataclasses.dataclass(kw_only=True)
class Matrix:
    """Settings that are compared; what is made of their runs is for subclasses.

    Attributes:
        settings: The settings by name; what the others are compared with is the first.
        ensembles: For each ensemble the setting whose models it consists of, two at a time.
        bindings: Further bindings of every setting, such as where the data is.
        measured_with: Further bindings with which models are measured, such as which part is held out.

    Raises:
        ValueError: There is no setting, or an ensemble is of none, or has the name of one.
    """

    settings: Mapping[str, Setting]
    ensembles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bindings: Sequence[str] = ()
    measured_with: Sequence[str] = ()

    def __post_init__(self) -> None:
        settings.check_types(self)
        if not self.settings:
            raise ValueError("settings is empty; expected what is to be compared")
        for name, of in self.ensembles.items():
            self.check_setting(f"ensembles[{name!r}]", of)
            if name in self.settings:
                raise ValueError(
                    f"ensembles has {name!r}, which is a setting; give the ensemble a name of its own"
                )

    def check_setting(self, what: str, name: str) -> None:
        """Checks that a setting is there; a `ValueError` that begins with `what` if it is not."""
        if name not in self.settings:
            raise ValueError(f"{what} is {name!r}; expected one of the settings {list(self.settings)}")

    def complete_settings(self) -> dict[str, Setting]:
        """The settings by name, with the bindings of all before their own."""
        return {
            name: dataclasses.replace(setting, bindings=[*self.bindings, *setting.bindings])
            for name, setting in self.settings.items()
        }


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run of the matrix: a setting with a seed.

    Attributes:
        name: The name of its setting.
        setting: How it is trained.
        seed: Its seed.
        workdir: Its directory.
    """

    name: str
    setting: Setting
    seed: int
    workdir: str

    def is_done(self) -> bool:
        """Whether all its groups have trained to their end."""
        return progress.finished_steps(self.workdir, range(self.setting.num_groups)) is not None

    def steps(self) -> tuple[int, int | None]:
        """Steps that its groups have made together, and that they are to make, if that is known."""
        groups = [progress.read_status(self.workdir, group) for group in range(self.setting.num_groups)]
        totals = [group.num_steps for group in groups if group.num_steps is not None]
        return sum(group.step for group in groups), sum(totals) if len(totals) == len(groups) else None

    def keep_setting(self) -> None:
        """Keeps in the workdir with which setting, and which version of our code, the run begins."""
        path = files.join(files.make_directory(self.workdir), _SETTING)
        if not files.exists(path):
            files.write_json(path, {**dataclasses.asdict(self.setting), "commit": _commit()})

    def commit(self) -> str | None:
        """With which version of our code it began, as git names it; None if that is not known."""
        path = files.join(self.workdir, _SETTING)
        return files.read_json(path).get("commit") if files.exists(path) else None

    def check_setting(self) -> None:
        """Checks that the setting is the one that the run began with, if it has begun.

        Raises:
            ValueError: It is another one.
        """
        path = files.join(self.workdir, _SETTING)
        if not files.exists(path):
            return
        setting = json.loads(json.dumps(dataclasses.asdict(self.setting)))
        before = files.read_json(path)
        changed = [name for name, value in setting.items() if before.get(name) != value]
        if changed:
            name = changed[0]
            raise ValueError(
                f"{name} of the run in {self.workdir!r} was {before.get(name)!r} when it began, and is "
                f"{setting[name]!r} now; name another directory for all, or delete the run"
            )

    def command(self) -> list[str]:
        """The command line that trains it."""
        setting = self.setting
        return [
            *(sys.executable, "-m", "tf_codistill.launch", f"--workdir={self.workdir}"),
            *(f"--num_groups={setting.num_groups}", f"--workers_per_group={setting.workers_per_group}"),
            *(f"--gin_file={name}" for name in setting.gin_files),
            *(f"--gin_bindings={binding}" for binding in setting.bindings),
            f"--gin_bindings=Experiment.seed = {self.seed}",
        ]


def plan(workdir: str, seeds: Mapping[str, Sequence[int]], by_name: Mapping[str, Setting]) -> list[Trial]:
    """The runs of a matrix, seed by seed, so that what is done first is a comparison already.

    Args:
        workdir: Directory of the matrix.
        seeds: For each setting its seeds.
        by_name: The settings.

    Returns:
        The runs.
    """
    longest = max(map(len, seeds.values()), default=0)
    return [
        Trial(name, by_name[name], own[place], files.join(workdir, name, f"seed_{own[place]}"))
        for place in range(longest)
        for name, own in seeds.items()
        if place < len(own)
    ]


def train(
    planned: Sequence[Trial],
    workdir: str,
    *,
    max_workers: int | None = None,
    threads: int = 1,
    max_memory_bytes: int | None = None,
    when_done: Callable[[Trial], None] = lambda run: None,
) -> None:
    """Trains those runs that are not done.

    A run that fails leaves the others alone, unless none has ever ended well: then they would all fail.

    Args:
        planned: The runs.
        workdir: Directory on this machine, where ``runs.jsonl`` says what became of each.
        max_workers: Of how many workers all that are trained at a time may consist, unless one alone has
            more; as many as there are cores for by default.
        threads: Threads of each worker; what is computed may depend on it.
        max_memory_bytes: Together they should take no more: after the first has ended, so many are trained at
            a time as would fit if each were as large as the largest so far. None leaves that out.
        when_done: Called with each run that has just ended as it should, while others go on.

    Raises:
        ValueError: A number is below 1, or a run began with another setting.
        ChildProcessError: Some have failed; the message has the end of what each said.
        KeyboardInterrupt: Ctrl-C was pressed; all have been stopped and go on when called again.
    """
    max_workers = _checked_workers(max_workers, threads)
    files.make_directory(workdir)
    waiting = _waiting(planned, workdir)
    ended = rows(workdir)
    has_succeeded = len(waiting) < len(planned) or any(row["status"] == "done" for row in ended)
    running: list[_Running] = []
    failures: list[str] = []
    largest = max([0, *(row["memory_bytes"] for row in ended)])  # that a run has had in the end
    with Progress(f"{len(planned)} runs", 1, "steps") as progress, _stopping(running):
        show = _shown(planned, progress)
        while waiting or running:
            for one in running:
                one.measure()
            fits = max_memory_bytes is None or 0 < (len(running) + 1) * largest <= max_memory_bytes
            workers = sum(one.setting.num_workers for one in [*waiting[:1], *(one.run for one in running)])
            if waiting and ((workers <= max_workers and fits) or not running):
                running.append(_Running(waiting.pop(0), threads))
                continue
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                largest = max(largest, one.memory_bytes)
                failure = one.end(workdir)
                has_succeeded |= failure is None
                failures += [failure] if failure else []
                if failure is None:
                    when_done(one.run)
            if failures and not has_succeeded:
                break
            show()
            time.sleep(_POLL_SECS)
    if failures:
        raise ChildProcessError(f"{len(failures)} of {len(planned)} runs failed:\n" + "\n".join(failures))


def _checked_workers(max_workers: int | None, threads: int) -> int:
    """Of how many workers all that are trained at a time may consist."""
    for name, value in (("max_workers", max_workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    return max_workers or max(1, (os.cpu_count() or 1) // threads)


def _waiting(planned: Sequence[Trial], workdir: str) -> list[Trial]:
    """Those that are not done; says how many are."""
    for run in planned:
        run.check_setting()
    waiting = [run for run in planned if not run.is_done()]
    if num_done := len(planned) - len(waiting):
        print(f"{num_done} of {len(planned)} runs in {workdir!r} are done already", file=sys.stderr)
    return waiting


class _Running:
    """A run that is being trained by a process of its own."""

    def __init__(self, run: Trial, threads: int) -> None:
        self.run, self.started = run, time.monotonic()
        run.keep_setting()
        self.memory_bytes = 0
        self.log_path = files.join(run.workdir, _LOG)
        number = str(threads)
        own = {"TF_NUM_INTRAOP_THREADS": number, "OMP_NUM_THREADS": number, "TF_DETERMINISTIC_OPS": "1"}
        with open(self.log_path, "ab") as log:
            self.process = children.start(run.command(), log, {**os.environ, **own})

    def measure(self) -> None:
        """Notes how much memory its processes have now, if it is the most so far."""
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            now = 0
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    now += process.memory_info().rss
            self.memory_bytes = max(self.memory_bytes, now)

    def end(self, workdir: str) -> str | None:
        """Notes what became of it; returns what it said if it has failed."""
        code = self.process.returncode
        said = files.read(self.log_path).decode("utf-8", "replace").strip().splitlines()[-3:]
        row: dict[str, Any] = {
            "setting": self.run.name,
            "seed": self.run.seed,
            "status": "failed" if code else "done",
            "secs": round(time.monotonic() - self.started, 1),
            "memory_bytes": self.memory_bytes,
            "steps": self.run.steps()[0],
            "workdir": self.run.workdir,
            "commit": self.run.commit(),
        }
        if not code:
            groups = range(self.run.setting.num_groups)
            row["validation_loss"] = [
                progress.read_status(self.run.workdir, group).validation_loss for group in groups
            ]
        path = files.join(workdir, _ROWS)
        runs.repair_metrics(path)
        files.append(path, (json.dumps(row) + "\n").encode())
        return f"{self.run.workdir}: {' '.join(said) or f'exit status {code}'}" if code else None


def _commit() -> str | None:
    """The version of our code as git names it, ``-dirty`` if files were changed; None outside a checkout."""
    command = ["git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        return ended.stdout.strip() or None
    return None


@contextlib.contextmanager
def _stopping(running: list[_Running]) -> Iterator[None]:
    """Stops what is running when something ends the block, each with time for a checkpoint."""
    with children.ended_by_signals():
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                for one in running:
                    one.process.send_signal(number)
                deadline = time.monotonic() + _GRACE_SECS
                while any(one.process.poll() is None for one in running) and time.monotonic() < deadline:
                    time.sleep(_POLL_SECS / 10)


def _shown(planned: Sequence[Trial], progress: Progress) -> Callable[[], None]:
    """What shows how far all runs are; of those that have not begun it expects what the others have."""
    shown = 0
    found: list[tuple[int, int | None]] = [(0, None)] * len(planned)

    def show() -> None:
        nonlocal shown
        for place, run in enumerate(planned):
            if found[place][0] != found[place][1]:  # whoever is at the end stays there
                found[place] = run.steps()
        known = [total for _, total in found if total]
        if known:
            progress.expect(round(sum(known) * len(planned) / len(known)))
        done = sum(step for step, _ in found)
        progress.advance(done - shown)
        shown = done

    return show


def rows(workdir: str) -> list[dict[str, Any]]:
    """What became of the runs so far, the newest last.

    Args:
        workdir: Directory of the matrix.

    Returns:
        A row for each run that has ended, but for a last one that was left unfinished: ``setting``, ``seed``,
        ``status`` (``done``, ``failed``), ``secs``, ``memory_bytes``, ``steps``, ``workdir``, ``commit`` and
        ``validation_loss`` of each group.
    """
    path = files.join(workdir, _ROWS)
    if not files.exists(path):
        return []
    return [json.loads(line) for line in files.read(path).decode("utf-8").split("\n")[:-1]]
