"""Gradient descent for large batches (Goyal et al. 2017): momentum of gradients, rates that fit the batch.

    MomentumSGD(rate)       u <- m u + g,  w <- w - rate u        the rate is outside: equation 9 of the paper
    keras.optimizers.SGD    v <- m v - rate g,  w <- w + v        after a cut the old, higher rate lingers on

    rate   peak |    ________
                |   /        |____           SteppedRate: times 0.1 at epochs 30, 60, 80
                |  /              |____
      reference | /                    |__
                 --|---------|----|----|----> epochs      peak = reference * batch size / reference batch size
                   5         30   60   80

Where the rate is constant the two kinds of momentum are the same, v = -rate u. Epochs become steps in one
place, `step_of_epoch`, for the rate, weight decay and number of steps of a run alike.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Sequence
from typing import Any

import gin
import keras
import tensorflow as tf

from tf_codistill import keras_private

_register = keras.saving.register_keras_serializable(package="tf_codistill")

IMAGENET_DECAYS = (30, 60, 80)
"""Epochs at which the rate is cut, of 90 (Goyal et al. 2017, section 5.1)."""


@gin.configurable(module="tf_codistill")
@_register
class MomentumSGD(keras.optimizers.SGD):
    """Gradient descent whose momentum is a sum of gradients, without rates (Goyal et al. 2017, remark 2).

        u <- momentum * u + gradient
        w <- w - rate * u                           with `nesterov` w <- w - rate * (gradient + momentum * u)

    When the rate changes, so does what all earlier gradients still do. `keras.optimizers.SGD` keeps the rates
    that these were made with, and would have to multiply its momentum by the ratio of the rates to do the
    same (their equation 10). Everything else is Keras's: schedules, clipping, averages of the weights, loss
    scaling.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        name: str = "momentum_sgd",
        **kwargs: Any,
    ) -> None:
        """Makes the optimizer.

        Args:
            learning_rate: A rate, or a schedule such as `SteppedRate`.
            momentum: What is left of a gradient after a step, at least 0 and below 1.
            nesterov: Whether to look ahead (Nesterov 1983).
            name: Name of the optimizer.
            **kwargs: What every Keras optimizer takes: ``clipnorm``, ``global_clipnorm``, ``use_ema``, ...

        Raises:
            ValueError: The momentum is out of its range.
        """
        if isinstance(momentum, bool) or not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum!r}; expected a number >= 0 and < 1")
        super().__init__(learning_rate, float(momentum), nesterov, name=name, **kwargs)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable.

        Args:
            gradient: Its gradient.
            variable: The variable.
            learning_rate: The rate of this step, a scalar.
        """
        if not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        ops = keras.ops  # which also take gradients of embeddings, of which most rows are missing
        gradient = ops.cast(gradient, variable.dtype)
        direction = self.momentums[keras_private.index(self, variable)]
        self.assign(direction, ops.add(ops.multiply(direction, self.momentum), gradient))
        if self.nesterov:
            direction = ops.add(ops.multiply(direction, self.momentum), gradient)
        self.assign_sub(variable, ops.multiply(ops.cast(learning_rate, variable.dtype), direction))


def step_of_epoch(epoch: float, num_examples: int, batch_size: int) -> int:
    """The first step that begins in an epoch.

    Args:
        epoch: Number of passes over the examples, at least 0; it may be a fraction.
        num_examples: Examples in an epoch.
        batch_size: Examples in a step of a group.

    Returns:
        The smallest step at which ``step * batch_size >= epoch * num_examples``.

    Raises:
        ValueError: An argument is out of its range.
    """
    if isinstance(epoch, bool) or not math.isfinite(epoch) or epoch < 0:
        raise ValueError(f"epoch is {epoch!r}; expected a finite number >= 0")
    counts: dict[str, Any] = {"num_examples": num_examples, "batch_size": batch_size}
    for name, number in counts.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}; expected an integer >= 1")
    numerator, denominator = float(epoch).as_integer_ratio()  # exact, however large the numbers are
    return -(-numerator * num_examples // (denominator * batch_size))


@gin.configurable(module="tf_codistill")
def steps_of_epochs(epochs: Sequence[float], num_examples: int, batch_size: int) -> list[int]:
    """The first steps of several epochs, such as the boundaries of a `schedules.Piecewise`.

    Args:
        epochs: Numbers of passes over the examples.
        num_examples: Examples in an epoch.
        batch_size: Examples in a step of a group.

    Returns:
        What `step_of_epoch` says of each.
    """
    return [step_of_epoch(epoch, num_examples, batch_size) for epoch in epochs]


@gin.configurable(module="tf_codistill")
def steps_of_run(num_epochs: float, num_examples: int, batch_size: int, multiple_of: int = 1) -> int:
    """How many steps a run of some epochs has.

    Args:
        num_epochs: Passes over the examples.
        num_examples: Examples in an epoch.
        batch_size: Examples in a step of a group.
        multiple_of: What it is rounded up to a multiple of, such as ``Experiment.log_every_steps``.

    Returns:
        The number of steps.
    """
    return -(-step_of_epoch(num_epochs, num_examples, batch_size) // multiple_of) * multiple_of


class _ScaledRate(keras.optimizers.schedules.LearningRateSchedule, abc.ABC):
    """A rate that grows with the batch, and up to it during the first epochs."""

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        reference_rate: float,
        reference_batch_size: int,
        warmup_epochs: float,
    ) -> None:
        for name, number in (
            ("reference_rate", reference_rate),
            ("reference_batch_size", reference_batch_size),
        ):
            if isinstance(number, bool) or not math.isfinite(number) or number <= 0:
                raise ValueError(f"{name} is {number!r}; expected a finite number above 0")
        self.num_examples, self.batch_size = num_examples, batch_size
        self.reference_rate, self.reference_batch_size = reference_rate, reference_batch_size
        self.warmup_epochs = warmup_epochs
        self._warmup_steps = self._step_of(warmup_epochs)

    @property
    def peak_rate(self) -> float:
        """The rate after the warm-up (Goyal et al. 2017, section 2.1: the linear scaling rule)."""
        return self.reference_rate * self.batch_size / self.reference_batch_size

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate at a step.

        Args:
            step: Number of training steps done, an integer or a scalar integer tensor.

        Returns:
            A scalar float32 tensor.
        """
        step = tf.cast(step, tf.int64)
        start = min(self.reference_rate, self.peak_rate)
        done = tf.cast(tf.clip_by_value(step, 0, self._warmup_steps), tf.float32)
        fraction = done / max(self._warmup_steps, 1)
        rate = (1.0 - fraction) * start + fraction * self.peak_rate
        return tf.where(step < self._warmup_steps, rate, self.peak_rate * self._factor(step))

    @abc.abstractmethod
    def _factor(self, step: tf.Tensor) -> tf.Tensor:
        """What the peak is multiplied by, from the end of the warm-up on."""

    def _step_of(self, epoch: float) -> int:
        return step_of_epoch(epoch, self.num_examples, self.batch_size)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


