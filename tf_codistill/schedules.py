"""Quantities that depend on the training step, above all the weight of the distillation loss.

    weight = BurnIn(steps=200, weight=1.0)
    weight(199)                     -> 0.0    the student first gets off the ground alone
    weight(200)                     -> 1.0    then it learns from its teachers

A schedule is a function from a step, a Python integer or a scalar tensor, to a scalar float32 tensor. It
works eagerly and in a `tf.function`.
"""

from __future__ import annotations

import math
from typing import Protocol

import tensorflow as tf


class Schedule(Protocol):
    """A function of the step."""

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The value at a step.

        Args:
            step: Number of training steps done, an integer or a scalar integer tensor.

        Returns:
            A scalar float32 tensor.
        """


class Constant:
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
        """The value, whatever the step.

        Args:
            step: Number of training steps done; not used.

        Returns:
            A scalar float32 tensor.
        """
        return tf.constant(self.value, tf.float32)


class BurnIn:
    """Zero for the first steps, then a constant weight (Anil et al. 2018, Algorithm 1)."""

    def __init__(self, steps: int, weight: float = 1.0) -> None:
        """Makes the schedule.

        Args:
            steps: Number of burn-in steps, at least 0; 0 switches the distillation loss on at once.
            weight: The weight from then on, finite and at least 0.

        Raises:
            ValueError: An argument is out of its range.
        """
        if isinstance(steps, bool) or steps != steps // 1 or steps < 0:
            raise ValueError(f"steps is {steps!r}; expected an integer >= 0, 0 for no burn-in")
        self.steps = int(steps)
        self.weight = _checked_weight("weight", weight)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The weight at a step.

        Args:
            step: Number of training steps done, an integer or a scalar integer tensor.

        Returns:
            A scalar float32 tensor: 0 as long as `step` is below the number of burn-in steps.
        """
        is_on = tf.cast(step, tf.int64) >= self.steps
        return tf.where(is_on, tf.constant(self.weight, tf.float32), tf.constant(0.0, tf.float32))


def _checked_weight(name: str, value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value!r}; expected a finite number >= 0, 0 to switch the term off")
    return float(value)
