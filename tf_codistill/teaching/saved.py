"""Teachers that never change: distillation from saved models, and the second phase of two-phase distillation.

    SavedTeachers(["runs/one/group_0", "runs/one/group_1"])     groups that have been trained, by checkpoint
    SavedTeachers(["teacher.keras"])                            any saved model with the student's outputs,
                                                                as each student of one process leaves one

Multi-phase distillation (Anil et al. 2018, section 3.4.1) trains an ensemble first, then a fresh student on
its mean prediction. The student trains as in codistillation; only where its teachers come from differs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import gin
import keras
import numpy as np
from absl import logging

from tf_codistill import checkpoints, distribution, weights
from tf_codistill.batches import Batch
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.base import Arrays, ModelFn, Place
from tf_codistill.teaching.cached import Cache
from tf_codistill.teaching.frozen import NO_SNAPSHOT, FrozenTeachers


@gin.configurable(module="tf_codistill")
class SavedTeachers(FrozenTeachers):
    """Models that have been trained before teach one student."""

    def __init__(
        self,
        sources: Sequence[str | os.PathLike[str]],
        precision: str = "float32",
        model_fns: Sequence[ModelFn] | None = None,
        cache_bytes: float | None = None,
    ) -> None:
        """Takes note of the sources; touches no file.

        Args:
            sources: For each teacher a saved model (``.keras``) or the directory of a group of a run, whose
                newest checkpoint also holds the recurrent state of its lanes.
            precision: How teachers hold weights, one of `exchange.precision.PRECISIONS`.
            model_fns: Makes each teacher, where they have other architectures than the student.
            cache_bytes: Memory of each worker, in bytes, for what teachers have predicted, so that each is
                asked about an example once, see `teaching.cached`; for models without recurrent state, data
                with keys and without augmentation, and steps that XLA does not compile. None to keep nothing.

        Raises:
            ValueError: There is no source, or a single string, there are not as many models, or no memory to
                keep anything.
        """
        if isinstance(sources, str | os.PathLike):
            raise ValueError(f"sources is {sources!r}; expected a sequence of them, such as [{sources!r}]")
        if not sources:
            raise ValueError("sources of SavedTeachers is empty; name a saved model or a group's directory")
        if model_fns is not None and len(model_fns) != len(sources):
            raise ValueError(f"SavedTeachers has {len(sources)} sources, but {len(model_fns)} model_fns")
        if cache_bytes is not None and not cache_bytes > 0:
            raise ValueError(f"cache_bytes is {cache_bytes}; expected more than 0, or None to keep nothing")
        self.cache = None if cache_bytes is None else Cache(cache_bytes)
        self.on_host = cache_bytes is not None
        super().__init__(len(sources), precision)
        self._sources = [os.fspath(source) for source in sources]
        self._model_fns = model_fns

    def names(self) -> list[str]:
        """The sources."""
        return list(self._sources)

    def model_fns(self, model_fn: ModelFn) -> list[ModelFn]:
        """What makes each teacher."""
        return super().model_fns(model_fn) if self._model_fns is None else list(self._model_fns)

    def join(self, place: Place) -> None:
        """Refuses to keep predictions of features that change."""
        super().join(place)
        if self.cache is not None and place.augments:
            raise _refused(
                "the task augments its examples, so that none is seen twice as it was; leave it out"
            )

    def prepare(self) -> None:
        """Quantizes weights; refuses to keep predictions that depend on what was read before."""
        super().prepare()
        if self.cache is not None and not self.teaches_rows():
            raise _refused(
                "what a teacher with a recurrent state predicts depends on all it has read; leave it out"
            )

    def deal(self, batch: Batch) -> list[Batch]:
        """The batch; refuses one whose examples have no names."""
        if self.cache is not None and batch.keys is None:
            raise _refused(
                "the data has no keys, by which examples are known; leave it out, or yield batches.Keyed"
            )
        return super().deal(batch)

    def ask(self, features: Any, keys: Any, prediction: Any) -> list[Any]:
        """What each teacher predicts, or has predicted."""
        if self.cache is None:
            return super().ask(features, keys, prediction)
        ask = functools.partial(super().ask, keys=keys, prediction=prediction)
        return self.cache.predictions(ask, features, keys, [prediction for _ in self.frozen])

    def refresh(self, index: int, snapshot: Snapshot, worker: int = 0) -> None:
        """Replaces a teacher's weights."""
        super().refresh(index, snapshot, worker)
        if self.cache is not None:
            self.cache.clear()

    def restore(self, shared: Arrays, own: Arrays) -> None:
        """Takes back what `state` returned; what teachers have predicted is not among it."""
        super().restore(shared, own)
        if self.cache is not None:
            logging.info("what teachers have predicted is in no checkpoint; they are asked once more")
            self.cache.clear()

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


def _refused(why: str) -> ValueError:
    return ValueError(f"cache_bytes of SavedTeachers is set, but {why}")


def _read(source: str, index: int) -> Snapshot:
    if source.endswith(".keras"):
        try:
            saved = keras.saving.load_model(source, compile=False)
        except Exception as error:  # Keras has a type of its own for each way in which a file can be bad
            raise ValueError(f"model {source!r} cannot be loaded: {error}") from error
        arrays, lanes = weights.values(saved.weights), []
    else:
        _, shared, owns = checkpoints.read_latest(os.path.join(source, "checkpoints"))
        arrays = checkpoints.served(shared)
        lanes = [np.concatenate(parts) for parts in zip(*(own["lanes"] for own in owns), strict=True)]
    num_bytes = sum(array.nbytes for array in arrays)
    return Snapshot(Ref(index), step=0, published_at=0.0, weights=arrays, states=lanes, num_bytes=num_bytes)
