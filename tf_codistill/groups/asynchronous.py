"""A group whose workers take steps each at its own pace: asynchronous SGD with parameter servers.

    coordinator: this process               worker, any                             parameter servers
    batch, step, teachers' weights ----->   reads weights <-----------------------  weights
    <---- sums of the metrics               gradients of this batch ------------->  optimizer's update

    group = AsynchronousGroup(strategy)     the rest as `SynchronousGroup`

Keras has no such loop. Here a round takes the place of an execution of `fit`: the coordinator gives out its
steps, whoever is free takes the next one, and when all are done the callbacks are called, at rest. So what
happens between steps (exchange, checkpoints, meters, validation) is that of a synchronous group. Within a
round nobody waits: a gradient may be applied to weights that others have changed since they were read, which
is measured, see `Rounds`.

Workers hold nothing of their own. The batch comes with the step, so that which one it is follows from the
step alone, and a step whose worker dies is taken by another one. Teachers are cached: TensorFlow sends a
tensor once to each worker that uses it. Models must not carry a state from batch to batch; language models
are made without one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import gin
import keras
import tensorflow as tf

from tf_codistill import keras_private, recurrent_state, weights
from tf_codistill.batches import Stream
from tf_codistill.groups.synchronous import SynchronousGroup
from tf_codistill.teaching import quantized_model

_SOME = 1e-30
"""What meters begin a step with: not 0, which would let every step compare teachers as the first one does."""

Step = Callable[..., tuple[list[tf.Tensor], tf.Tensor]]


@gin.configurable(module="tf_codistill")
class AsynchronousGroup(SynchronousGroup):
    """The workers of one group, seen from their coordinator, which to everybody else is its only worker."""

    def __init__(self, strategy: tf.distribute.Strategy | None = None) -> None:
        """Takes the lead of the group's workers.

        Args:
            strategy: A ``tf.distribute.ParameterServerStrategy``.

        Raises:
            ValueError: It is another one, or a worker has several replicas.
        """
        if not isinstance(strategy, tf.distribute.ParameterServerStrategy):
            raise ValueError(
                "AsynchronousGroup needs workers and parameter servers; start them by launch "
                "--group_kind=asynchronous"
            )
        if strategy.num_replicas_in_sync > 1:
            raise ValueError(
                f"a worker has {strategy.num_replicas_in_sync} GPUs; AsynchronousGroup expects at most one: "
                "start as many workers as there are GPUs"
            )
        super().__init__()
        self._servers = strategy
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """In which models are made, their weights on the parameter servers."""
        return self._servers.scope()

    def rows(self, batch_size: int) -> None:
        """Any number: each step is one worker's, with a whole batch, and models carry no state."""

    def fit(self, model: Any, training: Any, validation: Stream, **kwargs: Any) -> None:
        """Trains a model, see `SynchronousGroup.fit`.

        A round is what `compile` was given as ``steps_per_execution``, or if that is 1 a log interval.
        """
        if model.steps_per_execution == 1:
            model.steps_per_execution = kwargs["log_every_steps"]
        rounds = Rounds(model, self._coordinator, validation.steps_per_epoch)
        kwargs["callbacks"] = [rounds, *kwargs["callbacks"]]
        super().fit(model, training, validation, **kwargs)


