"""Teachers that predict the next batch while the gradients of this one are computed and added up.

    step t      student: batch t, by what is held --> gradients ---> sum over replicas ---> update
                teachers: batch t + 1  ------------> held until step t + 1

What a step waits for is the student alone. Teachers predict a batch with the weights that they have a step
before it is learned from, so that each prediction is at most one snapshot staler, which `staleness_steps`
says; where none is taken in between it is the same prediction. Teachers read each batch once and in order,
and their recurrent state is one batch ahead of the student's. What is held travels in a checkpoint, row by
row. Where nothing is held (in the first step, in the first one after a burn-in, in the first of data that
begin again) teachers are asked on the spot, as they are without this.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tf_codistill import recurrent_state, weights
from tf_codistill.batches import WithNext, batch_of, num_rows, with_next
from tf_codistill.teaching.base import Arrays
from tf_codistill.teaching.frozen import NO_SNAPSHOT, FrozenTeachers

_NOT_HELD = -1


class OverlappingTeachers(FrozenTeachers):
    """`FrozenTeachers` that may predict each batch a step ahead."""

    def __init__(
        self,
        num_teachers: int,
        precision: str = "float32",
        statistics: str = "moving",
        max_staleness_steps: int | None = None,
        min_teacher_quality: float | None = None,
        overlap: bool = False,
    ) -> None:
        """Takes note of how many there will be.

        Args:
            num_teachers: How many, 0 or more.
            precision: See `FrozenTeachers`.
            statistics: See there.
            max_staleness_steps: See there.
            min_teacher_quality: See there.
            overlap: Whether they predict a step ahead, for which they hold their predictions of a batch.

        Raises:
            ValueError: See there.
        """
        self._is_ahead = overlap
        super().__init__(num_teachers, precision, statistics, max_staleness_steps, min_teacher_quality)

    def _seat(self, num_teachers: int) -> None:
        super()._seat(num_teachers)
        self.overlap = self._is_ahead and num_teachers > 0
        # By rows, as lanes are dealt out: for which step, by snapshots of which steps, what is predicted.
        self._held: list[keras.Variable] = []

    def feed(self, data: Any, turns: int = 1, parts: int = 1) -> Any:
        """Data that say what follows each batch."""
        if not self.overlap or isinstance(getattr(data, "element_spec", None), WithNext):
            return data
        if not isinstance(data, tf.data.Dataset):
            raise ValueError(
                f"overlap is True, so that fit reads ahead, and it was given a {type(data).__name__}; give "
                "it a tf.data.Dataset, batched with drop_remainder=True"
            )
        paired, rows = with_next(data, turns), num_rows(batch_of(data.element_spec)) or 0
        if rows % parts:
            raise ValueError(
                f"overlap is True, and batches have {rows} rows; expected a multiple of the {parts} replicas"
            )
        self._rows = rows // parts
        return paired

    def hold(self, features: Any) -> bool:
        """Makes variables for a batch's predictions, unless there are such ones; whether it has made some."""
        if not self.overlap:
            return False
        symbols = keras.tree.map_structure(
            lambda one: keras.KerasTensor(
                [self._rows, *one.shape[1:]], keras.backend.standardize_dtype(one.dtype)
            ),
            features,
        )
        outputs = [model.compute_output_spec(symbols) for model in self.frozen]
        self._structure = outputs
        held = [([self._rows], "int64"), ([self._rows, len(outputs)], "int64")]
        held += [(list(one.shape), one.dtype) for one in keras.tree.flatten(outputs)]
        if held == [(list(one.shape), one.dtype) for one in self._held]:
            return False
        settings = {"trainable": False, "autocast": False, "synchronization": "on_read"}
        self._held = [
            keras.Variable(np.full(shape, _NOT_HELD), dtype=dtype, name="held_prediction", **settings)
            for shape, dtype in held
        ]
        return True

    def teaches_rows(self) -> bool:
        """Not where whole batches are predicted ahead."""
        return not self.overlap and super().teaches_rows()

    def teach_next(self, features: Any, step: tf.Tensor, is_due: tf.Tensor) -> None:
        """Predicts the next batch, if that is due, and holds it."""
        if not self._held:
            return
        predict = super()._predict
        step_B, steps_BP, *of_teachers = self._held

        def ahead() -> tf.Tensor:
            for held, found in zip(of_teachers, keras.tree.flatten(predict(step, features)), strict=True):
                held.assign(found)
            return tf.cast(step, tf.int64)

        then = tf.cond(is_due, ahead, lambda: tf.constant(_NOT_HELD, tf.int64))
        steps_BP.assign(tf.repeat(super()._steps_P(step)[tf.newaxis], self._rows, axis=0))
        step_B.assign(tf.fill([self._rows], then))

    def _predict(self, step: tf.Tensor, features: Any, keys: Any = None, prediction: Any = None) -> list[Any]:
        ask = functools.partial(super()._predict, step, features, keys, prediction)
        if not self._held:
            return ask()
        return tf.cond(self._is_held(step), self._predictions, ask)

    def _predictions(self) -> list[Any]:
        values = [tf.convert_to_tensor(one.value) for one in self._held[2:]]
        return keras.tree.pack_sequence_as(self._structure, values)

    def _is_held(self, step: tf.Tensor) -> tf.Tensor:
        return tf.reduce_all(tf.convert_to_tensor(self._held[0].value) == tf.cast(step, tf.int64))

    def _steps_P(self, step: tf.Tensor) -> tf.Tensor:  # noqa: N802 - P is a shape letter
        now_P = super()._steps_P(step)
        if not self._held:
            return now_P
        is_retired_P, by_P = now_P == NO_SNAPSHOT, tf.convert_to_tensor(self._held[1].value)[0]
        return tf.where(self._is_held(step) & ~is_retired_P, by_P, now_P)

    def state(self) -> tuple[Arrays, Arrays]:
        """What a checkpoint keeps, and of this worker alone also what is held."""
        shared, own = super().state()
        return shared, [*own, *recurrent_state.values(self._held)]

    def restore(self, shared: Arrays, own: Arrays) -> None:
        """Takes back what `state` returned; what was held only where it fits."""
        number = len(self._recurrent_states())
        super().restore(shared, own[:number])
        self._forget()
        if self._held:
            try:
                recurrent_state.restore(self._held, own[number:])
            except ValueError:
                logging.info("no predictions of the next batch fit; teachers are asked about it on the spot")

    def end(self) -> None:
        """Forgets what is held: another `fit` may read other data."""
        self._forget()

    def _forget(self) -> None:
        weights.assign(self._held[:1], [np.full(one.shape, _NOT_HELD) for one in self._held[:1]])
