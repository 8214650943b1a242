"""PeerExchange: groups that learn of each other by snapshots in a shared directory.

    training, at the end of each execution                    courier, meanwhile (see `exchange.courier`)
        every `every_steps` steps: copy weights to the host --->  write the snapshot of this group
        propose  what the chief wants, what this worker has       look for peers' newest, read, stage
        decide   where every worker has it, the teacher takes it: an assignment

Groups need nothing else of each other. A peer that is late, dead or writes rubbish leaves its teacher as it
is, and storage that is slow or fails only makes snapshots older. At the end of each epoch what this has cost
is added to the logs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
import keras
from absl import logging

from tf_codistill import distribution, recurrent_state, weights
from tf_codistill.exchange.courier import Costs, Courier, Seat
from tf_codistill.exchange.snapshot import Ref, Snapshot, Swap
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import RandomPeers, Topology, candidates_of, seats, teachers_of
from tf_codistill.groups import decisions
from tf_codistill.teaching.base import ModelFn, Place
from tf_codistill.teaching.frozen import FrozenTeachers

PUBLISH = ("when_read", "always")

_GRACE_SECS = 600.0
_NUMBERS = 5  # of a seat in a meeting: workers that are ready, that have failed, and the chief's Ref


@gin.configurable(module="tf_codistill")
class PeerExchange(FrozenTeachers):
    """Publishes this group's snapshots, and holds teachers that are kept fresh with those of its peers.

    `fit` adds to the logs of each epoch what the exchange has cost, see `exchange.courier.Costs`, and
    ``staleness_secs``, the mean age of the teachers' snapshots.

    Attributes:
        costs: What exchanging has cost this worker.
        swaps: Which snapshots the teachers took, and when; each is logged, too.
    """

    def __init__(
        self,
        directory: str | None = None,
        group: int = 0,
        num_groups: int = 1,
        every_steps: int = 50,
        topology: Topology = "fully_connected",
        precision: str = "float32",
        peer_model_fns: Mapping[int, ModelFn] | None = None,
        keep: int = 3,
        min_age_secs: float | None = None,
        max_bytes: float = 4e9,
        publish: str = "when_read",
        run_id: str | None = None,
        wait: bool = False,
        replay: Sequence[Swap] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            directory: The exchange: a directory that all groups see, of any scheme of ``tf.io.gfile``. An
                `Experiment` names that of its run, and says the next two as well.
            group: This group, from 0.
            num_groups: Number of groups.
            every_steps: Optimizer steps between two exchanges, at least 1.
            topology: Who teaches whom, see `exchange.topology.teachers_of`.
            precision: How this group's snapshots and teachers hold weights, one of
                `exchange.precision.PRECISIONS`; int8 takes about a quarter of float32. Groups may differ in
                it.
            peer_model_fns: Makes the models of groups that train another architecture than this one, by
                group; with outputs of the same shapes.
            keep: How many of this group's newest snapshots stay.
            min_age_secs: Age in seconds before an older one is deleted; three intervals between exchanges if
                not given.
            max_bytes: Size of all of them from which on older ones are deleted whatever their age.
            publish: ``"when_read"``: snapshots are written if the topology lets another group learn from this
                one, or if another has said that it does; or ``"always"``.
            run_id: Names the run: snapshots of others are never taken. `launch` gives one; without it the
                first group in the directory does.
            wait: Whether training stands still at each exchange until all is written and read, for runs that
                can be repeated.
            replay: Takes these snapshots at these steps, and no others; all have to be there still.
            clock: Returns seconds since the epoch.

        Raises:
            ValueError: An argument is out of range.
        """
        if every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}; expected at least 1")
        if publish not in PUBLISH:
            raise ValueError(f"publish is {publish!r}; expected one of {', '.join(PUBLISH)}")
        super().__init__(0, precision)
        self._every_steps, self._topology = every_steps, topology
        self._peer_model_fns = dict(peer_model_fns or {})
        self._min_age_secs, self._publish, self._clock = min_age_secs, publish, clock
        self._wait, self._replay = wait or replay is not None, replay
        self._settings: dict[str, Any] = {
            "keep": keep,
            "max_bytes": max_bytes,
            "precision": precision,
            "clock": clock,
        }
        self._run_id = run_id
        self.costs = Costs()
        self.swaps: list[Swap] = []
        self._courier: Courier | None = None
        self._stand(directory or "", group, num_groups)
        self._store()
        if num_groups > 1:  # otherwise it may be said by `join`
            self._take_seats()

    def _stand(self, directory: str, group: int, num_groups: int) -> None:
        self._directory, self._group, self._num_groups = directory, group, num_groups

    def _take_seats(self) -> None:
        self._candidates = candidates_of(self._group, self._num_groups, self._topology)
        self._seat(len(self._candidates))

    def _store(self) -> Store:
        grace = _GRACE_SECS if self._min_age_secs is None else self._min_age_secs
        return Store(self._directory, self._group, run_id=self._run_id, min_age_secs=grace, **self._settings)

    def join(self, place: Place) -> None:
        """Takes directory and name of the run, unless it has been given others, and this group's number."""
        if not self._peer_model_fns:
            self._peer_model_fns = {peer: place.model_fn_of(peer) for peer in range(place.num_groups)}
        self._run_id = self._run_id or place.run_id
        self._stand(self._directory or place.exchange_dir, place.group, place.num_groups)
        self._take_seats()

    def make(self, students: Sequence[keras.Model], model_fns: Sequence[ModelFn]) -> None:
        """Makes as many teachers as the topology says."""
        self._take_seats()
        super().make(students, model_fns)

    def learners(self) -> list[str]:
        """This group."""
        return [f"group {self._group}"]

    def names(self) -> list[str]:
        """The groups whose snapshots the teachers hold."""
        return [f"group {peer}" for peer in self.peers()]

    def model_fns(self, model_fn: ModelFn) -> list[ModelFn]:
        """What makes each teacher: its peer's architecture.

        Args:
            model_fn: What made the student.

        Returns:
            One function for each teacher.

        Raises:
            ValueError: A teacher may stand for peers that train different models.
        """
        found = []
        for peers in self._candidates:
            makers = [self._peer_model_fns.get(peer, model_fn) for peer in peers]
            if any(maker != makers[0] for maker in makers):
                raise ValueError(
                    f"topology lets a teacher stand for any of groups {peers}, but peer_model_fns gives them "
                    "different models; use a topology with fixed peers"
                )
            found.append(makers[0])
        return found

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What exchanges between the steps."""
        return [_Exchanging(self)]

    def age_secs(self) -> float:
        """Age of the teachers' snapshots in seconds, see `staleness_secs`."""
        return self.staleness_secs(self._clock())

    def begin(self, model: Any) -> None:
        """Announces this group's model and sends for what the peers have published.

        Args:
            model: The `CodistillationModel`, as its first step finds it.

        Raises:
            ValueError: There is no directory, it cannot be written to, or the model differs from a peer's.
        """
        if not self._directory:
            raise ValueError("PeerExchange has no directory; name the one through which groups exchange")
        self._model, self._worker = model, distribution.worker_index(model.distribute_strategy)
        self._num_workers = distribution.num_workers(model.distribute_strategy)
        (self._student,) = model.students
        step = model.step()
        self._memory = weights.Pool()
        self._number, self._sent_step = step // self._every_steps, -1
        store = self._store()
        with self._timed():
            if self._worker == 0:
                self._announce_at_start(store, step)
            self._courier = Courier(
                store,
                [Seat(weights.description(t), held=h) for t, h in zip(self.frozen, self.held, strict=True)],
                self.stage,
                (lambda: self._announce(store, step)) if self._worker == 0 else None,
                self.costs,
                grace=self._min_age_secs is None,
            )
            self._agreed: list[Ref | None] = [None] * len(self.frozen)
            self._offered: list[Snapshot | None] = [None] * len(self.frozen)
            self._choose_peers()
            self._step, self._is_due = step, True
            if self._wait:
                self._exchange_now(decisions.total(model.distribute_strategy, self._proposals()))
            else:
                self._courier.start()

    def propose(self) -> list[int]:
        """What a worker says in the meeting at the end of an execution.

        Returns:
            For each seat whether a snapshot has been read here, whether that has failed, and what the chief
            wants.
        """
        with self._timed():
            self._step = self._model.step()
            self._is_due = self._step // self._every_steps > self._number
            if self._is_due:
                self._number = self._step // self._every_steps
                self._courier_of_fit().is_time()
                self.publish(self._step)
                self._choose_peers()
            return self._proposals()

    def decide(self, sums: list[int]) -> None:
        """Takes what every worker has.

        Args:
            sums: The proposals of all workers, added up.
        """
        with self._timed():
            if self._wait:
                self._exchange_now(sums)
            else:
                self._exchange(sums)

    def publish(self, step: int) -> None:
        """Sends the courier off with a copy of this group's weights, if anybody wants them.

        Args:
            step: The step that has been reached.
        """
        courier, has_been = self._courier_of_fit(), step == self._sent_step
        wanted = self._publish == "always" or courier.has_readers or self._is_learned_from()
        if self._worker == 0 and wanted and not has_been:
            states = recurrent_state.values(recurrent_state.variables(self._student))
            arrays = weights.values(self._student.weights, self._memory)
            courier.send(step, weights.description(self._student), arrays, states)
            self._sent_step = step

    def publish_the_last(self) -> None:
        """Sends what training ended with, and waits until it has been written."""
        with self._timed():
            self.publish(self._model.step())
            self._courier_of_fit().close(finish=True)
            self._courier = None

    def end(self) -> None:
        """Stops the courier, if training has not come to its end."""
        if self._courier is not None:
            self._courier.close(finish=False)
            self._courier = None

    def _courier_of_fit(self) -> Courier:
        if self._courier is None:
            raise ValueError("PeerExchange exchanges within fit; call it on a CodistillationModel")
        return self._courier

    def _is_learned_from(self) -> bool:
        others = (g for g in range(self._num_groups) if g != self._group)
        return any(
            self._group in peers
            for other in others
            for peers in candidates_of(other, self._num_groups, self._topology)
        )

    def _announce_at_start(self, store: Store, step: int) -> None:
        try:
            self._announce(store, step)
        except PermissionError as error:
            raise ValueError(
                f"exchange directory {self._directory!r} cannot be written to ({error}); name another one or "
                "change its permissions"
            ) from error
        except OSError as error:  # the courier tries again
            self.costs.failed_publications += 1
            logging.warning("group %d cannot announce itself yet: %s", self._group, error)

    def _announce(self, store: Store, step: int) -> None:
        self._check_peers(store)
        store.announce(weights.description(self._student), step)
        try:
            self._check_peers(store)  # of two groups that begin at the same time one at least sees the other
        except ValueError:
            store.withdraw()
            raise

    def _check_peers(self, store: Store) -> None:
        for seat, teacher in enumerate(self.frozen):
            for peer in self._candidates[seat]:
                difference = store.difference(peer, weights.description(teacher))
                if difference is None:
                    continue
                raise ValueError(
                    f"group {self._group} and group {peer} train different models: {difference}; "
                    "start all groups with the same model, give PeerExchange the peer's in "
                    "peer_model_fns, or start this group with an empty exchange directory"
                )

    def _choose_peers(self) -> None:
        """For each teacher the peer to look at; the chief's courier alone looks."""
        if self._worker or self._replay is not None:
            return
        # A function of the step, so that a group that resumes draws the same.
        peers = teachers_of(self._group, self._num_groups, self._topology, self._number)
        if isinstance(self._topology, RandomPeers):
            peers = seats(self.peers(), peers)
        for seat, peer in zip(self._courier_of_fit().seats, peers, strict=True):
            seat.peer = peer

    def _proposals(self) -> list[int]:
        courier, numbers = self._courier_of_fit(), []
        if self._wait and self._is_due and self._worker == 0:
            courier.work()
        for index, seat in enumerate(courier.seats):
            if seat.wanted is not None and seat.peer not in (None, seat.wanted.peer):
                seat.want(None)
            wanted = seat.wanted
            if self._num_workers == 1:
                self._agreed[index] = wanted
            is_ready = seat.is_ready and wanted == self._agreed[index]
            self._offered[index] = seat.staged if is_ready else None
            of_chief = [wanted.peer + 1, *wanted[1:]] if wanted is not None and self._worker == 0 else [0] * 3
            numbers += [int(is_ready), int(seat.has_failed), *of_chief]
        return numbers

    def _exchange(self, sums: list[int]) -> None:
        for index, seat in enumerate(self._courier_of_fit().seats):
            num_ready, num_failed = sums[_NUMBERS * index : _NUMBERS * index + 2]
            wanted, offered = _wanted(sums, index), self._offered[index]
            if offered is not None and wanted == self._agreed[index] and num_ready == self._num_workers:
                self._swap(index, offered)
                continue
            self._agreed[index] = wanted
            if self._worker:
                seat.want(wanted)
            elif num_failed:
                seat.failures += 1  # so that it looks for another one

    def _exchange_now(self, sums: list[int]) -> None:
        """Reads what the chief wants, or what is to be taken again, and does not go on before."""
        number = len(self.frozen)
        if self._replay is None and self._is_due:
            self._read_and_swap([_wanted(sums, index) for index in range(number)])
        for swap in self._replay or ():
            if swap.step == self._step and self.held[swap.seat] != Ref(*swap[2:]):
                self._read_and_swap(
                    [Ref(*swap[2:]) if index == swap.seat else None for index in range(number)]
                )
                if self.held[swap.seat] != Ref(*swap[2:]):
                    raise ValueError(f"{swap} cannot be taken again: the snapshot is not there or damaged")

    def _read_and_swap(self, wanted: Sequence[Ref | None]) -> None:
        courier = self._courier_of_fit()
        for seat, ref in zip(courier.seats, wanted, strict=True):
            seat.want(ref)
        if self._worker or self._replay is not None:
            courier.work()
        ready = [int(seat.is_ready) for seat in courier.seats]
        sums = decisions.total(self._model.distribute_strategy, ready)
        for index, (seat, num_ready) in enumerate(zip(courier.seats, sums, strict=True)):
            if num_ready == self._num_workers and seat.staged is not None:
                self._swap(index, seat.staged)
            seat.want(None)

    def _swap(self, index: int, staged: Snapshot) -> None:
        self.refresh(index, staged, self._worker)
        self.swaps.append(Swap(self._step, index, *staged.ref))
        logging.info("swap at step %d, seat %d, peer %d, incarnation %d, serial %d", *self.swaps[-1])
        seat, self._agreed[index] = self._courier_of_fit().seats[index], None
        seat.held = staged.ref
        seat.want(None)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.costs.exchange_secs += time.perf_counter() - began


def _wanted(sums: Sequence[int], index: int) -> Ref | None:
    peer, *rest = sums[_NUMBERS * index + 2 : _NUMBERS * (index + 1)]
    return Ref(peer - 1, *rest) if peer else None


class _Exchanging(keras.callbacks.Callback):
    """Meets at the end of each execution; begins with the first step, when everything has been restored."""

    def __init__(self, exchange: PeerExchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._has_begun = False
        self._logged = dataclasses.asdict(exchange.costs)

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        size = _NUMBERS * len(self._exchange.frozen)
        self.model.meeting.join(size, self._exchange.propose, self._exchange.decide)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        if not self._has_begun:
            self._has_begun = True
            self._exchange.begin(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch
        if logs is not None and self._has_begun:
            costs = dataclasses.asdict(self._exchange.costs)
            logs.update({name: float(cost - self._logged[name]) for name, cost in costs.items()})
            self._logged = costs
            logs["staleness_secs"] = self._exchange.age_secs()

    def on_train_end(self, logs: Any = None) -> None:
        del logs
        if self._has_begun:
            self._exchange.publish_the_last()
