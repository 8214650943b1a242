"""How a group fares: all that the files of a run say of it, beside its progress.

    <workdir>/group_0/metrics.jsonl             progress, restarts, failed publications; when it was written
              group_0/lease/...                 who trains the group, when that last gave a sign of life
              group_0/checkpoints/...           from where it would go on
              group_0/worker_0.log              which snapshots its teachers took, the last error
    <exchange>/group_0/snapshot_.../            its newest snapshot
               group_1/reader_0                 group 0 learns from group 1

    health = read("runs/two", "runs/two/exchange", 0)
    health.silent_secs(time.time())             seconds without a line of metrics or a snapshot

Nothing is written. A file that cannot be understood is told in `Health.trouble`, and the rest is shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tf_codistill import files, leases, runs
from tf_codistill.health import logs
from tf_codistill.health.progress import Status, finite, read_status

MAX_JSON_BYTES = 8 << 20

Found = TypeVar("Found")
Default = TypeVar("Default")

_LOG = re.compile(r"worker_\d{1,9}\.log")


@dataclasses.dataclass(frozen=True)
class Published:
    """A snapshot that a group has committed.

    Attributes:
        step: The step at which it was taken.
        at: When it was committed, in seconds since the epoch.
    """

    step: int
    at: float


@dataclasses.dataclass(frozen=True)
class Tutor:
    """Who teaches a group, as far as it is known.

    Attributes:
        peer: The group that does.
        snapshot_step: The step of the snapshot that teaches.
        staleness_steps: How many steps that is behind the learning group.
    """

    peer: int
    snapshot_step: int | None = None
    staleness_steps: int | None = None


@dataclasses.dataclass(frozen=True)
class HeldBy:
    """Who trains a group.

    Attributes:
        host: The name of the machine.
        pid: The process there.
        beat_at: When it last gave a sign of life, in seconds since the epoch.
    """

    host: str
    pid: int | None
    beat_at: float | None


@dataclasses.dataclass(frozen=True)
class Health:
    """What is known of one group; None where nothing is.

    Attributes:
        status: How far it is.
        sign_at: When it last wrote a line of metrics or a snapshot, in seconds since the epoch.
        published: Its newest snapshot.
        teachers: Who teaches it.
        checkpoint_step: The step of its newest checkpoint.
        held_by: Who trains it.
        last_error: The last error in its workers' logs, or else why it was started again.
        trouble: What could not be read, and why.
    """

    status: Status
    sign_at: float | None = None
    published: Published | None = None
    teachers: tuple[Tutor, ...] = ()
    checkpoint_step: int | None = None
    held_by: HeldBy | None = None
    last_error: str | None = None
    trouble: str | None = None

    def silent_secs(self, now: float) -> float | None:
        """For how long it has been silent; None if it has come to its end or has not begun."""
        return None if self.sign_at is None or self.status.is_ended else max(0.0, now - self.sign_at)


class _Trouble:
    """Reads what there is, and keeps in words what went wrong first."""

    def __init__(self) -> None:
        self.first: str | None = None

    def attempt(self, default: Default, reader: Callable[..., Found], *arguments: object) -> Found | Default:
        """What a function reads; the default where nothing is there, which is no trouble, or if it fails."""
        try:
            return reader(*arguments)
        except FileNotFoundError:
            return default
        except (OSError, ValueError, RecursionError) as error:
            self.first = self.first or str(error)
            return default


def groups(workdir: str, exchange_dir: str) -> list[int]:
    """The groups of a run, in order: those that have a directory in the workdir or in the exchange."""
    names = {*files.names(workdir), *files.names(exchange_dir)}
    return sorted(int(match.group(1)) for match in map(runs.GROUP.fullmatch, names) if match)


def read(workdir: str, exchange_dir: str, group: int) -> Health:
    """Reads all that is known of one group.

    Args:
        workdir: Directory of the run.
        exchange_dir: Directory through which its groups exchange.
        group: Index of the group.

    Returns:
        What could be read; nothing is raised.
    """
    trouble = _Trouble()
    status = trouble.attempt(Status(group), read_status, workdir, group)
    if (back := status.out_of_order) and not trouble.first:
        trouble.first = f"step {back[1]} comes after step {back[0]}: do two processes train this group?"
    published = trouble.attempt(None, newest_snapshot, exchange_dir, group)
    paths = trouble.attempt(list[str](), _logs, workdir, group)
    found = [log for path in paths if (log := trouble.attempt(None, logs.read, path))]
    log = found[0] if found else None
    return Health(
        status,
        sign_at=_sign_at(workdir, group, published, trouble),
        published=published,
        teachers=tuple(trouble.attempt(list[Tutor](), _teachers, exchange_dir, status, log)),
        checkpoint_step=trouble.attempt(None, checkpoint_step, workdir, group),
        held_by=trouble.attempt(None, _held_by, runs.leased_dir(workdir, group)),
        last_error=next((log.last_error for log in found if log.last_error), status.restart_reason),
        trouble=trouble.first,
    )


def read_signs(workdir: str, exchange_dir: str, group: int) -> Health:
    """Reads how far a group is, and when it last gave a sign, and nothing else.

    Args:
        workdir: Directory of the run.
        exchange_dir: Directory through which its groups exchange.
        group: Index of the group.

    Returns:
        Its health, of which the rest is not known.

    Raises:
        ValueError: A line of the metrics file is no record.
        OSError: A file is there, but cannot be read.
    """
    status, trouble = read_status(workdir, group), _Trouble()
    published = trouble.attempt(None, newest_snapshot, exchange_dir, group)
    sign_at = _sign_at(workdir, group, published, trouble)
    return Health(status, sign_at=sign_at, published=published, trouble=trouble.first)


def newest_snapshot(exchange_dir: str, group: int) -> Published | None:
    """The newest committed snapshot of a group, of the run that the exchange is of.

    Args:
        exchange_dir: The exchange directory.
        group: The group that publishes.

    Returns:
        Which it is; None if there is none.

    Raises:
        ValueError: A manifest is there, but says no step.
        OSError: The directory cannot be read.
    """
    run_id = None
    with contextlib.suppress(FileNotFoundError):
        run = _json(files.join(exchange_dir, "run.json"))
        run_id = run.get("run_id") if isinstance(run, dict) else None
    directory = files.join(exchange_dir, f"group_{group}")
    for name in _newest_first(directory, runs.SNAPSHOT):
        path = files.join(directory, name, files.MANIFEST)
        try:
            manifest, at = _json(path), files.modified_at(path)
        except FileNotFoundError:  # being written, or just deleted
            continue
        step = finite(manifest, "step")
        if step is None:
            raise files.CorruptError(f"manifest {path!r} says no step; delete the snapshot")
        if run_id is None or manifest.get("run_id") == run_id:
            return Published(int(step), at)
    return None


def checkpoint_step(workdir: str, group: int) -> int | None:
    """The step of a group's newest committed checkpoint; None if there is none."""
    directory = runs.checkpoints_dir(workdir, group)
    for name in _newest_first(directory, runs.CHECKPOINT):
        if files.exists(files.join(directory, name, files.MANIFEST)):
            return int(name.rpartition("_")[2])
    return None


