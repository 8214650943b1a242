"""Teachers that never change: distillation from saved models, and the second phase of two-phase distillation.

    SavedTeachers(["runs/one/group_0", "runs/one/group_1"])     groups that have been trained, by checkpoint
    SavedTeachers(["teacher.keras"])                            any saved model with the student's outputs,
                                                                as each student of one process leaves one

Multi-phase distillation (Anil et al. 2018, section 3.4.1) trains an ensemble first, then a fresh student on
its mean prediction. The student trains as in codistillation; only where its teachers come from differs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import gin
import keras
import numpy as np

from tf_codistill import checkpoints, distribution, weights
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.base import ModelFn
from tf_codistill.teaching.frozen import NO_SNAPSHOT, FrozenTeachers


@gin.configurable(module="tf_codistill")
class SavedTeachers(FrozenTeachers):
    """Models that have been trained before teach one student."""

    def __init__(
        self,
        sources: Sequence[str],
        precision: str = "float32",
        model_fns: Sequence[ModelFn] | None = None,
    ) -> None:
        """Takes note of the sources; touches no file.

        Args:
            sources: For each teacher a saved model (``.keras``) or the directory of a group of a run, whose
                newest checkpoint also holds the recurrent state of its lanes.
            precision: How teachers hold weights, one of `exchange.precision.PRECISIONS`.
            model_fns: Makes each teacher, where they have other architectures than the student.

        Raises:
            ValueError: There is no source, or there are not as many models.
        """
        if not sources:
            raise ValueError("sources of SavedTeachers is empty; name a saved model or a group's directory")
        if model_fns is not None and len(model_fns) != len(sources):
            raise ValueError(f"SavedTeachers has {len(sources)} sources, but {len(model_fns)} model_fns")
        super().__init__(len(sources), precision)
        self._sources = list(sources)
        self._model_fns = model_fns

    def names(self) -> list[str]:
        """The sources."""
        return list(self._sources)

    def model_fns(self, model_fn: ModelFn) -> list[ModelFn]:
        """What makes each teacher."""
        return super().model_fns(model_fn) if self._model_fns is None else list(self._model_fns)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What reads the sources when training begins."""
        return [_Reading(self)]


class _Reading(keras.callbacks.Callback):
    """Reads every source into its teacher, unless a checkpoint of this run has brought it already."""

    def __init__(self, teachers: SavedTeachers) -> None:
        super().__init__()
        self._teachers = teachers

    def on_train_begin(self, logs: Any = None) -> None:
        worker = distribution.worker_index(self.model.distribute_strategy)
        teachers = self._teachers
        for index, (source, step) in enumerate(zip(teachers.names(), teachers.steps(), strict=True)):
            if step == NO_SNAPSHOT:
                snapshot = _read(source, index)
                try:
                    teachers.refresh(index, snapshot, worker)
                except ValueError as error:
                    raise ValueError(f"{source!r} does not fit the teacher: {error}") from error


def _read(source: str, index: int) -> Snapshot:
    if source.endswith(".keras"):
        try:
            saved = keras.saving.load_model(source, compile=False)
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"model {source!r} cannot be loaded: {error}") from error
        arrays, lanes = weights.values(saved.weights), []
    else:
        _, shared, owns = checkpoints.read_latest(os.path.join(source, "checkpoints"))
        arrays = checkpoints.served(shared)
        lanes = [np.concatenate(parts) for parts in zip(*(own["lanes"] for own in owns), strict=True)]
    num_bytes = sum(array.nbytes for array in arrays)
    return Snapshot(Ref(index), step=0, published_at=0.0, weights=arrays, states=lanes, num_bytes=num_bytes)
