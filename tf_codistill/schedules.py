"""Quantities that depend on the training step: the weight of the distillation loss, and weight decay.

    BurnIn(200, 1.0)                        0, from step 200 on 1 (Algorithm 1 of Anil et al. 2018)
    LinearRamp(200, 400, 1.0)               0, a straight line from step 200 to 400, then 1
    Cosine(0, 400, 0.0, initial=1.0)        the same from 1 to 0, along half a wave
    Piecewise([200, 400], [1e-4, 1e-5, 0])  in three segments (Sodhani et al. 2020: their weight decay)
    ExponentialDecay(1.0, 100, 0.5)         1, halved every 100 steps
    Constant(1.0)                           1

A schedule is a function from a step, a Python integer or a scalar integer tensor, to a scalar float32 tensor.
It works eagerly and in a `tf.function`. A function of your own is as good:

    def first_epoch_only(step):
        return tf.where(step < 1000, 1.0, 0.0)

`WeightDecay` makes a penalty on the weights of a schedule.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

_register = keras.saving.register_keras_serializable(package="tf_codistill")


class Schedule(Protocol):
    """A function of the step."""

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The value at a step.

        Args:
            step: Number of training steps done, an integer or a scalar integer tensor.

        Returns:
            A scalar float32 tensor.
        """


class _Saveable:
    """For Keras's serialization: the attributes of these objects are the arguments of their constructors."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """An equal object from what `get_config` returned."""
        return cls(**config)


@_register
class Constant(_Saveable):
    """The same value at every step."""

    def __init__(self, value: float) -> None:
        """Makes the schedule.

        Args:
            value: The value, finite and at least 0.

        Raises:
            ValueError: The value is negative or not finite.
        """
        self.value = _checked_weight("value", value)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The value, whatever the step."""
        return tf.constant(self.value, tf.float32)


@_register
class BurnIn(_Saveable):
    """Zero for the first steps, then a constant weight (Anil et al. 2018, Algorithm 1)."""

    def __init__(self, steps: int, weight: float = 1.0) -> None:
        """Makes the schedule.

        Args:
            steps: Number of burn-in steps, at least 0; 0 switches the distillation loss on at once.
            weight: The weight from then on, finite and at least 0.

        Raises:
            ValueError: An argument is out of its range.
        """
        self.steps = _checked_step("steps", steps)
        self.weight = _checked_weight("weight", weight)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The weight at a step: 0 before step `steps`, then `weight`."""
        is_on = _steps_since(0, step) >= self.steps
        return tf.where(is_on, tf.constant(self.weight, tf.float32), tf.constant(0.0, tf.float32))


class _Ramp(_Saveable):
    """From one weight to another between two steps."""

    def __init__(self, start_step: int, end_step: int, weight: float = 1.0, initial: float = 0.0) -> None:
        """Makes the schedule.

        Args:
            start_step: The last step with the initial weight, at least 0.
            end_step: The first step with the final weight, above `start_step`.
            weight: The final weight, finite and at least 0.
            initial: The weight up to `start_step`, finite and at least 0; above `weight` for a descent.

        Raises:
            ValueError: An argument is out of its range.
        """
        self.start_step = _checked_step("start_step", start_step)
        self.end_step = _checked_step("end_step", end_step)
        if self.end_step <= self.start_step:
            raise ValueError(
                f"end_step is {end_step!r}; expected more than start_step, which is {start_step!r}"
            )
        self.weight = _checked_weight("weight", weight)
        self.initial = _checked_weight("initial", initial)

    def _progress(self, step: int | tf.Tensor) -> tf.Tensor:
        length = self.end_step - self.start_step
        done = tf.clip_by_value(_steps_since(self.start_step, step), 0, length)
        return tf.cast(done, tf.float32) / tf.constant(length, tf.float32)

    def _between(self, fraction: tf.Tensor) -> tf.Tensor:
        # Exactly the initial weight for a fraction of 0 and the final one for 1.
        return (1.0 - fraction) * self.initial + fraction * self.weight


@_register
class LinearRamp(_Ramp):
    """A straight line from the initial weight to the final one."""

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The weight at a step."""
        return self._between(self._progress(step))


@_register
class Cosine(_Ramp):
    """Half a cosine wave from the initial weight to the final one."""

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The weight at a step."""
        return self._between(0.5 - 0.5 * tf.cos(math.pi * self._progress(step)))


@_register
class Piecewise(_Saveable):
    """A constant weight for each segment of training."""

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        """Makes the schedule.

        Args:
            boundaries: The first step of each segment but the first, increasing and above 0.
            values: The weight in each segment, one more than boundaries, finite and at least 0.

        Raises:
            ValueError: An argument is out of its range, or the lengths do not go together.
        """
        self.boundaries = [_checked_step("boundaries", boundary) for boundary in boundaries]
        self.values = [_checked_weight("values", value) for value in values]
        if any(later <= earlier for earlier, later in itertools.pairwise([0, *self.boundaries])):
            raise ValueError(f"boundaries is {boundaries!r}; expected steps above 0 that increase")
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"values has {len(values)} entries; expected {len(boundaries) + 1}, one more than boundaries"
            )

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The weight at a step: `values[i]` from step `boundaries[i - 1]` on."""
        passed = _steps_since(0, step) >= tf.constant(self.boundaries, tf.int64)
        return tf.gather(tf.constant(self.values, tf.float32), tf.reduce_sum(tf.cast(passed, tf.int32)))