def stopped(workdir: str, groups: Sequence[int]) -> str:
    """Says in one line where a run has stopped, and that it can go on.

    Args:
        workdir: Directory of the run.
        groups: Its groups.

    Returns:
        A line such as ``stopped at step 160 (checkpoint 160); the same command goes on``.
    """
    steps, saved = [], []
    for group in groups:
        step, checkpoint = 0, None
        with contextlib.suppress(OSError, ValueError):
            checkpoint = checkpoint_step(workdir, group)
            step = read_status(workdir, group).step
        steps.append(max(step, checkpoint or 0))
        saved.append(checkpoint)
    if not any(one is not None for one in saved):
        return f"stopped at {_listed('step', steps)} (no checkpoint); the same command begins anew"
    return f"stopped at {_listed('step', steps)} ({_listed('checkpoint', saved)}); the same command goes on"


def _listed(noun: str, numbers: list[int] | list[int | None]) -> str:
    if len(set(numbers)) == 1:
        return f"{noun} {numbers[0]}"
    words = ["none" if one is None else str(one) for one in numbers]
    return f"{noun}s {', '.join(words[:-1])} and {words[-1]}"


def _teachers(exchange_dir: str, status: Status, log: logs.Log | None) -> list[Tutor]:
    """Whom the log says to have been taken; without one, who is announced to be read."""
    swaps = log.swaps if log else {}
    if swaps:
        return [_tutor(exchange_dir, status.step, swaps[seat]) for seat in sorted(swaps)]
    peers = [
        int(match.group(1))
        for name in files.names(exchange_dir)
        if (match := runs.GROUP.fullmatch(name))
        and files.exists(files.join(exchange_dir, name, f"{runs.READER}{status.group}"))
    ]
    mean = finite(status.train, "staleness_steps")
    if len(peers) == 1 and mean:  # the mean over all teachers is that of the one
        return [Tutor(peers[0], status.step - round(mean), round(mean))]
    return [Tutor(peer) for peer in sorted(peers)]


def _tutor(exchange_dir: str, step: int, taken: logs.Taken) -> Tutor:
    name = runs.snapshot_name(taken.incarnation, taken.serial)
    found = None
    with contextlib.suppress(FileNotFoundError):  # it may be superseded and deleted by now
        path = files.join(exchange_dir, f"group_{taken.peer}", name, files.MANIFEST)
        found = finite(_json(path), "step")
    if found is None:
        return Tutor(taken.peer)
    return Tutor(taken.peer, int(found), step - int(found))


def _held_by(directory: str) -> HeldBy | None:
    path, beat_path = leases.newest_paths(directory)
    holder, beat = _json(path), _json(beat_path)
    if not isinstance(holder, dict) or not isinstance(beat, dict):
        raise files.CorruptError(f"file {path!r} names no holder of the group")
    if beat.get("is_released"):
        return None
    pid = finite(holder, "pid")
    return HeldBy(str(holder.get("host", "?")), None if pid is None else int(pid), finite(beat, "at"))


def _logs(workdir: str, group: int) -> list[str]:
    directory = runs.leased_dir(workdir, group)
    names = filter(_LOG.fullmatch, files.names(directory))
    return [files.join(directory, name) for name in sorted(names, key=lambda name: (len(name), name))]


def _sign_at(workdir: str, group: int, published: Published | None, trouble: _Trouble) -> float | None:
    written_at = trouble.attempt(None, files.modified_at, runs.metrics_path(workdir, group))
    signs = [written_at, published.at if published else None]
    return max((at for at in signs if at is not None), default=None)


def _newest_first(directory: str, pattern: re.Pattern[str]) -> list[str]:
    matches = [match for match in map(pattern.fullmatch, files.names(directory)) if match]
    matches.sort(key=lambda match: [int(digits) for digits in match.groups()], reverse=True)
    return [match.group() for match in matches]


def _json(path: str) -> Any:
    """The content of a JSON file of no unusual size."""
    if (size := files.size_bytes(path)) > MAX_JSON_BYTES:
        raise ValueError(f"file {path!r} has {size:,} bytes; at most {MAX_JSON_BYTES:,} are read")
    return files.read_json(path)