class Rounds(keras.callbacks.Callback):
    """What takes the place of a model's training and test steps: rounds of them, given out to workers.

    It adds to the logs of each epoch ``gradient_staleness``, beside ``staleness_steps`` of the teachers: how
    many updates by others there were, on average, between reading the weights and applying a gradient.
    """

    def __init__(self, model: Any, coordinator: Any, num_test_steps: int) -> None:
        """Takes over from Keras.

        Args:
            model: The `CodistillationModel`, built.
            coordinator: The ``ClusterCoordinator``.
            num_test_steps: Steps of a validation, which need not be a multiple of those of a round.

        Raises:
            ValueError: XLA is to compile it, teaching leaves the graph, its optimizer scales the loss, or a
                student carries a state from batch to batch.
        """
        super().__init__()
        _check(model)
        self._trained, self._coordinator = model, coordinator
        self._num_test_steps = self._num_left = num_test_steps
        teaching, optimizer = model.teachers, model.optimizer
        self._metrics = [one for metric in model.metrics for one in metric.variables]
        cached = teaching.models().values() if teaching.refreshed is not None else ()
        self._cached = [one for teacher in cached for one in quantized_model.stored(teacher)]
        self._counts = [model.batches_seen.number, optimizer.iterations]
        # This process alone changes them; workers are told their values.
        own = [*self._metrics, *self._cached, *self._counts, model.batches_seen.first]
        keras_private.bring_home(own)
        known = {id(one) for one in own}
        held = [*(one for student in model.students for one in student.variables), *optimizer.variables]
        self._others = [one for one in held if id(one) not in known]
        with coordinator.strategy.scope():
            self._updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self._behind: list[int] = []
        self._teachers: list[tf.Tensor] = []
        self._taken_at: int | None = None
        self._learn_remotely, self._test_remotely = map(self._on_a_worker, (self._learn, self._test))
        model.make_train_function()
        model.train_function, model.test_function = self._train, self._evaluate
        keras_private.leave_strategy(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins with no gradients."""
        self._behind = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds to the logs how stale gradients were."""
        if logs is not None and self._behind:
            logs["gradient_staleness"] = sum(self._behind) / len(self._behind)

    def on_test_begin(self, logs: Any = None) -> None:
        """Begins a validation."""
        self._num_left = self._num_test_steps

    def _train(self, iterator: Any) -> dict[str, tf.Tensor]:
        model = self._trained
        if passed := model.pass_over and model.pass_over(iterator, model.steps_per_execution):
            return passed
        model.before_train_step()
        self._behind += self._round(self._learn_remotely, iterator, model.batches_seen.note)
        weights.assign([model.optimizer.iterations], weights.values([model.batches_seen.number]))
        return model.get_metrics_result()

    def _evaluate(self, iterator: Any) -> dict[str, tf.Tensor]:
        self._num_left -= len(self._round(self._test_remotely, itertools.islice(iterator, self._num_left)))
        return self._trained.get_test_results()

    def _round(self, step: Any, iterator: Any, note: Callable[[Any], None] = lambda data: None) -> list[int]:
        """Gives out the steps of a round and waits until all are done; how many updates each was behind."""
        refreshed = self._trained.teachers.refreshed
        if refreshed != self._taken_at:  # else the same tensors, which workers have
            self._teachers = [tf.convert_to_tensor(one) for one in weights.values(self._cached)]
            self._taken_at = refreshed
        results = []
        for data in itertools.islice(iterator, self._trained.steps_per_execution):
            number = tf.convert_to_tensor(self._trained.batches_seen.number)
            results.append(self._coordinator.schedule(step, args=(data, number, self._teachers)))
            note(data)
        self._coordinator.join()
        done = self._coordinator.fetch(results)
        for variable, *parts in zip(self._metrics, *(metrics for metrics, _ in done), strict=True):
            variable.assign_add(sum(parts))
        return [int(behind) for _, behind in done]

    # What a worker does, traced here once.

    def _on_a_worker(self, step: Step) -> Any:
        strategy = self._coordinator.strategy

        @tf.function(autograph=False)
        def run(*arguments: Any) -> Any:
            return strategy.run(step, args=arguments)

        return run

    def _learn(self, data: Any, number: tf.Tensor, teachers: list[tf.Tensor]) -> Any:
        model = self._trained
        begun = self._updates.read_value()
        with tf.control_dependencies([begun]), self._told(number, teachers) as told:
            gradients = model.gradients(data)
            present = [one for one in gradients if one is not None]
            with tf.control_dependencies(tf.nest.flatten(present, expand_composites=True)):
                behind = self._updates.assign_add(1, read_value=True) - 1 - begun
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        for variable in self._others:
            value = told.get_current_value(variable)
            if value is not None and value.graph is behind.graph:
                variable.assign(value)
        return self._noted(told), behind

    def _test(self, data: Any, number: tf.Tensor, teachers: list[tf.Tensor]) -> Any:
        with self._told(number, teachers) as told:
            self._trained.test_step(data)
        return self._noted(told), number

    def _told(self, number: tf.Tensor, teachers: list[tf.Tensor]) -> keras.StatelessScope:
        """Within it the coordinator's variables have the values that workers are told."""
        counts = [(one, tf.cast(number, one.dtype)) for one in self._counts]
        return keras.StatelessScope(
            [
                *counts,
                *zip(self._cached, teachers, strict=True),
                *zip(self._metrics, self._start(), strict=True),
            ]
        )

    def _start(self) -> list[tf.Tensor]:
        of_meters = {id(one) for one in self._trained.meters.variables}
        return [
            tf.fill(one.shape, tf.cast(_SOME if id(one) in of_meters else 0, one.dtype))
            for one in self._metrics
        ]

    def _noted(self, told: keras.StatelessScope) -> list[tf.Tensor]:
        """What a step adds to each variable of the metrics."""
        pairs = zip(self._metrics, self._start(), strict=True)
        return [told.get_current_value(one) - start for one, start in pairs]


def _check(model: Any) -> None:
    if model.jit_compile:
        raise ValueError("jit_compile is True, which AsynchronousGroup cannot do; leave it out")
    if model.teachers.on_host:
        raise ValueError(
            "teaching leaves the graph of its step, which AsynchronousGroup sends to workers; take "
            "PeerExchange"
        )
    if model.teachers.overlap:
        raise ValueError(
            "teachers predict the next batch ahead, but in an AsynchronousGroup any worker takes any batch; "
            "leave overlap of PeerExchange out"
        )
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "the optimizer scales the loss, for float16, which AsynchronousGroup cannot do; use bfloat16 or "
            "float32"
        )
    carried = [one.path for student in model.students for one in recurrent_state.variables(student)]
    if carried:
        raise ValueError(
            f"a student carries {carried[0]!r} from batch to batch, but in an AsynchronousGroup any worker "
            "takes any batch; make models that carry no state"
        )
