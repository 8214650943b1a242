"""The courier: a thread between training and the exchange, which touches files and host arrays only.

    training thread                          courier thread
        send(step, arrays, states)   ---->   make room, write and hash, commit        publishing
        seats[0].peer = 1            ---->   poll, read once and check, stage         reading
        seats[0].staged              <----

It knows no model, no variable and no other worker, and never waits for anybody. If it is still writing when
the next snapshot is due, the newest wins. What fails is counted, logged once, and tried again. Under several
workers the chief's couriers choose what to read, and the others read `Seat.requested` alone.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import logging

from tf_codistill import weights
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import NO_PEER

Sent = tuple[int, weights.Description, list[np.ndarray], list[np.ndarray]]

# Shares of the interval between two exchanges, and their bounds in seconds.
_POLLS_PER_INTERVAL, _SHORTEST_PERIOD, _LONGEST_PERIOD = 10, 0.05, 30.0
_INTERVALS_OF_GRACE, _LONGEST_GRACE = 3, 600.0
_TRIES = 3
_LOOKS = 3
_MOST_WORK_SECS = 60.0


@dataclasses.dataclass
class Costs:
    """What exchanging has cost this worker so far.

    Attributes:
        published_bytes: Bytes written.
        read_bytes: Bytes of peers' snapshots read.
        exchange_secs: Seconds that training has stood still for exchanging.
        skipped_publications: Snapshots for which the next one was due before they could be written.
        failed_publications: Attempts to publish that failed.
        failed_reads: Attempts to find or read a peer's snapshot that failed.
    """

    published_bytes: int = 0
    read_bytes: int = 0
    exchange_secs: float = 0.0
    skipped_publications: int = 0
    failed_publications: int = 0
    failed_reads: int = 0


@dataclasses.dataclass
class Seat:
    """One teacher, as its courier sees it.

    Attributes:
        model: Describes the weights of its model.
        peer: The group whose newest snapshot it shall have, or `NO_PEER`; None where only `requested` counts.
        held: The snapshot that it has.
        requested: The one to be read.
        staged: The one that has been, if it is `requested`.
        failures: How often that has failed.
        not_before: When to try again, by a clock that never goes back.
    """

    model: weights.Description
    peer: int | None = None
    held: Ref | None = None
    requested: Ref | None = None
    staged: Snapshot | None = None
    failures: int = 0
    not_before: float = 0.0

    def request(self, ref: Ref | None) -> None:
        """Changes which snapshot is to be read."""
        if ref != self.requested:
            self.requested, self.staged, self.failures = ref, None, 0

    @property
    def is_ready(self) -> bool:
        """Whether what is requested has been read."""
        staged = self.staged  # the other thread may take it away
        return staged is not None and staged.ref == self.requested

    @property
    def has_failed(self) -> bool:
        """Whether it has been tried often enough."""
        return self.failures >= _TRIES


class Courier:
    """Publishes and reads for one worker in one `fit`.

    Attributes:
        seats: The teachers.
        has_readers: Whether another group has announced that it learns from this one.
        members: The groups that are there, if they are looked for; None as long as nobody has looked.
    """

    def __init__(
        self,
        store: Store,
        seats: Sequence[Seat],
        stage: Callable[[int, Snapshot], Snapshot],
        announce: Callable[[], None] | None,
        costs: Costs,
        grace: bool = True,
        reserve: Callable[[int], None] | None = None,
        memory: weights.Pool | None = None,
        looks_for_members: bool = False,
    ) -> None:
        """Takes note of the arguments; starts nothing.

        Args:
            store: The exchange.
            seats: The teachers.
            stage: Makes of a snapshot what the teacher of a seat holds, on the host.
            announce: Announces this group, on the chief alone; called until it succeeds.
            costs: Counts.
            grace: Whether the age of superseded snapshots follows the interval between exchanges.
            reserve: Makes memory for so many copies of what is sent, so that `send` need not wait for it.
            memory: For snapshots that are read.
            looks_for_members: Whether groups may join and leave.
        """
        self.seats = list(seats)
        self.has_readers = False
        self.members: frozenset[int] | None = None
        self._looks_for_members, self._missed = looks_for_members, collections.Counter[int]()
        self._store, self._stage, self._announce, self._costs = store, stage, announce, costs
        self._grace, self._make_memory = grace, reserve or (lambda copies: None)
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._closing = False
        self._outbox: Sent | None = None
        self._period = 0.0
        self._sent_at: float | None = None
        self._memory = memory or weights.Pool()
        self._logged: dict[str, str] = {}
        self._readers_of: set[int] = set()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread; without it `work` is called by whoever waits for it."""
        self._period = 1.0
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def send(
        self, step: int, model: weights.Description, arrays: list[np.ndarray], states: list[np.ndarray]
    ) -> None:
        """Hands over a snapshot of this group, as `Store.publish` takes it; returns at once."""
        self.take_back()
        with self._lock:
            self._outbox = (step, model, arrays, states)
        self._wake.set()

    def take_back(self) -> None:
        """Frees the memory of what has been sent, if it is to be superseded and its writing has not begun."""
        with self._lock:
            self._costs.skipped_publications += self._outbox is not None
            self._outbox = None

    def is_time(self) -> None:
        """Says that an exchange is due, by whose interval everything else is measured."""
        now = time.monotonic()
        if self._sent_at is not None and self._thread is not None:
            interval = now - self._sent_at
            self._period = min(max(interval / _POLLS_PER_INTERVAL, _SHORTEST_PERIOD), _LONGEST_PERIOD)
            if self._grace:
                self._store.min_age_secs = min(_INTERVALS_OF_GRACE * interval, _LONGEST_GRACE)
        self._sent_at = now
        self._wake.set()

    def look_for_members(self) -> None:
        """Looks who is there, if groups may join and leave.

        A listing may lose a group for a moment: it has left when it is not there several times running.
        """
        if not self._looks_for_members:
            return
        with self._counting("failed_reads"):
            found, before = self._store.members(), self.members or frozenset()
            self._missed = collections.Counter({one: self._missed[one] + 1 for one in before - found})
            self.members = found | {one for one, times in self._missed.items() if times < _LOOKS}
            for verb, groups in (("joined", self.members - before), ("left", before - self.members)):
                for group in sorted(groups - {self._store.group}):
                    logging.info("group %d has %s", group, verb)

    def work(self) -> None:
        """Publishes what has been sent, and reads what is requested."""
        with self._counting("failed_publications"):
            self._publish()
        if self._thread is not None:
            self.look_for_members()
        for number, seat in enumerate(self.seats):
            with self._counting("failed_reads"):
                self._read(number, seat)

    def close(self, finish: bool) -> None:
        """Ends the thread; `finish`: once it has published what has been sent, else what is under way."""
        with self._lock:
            self._outbox = self._outbox if finish else None
            self._closing = True
        if self._thread is None:
            self._deliver()
            return
        self._wake.set()
        self._thread.join(_MOST_WORK_SECS if finish else _MOST_WORK_SECS / 10)
        if self._thread.is_alive():
            logging.warning("group %d leaves a snapshot behind: the storage is slow", self._store.group)

    def _run(self) -> None:
        self._reserve(1)
        while not self._closing:
            began = time.monotonic()
            self.work()
            if time.monotonic() - began > _POLLS_PER_INTERVAL * self._period / 2:
                self._reserve(2)  # one may be sent while the one before is being written
            self._wake.wait(self._period)
            self._wake.clear()
        self._deliver()

    def _reserve(self, copies: int) -> None:
        with contextlib.suppress(MemoryError):  # then whoever copies finds out whether there is enough
            self._make_memory(copies)

    def _deliver(self) -> None:
        if self._outbox is not None:
            with self._counting("failed_publications"):
                self._publish()

    def _publish(self) -> None:
        if self._announce is None:
            return
        if not self._store.incarnation:
            self._announce()
        self.has_readers = self.has_readers or self._store.has_readers()
        with self._lock:
            sent, self._outbox = self._outbox, None
        if sent is None:
            return
        try:
            num_bytes = self._store.publish(*sent)
        except Exception:
            self._put_back(sent)
            raise
        self._costs.published_bytes += num_bytes

    def _put_back(self, sent: Sent) -> None:
        """What could not be written is tried again, unless there is a newer one."""
        with self._lock:
            self._costs.skipped_publications += self._outbox is not None
            self._outbox = self._outbox or sent

    def _read(self, number: int, seat: Seat) -> None:
        if seat.peer not in (None, NO_PEER):
            self._look(seat, seat.peer)
        requested = seat.requested
        if requested is None or seat.is_ready or time.monotonic() < seat.not_before:
            return
        try:
            staged = self._stage(number, self._store.read(requested, seat.model, self._memory))
        except Exception:
            seat.failures += 1
            seat.not_before = time.monotonic() + self._period * 2 ** min(seat.failures, 4)
            raise
        self._costs.read_bytes += staged.num_bytes
        if seat.requested == requested:
            seat.staged = staged

    def _look(self, seat: Seat, peer: int) -> None:
        """Chooses what the chief requests: the newest, as long as nothing else is on its way."""
        if peer not in self._readers_of:
            self._store.announce_reader(peer)
            self._readers_of.add(peer)
        if seat.requested is None or seat.failures:
            newest = self._store.newest(peer, seat.held)
            seat.request(newest if newest != seat.held else None)

    @contextlib.contextmanager
    def _counting(self, failures: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, training goes on
            setattr(self._costs, failures, getattr(self._costs, failures) + 1)
            about = re.sub(r"[0-9a-f]*\d[0-9a-f]*", "", str(error))
            if self._logged.get(failures) != about:  # the same sentence at each try would be nothing new
                logging.warning("group %d, %s: %s", self._store.group, failures.replace("_", " "), error)
            self._logged[failures] = about
