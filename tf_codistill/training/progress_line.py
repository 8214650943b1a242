"""Keras's progress line, with the parts that matter.

    40/40 - 3s - accuracy: 0.61 - distillation_loss: 1.02 - distillation_weight: 1.0 - loss: 2.11 - ...

All others are in the logs, for those who read them.
"""

from __future__ import annotations

import re
from typing import Any

import keras

_MATTERS = re.compile(r"(?!student_\d).*distillation_(loss|weight)")


class ProgressLine(keras.callbacks.ProgbarLogger):
    """Shows the losses and the metrics given to `compile`; `fit` takes it in place of Keras's own."""

    def __init__(self, verbose: int | str) -> None:
        """Shows as much as `fit` shows: 1 for a bar, 2 for a line for each epoch, ``auto`` for either."""
        super().__init__()
        self._verbose = verbose
        self._known: set[str] = set()

    def set_params(self, params: Any) -> None:
        """Notes the length of an epoch."""
        super().set_params({**params, "verbose": self._verbose})

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar on."""
        super().on_train_batch_end(batch, self._thinned(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Ends the line of an epoch."""
        super().on_epoch_end(epoch, self._thinned(logs))

    def _thinned(self, logs: Any) -> dict[str, Any]:
        hidden = {name for name in self.model.meters.names if not _MATTERS.fullmatch(name)}
        self._known = self._known or self.model.get_metrics_result().keys() - hidden
        return {name: one for name, one in (logs or {}).items() if name.removeprefix("val_") in self._known}
