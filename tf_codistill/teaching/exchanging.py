"""What a group that exchanges snapshots does around the steps of one `fit`.

    training, at the end of each execution                    courier, meanwhile (see `exchange.courier`)
        every `every_steps` steps: copy weights to the host --->  write the snapshot of this group
        propose  what the chief requests, what this worker has   look for peers' newest, read, stage
        decide   where every worker has it, the teacher takes it: an assignment

Under several workers the chief says in one meeting what it requests; every worker's courier reads just that;
in the first meeting in which all have it, all take it. If one cannot read it, the chief looks for another.
What is too old in seconds is so by the chief's clock, which the meeting tells all workers: each puts the same
teachers out, and notes that as a swap to nobody, so that a repeated run needs no clock. So it is where a peer
has left, which the chief sees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from absl import logging

from tf_codistill import distribution, recurrent_state, weights
from tf_codistill.exchange.courier import Courier, Seat
from tf_codistill.exchange.snapshot import Ref, Snapshot, Swap
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import NO_PEER
from tf_codistill.groups import decisions
from tf_codistill.teaching.frozen import NO_SNAPSHOT

_NOBODY = Ref(NO_PEER)  # what the chief requests for a seat whose peer has left
_NUMBERS = 5  # of a seat in a meeting: workers that are ready, that have failed, and the chief's Ref


class Exchanging(keras.callbacks.Callback):
    """Meets at the end of each execution; begins with the first step, when everything has been restored."""

    def __init__(self, teachers: Any) -> None:
        """Takes note of the `PeerExchange` that it serves."""
        super().__init__()
        self._teachers = teachers
        self._logged = dataclasses.asdict(teachers.costs)
        self._courier: Courier | None = None
        self._out_of_date: set[int] = set()

    def on_train_begin(self, logs: Any = None) -> None:
        """Takes part in the meetings."""
        seats = len(self._teachers.frozen)
        self._has_clock = bool(seats) and self._teachers.max_staleness_secs is not None
        self.model.meeting.join(_NUMBERS * seats + self._has_clock, self._propose, self._decide)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begins with the first step."""
        if self._courier is None:
            with self._timed():
                self._begin()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds to the logs what exchanging has cost in this epoch."""
        if logs is not None and self._courier is not None:
            costs = dataclasses.asdict(self._teachers.costs)
            logs.update({name: float(cost - self._logged[name]) for name, cost in costs.items()})
            self._logged = costs
            logs["staleness_secs"] = self._teachers.staleness_secs(self._teachers.clock())
            logs["outdated_teachers"] = float(len(self._teachers.out_of_date(self.model.step())))
            if self._teachers.min_teacher_quality is not None:
                self._weigh(logs)

    def _weigh(self, logs: dict[str, float]) -> None:
        """Weighs teachers by what they scored in this epoch, which all workers see alike."""
        number = len(self._teachers.frozen)
        names = [f"teacher_{i}_task_loss" for i in range(number)] if number > 1 else ["teacher_task_loss"]
        shares = self._teachers.weigh(logs["loss"], [logs.get(name) or None for name in names])
        logs["teacher_share"] = sum(shares) / max(len(shares), 1)

    def on_train_end(self, logs: Any = None) -> None:
        """Publishes what training ended with, and waits until it has been written."""
        if self._courier is not None:
            with self._timed():
                self._publish(self._courier, self.model.step())
                self._courier.close(finish=True)
                self._courier = None

    def stop(self) -> None:
        """Stops the courier, and takes leave of peers, if training has not come to its end."""
        if self._courier is not None:
            self._courier.close(finish=False)
            self._courier = None
            if self._teachers.seating.is_elastic and self._worker == 0:
                with contextlib.suppress(OSError, ValueError):  # then they see that it publishes no more
                    self._store.leave()

    def _begin(self) -> None:
        """Announces this group's model and sends for what the peers have published."""
        teachers, strategy = self._teachers, self.model.distribute_strategy
        self._worker = distribution.worker_index(strategy)
        self._num_workers = distribution.num_workers(strategy)
        (self._student,) = self.model.students
        self._step, self._is_due, self._sent_step = self.model.step(), True, -1
        self._store = store = teachers.store()
        own = weights.description(self._student)
        announce: Callable[[], None] | None = None
        if self._worker == 0:
            announce = functools.partial(self._announce, store, self._step)
            self._announce_at_start(store, announce)
        is_sent = self._worker == 0 and teachers.is_read()
        descriptions = map(weights.description, teachers.frozen)
        self._courier = courier = Courier(
            store,
            [Seat(model, held=held) for model, held in zip(descriptions, teachers.held, strict=True)],
            teachers.stage,
            announce,
            teachers.costs,
            grace=teachers.min_age_secs is None,
            reserve=functools.partial(teachers.own_memory.reserve, own) if is_sent else None,
            memory=teachers.peers_memory,
            looks_for_members=teachers.seating.is_elastic and self._worker == 0,
        )
        self._agreed: list[Ref | None] = [None] * len(courier.seats)
        self._offered: list[Snapshot | None] = [None] * len(courier.seats)
        self._choose_peers(courier)
        if teachers.waits:
            self._exchange_now(courier, decisions.total(strategy, self._proposals(courier)))
        else:
            courier.start()

    def _propose(self) -> list[int]:
        """For each seat whether its snapshot is read, whether that has failed, and the chief's request."""
        courier, every = self._courier, self._teachers.every_steps
        if courier is None:
            raise ValueError("there has been no step in which an exchange could begin")
        with self._timed():
            before, self._step = self._step, self.model.step()
            self._is_due = self._step // every > before // every
            if self._is_due:
                courier.is_time()
                self._publish(courier, self._step)
                self._choose_peers(courier)
            clock = [self._milliseconds()] if self._has_clock else []
            return self._proposals(courier) + clock

    def _milliseconds(self) -> int:
        return int(1000 * self._teachers.clock()) if self._worker == 0 else 0

    def _decide(self, sums: list[int]) -> None:
        """Takes what every worker has."""
        if self._courier is not None:
            with self._timed():
                self._free(self._courier, sums)
                exchange = self._exchange_now if self._teachers.waits else self._exchange
                exchange(self._courier, sums)
                if self._has_clock and self._teachers.replay is None:
                    self._retire(sums[-1] / 1000)
                if self._teachers.may_be_out_of_date():
                    self._tell()

    def _retire(self, now: float) -> None:
        """Puts out whoever is too old."""
        steps, limit = self._teachers.steps(), self._teachers.max_staleness_secs
        for index, age in self._teachers.ages_secs(now).items():
            if age > limit and steps[index] != NO_SNAPSHOT:
                self._put_out(index)

    def _free(self, courier: Courier, sums: Sequence[int]) -> None:
        """Puts out whoever has left."""
        for index, seat in enumerate(courier.seats):
            if _requested(sums, index) == _NOBODY:
                logging.info("%s has left; its teacher has no share", self._teachers.names()[index])
                self._put_out(index)
                self._agreed[index] = None
                seat.request(None)

    def _put_out(self, index: int) -> None:
        self._teachers.retire(index)
        self._note(Swap(self._step, index, *_NOBODY))

    def _tell(self) -> None:
        """Warns of each teacher that has come to be out of date."""
        before, self._out_of_date = self._out_of_date, set(self._teachers.out_of_date(self._step))
        for index in sorted(self._out_of_date - before):
            logging.warning(
                "group %d: the teacher from %s is out of date at step %d; it has no share until something "
                "fresher comes",
                self._teachers.group,
                self._teachers.names()[index],
                self._step,
            )

    def _publish(self, courier: Courier, step: int) -> None:
        """Sends the courier off with a copy of this group's weights, if anybody wants them."""
        self.model.statistics.average()  # here all workers are
        is_read = self._teachers.is_read() or courier.has_readers
        if self._worker == 0 and is_read and step != self._sent_step:
            courier.take_back()
            states = recurrent_state.values(recurrent_state.variables(self._student))
            arrays = self.model.statistics.values(self._student.weights, self._teachers.own_memory)
            courier.send(step, weights.description(self._student), arrays, states)
            self._sent_step = step

    def _announce_at_start(self, store: Store, announce: Callable[[], None]) -> None:
        try:
            announce()
        except PermissionError as error:
            raise ValueError(
                f"the exchange directory cannot be written to ({error}); name another one or change its "
                "permissions"
            ) from error
        except OSError as error:  # the courier tries again
            self._teachers.costs.failed_publications += 1
            logging.warning("group %d cannot announce itself yet: %s", store.group, error)

    def _announce(self, store: Store, step: int) -> None:
        self._check_peers(store)
        store.announce(weights.description(self._student), step, self._teachers.classes())
        try:
            self._check_peers(store)  # of two groups that begin at the same time one at least sees the other
        except ValueError:
            store.leave()
            raise

    def _check_peers(self, store: Store) -> None:
        classes = self._teachers.classes()
        for teacher, peers in zip(self._teachers.frozen, self._teachers.seating.candidates(), strict=True):
            for peer in peers or sorted(store.members() - {store.group}):
                if difference := store.difference(peer, weights.description(teacher), classes):
                    raise ValueError(
                        f"group {store.group} and group {peer} train different models: {difference}; "
                        "start all groups with the same model, give PeerExchange the peer's in "
                        "peer_model_fns, or start this group with an empty exchange directory"
                    )

    def _choose_peers(self, courier: Courier) -> None:
        """Says which peer to look at for each teacher; the chief's courier alone looks."""
        if self._worker == 0 and self._teachers.replay is None:
            if self._teachers.waits:
                courier.look_for_members()
            peers = self._teachers.peers_at(self._step, courier.members)
            for seat, peer in zip(courier.seats, peers, strict=True):
                seat.peer = peer

    def _proposals(self, courier: Courier) -> list[int]:
        numbers, steps = list[int](), self._teachers.steps()
        if self._teachers.waits and self._is_due and self._worker == 0:
            courier.work()
        for index, seat in enumerate(courier.seats):
            if seat.requested is not None and seat.peer not in (None, seat.requested.peer):
                seat.request(None)
            requested = seat.requested
            if self._num_workers == 1:
                self._agreed[index] = requested
            is_ready = seat.is_ready and requested == self._agreed[index]
            self._offered[index] = seat.staged if is_ready else None
            chosen = requested if self._worker == 0 else None
            if seat.peer == NO_PEER and steps[index] != NO_SNAPSHOT:
                chosen = _NOBODY
            of_chief = [chosen.peer + 2, *chosen[1:]] if chosen is not None else [0] * 3
            numbers += [int(is_ready), int(seat.has_failed), *of_chief]
        return numbers

    def _exchange(self, courier: Courier, sums: Sequence[int]) -> None:
        for index, seat in enumerate(courier.seats):
            num_ready, num_failed = sums[_NUMBERS * index : _NUMBERS * index + 2]
            requested, offered = _requested(sums, index), self._offered[index]
            if offered is not None and requested == self._agreed[index] and num_ready == self._num_workers:
                self._swap(index, seat, offered)
                continue
            requested = None if requested == _NOBODY else requested
            self._agreed[index] = requested
            if self._worker:
                seat.request(requested)
            elif num_failed:
                seat.failures += 1  # so that it looks for another one

    def _exchange_now(self, courier: Courier, sums: Sequence[int]) -> None:
        """Reads what the chief requests, or what is to be taken again, and does not go on before."""
        seats, replay = range(len(courier.seats)), self._teachers.replay
        if replay is None and self._is_due:
            requested = [_requested(sums, index) for index in seats]
            self._read_and_swap(courier, [None if ref == _NOBODY else ref for ref in requested])
        for swap in replay or ():
            ref = Ref(*swap[2:])
            if swap.step == self._step and ref.peer == NO_PEER:
                self._put_out(swap.seat)
            elif swap.step == self._step and self._teachers.held[swap.seat] != ref:
                self._read_and_swap(courier, [ref if index == swap.seat else None for index in seats])
                if self._teachers.held[swap.seat] != ref:
                    raise ValueError(f"{swap} cannot be taken again: the snapshot is not there or damaged")
        if replay is not None and self._is_due:
            courier.work()

    def _read_and_swap(self, courier: Courier, requested: Sequence[Ref | None]) -> None:
        for seat, ref in zip(courier.seats, requested, strict=True):
            seat.request(ref)
        if self._worker or self._teachers.replay is not None:
            courier.work()
        ready = [int(seat.is_ready) for seat in courier.seats]
        sums = decisions.total(self.model.distribute_strategy, ready)
        for index, (seat, num_ready) in enumerate(zip(courier.seats, sums, strict=True)):
            if num_ready == self._num_workers and seat.staged is not None:
                self._swap(index, seat, seat.staged)
            seat.request(None)

    def _swap(self, index: int, seat: Seat, staged: Snapshot) -> None:
        self._teachers.refresh(index, staged, self._worker)
        self._note(Swap(self._step, index, *staged.ref))
        seat.held, self._agreed[index] = staged.ref, None
        seat.request(None)

    def _note(self, swap: Swap) -> None:
        self._teachers.swaps.append(swap)
        logging.info("swap at step %d, seat %d, peer %d, incarnation %d, serial %d", *swap)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._teachers.costs.exchange_secs += time.perf_counter() - began


def _requested(sums: Sequence[int], index: int) -> Ref | None:
    peer, *rest = sums[_NUMBERS * index + 2 : _NUMBERS * (index + 1)]
    return Ref(peer - 2, *rest) if peer else None
