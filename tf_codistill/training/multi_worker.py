"""A keras.Model whose `fit` and `evaluate` also work under MultiWorkerMirroredStrategy.

Stock Keras 3 fails there for two reasons (https://github.com/keras-team/keras/issues/20585): it averages the
values of a distributed batch eagerly to learn their shapes, and it reduces scalar logs along an axis that
they do not have. Here shapes come from the dataset's element specification, everything is built eagerly in
the strategy's scope before the first step is traced, and logs are the results of the metrics, which are
summed over all replicas when read.

    train_function(iterator):
        repeat steps_per_execution times:
            strategy.run(train_step, next(iterator))     on every replica of every worker
        return results of the metrics                    equal on every worker
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import recurrent_state

_ITERATORS = (tf.data.Iterator, tf.distribute.DistributedIterator)

StepFunction = Callable[[Any], Any]
Results = Callable[[], dict[str, tf.Tensor]]


class MultiWorkerModel(keras.Model):
    """The part of `CodistillationModel` that has nothing to do with codistillation."""

    train_function: Any
    test_function: Any

    def make_train_function(self, force: bool = False) -> None:
        """Creates what `fit` calls with an iterator; Keras calls it.

        Args:
            force: Whether to create it again.
        """
        if self.train_function is None or force:
            # Autograph cannot convert a method of which nothing but a docstring is written.
            before = tf.autograph.experimental.do_not_convert(self.before_train_step)
            self.train_function = self._steps(self.train_step, self.get_metrics_result, before)

    def make_test_function(self, force: bool = False) -> None:
        """Creates what `evaluate` calls with an iterator; Keras calls it.

        Args:
            force: Whether to create it again.
        """
        if self.test_function is None or force:
            self.test_function = self._steps(self.test_step, self.get_test_results)

    def before_train_step(self) -> None:
        """Called before every training step, once for all replicas: in a graph, in cross-replica context."""

    def build_for(self, features: Any) -> None:
        """Builds what the subclass holds beside Keras's own parts; called in scope before the first step.

        Args:
            features: Specification of the model's inputs on one replica: a structure of ``tf.TensorSpec``.
        """

    def get_test_results(self) -> dict[str, tf.Tensor]:
        """The results that `evaluate` logs; those of all metrics unless a subclass leaves some out."""
        return self.get_metrics_result()

    def second_states(self) -> list[recurrent_state.SecondState]:
        """Recurrent states that validation uses in place of the training lanes'; a subclass names its own.

        Returns:
            The states; they are made, if need be, in the strategy's scope, in which this is called.
        """
        return []

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `evaluate`, from a copy of the recurrent state of the training lanes.

        Args:
            *args: As in Keras.
            **kwargs: As in Keras.

        Returns:
            As in Keras.
        """
        self._start_second_states()
        return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `predict`, from a copy of the recurrent state of the training lanes.

        Args:
            *args: As in Keras.
            **kwargs: As in Keras.

        Returns:
            As in Keras.
        """
        self._start_second_states()
        return super().predict(*args, **kwargs)

    def _start_second_states(self) -> None:
        with self.distribute_strategy.scope():
            for state in self.second_states():
                state.start()

    def _count_loss(self, loss: tf.Tensor, features: Any) -> None:
        batch_size = tf.shape(keras.tree.flatten(features)[0])[0]
        self._loss_tracker.update_state(of_whole_batch(loss), sample_weight=batch_size)

    def _steps(
        self, step: StepFunction, results: Results, before: Callable[[], None] | None = None
    ) -> StepFunction:
        strategy = self.distribute_strategy
        compiled = tf.function(step, jit_compile=True) if self.jit_compile and not self.run_eagerly else step

        def one(data: Any) -> None:
            if before is not None:
                before()
            strategy.run(compiled, args=(data,))

        def several(iterator: Any) -> dict[str, tf.Tensor]:
            if self.steps_per_execution == 1:
                one(next(iterator))
                return results()
            for number in tf.range(self.steps_per_execution):
                following = iterator.get_next_as_optional()
                if following.has_value():
                    one(following.get_value())
                elif number == 0:
                    # Raises what ends the epoch. Fewer batches than an execution takes are no error.
                    next(iterator)
            return results()

        def from_generator(generator: Any) -> dict[str, tf.Tensor]:
            for data in generator:
                one(data)
            return results()

        on_dataset = several if self.run_eagerly else tf.function(several, reduce_retracing=True)
        return lambda iterator: (on_dataset if isinstance(iterator, _ITERATORS) else from_generator)(iterator)

    def build_for_data(self, element_spec: Any) -> None:
        """Builds model, optimizer, loss and metrics; `fit` and `evaluate` do it if it has not been done.

        Args:
            element_spec: Specification of the elements of a dataset, distributed or not.
        """
        data = keras.tree.map_structure(on_one_replica, element_spec)
        with self.distribute_strategy.scope():
            features, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            # First, so that all models are built alike: Keras puts its own name before weights it builds.
            self.build_for(features)
            self._symbolic_build(data_batch=data)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        self.build_for_data(data_batch if iterator is None else iterator._distributed_dataset.element_spec)


def of_whole_batch(loss: tf.Tensor) -> tf.Tensor:
    """Undoes Keras's scaling of a replica's loss by 1 / replicas, done because gradients are summed."""
    return loss * tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)


def on_one_replica(spec: Any) -> Any:
    """The specification of the values on one replica, whether distributed or not."""
    components = getattr(spec, "_value_specs", None)
    return components[0] if components else spec
