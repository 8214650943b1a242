"""Leases: a directory has one owner at a time, and its next one knows whether that may yet write.

    lease = Lease("runs/two/group_0")
    lease.acquire()             a `ValueError` with host, process and age if somebody holds it
    ... lease.check() ...       a `TakenOverError` once somebody else has taken it over
    lease.release()

    group_0/lease/
        token_000001.json       who has taken it; made once, by whoever is first, and never changed
        token_000001.beat       written anew by its owner every few seconds, in the end that it has let go
        token_000002.json       the fencing token of the next owner: the largest one holds

A new owner finds the one before gone for certain when that has let go, or when its process is no more on this
very machine. Otherwise it watches for a heartbeat. An owner that is silent, or is taken over from, may be a
zombie: stopped, swapped out or cut off, it can wake up and write. Then the *generation* of the new owner is
one more than before, and what it writes lies under a path that has the generation in it: readers look at the
newest, and nothing that a zombie writes is ever read, whenever it wakes up.

On local disks and NFS a token is taken by a hard link, which only one can make (link(2)). Object stores have
no such thing: there each candidate writes a claim, waits `settle_secs`, and the least name of all claims
wins; this is safe as long as a listing shows a file within that time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import psutil
from absl import logging

from tf_codistill import children, files

_TOKEN = re.compile(r"token_(\d{6,})\.json")
_KEPT = 3


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who has taken a lease.

    Attributes:
        token: Its fencing token: 1, 2, ... in the order in which owners came.
        generation: Under which generation of the directory it writes, from 1.
        owner: A name that no other owner has.
        host: Its machine's name.
        pid: Its process there.
        machine: Which start of which machine, and which of its process name spaces, `pid` belongs to.
        process_began: When that process began, in seconds after its machine did, which no setting of a clock
            changes.
        since: When it took the lease, in seconds since the epoch by the clock of its machine.
    """

    token: int
    generation: int
    owner: str
    host: str
    pid: int
    machine: str
    process_began: float
    since: float

    def is_here(self) -> bool:
        """Whether its processes can be seen from here."""
        return self.machine == _machine()

    def runs(self) -> bool:
        """Whether its process, which can be seen from here, is still there, be it stopped.

        One without any memory has ended, but for what the system has to tidy up, which takes a while.
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            is_same = abs(_began(self.pid) - self.process_began) < 1
            return is_same and psutil.Process(self.pid).memory_info().vms > 0
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclasses.dataclass(frozen=True)
class Beat:
    """The last sign of life of an owner.

    Attributes:
        number: How many there were.
        at: When, in seconds since the epoch by the clock of its machine.
        step: How far it was.
        is_released: Whether it has let go.
    """

    number: int = 0
    at: float = 0.0
    step: int = 0
    is_released: bool = False


class TakenOverError(ValueError):
    """Another process has taken the place of this one.

    Attributes:
        exit_status: With which a program ends that does not catch it.
    """

    exit_status = children.SUPERSEDED


class Lease:
    """The lease on one directory, as one process sees it.

    Attributes:
        step: How far this process is; whoever looks at the heartbeat reads it there.
        holder: What this process has taken; None before `acquire`.
    """

    def __init__(
        self,
        directory: str,
        beat_secs: float = 5.0,
        lease_secs: float = 30.0,
        settle_secs: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            directory: The directory, of any scheme of ``tf.io.gfile``.
            beat_secs: Seconds between two heartbeats.
            lease_secs: For how long an owner elsewhere is watched for one before it counts as silent.
            settle_secs: How late an object store may show a file in a listing.
            clock: Returns seconds since the epoch.

        Raises:
            ValueError: `lease_secs` is not at least twice `beat_secs`.
        """
        if lease_secs < 2 * beat_secs:
            raise ValueError(
                f"lease_secs is {lease_secs}; expected at least twice beat_secs, which is {beat_secs}"
            )
        self._directory, self._lease_dir = directory, files.join(directory, "lease")
        self._beat_secs, self._lease_secs, self._settle_secs = beat_secs, lease_secs, settle_secs
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._newer: Holder | None = None
        self._number, self.step = 0, 0
        self.holder: Holder | None = None

    def refuse(self) -> None:
        """Raises a `ValueError` if a process that can be seen from here holds the lease; never waits."""
        newest = newest_holder(self._directory)
        if newest is not None and newest.is_here() and not self._is_gone(newest):
            raise self._held(newest)

    def acquire(self, take_over: bool = False) -> Holder:
        """Takes the lease, and keeps it by heartbeats from a thread until `release`.

        Args:
            take_over: Whether to take it from an owner that is alive.

        Returns:
            What this process holds.

        Raises:
            ValueError: Another process holds it, or was a moment faster, or it cannot be written to.
            OSError: The storage fails.
        """
        files.make_directory(self._directory)
        files.ensure_directory(self._lease_dir)
        newest = newest_holder(self._directory)
        token, generation = 1, 1
        if newest is not None:
            is_gone = self._is_gone(newest)
            if not is_gone and not take_over and (newest.is_here() or self._beats(newest)):
                raise self._held(newest)
            token, generation = newest.token + 1, newest.generation + (not is_gone)
        process = os.getpid(), _machine(), _began(os.getpid())
        own = (uuid.uuid4().hex, socket.gethostname(), *process, self._clock())
        mine = Holder(token, generation, *own)
        if not self._take(mine):
            raise self._held(newest_holder(self._directory) or mine)
        self.holder = mine
        self._write_beat(mine)
        self._thread = threading.Thread(target=self._keep, args=[mine], name="lease", daemon=True)
        self._thread.start()
        self._tidy()
        return mine

    def check(self) -> None:
        """Raises a `TakenOverError` if another process has taken the lease over since it was acquired."""
        if self._newer is not None:
            raise TakenOverError(
                f"{self._directory!r} was taken over by {self._newer}; this process, which held it before, "
                "ends, and nothing that it has written since is read"
            )

    def release(self) -> None:
        """Lets go, so that the next owner need not wait; does nothing if it was not acquired."""
        self._stop.set()
        if self._thread is not None and self.holder is not None:
            self._thread.join()
            self._thread = None
            with contextlib.suppress(OSError):
                self._write_beat(self.holder, is_released=True)

    def _is_gone(self, holder: Holder) -> bool:
        """Whether an owner is known to write nothing any more."""
        return self._beat_of(holder).is_released or (holder.is_here() and not holder.runs())

    def _beats(self, holder: Holder) -> bool:
        """Whether an owner gives a sign of life before its time is up."""
        before, deadline = self._beat_of(holder), time.monotonic() + self._lease_secs
        while time.monotonic() < deadline:
            now = self._beat_of(holder)
            if now.is_released:
                return False
            if now != before:
                return True
            time.sleep(min(1.0, self._beat_secs / 5))
        return False

    def _held(self, holder: Holder) -> ValueError:
        beat, since = self._beat_of(holder), self._clock() - holder.since
        seen = f", with a heartbeat {max(self._clock() - beat.at, 0):.0f} s ago" if beat.number else ""
        return ValueError(
            f"{self._directory!r} is held by {holder} for {max(since, 0):.0f} s{seen}; stop that process, "
            "use another directory, or take it over by --take_over"
        )

    def _take(self, mine: Holder) -> bool:
        path = _path(self._directory, mine.token)
        if not files.is_remote(path):
            return create(path, dataclasses.asdict(mine))
        claim = f"{path}.{mine.owner}.claim"
        try:
            files.write_json(claim, {})
            time.sleep(self._settle_secs)
            token, names = os.path.basename(path), files.names(self._lease_dir)
            oldest = files.modified_at(claim) - self._lease_secs
            claims = [one for one in names if one.startswith(f"{token}.") and self._counts(one, oldest)]
            is_first = token not in names and claims[:1] == [os.path.basename(claim)]
            if is_first:
                files.write_json(path, dataclasses.asdict(mine))
        finally:
            files.remove(claim)
        return is_first

    def _counts(self, claim: str, oldest: float) -> bool:
        """Whether a claim is not one that a candidate has left who was killed."""
        with contextlib.suppress(FileNotFoundError):  # if it has just gone its candidate may have won
            return files.modified_at(files.join(self._lease_dir, claim)) >= oldest
        return True

    def _keep(self, mine: Holder) -> None:
        while not self._stop.wait(self._beat_secs):
            try:
                newest = newest_holder(self._directory)
                if newest is None or newest.owner != mine.owner:
                    self._newer = newest or mine
                    return
                self._write_beat(mine)
            except (OSError, ValueError) as error:  # whoever finds no heartbeat takes over, which is safe
                logging.warning("heartbeat in %r: %s", self._directory, error)

    def _write_beat(self, mine: Holder, is_released: bool = False) -> None:
        self._number += 1
        beat = Beat(self._number, self._clock(), self.step, is_released)
        files.write_json(_beat_path(self._directory, mine.token), dataclasses.asdict(beat))

    def _beat_of(self, holder: Holder) -> Beat:
        return beat_of(self._directory, holder)

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            for token in _tokens(self._directory)[:-_KEPT]:
                files.remove(_path(self._directory, token))
                files.remove(_beat_path(self._directory, token))


