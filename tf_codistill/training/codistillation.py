"""Codistillation (Anil et al. 2018, Algorithm 1): the students of one group and their stale teachers.

    while not converged:
        y, f = get_train_example()
        theta_i -= eta grad { phi(y, F(theta_i, f)) + psi(mean_{j != i} F(theta_j, f), F(theta_i, f)) }

`CodistillationModel.gradients` is what stands behind eta in this line. phi is the loss given to `compile`;
psi is `distillation_loss`, and its factor `distillation_weight` is 0 during the burn-in steps. What the
theta_j predict comes from `teachers`, whoever they are.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import keras_private, recurrent_state, schedules, weights
from tf_codistill.batches import Batch, batch_of
from tf_codistill.groups import decisions
from tf_codistill.teaching.base import ModelFn, Teaching
from tf_codistill.training.distillation import Distillation, Losses, SoftTargets, Weights
from tf_codistill.training.keras_fit import MultiWorkerModel, on_one_replica
from tf_codistill.training.measures import TaskLosses
from tf_codistill.training.meters import Meters
from tf_codistill.training.outputs import Outputs
from tf_codistill.training.progress_line import ProgressLine
from tf_codistill.training.replica_statistics import Averaging, ReplicaStatistics
from tf_codistill.training.resuming import resuming
from tf_codistill.training.watch import Watch
from tf_codistill.training.whole_batch import ReplicaFractions, total


class CodistillationModel(MultiWorkerModel):
    """Trains students on their task and towards the mean prediction of their teachers.

    `compile`, `fit`, `evaluate` and `predict` are those of Keras. The logs keep the parts apart: ``loss``,
    the task loss in training as in validation; ``total_loss``, which is minimised; ``distillation_loss``
    (before its weight, over all outputs), and what else `training.meters` names. Without teaching a student
    trains on its task alone. Where a teacher's prediction is not finite it is dropped for that step and
    counted.

    With several students (`FellowStudents`) one optimizer updates all of them by the sum of their losses. The
    gradient of one is not touched by the others, because teaching is cut off; only an optimizer that looks at
    all gradients at once, as ``global_clipnorm`` does, ties them together. Metrics given to `compile` see the
    predictions of all students. `evaluate` logs ``loss``, the mean of the students' task losses, that of each
    and ``ensemble_task_loss``, that of the mean of their predictions, which `predict` returns: of logits, if
    these are what the models return.

    A stateful student carries its recurrent state from one training batch to the next. `evaluate` and
    `predict`, also for validation data in `fit`, start from a copy of that state and leave the original as it
    is.

    Attributes:
        students: What is trained: plain models, to be saved and served one by one.
        teachers: Where teaching comes from.
        meeting: Where the workers of this group decide during `fit`.
    """

    meeting: decisions.Meeting

    def __init__(
        self,
        model_fn: ModelFn | Sequence[ModelFn],
        teachers: Teaching | None = None,
        distillation_loss: Losses | None = None,
        distillation_weight: Weights = 1.0,
        weight_decay: schedules.WeightDecay | None = None,
        measure_every_steps: int = 10,
        name: str = "codistillation",
    ) -> None:
        """Creates the students and their teachers; call it in the scope of the strategy that will train them.

        Args:
            model_fn: Makes a model that maps features to logits [B, ..., C], or to several such outputs; one
                for each student where they differ. Students start apart because Keras's seeds advance from
                model to model: an initializer with a fixed seed would make them equal.
            teachers: Where teaching comes from: `PeerExchange`, `SavedTeachers`, `FellowStudents`; None for a
                model that is trained alone.
            distillation_loss: psi for every output, or by name for those to distil; soft-target cross-entropy
                if not given.
            distillation_weight: Factor of psi, a number or a function of the step, for every output or by
                name.
            weight_decay: L2 penalty on the students' matrices that follows a schedule: codistillation
                regularises, so that less of it is needed as training goes on (Sodhani et al. 2020).
            measure_every_steps: Steps between two comparisons of teachers and students, at least 1.
            name: Name of the model.

        Raises:
            ValueError: A constant weight is negative or not finite, losses and weights name different
                outputs, there are not as many `model_fn` as students, or a number is out of range.
        """
        keras_private.check_backend()
        super().__init__(name=name)
        self.teachers = Teaching() if teachers is None else teachers
        number = self.teachers.num_students
        model_fns = [model_fn] * number if callable(model_fn) else list(model_fn)
        if len(model_fns) != number:
            raise ValueError(
                f"there are {number} students, but {len(model_fns)} model_fns; give one for each"
            )
        self.distillation = Distillation(distillation_loss, distillation_weight)
        self.students = [make() for make in model_fns]
        self.teachers.make(self.students, model_fns)
        self.weight_decay = weight_decay
        self.meters = Meters(self.distillation, self.teachers, measure_every_steps)
        self._tracked_meters = self.meters.metrics  # Keras resets what it finds in an attribute
        self._statistics: ReplicaStatistics | None = None
        self.meeting = decisions.Meeting()
        self.built = all(student.built for student in self.students)
        self._second_states = self._make_second_states() if self.built else []

    @property
    def student(self) -> keras.Model:
        """What is trained and served, where it is one model.

        Raises:
            AttributeError: There are several; ``students`` has them.
        """
        if len(self.students) > 1:
            raise AttributeError(
                f"{self.name!r} has {len(self.students)} students; take one of model.students"
            )
        return self.students[0]

    def gradients(self, data: Any) -> list[Any]:
        """The gradients of the students' total loss on one replica's batch."""
        batches, step = self.teachers.deal(batch_of(data)), self._steps_done()
        with tf.GradientTape() as tape:
            predictions = [
                student(batch.features, training=True)
                for student, batch in zip(self.students, batches, strict=True)
            ]
            task_losses, fractions = self._phi(batches, predictions)
            targets = self._soft_targets(batches, predictions, step)
            distillation_losses, distilled = self._psi(batches, predictions, targets, fractions)
            loss = total([*task_losses, *self._penalties(step), *distilled])
            scaled_loss = self.optimizer.scale_loss(loss)
        self._measure(step, batches, predictions, fractions, loss, task_losses, distillation_losses, targets)
        return tape.gradient(scaled_loss, self.trainable_variables)

    def _phi(
        self, batches: Sequence[Batch], predictions: Sequence[Any]
    ) -> tuple[list[tf.Tensor], list[ReplicaFractions]]:
        """The task loss of each student, and its replica's fractions of that of the whole batch."""
        # Before a student predicts as a teacher, which would make Keras forget what its layers added.
        added = [student.losses for student in self.students]
        fractions = self.replica_fractions(predictions)
        losses = [self.task_loss(*one) for one in zip(batches, predictions, added, fractions, strict=True)]
        return losses, fractions

    def _penalties(self, step: tf.Tensor) -> list[tf.Tensor]:
        decay = self.weight_decay
        return (
            [] if decay is None else [decay.penalty(one.trainable_variables, step) for one in self.students]
        )

    def _soft_targets(
        self, batches: Sequence[Batch], predictions: Sequence[Any], step: tf.Tensor
    ) -> list[SoftTargets]:
        """What teachers predict for each batch, only in steps in which that has weight."""
        weights = self.distillation.weights_at(step, predictions[0])
        is_due = (tf.add_n(list(weights.values())) > 0) & self.teachers.any_present(step)
        features, keys = [batch.features for batch in batches], [batch.keys for batch in batches]
        weigh = self.distillation.teacher_weights
        taught = tf.cond(
            is_due,
            lambda: [(one, weigh(one)) for one in self.teachers.teach(features, keys, step, predictions)],
            lambda: [(one, one.present_PB) for one in self.teachers.wait(features, predictions)],
        )
        return [self.distillation.soft_targets(one, given, weights) for one, given in taught]

    def _psi(
        self,
        batches: Sequence[Batch],
        predictions: Sequence[Any],
        targets: Sequence[SoftTargets],
        fractions: Sequence[ReplicaFractions],
    ) -> tuple[list[Outputs], list[tf.Tensor]]:
        """Psi of each student by output, and all of them times their weights."""
        losses = [
            self.distillation(one, prediction, batch.sample_weight, fraction)
            for one, prediction, batch, fraction in zip(targets, predictions, batches, fractions, strict=True)
        ]
        weighed = [
            one.weights[name] * psi
            for one, psis in zip(targets, losses, strict=True)
            for name, psi in psis.items()
        ]
        return losses, weighed

    def _measure(
        self,
        step: tf.Tensor,
        batches: Sequence[Batch],
        predictions: Sequence[Any],
        fractions: Sequence[ReplicaFractions],
        loss: tf.Tensor,
        task_losses: Sequence[tf.Tensor],
        distillation_losses: Sequence[Outputs],
        targets: Sequence[SoftTargets],
    ) -> None:
        tasks = [
            self._task(batch, prediction, fraction)
            for batch, prediction, fraction in zip(batches, predictions, fractions, strict=True)
        ]
        students = zip(predictions, tasks, task_losses, distillation_losses, targets, strict=True)
        self._count_loss(task_losses, batches[0].features)
        self.meters.note(step, self.teachers.staleness_steps(step), loss, list(students))
        for batch, prediction in zip(batches, predictions, strict=True):
            self.compute_metrics(batch.features, batch.targets, prediction, batch.sample_weight)

    def _task(self, batch: Batch, prediction: Any, fractions: ReplicaFractions) -> TaskLosses:
        weights = self.task_weights(batch.sample_weight, prediction, fractions)
        return TaskLosses(keras_private.compile_loss(self), batch.targets, weights)

    def test_step(self, data: Any) -> None:
        """Measures the students' task loss and metrics on one replica's batch."""
        batch = batch_of(data)
        predictions = self._predictions(batch.features)
        added, fractions = [student.losses for student in self.students], self.replica_fractions(predictions)
        losses = [self.task_loss(batch, *one) for one in zip(predictions, added, fractions, strict=True)]
        self._count_loss(losses, batch.features)
        ensemble = None
        if len(self.students) > 1 and keras_private.compile_loss(self) is not None:
            ensemble = self._task(batch, predictions[0], fractions[0]).loss(_mean(predictions))
        self.meters.note_validation(losses, ensemble)
        for prediction in predictions:
            self.compute_metrics(batch.features, batch.targets, prediction, batch.sample_weight)

    def predict_step(self, data: Any) -> Any:
        """The mean of the students' predictions for text that their training lanes do not read."""
        return _mean(self._predictions(batch_of(data).features))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The mean of the students' predictions."""
        return _mean([student(inputs, training=training) for student in self.students])

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `fit`, with the callbacks of `teachers`, and warnings of teachers that are of no use."""
        call = inspect.signature(super().fit).bind(*args, **kwargs)
        given: Any = call.arguments.get("callbacks") or []
        is_list = isinstance(given, keras.callbacks.CallbackList)
        users = given.callbacks if is_list else keras.tree.flatten(given)
        with resuming(self, users, call.arguments) as (users, continues):
            if not continues:
                return keras.callbacks.History()
            self.meeting = decisions.Meeting()
            callbacks = [self.meeting, *self.teachers.callbacks(), Watch(), Averaging(), *users]
            if not is_list and (verbose := call.arguments.get("verbose", "auto")):
                callbacks.append(ProgressLine(verbose))
                call.arguments["verbose"] = 0
            if is_list:  # Another one: the user's shall not keep ours; Keras sees which may run in a thread.
                callbacks = keras.callbacks.CallbackList(callbacks, model=self, **given.params)
            call.arguments["callbacks"] = callbacks
            try:
                history = super().fit(*call.args, **call.kwargs)
            finally:
                self.teachers.end()
        self.statistics.settle()
        return history

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `evaluate`, with what replicas hold apart averaged over them."""
        with self.statistics.in_use():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `predict`, with what replicas hold apart averaged over them."""
        with self.statistics.in_use():
            return super().predict(*args, **kwargs)

    @property
    def statistics(self) -> ReplicaStatistics:
        """The students' state that replicas hold apart."""
        if self._statistics is None or not self.built:
            apart = [weight for student in self.students for weight in student.non_trainable_weights]
            self._statistics = ReplicaStatistics(self.distribute_strategy, apart)
        return self._statistics

    def served(self) -> list[list[np.ndarray]]:
        """The weights with which each student would be served; all workers must call it.

        Returns:
            For each student an array for each of its weights, of what replicas hold apart the mean over them.
        """
        means = self.statistics.average()
        return [
            [means.get(id(one), weights.values([one])[0]) for one in student.weights]
            for student in self.students
        ]

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the student, the model that is served; `keras.callbacks.ModelCheckpoint` calls it, too."""
        self._for_each(filepath, lambda student, path: student.save(path, *args, **kwargs))

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Exports the student, as `save` saves it."""
        self._for_each(filepath, lambda student, path: student.export(path, *args, **kwargs))

    def _for_each(self, filepath: Any, act: Callable[[keras.Model, str], None]) -> None:
        root, ending = os.path.splitext(os.fspath(filepath))
        several = len(self.students) > 1
        with self.statistics.in_use(alone=True):
            for number, student in enumerate(self.students):
                act(student, f"{root}.student_{number}{ending}" if several else os.fspath(filepath))

    def get_config(self) -> dict[str, Any]:
        """Refuses, because `model_fn` and schedules may be any functions; Keras calls it to copy a model."""
        raise ValueError(
            f"{type(self).__name__} {self.name!r} has no configuration: functions such as model_fn do not "
            "fit into a file. model.save(path) or model.student.save(path) saves the model to be served; "
            "model.save_weights(path) what another one, made in the same way, loads to train on"
        )

    def before_train_step(self) -> None:
        """Lets teachers prepare for the step."""
        self.teachers.before_step(self._steps_done())

    def second_states(self) -> list[recurrent_state.SecondState]:
        """The recurrent states that validation uses in place of the training lanes', one for each student."""
        return self._second_states

    def build_for_data(self, element_spec: Any) -> None:
        """Builds everything; `fit` and `evaluate` do it if it has not been done."""
        lanes = recurrent_state.variables(self.students[0])

        def of_one_student(spec: Any) -> Any:
            # A batch to be dealt out has more rows than a stateful student has lanes.
            spec = on_one_replica(spec)
            rows = [lanes[0].shape[0]] if lanes and spec is not None else None
            return spec if rows is None else tf.TensorSpec([*rows, *spec.shape[1:]], spec.dtype)

        super().build_for_data(keras.tree.map_structure(of_one_student, element_spec))

    def build_for(self, features: Any) -> None:
        """Builds what teaches and compares outputs; those that are distilled must have the same shapes."""
        several = len(self.students) > 1
        names = [f"student {number}" if several else "the student" for number in range(len(self.students))]
        students = dict(zip(names, self.students, strict=True))
        self.distillation.build_alike({**students, **self.teachers.models()}, features)
        self.teachers.prepare()
        self._second_states = self._second_states or self._make_second_states()

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """The results that training logs."""
        return self._results_without(self.meters.hidden(validation=False))

    def get_test_results(self) -> dict[str, tf.Tensor]:
        """The results that validation logs."""
        return self._results_without(self.meters.hidden(validation=True))

    def _results_without(self, names: set[str]) -> dict[str, tf.Tensor]:
        return {name: value for name, value in super().get_metrics_result().items() if name not in names}

    def _make_second_states(self) -> list[recurrent_state.SecondState]:
        return [recurrent_state.SecondState(student) for student in self.students]

    def _predictions(self, features: Any) -> list[Any]:
        predictions = []
        for student, state in zip(self.students, self.second_states(), strict=True):
            with state.in_use():
                predictions.append(student(features, training=False))
        return predictions


def _mean(predictions: Sequence[Any]) -> Any:
    return (
        predictions[0] if len(predictions) == 1 else keras.tree.map_structure(_mean_of_outputs, *predictions)
    )


def _mean_of_outputs(*outputs: tf.Tensor) -> tf.Tensor:
    mean = keras.ops.mean(keras.ops.stack(outputs), axis=0)
    mask = keras_private.mask(outputs[0])
    return mean if mask is None else keras_private.set_mask(mean, mask)
