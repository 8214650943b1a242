"""What replicas hold apart although it is to be served: averages of batch normalisation, for one.

    statistics.average()            means over all replicas, as arrays; all workers must call it
    with statistics.in_use(): ...   the model has the means; behind it each replica has its own again
    statistics.settle()             the means in place, when training ends

While training goes on each replica keeps its own, so that a run that resumes from a checkpoint goes on as if
it had never stopped. Values that agree stay as they are, to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import distribution, weights
from tf_codistill.training.whole_batch import reduced

Means = dict[int, np.ndarray]
"""Means over replicas by the identity of the variable."""


class ReplicaStatistics:
    """The floating state of a model that no optimizer keeps equal."""

    def __init__(self, strategy: tf.distribute.Strategy, variables: Sequence[keras.Variable]) -> None:
        """Takes note of weights that are not trained, and of the strategy that replicates them."""
        self._strategy = strategy
        apart = strategy.num_replicas_in_sync > 1
        self._variables = [one for one in variables if apart and tf.as_dtype(one.dtype).is_floating]
        self._means: Means = {}
        self._taken_of: dict[int, list[np.ndarray]] = {}
        self._set_aside: dict[int, list[np.ndarray]] = {}

    def average(self) -> Means:
        """The means over all replicas; all workers must call it."""
        if self._variables and not self._set_aside:
            self._means = {
                id(one): np.asarray(mean).astype(tf.as_dtype(one.dtype).as_numpy_dtype)
                for mean, one in zip(self._mean(), self._variables, strict=True)
            }
            self._taken_of = self._own_values()
        return self._means

    def values(
        self, variables: Sequence[keras.Variable], pool: weights.Pool | None = None
    ) -> list[np.ndarray]:
        """Copies variables to the host; of what replicas hold apart the means that were taken last."""
        copies = zip(variables, weights.values(variables, pool), strict=True)
        return [self._means.get(id(one), copy) for one, copy in copies]

    @contextlib.contextmanager
    def in_use(self, alone: bool = False) -> Iterator[None]:
        """Within it the variables have the means.

        Args:
            alone: Whether other workers may not be doing the same: then means of what the variables hold now
                are used if they have been taken before.

        Yields:
            Nothing.
        """
        communicates = not alone or distribution.num_workers(self._strategy) == 1
        means = self.average() if communicates else self._known()
        if not means or self._set_aside:
            yield
            return
        self._set_aside = self._own_values()
        try:
            self._assign(means)
            yield
        finally:
            aside, self._set_aside = self._set_aside, {}
            weights.assign_replicas(self._variables, [aside[id(one)] for one in self._variables])

    def settle(self) -> None:
        """Gives all replicas the means; all workers must call it."""
        self._assign(self.average())

    def own(self, variable: keras.Variable) -> list[np.ndarray]:
        """What each replica of this worker holds of a variable when means are not in use."""
        return self._set_aside.get(id(variable)) or weights.replica_values(variable)

    def _known(self) -> Means:
        own = self._own_values()
        same = [np.array_equal(own[key], one, equal_nan=True) for key, one in self._taken_of.items()]
        return self._means if all(same) else {}

    def _own_values(self) -> dict[int, list[np.ndarray]]:
        return {id(one): weights.replica_values(one) for one in self._variables}

    def _assign(self, means: Means) -> None:
        weights.assign(self._variables, [means[id(one)] for one in self._variables])

    @tf.function
    def _mean(self) -> list[tf.Tensor]:
        return reduced(self._strategy, tf.distribute.ReduceOp.MEAN, self._variables)
