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

    train_step(data):
        gradients(data)                                  of one replica; measures on the way
        beside_update(data)                              what need not wait until these are added up
        optimizer.apply_gradients                        adds up those of all replicas

With ``compile(jit_compile=True)`` XLA compiles the whole step where there is one replica. Where there are
several it compiles `gradients`, `beside_update` and what `evaluate` and `predict` do: XLA reaches no other
device, so that the optimizer stays outside
(https://github.com/keras-team/keras/issues/17187: a stock Keras model fails).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import keras_private, weights
from tf_codistill.batches import batch_of
from tf_codistill.losses import shared_softmax
from tf_codistill.training import whole_batch
from tf_codistill.training.checkpoint.progress import BatchesSeen, TrainingProgress
from tf_codistill.training.checkpoint.resuming import PassOver

_ITERATORS = (tf.data.Iterator, tf.distribute.DistributedIterator)

StepFunction = Callable[[Any], Any]
Results = Callable[[], dict[str, tf.Tensor]]


class MultiWorkerModel(keras.Model):
    """The part of `CodistillationModel` that has nothing to do with codistillation."""

    built: bool
    optimizer: Any
    train_function: Any
    test_function: Any
    predict_function: Any
    read_metrics: Results
    _compiled_parts: Sequence[StepFunction] = ()

    def __init__(self, **kwargs: Any) -> None:
        """Makes the count of steps, and takes what Keras takes; call it in the scope of the strategy."""
        super().__init__(**kwargs)
        self.progress, self.batches_seen = TrainingProgress(), BatchesSeen()
        self.when_built: Callable[[Any], None] | None = None
        self.pass_over: PassOver | None = None

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any) -> None:
        """Keras's `compile`; a cross-entropy shares its softmax with psi, any float16 scales the loss."""
        super().compile(optimizer, shared_softmax.sharing(loss), *args, **kwargs)
        is_half = any(layer.compute_dtype == "float16" for layer in keras_private.layers(self))
        shall_scale, scaled = kwargs.get("auto_scale_loss", True), keras.optimizers.LossScaleOptimizer
        if shall_scale and is_half and self.optimizer and not isinstance(self.optimizer, scaled):
            self.optimizer = scaled(self.optimizer)

    def gradients(self, data: Any) -> list[Any]:
        """Computes the gradients of one replica's batch, and measures what is logged; a subclass does it.

        Args:
            data: Features, targets and optionally sample weights.

        Returns:
            A gradient for each of ``trainable_variables``, of the loss as the optimizer has scaled it.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"{type(self).__name__} does not say how it computes gradients; override `gradients`")

    def train_step(self, data: Any) -> None:
        """One update with one replica's batch."""
        compute, beside = self._compiled_parts or (self.gradients, self.beside_update)
        own = compute(data)
        beside(data)
        gradients = whole_batch.clipped(own, self.optimizer)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))

    def beside_update(self, data: Any) -> None:
        """Computes what no update waits for; a subclass does it, on one replica."""

    def make_train_function(self, force: bool = False) -> None:
        """Creates what `fit` calls with an iterator; Keras calls it."""
        if self.train_function is None or force:
            shared = self.distribute_strategy.num_replicas_in_sync > 1
            parts = (self.gradients, self.beside_update) if shared else ()
            self._compiled_parts = [self._by_xla(part) for part in parts]
            step = self.train_step if shared else self._by_xla(self.train_step)
            results = self._at_once(self.get_metrics_result)
            train = self._steps(step, results, self.before_train_step, self.batches_seen.note)
            self.read_metrics = results if self.run_eagerly else tf.function(results, autograph=False)

            def train_or_pass_over(iterator: Any) -> dict[str, tf.Tensor]:
                passed = self.pass_over and self.pass_over(iterator, self.steps_per_execution)
                return passed or train(iterator)

            self.train_function = train_or_pass_over

    def make_test_function(self, force: bool = False) -> None:
        """Creates what `evaluate` calls with an iterator; Keras calls it."""
        if self.test_function is None or force:
            self.test_function = self._steps(
                self._by_xla(self.test_step), self._at_once(self.get_test_results)
            )

    def make_predict_function(self, force: bool = False) -> None:
        """Creates what `predict` calls with a list of batches; Keras calls it."""
        if self.predict_function is None or force:
            super().make_predict_function(force)
            predict = self.predict_function

            def built_before(data: Any) -> Any:
                self._build_for_use(batch_of(data[0]).features)
                return predict(data)

            self.predict_function = built_before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's call of a model."""
        self._build_for_use(args[0] if args else kwargs["inputs"])
        return super().__call__(*args, **kwargs)

    def before_train_step(self) -> None:
        """Called before every training step, once for all replicas: in a graph, in cross-replica context."""

    def build_for(self, features: Any) -> None:
        """Builds what the subclass holds beside Keras's own parts; called in scope before the first step.

        Args:
            features: Specification of the model's inputs on one replica: a structure of ``tf.TensorSpec``.
        """

    def _at_once(self, results: Results) -> Results:
        """The results of metrics, for which sums over replicas are taken by one collective, not by dozens."""
        variables = [variable for metric in self.metrics for variable in metric.variables]
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync == 1 or any(one.aggregation != "sum" for one in variables):
            return results

        def read() -> dict[str, tf.Tensor]:
            reduced = whole_batch.reduced(strategy, tf.distribute.ReduceOp.SUM, variables)
            sums = [tf.cast(one, variable.dtype) for one, variable in zip(reduced, variables, strict=True)]
            with keras.StatelessScope(state_mapping=zip(variables, sums, strict=True)):
                return results()

        return read

    def get_test_results(self) -> dict[str, tf.Tensor]:
        """The results that `evaluate` logs; those of all metrics unless a subclass leaves some out."""
        return self.get_metrics_result()

    def step(self) -> int:
        """Number of steps done, skipped ones too; where gradients accumulate one takes several batches."""
        return self.batches() // self._batches_per_step()

    def batches(self) -> int:
        """Number of batches that have been learned from."""
        return int(weights.local_copies(self.batches_seen.number)[0].numpy())

    def count_from(self, step: int) -> None:
        """Lets data, schedules and optimizer begin as if so many steps had been done; builds nothing."""
        numbers = [self.batches_seen.number, self.optimizer.iterations]
        weights.assign(numbers, [np.array(step * self._batches_per_step()), np.array(step)])

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `evaluate`, each time from the beginning of the data."""
        keras_private.restart_validation(self)
        return super().evaluate(*args, **kwargs)

    def _steps_done(self, more_batches: int = 0) -> tf.Tensor:
        """`step` as a tensor, or what it will be after some more batches."""
        return (tf.convert_to_tensor(self.batches_seen.number) + more_batches) // self._batches_per_step()

    def _batches_per_step(self) -> int:
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        return getattr(optimizer, "gradient_accumulation_steps", None) or 1

    def save_own_variables(self, store: Any) -> None:
        """Saves what belongs to no layer; Keras calls it."""
        super().save_own_variables(store)
        store["batches_seen"] = weights.values([self.batches_seen.number])[0]

    def load_own_variables(self, store: Any) -> None:
        """Loads it again; Keras calls it."""
        others = {name: store[name] for name in store.keys()}  # noqa: SIM118 - not every store is a mapping
        weights.assign([self.batches_seen.number], [np.array(others.pop("batches_seen"))])
        super().load_own_variables(others)

    def _by_xla(self, function: StepFunction) -> StepFunction:
        return tf.function(function, jit_compile=True, autograph=False) if self._uses_xla() else function

    def _uses_xla(self) -> bool:
        return bool(self.jit_compile and not self.run_eagerly)

    def _steps(
        self,
        step: StepFunction,
        results: Results,
        before: Callable[[], None] = lambda: None,
        after: Callable[[Any], None] = lambda data: None,
    ) -> StepFunction:
        strategy = self.distribute_strategy

        # Where a batch is requested and there is none, nothing shall happen, not even to what needs no batch,
        # such as the number of steps. Control dependencies do not reach from here into replicas.
        def on_replica(data: Any) -> None:
            with tf.control_dependencies(tf.nest.flatten(data)):
                step(data)

        @tf.autograph.experimental.do_not_convert  # nothing but the loop over steps needs it, as in Keras
        def one(data: Any) -> None:
            with tf.control_dependencies(tf.nest.flatten(data, expand_composites=True)):
                before()
            strategy.run(on_replica, args=(data,))
            with tf.control_dependencies(tf.nest.flatten(data, expand_composites=True)):
                after(data)

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

        Raises:
            ValueError: The optimizer does what Keras cannot do with several replicas.
        """
        whole_batch.check_optimizer(self.optimizer, self.distribute_strategy.num_replicas_in_sync)
        data = keras.tree.map_structure(on_one_replica, element_spec)
        with self.distribute_strategy.scope():
            batch = batch_of(data)
            # First, so that all models are built alike: Keras puts its own name before weights it builds.
            self.build_for(batch.features)
            keras_private.build(self, tuple(batch)[:3])

    def _build_for_use(self, features: Any) -> None:
        # Within a call Keras would name weights otherwise than where `build_for_data` builds them, so that
        # snapshots of such a model would not fit its peers.
        if not self.built:
            with self.distribute_strategy.scope():
                self.build_for(keras.tree.map_structure(_spec_on_one_replica, features))
            self.built = True

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        self.build_for_data(data_batch if iterator is None else keras_private.element_spec(iterator))
        restore, self.when_built = self.when_built, None
        if restore is not None:
            restore(iterator)


def _spec_on_one_replica(value: Any) -> tf.TensorSpec:
    value = value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value
    return tf.TensorSpec(value.shape, keras.backend.standardize_dtype(value.dtype))


def on_one_replica(spec: Any) -> Any:
    """The specification of the values on one replica, whether distributed or not."""
    components = keras_private.specs_by_replica(spec)
    return components[0] if components else spec