def newest_holder(directory: str) -> Holder | None:
    """Who has taken the lease of a directory last; None if nobody ever has.

    Args:
        directory: The directory.

    Returns:
        The holder with the largest token, whether it still lives or not.

    Raises:
        ValueError: Its file is none that a lease writes.
        OSError: The directory cannot be read.
    """
    tokens = _tokens(directory)
    return _parsed(Holder, _path(directory, tokens[-1])) if tokens else None


def newest_paths(directory: str) -> tuple[str, str]:
    """The files of whoever has taken a lease last: who that is, and its heartbeat.

    Args:
        directory: The directory.

    Returns:
        Their paths; neither need be there.

    Raises:
        OSError: The directory cannot be read.
    """
    token = max(_tokens(directory), default=1)
    return _path(directory, token), _beat_path(directory, token)


def beat_of(directory: str, holder: Holder) -> Beat:
    """The last heartbeat of an owner; one with the number 0 if it has not written any yet."""
    with contextlib.suppress(FileNotFoundError):
        return _parsed(Beat, _beat_path(directory, holder.token))
    return Beat()


def _parsed(kind: Any, path: str) -> Any:
    content = files.read_json(path)
    try:
        return kind(**content)
    except TypeError as error:
        raise files.CorruptError(f"file {path!r} is of no lease ({error}); delete it") from error


def create(path: str, content: Any) -> bool:
    """Creates a JSON file on a local disk, if nobody else has: of several that try one succeeds."""
    aside = f"{path}.{uuid.uuid4().hex}.partial"
    files.write_json(aside, content)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        files.remove(aside)
    return True


def _tokens(directory: str) -> list[int]:
    found = (_TOKEN.fullmatch(name) for name in files.names(files.join(directory, "lease")))
    return sorted(int(match.group(1)) for match in found if match)


def _path(directory: str, token: int) -> str:
    return files.join(directory, "lease", f"token_{token:06d}.json")


def _beat_path(directory: str, token: int) -> str:
    return files.join(directory, "lease", f"token_{token:06d}.beat")


def _began(pid: int) -> float:
    """When a process of this machine began, in seconds after the machine did."""
    start = psutil.boot_time()  # first, as psutil 6 goes on with what it found here
    return psutil.Process(pid).create_time() - start


def _machine() -> str:
    """Which start of which machine this is, and which of its process name spaces."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()} {psutil.boot_time():.0f}"
