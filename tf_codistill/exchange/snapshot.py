"""A peer's weights at one step, as they are in memory between the exchange and a teacher."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A peer's weights at one step.

    Attributes:
        group: The group that published it.
        step: The optimizer step after which it was taken.
        published_at: When it was committed, in seconds since the epoch, by the publisher's clock.
        weights: The arrays of ``model.weights`` in the model's order.
        states: The recurrent state [B, ...] of the publisher's lanes, from which a new teacher starts; empty
            for a model without memory.
        num_bytes: Size of the files that were read.
    """

    group: int
    step: int
    published_at: float
    weights: list[np.ndarray]
    states: list[np.ndarray]
    num_bytes: int
