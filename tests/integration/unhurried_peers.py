"""Peers that take their time, so that a run can be stopped in its middle on any machine.

import tests.integration.unhurried_peers                         in a gin file
Experiment.teaching = @UnhurriedPeers
UnhurriedPeers.hurry = "file"                                    from when it is there they hurry
"""

from __future__ import annotations

import os
import time
from typing import Any

import gin
import keras

from tf_codistill.teaching.snapshots import PeerExchange

PAUSE_SECS = 0.25


@gin.configurable(module="unhurried_peers")
class UnhurriedPeers(PeerExchange):
    """An exchange whose every step is followed by a pause until a file is there."""

    def __init__(self, hurry: str, every_steps: int = 5, max_teachers: int | None = None) -> None:
        super().__init__(every_steps=every_steps, max_teachers=max_teachers)
        self._hurry = hurry

    def callbacks(self) -> list[keras.callbacks.Callback]:
        return [*super().callbacks(), _Pauses(self._hurry)]


class _Pauses(keras.callbacks.Callback):
    def __init__(self, hurry: str) -> None:
        super().__init__()
        self._hurry = hurry

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not os.path.exists(self._hurry):
            time.sleep(PAUSE_SECS)