@gin.configurable(module="tf_codistill")
@_register
class SteppedRate(_ScaledRate):
    """Linear scaling, warm-up, and a rate that is cut at some epochs (Goyal et al. 2017, section 5.1)."""

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        reference_rate: float = 0.1,
        reference_batch_size: int = 256,
        warmup_epochs: float = 5.0,
        decay_epochs: Sequence[float] = IMAGENET_DECAYS,
        decay_factor: float = 0.1,
    ) -> None:
        """Makes the schedule.

        Args:
            num_examples: Examples in an epoch of a group.
            batch_size: Examples in a step of a group, over all its workers and replicas.
            reference_rate: The rate that fits the reference batch.
            reference_batch_size: Examples in that; the rate grows in proportion to the batch.
            warmup_epochs: Over how many epochs the rate grows, step by step, from that of the reference, or
                from its own where that is lower; 0 for none.
            decay_epochs: At which epochs the rate is cut, increasing, from the end of the warm-up on.
            decay_factor: What it is multiplied by each time, above 0 and below 1.

        Raises:
            ValueError: An argument is out of its range.
        """
        super().__init__(num_examples, batch_size, reference_rate, reference_batch_size, warmup_epochs)
        self.decay_epochs, self.decay_factor = list(decay_epochs), decay_factor
        if any(later <= earlier for earlier, later in itertools.pairwise(self.decay_epochs)):
            raise ValueError(f"decay_epochs is {decay_epochs!r}; expected epochs that increase")
        if any(epoch < warmup_epochs for epoch in self.decay_epochs):
            raise ValueError(
                f"decay_epochs is {decay_epochs!r}; expected none before the warm-up ends, at {warmup_epochs}"
            )
        if not 0 < decay_factor < 1:
            raise ValueError(f"decay_factor is {decay_factor!r}; expected a number above 0 and below 1")
        self._decay_steps = [self._step_of(epoch) for epoch in self.decay_epochs]

    def _factor(self, step: tf.Tensor) -> tf.Tensor:
        passed = step >= tf.constant(self._decay_steps, tf.int64, [len(self._decay_steps)])
        factors = [self.decay_factor**cuts for cuts in range(len(self._decay_steps) + 1)]
        return tf.gather(tf.constant(factors, tf.float32), tf.reduce_sum(tf.cast(passed, tf.int32)))


@gin.configurable(module="tf_codistill")
@_register
class CosineRate(_ScaledRate):
    """Linear scaling, warm-up, and half a cosine wave down to 0 (Loshchilov & Hutter 2017)."""

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        num_epochs: float,
        reference_rate: float = 0.1,
        reference_batch_size: int = 256,
        warmup_epochs: float = 5.0,
        final_fraction: float = 0.0,
    ) -> None:
        """Makes the schedule.

        Args:
            num_examples: Examples in an epoch of a group.
            batch_size: Examples in a step of a group, over all its workers and replicas.
            num_epochs: At which epoch the rate has come down, after the warm-up.
            reference_rate: The rate that fits the reference batch.
            reference_batch_size: Examples in that; the rate grows in proportion to the batch.
            warmup_epochs: As for `SteppedRate`.
            final_fraction: What is left of the peak in the end, at least 0 and at most 1.

        Raises:
            ValueError: An argument is out of its range.
        """
        super().__init__(num_examples, batch_size, reference_rate, reference_batch_size, warmup_epochs)
        self.num_epochs, self.final_fraction = num_epochs, final_fraction
        self._last_step = self._step_of(num_epochs)
        if self._last_step <= self._warmup_steps:
            raise ValueError(
                f"num_epochs is {num_epochs!r}; expected more than warmup_epochs, {warmup_epochs!r}"
            )
        if not 0 <= final_fraction <= 1:
            raise ValueError(f"final_fraction is {final_fraction!r}; expected a number from 0 to 1")

    def _factor(self, step: tf.Tensor) -> tf.Tensor:
        length = self._last_step - self._warmup_steps
        done = tf.cast(tf.clip_by_value(step - self._warmup_steps, 0, length), tf.float32) / length
        return self.final_fraction + (1 - self.final_fraction) * (0.5 + 0.5 * tf.cos(math.pi * done))