@_register
class ExponentialDecay(_Saveable):
    """A weight that is multiplied by the same factor over and over."""

    def __init__(self, weight: float, decay_steps: int, rate: float, start_step: int = 0) -> None:
        """Makes the schedule.

        Args:
            weight: The weight up to `start_step`, finite and at least 0.
            decay_steps: Number of steps, at least 1, over which the weight is multiplied by `rate`.
            rate: The factor, above 0 and at most 1.
            start_step: The step that the decay starts from, at least 0.

        Raises:
            ValueError: An argument is out of its range.
        """
        self.weight = _checked_weight("weight", weight)
        self.decay_steps = _checked_step("decay_steps", decay_steps)
        self.start_step = _checked_step("start_step", start_step)
        if not self.decay_steps:
            raise ValueError("decay_steps is 0; expected at least 1")
        if not 0 < rate <= 1:
            raise ValueError(f"rate is {rate!r}; expected a factor above 0 and at most 1")
        self.rate = float(rate)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The weight at a step: `weight * rate ** ((step - start_step) / decay_steps)`."""
        done = tf.cast(tf.maximum(_steps_since(self.start_step, step), 0), tf.float32)
        return self.weight * tf.pow(tf.constant(self.rate, tf.float32), done / self.decay_steps)


@_register
class WeightDecay:
    """An L2 penalty whose factor is a function of the step.

        decay = WeightDecay(Piecewise([30_000, 60_000], [1e-4, 1e-5, 0.0]))
        task_loss += decay.penalty(student.trainable_variables, step)

    Its gradient is `factor(step) * w`, that of weight decay in SGD. Sodhani et al. 2020 lower it during
    training because codistillation regularises too. As a part of the loss it works with every optimizer, with
    loss scaling, gradient accumulation and several steps in one call, and under every strategy. It is not the
    decoupled decay that an optimizer applies itself, `keras.optimizers.AdamW(weight_decay=...)`.
    """

    def __init__(self, factor: Schedule | float, exempt: Sequence[str] = ()) -> None:
        """Makes the penalty.

        Args:
            factor: A number, or a function of the step; at least 0.
            exempt: Variables whose path contains one of these words are left out, such as ``embedding``.
                Variables with less than two axes, biases and the gains of normalisation, always are.

        Raises:
            ValueError: A constant factor is negative or not finite, or `exempt` is a single string.
        """
        if isinstance(exempt, str):
            raise ValueError(f"exempt is {exempt!r}; expected a sequence of words, such as [{exempt!r}]")
        self.factor = factor if callable(factor) else Constant(factor)
        self.exempt = tuple(exempt)

    def penalty(self, variables: Sequence[keras.Variable], step: int | tf.Tensor) -> tf.Tensor:
        """The term to add to the loss of one replica.

        Args:
            variables: Trainable variables of the student.
            step: Number of training steps done, an integer or a scalar integer tensor.

        Returns:
            A scalar float32 tensor, `factor(step) / 2 * sum of squares`, divided by the number of replicas in
            sync, over which gradients are summed.
        """
        squares = [tf.nn.l2_loss(tf.cast(variable.value, tf.float32)) for variable in self.decayed(variables)]
        if not squares:
            return tf.constant(0.0)
        replica_fraction = 1 / tf.distribute.get_strategy().num_replicas_in_sync
        return tf.cast(self.factor(step), tf.float32) * tf.add_n(squares) * replica_fraction

    def decayed(self, variables: Sequence[keras.Variable]) -> list[keras.Variable]:
        """Those of the variables that are not exempt.

        Args:
            variables: Trainable variables.

        Returns:
            Some of them, in the same order.
        """
        return [
            variable
            for variable in variables
            if len(variable.shape) > 1 and not any(word in variable.path for word in self.exempt)
        ]

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {"factor": keras.saving.serialize_keras_object(self.factor), "exempt": list(self.exempt)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightDecay:
        """An equal penalty from what `get_config` returned."""
        return cls(keras.saving.deserialize_keras_object(config["factor"]), config["exempt"])


def _steps_since(start: int, step: int | tf.Tensor) -> tf.Tensor:
    # In integers: float32 holds no steps beyond 2 ** 24.
    step = tf.constant(step, tf.int64) if isinstance(step, int) else tf.cast(step, tf.int64)
    return step - start


def _checked_step(name: str, step: int) -> int:
    if isinstance(step, bool) or step != step // 1 or step < 0:
        raise ValueError(f"{name} is {step!r}; expected an integer >= 0, 0 for the first step")
    return int(step)


def _checked_weight(name: str, value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value!r}; expected a finite number >= 0, 0 to switch the term off")
    return float(value)
