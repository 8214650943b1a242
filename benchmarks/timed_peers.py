"""An exchange that notes when each step ended, for `benchmarks.recovery`.

import benchmarks.timed_peers                         in a gin file
Experiment.teaching = @TimedPeers
TimedPeers.times_dir = "times"                        group_0, group_1: a line for each step
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from typing import Any

import gin
import keras

from tf_codistill.exchange.snapshot import Swap
from tf_codistill.teaching.base import Place
from tf_codistill.teaching.snapshots import PeerExchange


@gin.configurable(module="benchmarks")
class TimedPeers(PeerExchange):
    """An exchange of a group that is pinned to one core."""

    def __init__(self, times_dir: str, replay_path: str | None = None, every_steps: int = 25) -> None:
        """Takes note of where to write, and of a file of swaps to be repeated."""
        swaps = json.loads(pathlib.Path(replay_path).read_text()) if replay_path else None
        replay = None if swaps is None else [Swap(*swap) for swap in swaps]
        super().__init__(every_steps=every_steps, keep=10**6, max_bytes=1e12, replay=replay)
        self._times_dir = times_dir

    def join(self, place: Place) -> None:
        """Pins this process, too, with the threads that it has."""
        super().join(place)
        cores = sorted(os.sched_getaffinity(0))
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread), {cores[place.group % len(cores)]})

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What notes the times beside what exchanges."""
        os.makedirs(self._times_dir, exist_ok=True)
        return [*super().callbacks(), _Times(f"{self._times_dir}/group_{self.group}")]


class _Times(keras.callbacks.Callback):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def on_train_begin(self, logs: Any = None) -> None:
        self._file = open(self._path, "a", encoding="ascii")  # noqa: SIM115 - as long as training

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._file.write(f"{self.model.step()} {time.time()}\n")
        self._file.flush()
