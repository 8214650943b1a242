"""Evaluation-only workers (Anil et al. 2018, section 2.1): a peer predicts what a group reads next.

    answer(task, teaching, Part(0, 2, seed=1), "runs/two", peer=1, group=0)

    group 0 is at step 97      batches 98, 99, ... are a function of the step --> model of peer 1 --> answers
    group 1 publishes          the model takes the snapshot, and goes on with the next batch

It works ahead of the group by at most so many steps, fewer where not as many are kept, and predicts no batch
that the group has passed: one that is too slow leaves some batches without teaching, and nobody waits. A
recurrent model carries its state along the group's lanes; it begins with that of its peer's lanes, as a
teacher of `PeerExchange` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_codistill import recurrent_state
from tf_codistill.batches import Batch, Stream, batch_of
from tf_codistill.exchange.predictions.message import Predicted
from tf_codistill.following import waiting
from tf_codistill.following.faults import Faults
from tf_codistill.following.members import Followed, Members
from tf_codistill.tasks.base import Part, Task
from tf_codistill.teaching.base import Teaching, rows_of

_PAUSE_SECS, _LOOK_SECS = 0.02, 0.5
_MARGIN = 2  # steps ahead of a group at which to go on after it has overtaken


def answer(
    task: Task,
    teaching: Teaching,
    part: Part,
    workdir: str,
    peer: int,
    group: int,
    exchange_dir: str,
    ahead_steps: int = 100,
    show: waiting.Show = waiting.say,
    sleep: waiting.Sleep = time.sleep,
) -> int:
    """Predicts until the group has come to its end.

    It can be interrupted at any time; called again it goes on where the group is.

    Args:
        task: What the groups learn.
        teaching: Where the teaching of the group comes from, once it has joined.
        part: What of the data the group reads.
        workdir: Directory of the run.
        peer: Whose snapshots predict.
        group: Whose batches are predicted.
        exchange_dir: Directory through which its groups exchange.
        ahead_steps: How many steps ahead of the group, at most; fewer where not as many are kept.
        show: Shows a line.
        sleep: Waits for so many seconds.

    Returns:
        How many batches have been predicted.

    Raises:
        ValueError: The run does not wait for predictions, or trains something else, or it is not let in.
    """
    if ahead_steps < 1:
        raise ValueError(f"ahead_steps is {ahead_steps}; expected at least 1")
    faults, batches = Faults(), _Batches(task.training(part))
    members = Members(task, workdir, exchange_dir, faults, only=[peer])
    members.check()
    one = _first(members, lambda: _is_over(workdir, group, faults), show, sleep)
    if one is None:
        return 0
    answering = _Answering(one, teaching, batches, ahead_steps, faults)
    show(
        f"group {peer} predicts for group {group} from step {answering.begin()} on, with its step {one.step}"
    )
    looked_at = time.monotonic()
    while True:
        if time.monotonic() - looked_at >= _LOOK_SECS:
            if _is_over(workdir, group, faults):
                break
            members.look()
            looked_at = time.monotonic()
        if not answering.work():
            sleep(_PAUSE_SECS)
    show(f"group {group} has finished; {answering.number} batches were predicted, faults: {faults.number}")
    return answering.number


def _is_over(workdir: str, group: int, faults: Faults) -> bool:
    """Whether a group has come to its end, as far as can be seen now."""
    awaited = waiting.unfinished_yet(workdir, [group], faults)
    return awaited is not None and group not in awaited


def _first(
    members: Members, is_over: Callable[[], bool], show: waiting.Show, sleep: waiting.Sleep
) -> Followed | None:
    """The peer with its first snapshot; None if the group comes to its end before."""
    members.look()
    if not members.held():
        show("waiting for the first snapshot")
    while not members.held():
        if is_over():
            return None
        sleep(_LOOK_SECS)
        members.look()
    return members.held()[0]


class _Batches:
    """The batches of a group, read in order as far as they are wanted in order."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._next = -1
        self._iterator: Any = iter(())

    def at(self, step: int) -> Batch:
        """That of a step."""
        if step != self._next:
            self._iterator = iter(self._stream.dataset(first_step=step))
        self._next = step + 1
        return batch_of(next(self._iterator))


class _Answering:
    """Makes one prediction after another."""

    def __init__(
        self, one: Followed, teaching: Teaching, batches: _Batches, ahead_steps: int, faults: Faults
    ) -> None:
        self._one, self._batches, self._faults = one, batches, faults
        self._step, self._group_at, self.number, self._has_begun = 0, -1, 0, False
        model: Any = one.model
        features = batches.at(0).features
        self._answers, compress = teaching.answers(one.group, model(features, training=False))
        self._ahead_steps = min(ahead_steps, self._answers.most_ahead(int(rows_of(features))))
        if one.lanes:
            recurrent_state.assign(recurrent_state.variables(model), one.lanes)
        self._predict = tf.function(
            lambda features, step: compress(model(features, training=False), step), autograph=False
        )

    def begin(self) -> int:
        """Begins where the group is; a `ValueError` if it is not let in."""
        try:
            self._answers.position()
        except PermissionError as error:
            raise ValueError(f"predictions cannot be exchanged: {error}") from error
        except OSError as error:
            self._faults.note("the exchange", error)
        self._step = self._position() + _MARGIN
        return self._step

    def work(self) -> bool:
        """Predicts the next batch; False if that is too far ahead, or fails."""
        position = self._position()
        if self._step <= position:
            self._step = position + _MARGIN
        if self._step > position + self._ahead_steps:
            return False
        batch = self._batches.at(self._step)
        parts = self._predict(batch.features, tf.constant(self._step, tf.int64))
        numpy = [part.numpy() for part in parts]
        self._step += 1
        try:
            if not self._has_begun:
                self._answers.begin(self._step - 1)
                self._has_begun = True
            self._answers.put(Predicted(self._step - 1, self._one.step, batch.keys.numpy(), numpy))
        except OSError as error:  # this one is lost, so that lanes are read on in order
            self._faults.note("the exchange", error)
            return False
        self.number += 1
        return True

    def _position(self) -> int:
        """The step at which the group is, or was when it could last be seen."""
        try:
            found = self._answers.position()
            self._group_at = -1 if found is None else found
        except OSError as error:
            self._faults.note("the exchange", error)
        return self._group_at
