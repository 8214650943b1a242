"""A peer's weights at one step, as they are in memory between the exchange and a teacher.

    Ref(peer=1, incarnation=1700000000, serial=3)     names a snapshot among all of a run
    Snapshot(ref, step=150, weights=[...], ...)       what lies there
    Swap(step=162, seat=0, *ref)                      when a teacher took it

An incarnation is a start of a group, so that a peer which began anew is not mistaken for what it was.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np


class Ref(NamedTuple):
    """Which snapshot: the newest of a peer is the greatest.

    Attributes:
        peer: The group that published it.
        incarnation: The start of that group, in which it did; later ones have greater numbers.
        serial: Its number among those of this start, from 1.
    """

    peer: int
    incarnation: int = 0
    serial: int = 0


class Swap(NamedTuple):
    """A teacher took the snapshot of a `Ref`; a list of them is all that it takes to repeat a run.

    Of peer -1: its snapshot had become too old in seconds, or its peer had left; it has no share any more.

    Attributes:
        step: Steps that the learning group had done.
        seat: Which teacher, from 0.
    """

    step: int
    seat: int
    peer: int
    incarnation: int
    serial: int


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A peer's weights at one step.

    Attributes:
        ref: Which one it is.
        step: The optimizer step after which it was taken.
        published_at: When it was committed, in seconds since the epoch, by the publisher's clock.
        weights: The arrays of ``model.weights`` in the model's order, in `precision`.
        states: The recurrent state [B, ...] of the publisher's lanes, from which a new teacher starts; empty
            for a model without memory.
        num_bytes: Size of the files that were read.
        precision: What `exchange.precision.quantize_all` has made `weights` with.
        is_staged: Whether `weights` are what a teacher's variables hold, ready to be given to them.
    """

    ref: Ref
    step: int
    published_at: float
    weights: list[np.ndarray]
    states: list[np.ndarray]
    num_bytes: int
    precision: str = "float32"
    is_staged: bool = False
