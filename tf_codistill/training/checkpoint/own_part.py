"""What is one worker's own in a checkpoint, whoever has written it.

    own_part.read(model, path, manifest)
        as many workers and replicas as wrote it    what this worker wrote itself, to the bit
        any other number                            what all of them wrote, dealt out anew; a line in the log

What is dealt out how is said in `state`, by which rule in `redealing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from tf_codistill import checkpoints, distribution
from tf_codistill.redealing import Layout, Redealing, is_floating
from tf_codistill.training.checkpoint import state


def read(model: Any, path: str, manifest: Mapping[str, Any]) -> checkpoints.ByName:
    """Reads it.

    Args:
        model: The `CodistillationModel`, built.
        path: Directory of the checkpoint.
        manifest: Its manifest.

    Returns:
        The second of what `state.of` returned, as this worker is to have it.

    Raises:
        ValueError: A file is damaged, or it cannot be dealt out.
    """
    strategy, num_workers = model.distribute_strategy, manifest["num_workers"]
    worker = distribution.worker_index(strategy)
    own = checkpoints.read_own(path, manifest, min(worker, num_workers - 1))
    before = Layout(num_workers, state.num_replicas(own))
    now = Layout(distribution.num_workers(strategy), distribution.num_local_replicas(strategy))
    if before == now:
        return own
    redealing = Redealing(before, now, worker)
    owns = [checkpoints.read_own(path, manifest, index) for index in range(num_workers)]
    own = state.redealt(model, owns, redealing)
    changes = "; ".join(_changes(owns, redealing))
    logging.info("the group goes on with %s%s", redealing, changes and f": {changes}")
    return own


def _changes(owns: Sequence[checkpoints.ByName], redealing: Redealing) -> Iterator[str]:
    if owns[0]["lanes"]:
        yield "lanes are dealt anew"
    if redealing.before.size == redealing.now.size:
        return
    of_replicas = zip(*(own["replicas"] for own in owns), strict=True)
    *apart, _, _ = (np.concatenate(parts) for parts in of_replicas)  # without the count of batches seen
    if any(is_floating(values) and (values != values[0]).any() for values in apart):
        yield "each replica begins with the mean of all batch statistics"
    if not all(map(is_floating, apart)):
        yield "random numbers (dropout) are others from here on"
