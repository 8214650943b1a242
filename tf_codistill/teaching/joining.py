"""A group that comes late starts from what a peer has learned.

chief                             of all peers' newest snapshots the one with the most steps
every worker                      reads it: weights, and the recurrent state of the peer's lanes
step, and so data and schedules   go on from the snapshot's
optimizer                         begins anew, since snapshots have nothing of it
"""

from __future__ import annotations

from typing import Any

from absl import logging

from tf_codistill import distribution, recurrent_state, weights
from tf_codistill.exchange import precision as precisions
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import NO_PEER
from tf_codistill.groups import decisions

_TRIES = 3


def start_from_peer(store: Store, model: Any) -> int:
    """Gives the student what the most advanced peer has published; all workers of the group must call it.

    Args:
        store: The exchange, as this group sees it.
        model: The `CodistillationModel`, built.

    Returns:
        The step of the snapshot.

    Raises:
        ValueError: No peer has published a snapshot of such a model, or none can be read.
    """
    strategy, (student,) = model.distribute_strategy, model.students
    description = weights.description(student)
    for _ in range(_TRIES):  # it may be superseded and deleted before every worker has read it
        found = _most_advanced(store, description) if distribution.is_chief(strategy) else None
        ref = Ref(*decisions.broadcast(strategy, found.ref if found else Ref(NO_PEER)))
        if ref.peer == NO_PEER:
            break
        snapshot = found or _read(store, ref, description)
        if decisions.total(strategy, [int(snapshot is None)]) == [0] and snapshot is not None:
            worker = distribution.worker_index(strategy)
            arrays = precisions.dequantize_all(snapshot.weights, description, snapshot.precision)
            weights.assign(student.weights, arrays)
            if snapshot.states:
                recurrent_state.assign(recurrent_state.variables(student), snapshot.states, worker)
            logging.info(
                "group %d starts from a snapshot of group %d, step %d", store.group, ref.peer, snapshot.step
            )
            return snapshot.step
    raise ValueError(
        "start_from is 'peer', but there is no snapshot of a peer that this group could start from; start it "
        "when a peer has published one, or from 'scratch'"
    )


def _most_advanced(store: Store, description: weights.Description) -> Snapshot | None:
    best: Snapshot | None = None
    for peer in sorted(store.members() - {store.group}):
        ref = store.newest(peer)
        found = _read(store, ref, description) if ref else None
        if found is not None and (best is None or found.step > best.step):
            best = found
    return best


def _read(store: Store, ref: Ref, description: weights.Description) -> Snapshot | None:
    try:
        return store.read(ref, description)
    except (ValueError, OSError) as error:
        logging.warning("group %d cannot start from a snapshot of group %d: %s", store.group, ref.peer, error)
        return None
