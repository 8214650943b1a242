"""Groups on the same batch meet inside the step: each leaves what it predicts and takes what its peers do.

    meeting = Rendezvous(channel, message_format, "group_0", ["group_1"], num_parts=1, wait_secs=30.0)
    meeting.begin(step=100)
    (found,) = meeting.exchange(100, part=0, keys, parts)         found.present_B: of which rows there is any

Who is not there in time is absent, and training goes on. A peer is waited for as long as it gets on: one from
which nothing new has come for `wait_secs` is asleep, and costs no more time until something new comes; one
that has fallen behind is waited for at each step, and so catches up; one that is ahead has left what there
is, if it has not been removed since.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from tf_codistill.exchange import manifests
from tf_codistill.exchange.predictions.channel import Channel
from tf_codistill.exchange.predictions.message import MessageFormat, Predicted, rows_by_key
from tf_codistill.files import CorruptError

_SLICE_SECS = 0.5  # of waiting, between two looks at whether a peer gets on
_MOST_PARTS = 1 << 20


class Received(NamedTuple):
    """What a peer has predicted.

    Attributes:
        parts: By row, [B, ...] each; zeros where there is nothing.
        present_B: Which rows there are, float32 [B].
        weights_step: Steps that the peer had done; that of the batch if there is nothing.
    """

    parts: list[np.ndarray]
    present_B: np.ndarray
    weights_step: int


@dataclasses.dataclass
class PredictionCosts:
    """What exchanging predictions has cost this worker so far.

    Attributes:
        sent_bytes: Bytes of predictions that were left for peers.
        received_bytes: Bytes that were taken from them, and are predictions of this run.
        waited_secs: Seconds that steps have waited for peers, summed over replicas.
        prediction_secs: Seconds that they have spent on exchanging, waiting included.
        absent_peers: How often a peer had nothing for a batch.
        failed_exchanges: Attempts to leave or take something that failed, or found something corrupt.
        asked_rows: Rows for which a peer was asked.
        present_rows: Those of them for which it had predicted.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    waited_secs: float = 0.0
    prediction_secs: float = 0.0
    absent_peers: int = 0
    failed_exchanges: int = 0
    asked_rows: int = 0
    present_rows: int = 0


@dataclasses.dataclass
class _Peer:
    """A peer, as it looks from here: how many parts it has, and when it was last seen to get on."""

    name: str
    news_at: float
    num_parts: int | None = None
    newest: int | None = None
    is_awake: bool = True


