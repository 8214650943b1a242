"""What replicas hold apart although it is to be served: averages of batch normalisation, for one.

    statistics.average()            means over all replicas, as arrays; all workers must call it
    with statistics.in_use(): ...   the model has the means; behind it each replica has its own again
    statistics.settle()             the means in place, when training ends

While training goes on each replica keeps its own, so that a run that resumes from a checkpoint goes on as if
it had never stopped. Values that agree stay as they are, to the bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import weights


class ReplicaStatistics:
    """The floating state of a model that no optimizer keeps equal."""

    def __init__(
        self, strategy: tf.distribute.Strategy, variables: Sequence[keras.Variable], step: Callable[[], int]
    ) -> None:
        """Takes note of the variables.

        Args:
            strategy: What they are replicated by.
            variables: Weights that are not trained.
            step: Tells the steps done, for which means are taken only once.
        """
        self._strategy = strategy
        apart = strategy.num_replicas_in_sync > 1
        self._variables = [one for one in variables if apart and tf.as_dtype(one.dtype).is_floating]
        self._step = step
        self._average: tuple[int, list[np.ndarray]] = (-1, [])
        self._set_aside: dict[int, list[np.ndarray]] = {}

    def average(self) -> dict[int, np.ndarray]:
        """The means over all replicas by the identity of the variable; all workers must call it."""
        if self._variables and self._average[0] != self._step():
            flat = self._mean().numpy()
            parts = np.split(flat, np.cumsum([math.prod(one.shape) for one in self._variables])[:-1])
            arrays = [
                part.reshape(one.shape).astype(tf.as_dtype(one.dtype).as_numpy_dtype)
                for part, one in zip(parts, self._variables, strict=True)
            ]
            self._average = (self._step(), arrays)
        return self._known()

    @contextlib.contextmanager
    def in_use(self, known_only: bool = False) -> Iterator[None]:
        """Within it the variables have the means.

        Args:
            known_only: Whether nothing is to be communicated: means that nobody has taken at this step are
                not used.

        Yields:
            Nothing.
        """
        means = self._known() if known_only else self.average()
        if not means or self._set_aside:
            yield
            return
        self._set_aside = {id(one): replica_values(one) for one in self._variables}
        try:
            self._assign(means)
            yield
        finally:
            aside, self._set_aside = self._set_aside, {}
            for one in self._variables:
                for copy, value in zip(weights.local_copies(one), aside[id(one)], strict=True):
                    copy.assign(value)

    def settle(self) -> None:
        """Gives all replicas the means; all workers must call it."""
        self._assign(self.average())

    def own(self, variable: keras.Variable) -> list[np.ndarray]:
        """What each replica of this worker holds of a variable when means are not in use.

        Args:
            variable: Any variable.

        Returns:
            A value for each local replica.
        """
        return self._set_aside.get(id(variable)) or replica_values(variable)

    def _known(self) -> dict[int, np.ndarray]:
        step, arrays = self._average
        pairs = zip(self._variables, arrays, strict=False) if step == self._step() else ()
        return {id(one): array for one, array in pairs}

    def _assign(self, means: dict[int, np.ndarray]) -> None:
        for one in self._variables:
            for copy in weights.local_copies(one):
                copy.assign(means[id(one)])

    @tf.function
    def _mean(self) -> tf.Tensor:
        # The mean of equal numbers is exact in float64.
        def flat() -> tf.Tensor:
            return tf.concat([tf.reshape(tf.cast(one.value, tf.float64), [-1]) for one in self._variables], 0)

        return self._strategy.reduce(tf.distribute.ReduceOp.MEAN, self._strategy.run(flat), axis=None)


def replica_values(variable: keras.Variable) -> list[np.ndarray]:
    """What each replica of this worker holds of a variable."""
    return [copy.numpy() for copy in weights.local_copies(variable)]
