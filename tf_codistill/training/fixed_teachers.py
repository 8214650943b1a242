"""Teachers that never change: distillation from saved models, and the second phase of two-phase distillation.

    FixedTeachers(["runs/one/group_0", "runs/one/group_1"])     groups that have been trained, by checkpoint
    FixedTeachers(["teacher.keras"])                            any saved model with the student's outputs,
                                                                as each student of one process leaves one

Multi-phase distillation (Anil et al. 2018, section 3.4.1) trains an ensemble first, then a fresh student on
its mean prediction. The student trains as in codistillation; only where its teachers come from differs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tf_codistill import checkpoints, distribution, weights
from tf_codistill.peers.exchange import Snapshot
from tf_codistill.peers.teachers import NO_SNAPSHOT
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.watch import Watch


class FixedTeachers(keras.callbacks.Callback):
    """Gives a `CodistillationModel` its teachers when training begins; takes the place of `PeerExchange`.

    It warns once when teachers are of no use, see `training.watch.Watch`.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        """Takes note of the sources; touches no file.

        Args:
            sources: For each teacher a saved model (``.keras``) or the directory of a group of a run, whose
                newest checkpoint also holds the recurrent state of its lanes.

        Raises:
            ValueError: There is no source.
        """
        super().__init__()
        if not sources:
            raise ValueError("sources of FixedTeachers is empty; name a saved model or a group's directory")
        self._sources = list(sources)
        self._watch = Watch("student")

    def on_train_begin(self, logs: Any = None) -> None:
        """Reads every source into its teacher, unless a checkpoint of this run has brought it already.

        Args:
            logs: Not used.

        Raises:
            ValueError: The model has another number of teachers, or a source cannot be read or does not fit.
        """
        del logs
        if not isinstance(self.model, CodistillationModel) or len(self.model.teachers) != len(self._sources):
            raise ValueError(
                f"FixedTeachers has {len(self._sources)} sources; expected a CodistillationModel with "
                f"num_teachers={len(self._sources)}"
            )
        worker = distribution.worker_index(self.model.distribute_strategy)
        for index, held in enumerate(self.model.teachers.steps()):
            if held == NO_SNAPSHOT:
                snapshot = _read(self._sources[index], index)
                try:
                    self.model.teachers.refresh(index, snapshot, carrying=False, worker=worker)
                except ValueError as error:
                    raise ValueError(f"{self._sources[index]!r} does not fit the teacher: {error}") from error

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Warns of useless teachers.

        Args:
            epoch: Not used.
            logs: Averages by name.
        """
        del epoch
        if logs and distribution.is_chief(self.model.distribute_strategy):
            self._watch.look(logs, self._sources)


def _read(source: str, index: int) -> Snapshot:
    if source.endswith(".keras"):
        try:
            saved = keras.saving.load_model(source, compile=False)
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"model {source!r} cannot be loaded: {error}") from error
        return _snapshot(index, weights.values(saved.weights), [])
    _, shared, owns = checkpoints.read_latest(os.path.join(source, "checkpoints"))
    lanes = [np.concatenate(parts) for parts in zip(*(own["lanes"] for own in owns), strict=True)]
    return _snapshot(index, shared["weights"], lanes)


def _snapshot(index: int, arrays: list[np.ndarray], lanes: list[np.ndarray]) -> Snapshot:
    num_bytes = sum(array.nbytes for array in arrays)
    return Snapshot(group=index, step=0, published_at=0.0, weights=arrays, states=lanes, num_bytes=num_bytes)
