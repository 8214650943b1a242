"""What `fit` does so that it goes on where a checkpoint has it.

with resuming(model, callbacks, arguments) as (callbacks, continues):
    which epoch               from the mark of the newest whole checkpoint
    ... Keras builds ...      then the checkpoint is restored, and data brought to where the epoch begins
    ... the first epoch ...   begins with reading over the batches that were done, see `pass_over`
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from absl import logging

from tf_codistill import weights
from tf_codistill.training import state
from tf_codistill.training.checkpointing import Checkpointing
from tf_codistill.training.pass_over import PassOver, check_against, to_epoch
from tf_codistill.training.progress import Position


@contextlib.contextmanager
def resuming(
    model: Any, callbacks: Sequence[Any], arguments: dict[str, Any]
) -> Iterator[tuple[list[Any], bool]]:
    """Lets `fit` go on from the newest whole checkpoint, if `Checkpointing` is among its callbacks.

    Args:
        model: The `CodistillationModel`.
        callbacks: Those given to `fit`.
        arguments: All that was given to `fit` by name; the epoch to begin with is changed.

    Yields:
        The callbacks, `Checkpointing` as the last, so that it sees what the others have done; and whether
        there is anything to do: not if training was in a later call of `fit` already.

    Raises:
        ValueError: There is more than one `Checkpointing`.
    """
    found = [callback for callback in callbacks if isinstance(callback, Checkpointing)]
    if not found:
        yield list(callbacks), True
        return
    if len(found) > 1:
        raise ValueError(f"fit got {len(found)} Checkpointing; expected one")
    (checkpointing,) = found
    others, waits = [callback for callback in callbacks if callback is not checkpointing], True
    try:
        yield [*others, checkpointing], _begin(model, checkpointing, arguments)
    except KeyboardInterrupt:
        waits = False  # It has waited, or this was a second signal.
        raise
    finally:
        model.pass_over = model.when_built = None
        checkpointing.close(waits)


def _begin(model: Any, checkpointing: Checkpointing, arguments: dict[str, Any]) -> bool:
    progress = model.progress
    progress.fit += 1
    first = Position(progress.fit, arguments.get("initial_epoch", 0))
    found = checkpointing.find(model)
    if found is not None and found.fit > progress.fit:
        logging.info("call number %d of fit was over, and is passed over", progress.fit + 1)
        return False
    if arguments.get("shuffle", True) and any(
        hasattr(leaf, "__array__") for leaf in keras.tree.flatten(arguments.get("x"))
    ):
        logging.warning(
            "arrays are shuffled in an order that cannot be restored, so that a resumed run learns from "
            "other batches; give fit shuffle=False, or a tf.data.Dataset that is shuffled with a seed"
        )
    if found is not None and found.fit == progress.fit:
        arguments["initial_epoch"] = max(found.epoch, first.epoch)
        model.when_built = functools.partial(_continue_from, model, checkpointing, first, found)
    else:
        progress.position = first
        model.batches_seen.begin()
    return True


def _continue_from(
    model: Any, checkpointing: Checkpointing, first: Position, found: Position, feed: Any
) -> None:
    """Restores the model when it has been built, and brings data to where training goes on."""
    progress = model.progress
    if progress.restored is None:
        checkpointing.restore(model)
    metrics, progress.restored = progress.restored, None
    if found <= first:
        return
    # Data that begins with a later epoch begins with another batch than training did.
    (expected,) = weights.values([model.batches_seen.first]) if first.epoch == 0 else [0]
    before, check = to_epoch(feed, found.epoch - first.epoch, check_against(int(expected)))

    def restored_logs() -> Any:
        state.assign_metrics(model, metrics)
        return model.read_metrics()

    model.pass_over = PassOver(before, found.batch, check, restored_logs)
