"""Codistillation (Anil et al. 2018, Algorithm 1): the student of one group and its stale teachers.

    while not converged:
        y, f = get_train_example()
        theta_i -= eta grad { phi(y, F(theta_i, f)) + psi(mean_{j != i} F(theta_j, f), F(theta_i, f)) }

`CodistillationModel.gradients` is what stands behind eta in this line. phi is the loss given to `compile`;
psi is `distillation_loss`, and its factor `distillation_weight` is 0 during the burn-in steps. The theta_j
are snapshots that `PeerExchange` brings now and then, held by `teachers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import recurrent_state, schedules
from tf_codistill.peers.teachers import ModelFn, Teachers
from tf_codistill.training.comparison import Comparison, Task
from tf_codistill.training.distillation import Distillation, Losses, Teaching, Weights, equal_logits
from tf_codistill.training.multi_worker import MultiWorkerModel, of_whole_batch, total

_PARTS = (
    "task_loss",
    "distillation_loss",
    "distillation_weight",
    "staleness_steps",
    "dropped_teachers",
)


class CodistillationModel(MultiWorkerModel):
    """Trains ``student`` on its task and towards the mean prediction of its teachers.

    `compile`, `fit`, `evaluate` and `predict` are those of Keras. The logs keep the parts apart: ``loss``
    (total), ``task_loss``, ``distillation_loss`` (before its weight, over all outputs),
    ``distillation_weight``, ``staleness_steps``, ``dropped_teachers`` and what `training.comparison` measures
    of the teachers now and then; all but the first two are 0 as long as nothing is learned from a teacher.
    Without a snapshot from a peer the student trains on its task alone.

    A teacher whose prediction is not finite is dropped for that step and counted; a good snapshot brings it
    back.

    A stateful student carries its recurrent state from one training batch to the next. `evaluate` and
    `predict`, also for validation data in `fit`, start from a copy of that state and leave the original as it
    is.
    """

    def __init__(
        self,
        model_fn: ModelFn,
        num_teachers: int = 1,
        distillation_loss: Losses | None = None,
        distillation_weight: Weights = 1.0,
        teacher_fns: Sequence[ModelFn] | None = None,
        weight_decay: schedules.WeightDecay | None = None,
        teacher_precision: str = "float32",
        measure_every_steps: int = 10,
        name: str = "codistillation",
    ) -> None:
        """Creates the student and its teachers; call it in the scope of the strategy that will train them.

        Args:
            model_fn: Makes a model that maps features to logits [B, ..., C], or to several such outputs;
                called for the student and each teacher.
            num_teachers: How many peers teach this group; 0 trains the student alone.
            distillation_loss: psi for every output, or by name for those to distil; soft-target cross-entropy
                if not given.
            distillation_weight: Factor of psi, a number or a function of the step, for every output or by
                name.
            teacher_fns: Makes each teacher, in order, where peers train other architectures than the student.
            weight_decay: L2 penalty on the student's matrices that follows a schedule: codistillation
                regularises, so that less of it is needed as training goes on (Sodhani et al. 2020).
            teacher_precision: How teachers hold their weights in memory, one of `peers.precision.PRECISIONS`;
                int8 takes about a quarter of float32.
            measure_every_steps: Steps between two comparisons of teachers and student, at least 1.
            name: Name of the model.

        Raises:
            ValueError: `num_teachers` is negative or not the number of `teacher_fns`, a constant weight is
                negative or not finite, losses and weights name different outputs, or there is
                no such precision.
        """
        super().__init__(name=name)
        if teacher_fns is not None and len(teacher_fns) != num_teachers:
            raise ValueError(f"num_teachers is {num_teachers}, but there are {len(teacher_fns)} teacher_fns")
        self.distillation = Distillation(distillation_loss, distillation_weight)
        self.student = model_fn()
        makers = model_fn if teacher_fns is None else teacher_fns
        self.teachers = Teachers(makers, num_teachers, teacher_precision)
        self.weight_decay = weight_decay
        self._second_state: recurrent_state.SecondState | None = None
        self.comparison = Comparison(self.distillation, num_teachers, measure_every_steps)
        parts = [*_PARTS, *self.distillation.part_names(), *self.comparison.part_names()]
        self._parts = {part: keras.metrics.Mean(name=part) for part in parts}
        self.built = self.student.built

    @property
    def students(self) -> list[keras.Model]:
        """What is trained, as `CodistillingStudents` has it: here one model."""
        return [self.student]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's predictions.

        Args:
            inputs: Features, as the model of `model_fn` takes them.
            training: Whether the student is being trained.

        Returns:
            What the student returns for them.
        """
        return self.student(inputs, training=training)

    def gradients(self, data: Any) -> list[Any]:
        """The gradients of the student's total loss on one replica's batch.

        Args:
            data: Features, targets and optionally sample weights.

        Returns:
            A gradient for each of the student's trainable variables, of the loss as the optimizer scaled it.
        """
        features, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            prediction = self.student(features, training=True)
            added, (shares,) = self.losses, self.shares([prediction])
            teaching = self._teaching(features, prediction)
            task_loss = self.task_loss(data, prediction, added, shares) + self._penalty()
            distillation_losses = self.distillation(teaching, prediction, sample_weight, shares)
            weighed = [teaching.weights[name] * psi for name, psi in distillation_losses.items()]
            loss = total([task_loss, *weighed])
            scaled_loss = self.optimizer.scale_loss(loss)
        self._count_loss(loss, features)
        self._count_parts(task_loss, distillation_losses, teaching)
        task_weight = self.task_weights(sample_weight, prediction, shares)
        self._compare(teaching, prediction, Task(self._compile_loss, targets, task_weight))
        self.compute_metrics(features, targets, prediction, sample_weight)
        return tape.gradient(scaled_loss, self.trainable_variables)

    def test_step(self, data: Any) -> None:
        """Measures the student's task loss and metrics on one replica's batch.

        Args:
            data: Features, targets and optionally sample weights.
        """
        features, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        prediction = self.predict_step(data)
        added, (shares,) = self.losses, self.shares([prediction])
        loss = self.task_loss(data, prediction, added, shares)
        self._count_loss(loss, features)
        self.compute_metrics(features, targets, prediction, sample_weight)

    def predict_step(self, data: Any) -> Any:
        """The student's predictions for text that its training lanes do not read.

        Args:
            data: Features, and what may stand beside them.

        Returns:
            What the student returns for the features.
        """
        features, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with self._own_second_state().in_use():
            return self.student(features, training=False)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the student, the model that is served; `keras.callbacks.ModelCheckpoint` calls it, too.

        Args:
            filepath: Where to, as in Keras.
            *args: As in Keras.
            **kwargs: As in Keras.
        """
        self.student.save(filepath, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Exports the student, as `save` saves it.

        Args:
            filepath: Where to, as in Keras.
            *args: As in Keras.
            **kwargs: As in Keras.
        """
        self.student.export(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Refuses, because `model_fn` and schedules may be any functions; Keras calls it to copy a model.

        Returns:
            Never.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{type(self).__name__} {self.name!r} has no configuration: functions such as model_fn do not "
            "fit into a file. model.save(path) or model.student.save(path) saves the model to be served; "
            "model.save_weights(path) what another one, made in the same way, loads to train on"
        )

    def second_states(self) -> list[recurrent_state.SecondState]:
        """The recurrent state that validation uses in place of the training lanes'."""
        return [self._own_second_state()] if self.student.built else []

    def build_for(self, features: Any) -> None:
        """Builds the teachers and compares outputs; called by `fit` and `evaluate` in the strategy's scope.

        Args:
            features: Specification of the features on one replica.

        Raises:
            ValueError: An output that is to be distilled does not exist, or a teacher's has another shape.
        """
        teachers = {f"teacher {number}": teacher for number, teacher in enumerate(self.teachers.models)}
        self.distillation.build_alike({"the student": self.student, **teachers}, features)
        self.teachers.pack()
        self._own_second_state()

    def get_test_results(self) -> dict[str, tf.Tensor]:
        """The results that validation logs: everything but the parts of the training loss."""
        return {name: value for name, value in self.get_metrics_result().items() if name not in self._parts}

    def _teaching(self, features: Any, prediction: Any) -> Teaching:
        """What the teachers say of a batch; they are asked only in steps in which it has weight."""
        wanted = self.distillation.weights_at(self._steps_done(), prediction)
        present_P = self.teachers.present()
        if not self.teachers:
            return self.distillation.teach([], wanted, present_P)
        is_due = (tf.add_n(list(wanted.values())) > 0) & (tf.reduce_max(present_P) > 0)
        predictions = tf.cond(
            is_due,
            lambda: self.teachers.predict(features),
            lambda: [keras.tree.map_structure(equal_logits, prediction) for _ in self.teachers.models],
        )
        return self.distillation.teach(predictions, wanted, present_P * tf.cast(is_due, tf.float32))

    def _penalty(self) -> tf.Tensor | float:
        if self.weight_decay is None:
            return 0.0
        return self.weight_decay.penalty(self.student.trainable_variables, self._steps_done())

    def _count_parts(
        self, task_loss: tf.Tensor, distillation_losses: dict[str, tf.Tensor], teaching: Teaching
    ) -> None:
        self._parts["task_loss"].update_state(of_whole_batch(task_loss))
        losses = {name: of_whole_batch(psi) for name, psi in distillation_losses.items()}
        for part, value, counts in self.distillation.parts(losses, teaching):
            self._parts[part].update_state(value, counts)
        if self.teachers:
            staleness = self.teachers.staleness_steps(self._steps_done() + 1)
            self._parts["staleness_steps"].update_state(staleness, teaching.is_heard())
            self._parts["dropped_teachers"].update_state(teaching.num_dropped())

    def _compare(self, teaching: Teaching, prediction: Any, task: Task) -> None:
        if not self.teachers:
            return
        num_measured = tf.convert_to_tensor(self._parts["teacher_kl"].count)
        is_due = self.comparison.is_due(self._steps_done() + 1, num_measured, teaching)
        for part, value, counts in self.comparison(teaching, prediction, task, is_due):
            self._parts[part].update_state(value, counts)

    def _own_second_state(self) -> recurrent_state.SecondState:
        if self._second_state is None:
            self._second_state = recurrent_state.SecondState(self.student)
        return self._second_state