class Rendezvous:
    """One worker's end of it; its replicas may meet their peers at the same time.

    Attributes:
        costs: What it has cost.
    """

    def __init__(
        self,
        channel: Channel,
        message_format: MessageFormat,
        description: dict[str, Any],
        own: str,
        peers: Sequence[str],
        wait_secs: float,
        costs: PredictionCosts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes note of who meets.

        Args:
            channel: What carries predictions.
            message_format: How their messages are laid out.
            description: Of what this group predicts, as JSON takes it: ``num_parts``, ``run_id``, and what
                else has to be equal in all groups.
            own: Name of this group.
            peers: Names of those that it learns from.
            wait_secs: How long to wait for a peer, at most.
            costs: What it has cost so far.
            clock: Returns seconds.
        """
        self._channel, self._format, self._description = channel, message_format, description
        self._own, self._wait_secs, self._clock = own, wait_secs, clock
        self._peers = [_Peer(name, clock()) for name in peers]
        self._lock = threading.Lock()
        self._begins_at: int | None = None
        self._beginning = threading.Lock()
        self._warned: set[str] = set()
        self.costs = costs or PredictionCosts()

    def begin(self, step: int, is_chief: bool = True) -> None:
        """Says that this group goes on from a step, and looks whether its peers fit.

        Args:
            step: Number of steps done.
            is_chief: Whether this worker speaks for the group.

        Raises:
            ValueError: A peer predicts something else, or in another form; or this group is not let in.
        """
        self._begins_at = step if is_chief else None
        try:
            self._begin()
            for peer in self._peers:
                self._meet(peer)
        except PermissionError as error:
            raise ValueError(f"predictions cannot be exchanged: {error}") from error
        except (OSError, CorruptError) as error:  # which is tried again
            self._warn("begin", error)
        for peer in self._peers:
            peer.news_at = self._clock()

    def exchange(
        self, step: int, part: int, keys: np.ndarray, parts: list[np.ndarray] | None
    ) -> list[Received]:
        """Leaves what this replica predicts, and takes what the peers have predicted for the same rows.

        Args:
            step: Number of steps done.
            part: Which replica of the group.
            keys: Names of the rows, int64 [B, 2].
            parts: What `forms.Form.compress` has made of the predictions; None to leave but a sign of life.

        Returns:
            For each peer what it has predicted; whatever fails, nobody is present.
        """
        began = self._clock()
        content = b"" if parts is None else self._format.encode(Predicted(step, step, keys, parts))
        with self._counting("leave predictions"):
            self._begin()
            self._channel.put(self._own, step, part, content)
            self._count(sent_bytes=len(content))
        found = [self._of_peer(peer, step, part, keys) for peer in self._peers]
        self._count(prediction_secs=self._clock() - began)
        return found

    def _begin(self) -> None:
        with self._beginning:
            if self._begins_at is not None:
                self._channel.begin(self._own, self._description, self._begins_at)
                self._begins_at = None

    def close(self) -> None:
        """Leaves the channel."""
        self._channel.close()

    def _of_peer(self, peer: _Peer, step: int, part: int, keys: np.ndarray) -> Received:
        messages: list[Predicted] = []
        with self._counting(f"take predictions of {peer.name}"):
            messages += self._messages(peer, step, part, len(keys))
        if messages:
            parts, present_B = rows_by_key(keys, messages)
            found = Received(parts, present_B, min(one.weights_step for one in messages))
        else:
            nothing = [np.zeros((len(keys), *shape), dtype) for shape, dtype in self._format.specs]
            found = Received(nothing, np.zeros(len(keys), np.float32), step)
        present = int(found.present_B.sum())
        if present < len(keys):
            peer.num_parts = None  # to be met anew: it may have begun again, with other replicas
        self._count(asked_rows=len(keys), present_rows=present, absent_peers=int(not present))
        return found

    def _messages(self, peer: _Peer, step: int, part: int, rows: int) -> Iterator[Predicted]:
        """What there is of the parts of a batch in which rows of this replica may be."""
        if peer.num_parts is None:
            self._meet(peer)
        own, theirs = self._description["num_parts"], peer.num_parts
        max_bytes = self._format.num_bytes(rows * own)  # if all rows of the batch are one part
        for one in [part] if theirs in (None, own) else range(theirs):
            content = self._wait(peer, step, one, max_bytes)
            if content is None:
                peer.num_parts = None
                return
            message = self._format.decode(f"part {one} of step {step} of {peer.name}", content)
            self._count(received_bytes=len(content))
            yield message

    def _meet(self, peer: _Peer) -> None:
        """Looks at what a peer has described, if it is of this run."""
        said = self._channel.description(peer.name)
        if said is None or said.get("run_id") != self._description["run_id"]:
            return
        for name, value in self._description.items():
            if name != "num_parts" and said.get(name) != value:
                raise ValueError(
                    f"{self._own} predicts with {name} {value!r}, {peer.name} with {said.get(name)!r}; start "
                    "all groups on data of the same classes, with the same model and the same "
                    "PredictionExchange, in an empty directory"
                )
        if not manifests.is_count(said.get("num_parts"), _MOST_PARTS):
            raise CorruptError(f"{peer.name} has {said.get('num_parts')!r} parts; expected a number")
        peer.num_parts = said["num_parts"]

    def _wait(self, peer: _Peer, step: int, part: int, max_bytes: int) -> bytes | None:
        """What a peer has left; it is waited for as long as it gets on, and never beyond `wait_secs`."""
        began = self._clock()
        try:
            while True:
                is_ahead = peer.newest is not None and peer.newest > step
                secs = min(_SLICE_SECS, self._wait_secs) if peer.is_awake and not is_ahead else 0.0
                content = self._channel.get(peer.name, step, part, secs, max_bytes)
                if content is not None:
                    peer.is_awake, peer.news_at = True, self._clock()
                    return content
                newest, now = self._channel.newest(peer.name), self._clock()
                if newest != peer.newest:
                    peer.newest, peer.news_at, peer.is_awake = newest, now, True
                elif is_ahead:
                    return None  # it has been there, and is not any more
                is_late = now - began >= self._wait_secs
                if is_late and now - peer.news_at >= self._wait_secs:
                    peer.is_awake = False
                if is_late or not peer.is_awake:
                    return None
        finally:
            self._count(waited_secs=self._clock() - began)

    def _count(self, **more: float) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.costs, name, getattr(self.costs, name) + number)

    @contextlib.contextmanager
    def _counting(self, attempt: str) -> Iterator[None]:
        """Whatever it is, training goes on; each kind of failure is warned of once."""
        try:
            yield
        except Exception as error:
            self._warn(attempt, error)

    def _warn(self, attempt: str, error: Exception) -> None:
        self._count(failed_exchanges=1)
        about = attempt + re.sub(r"[0-9a-f]*\d[0-9a-f]*", "", str(error))
        if about not in self._warned:
            self._warned.add(about)
            logging.warning("%s cannot %s: %s", self._own, attempt, error)
