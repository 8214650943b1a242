"""Codistillation (Anil et al. 2018, Algorithm 1): the student of one group and its stale teachers.

    while not converged:
        y, f = get_train_example() theta_i <- theta_i - eta grad { phi(y, F(theta_i, f)) + psi(mean_{j != i}
        F(theta_j, f), F(theta_i, f)) }

`CodistillationModel.train_step` is this line. phi is the loss given to `compile`; psi is `distillation_loss`,
and its factor `distillation_weight` is 0 during the burn-in steps. The theta_j are snapshots that
`PeerExchange` brings now and then, held by `teachers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import losses, metrics, recurrent_state, schedules, weights
from tf_codistill.peers.teachers import Teachers
from tf_codistill.training.multi_worker import MultiWorkerModel

_PARTS = ("task_loss", "distillation_loss", "distillation_weight", "teacher_agreement", "staleness_steps")


class CodistillationModel(MultiWorkerModel):
    """Trains ``student`` on its task and towards the mean prediction of its teachers.

    `compile`, `fit`, `evaluate` and `predict` are those of Keras. The logs keep the parts apart: ``loss``
    (total), ``task_loss``, ``distillation_loss``, ``distillation_weight``, ``teacher_agreement`` and
    ``staleness_steps``; the last four are 0 as long as nothing is learned from a teacher. Without a snapshot
    from a peer the student trains on its task alone.

    A stateful student carries its recurrent state from one training batch to the next. `evaluate` and
    `predict`, also for validation data in `fit`, start from a copy of that state and leave the original as it
    is.
    """

    def __init__(
        self,
        model_fn: Callable[[], keras.Model],
        num_teachers: int = 1,
        distillation_loss: losses.DistillationLoss | None = None,
        distillation_weight: schedules.Schedule | float = 1.0,
        name: str = "codistillation",
    ) -> None:
        """Creates the student and its teachers; call it in the scope of the strategy that will train them.

        Args:
            model_fn: Makes a model that maps features to logits [B, ..., C]; called for the student and each
                teacher.
            num_teachers: How many peers teach this group; 0 trains the student alone.
            distillation_loss: psi; soft-target cross-entropy if not given.
            distillation_weight: Factor of psi, a number or a function of the step; 1 throughout if not given.
            name: Name of the model.

        Raises:
            ValueError: `num_teachers` is negative or a constant weight is negative or not finite.
        """
        super().__init__(name=name)
        self.student = model_fn()
        self.teachers = Teachers(model_fn, num_teachers)
        self.distillation_loss = distillation_loss or losses.SoftCrossEntropy()
        self.distillation_weight = (
            distillation_weight if callable(distillation_weight) else schedules.Constant(distillation_weight)
        )
        self._second_state: recurrent_state.SecondState | None = None
        self._parts = {part: keras.metrics.Mean(name=part) for part in _PARTS}
        self.built = self.student.built

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's predictions.

        Args:
            inputs: Features, as the model of `model_fn` takes them.
            training: Whether the student is being trained.

        Returns:
            What the student returns for them.
        """
        return self.student(inputs, training=training)

    def train_step(self, data: Any) -> None:
        """One update of the student with one replica's batch.

        Args:
            data: Features, targets and optionally sample weights.
        """
        features, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weight = self._weight_now()
        with tf.GradientTape() as tape:
            prediction = self.student(features, training=True)
            teaching = self._teaching(features, prediction, weight)
            task_loss = self.compute_loss(features, targets, prediction, sample_weight)
            distillation_loss = self._distillation_loss(teaching, prediction)
            loss = task_loss + weight * distillation_loss
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.student.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(scaled_loss, variables), variables, strict=True))

        self._count_loss(loss, features)
        self._count_parts(task_loss, distillation_loss, weight, teaching, prediction)
        self.compute_metrics(features, targets, prediction, sample_weight)

    def test_step(self, data: Any) -> None:
        """Measures the student's task loss and metrics on one replica's batch.

        Args:
            data: Features, targets and optionally sample weights.
        """
        features, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        prediction = self.predict_step(data)
        self._count_loss(
            self.compute_loss(features, targets, prediction, sample_weight, training=False), features
        )
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

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `evaluate`, from a copy of the recurrent state of the training lanes.

        Args:
            *args: As in Keras.
            **kwargs: As in Keras.

        Returns:
            As in Keras.
        """
        self._start_second_state()
        return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `predict`, from a copy of the recurrent state of the training lanes.

        Args:
            *args: As in Keras.
            **kwargs: As in Keras.

        Returns:
            As in Keras.
        """
        self._start_second_state()
        return super().predict(*args, **kwargs)

    def build_for(self, features: Any) -> None:
        """Builds the teachers; called by `fit` and `evaluate` in the strategy's scope.

        Args:
            features: Specification of the features on one replica.
        """
        symbols = keras.tree.map_structure(
            lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), features
        )
        for teacher in self.teachers.models:
            if not teacher.built:
                teacher(symbols)
        self._own_second_state()

    def step(self) -> int:
        """Number of optimizer steps that the student has made."""
        return int(weights.values([self.optimizer.iterations])[0])

    def get_test_results(self) -> dict[str, tf.Tensor]:
        """The results that validation logs: everything but the parts of the training loss."""
        return {name: value for name, value in self.get_metrics_result().items() if name not in _PARTS}

    def _weight_now(self) -> tf.Tensor:
        """The factor of psi in this step: 0 during burn-in and as long as no peer has published."""
        if not self.teachers:
            return tf.constant(0.0)
        return self.distillation_weight(self.optimizer.iterations.value) * tf.reduce_max(
            self.teachers.present()
        )

    def _teaching(self, features: Any, prediction: tf.Tensor, weight: tf.Tensor) -> tf.Tensor | None:
        """The teachers' mean prediction, or that of equal logits where it would have no weight."""
        if not self.teachers:
            return None
        predictions = tf.cond(
            weight > 0,
            lambda: self.teachers.predict(features),
            lambda: [_equal_logits(prediction) for _ in range(len(self.teachers))],
        )
        predictions = [tf.stop_gradient(one) for one in predictions]
        if len(predictions) == 1:
            return self.distillation_loss.aggregate(predictions)
        return self.distillation_loss.aggregate(predictions, self.teachers.present())

    def _distillation_loss(self, teaching: tf.Tensor | None, prediction: tf.Tensor) -> tf.Tensor:
        return tf.constant(0.0) if teaching is None else self.distillation_loss(teaching, prediction)

    def _count_loss(self, loss: tf.Tensor, features: Any) -> None:
        batch_size = tf.shape(keras.tree.flatten(features)[0])[0]
        self._loss_tracker.update_state(self._of_whole_batch(loss), sample_weight=batch_size)

    def _count_parts(
        self,
        task_loss: tf.Tensor,
        distillation_loss: tf.Tensor,
        weight: tf.Tensor,
        teaching: tf.Tensor | None,
        prediction: tf.Tensor,
    ) -> None:
        self._parts["task_loss"].update_state(self._of_whole_batch(task_loss))
        self._parts["distillation_weight"].update_state(weight)
        if teaching is not None:
            taught = tf.cast(weight > 0, tf.float32)
            staleness = self.teachers.staleness_steps(self.optimizer.iterations.value)
            agreement = metrics.agreement(teaching, prediction)
            self._parts["distillation_loss"].update_state(self._of_whole_batch(distillation_loss), taught)
            self._parts["teacher_agreement"].update_state(agreement, taught)
            self._parts["staleness_steps"].update_state(staleness, taught)

    def _of_whole_batch(self, loss: tf.Tensor) -> tf.Tensor:
        # Keras scales every loss by 1 / replicas because gradients are summed over them.
        return loss * tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)

    def _own_second_state(self) -> recurrent_state.SecondState:
        if self._second_state is None:
            self._second_state = recurrent_state.SecondState(self.student)
        return self._second_state

    def _start_second_state(self) -> None:
        if self.student.built:
            with self.distribute_strategy.scope():
                self._own_second_state().start()


def _equal_logits(like: tf.Tensor) -> tf.Tensor:
    if like.shape.is_fully_defined():
        # A constant: teachers that waited for the student's prediction could not be computed beside it.
        return tf.zeros(like.shape, like.dtype)
    return tf.zeros_like(like)
