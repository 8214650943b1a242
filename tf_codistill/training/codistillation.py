"""Codistillation (Anil et al. 2018, Algorithm 1): the students of one group and their stale teachers.

    while not converged:
        y, f = get_train_example()
        theta_i -= eta grad { phi(y, F(theta_i, f)) + psi(mean_{j != i} F(theta_j, f), F(theta_i, f)) }

`CodistillationModel.gradients` is what stands behind eta in this line. phi is the loss given to `compile`;
psi is `distillation_loss`, and its factor `distillation_weight` is 0 during the burn-in steps. What the
theta_j predict comes from `teachers`, whoever they are.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import keras_private, recurrent_state, schedules
from tf_codistill.batches import Batch, batch_of
from tf_codistill.groups import decisions
from tf_codistill.teaching.base import ModelFn, Taught, Teaching
from tf_codistill.training import whole_batch
from tf_codistill.training.checkpoint.replica_statistics import ReplicaStatistics
from tf_codistill.training.checkpoint.resuming import resuming
from tf_codistill.training.distillation import Distillation, Losses, SoftTargets, Weights
from tf_codistill.training.keras_fit import MultiWorkerModel, on_one_replica
from tf_codistill.training.meters import Meters
from tf_codistill.training.outputs import Outputs, mean_of
from tf_codistill.training.progress_line import ProgressLine
from tf_codistill.training.sampling import Sampling
from tf_codistill.training.task_losses import StudentStep, TaskLosses
from tf_codistill.training.watch import Watch
from tf_codistill.training.whole_batch import of_whole_batch, total


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
        teaching_share: float = 1.0,
        seed: int = 0,
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
            teaching_share: Which share of the rows is taught in each step, above 0 and at most 1: less costs
                less, and psi is the same in expectation. Of recurrent models a share of the steps; see
                `training.sampling`.
            seed: With the step it fixes which rows, or which steps, are taught.
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
        self.distillation.check_teaching(self.teachers.fidelity)
        self.students = [make() for make in model_fns]
        self.teachers.make(self.students, model_fns)
        self.weight_decay = weight_decay
        self.sampling = Sampling(teaching_share, seed)
        self.meters = Meters(self.distillation, self.teachers, measure_every_steps)
        self._statistics: ReplicaStatistics | None = None
        self._is_compared = False
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
        pairs = zip(self.students, batches, strict=True)
        with tf.GradientTape() as tape:
            predictions = [student(batch.features, training=True) for student, batch in pairs]
            students = self._phi(batches, predictions)
            asked, targets = self._taught(students, step)
            psis, distilled = self._psi(asked, targets)
            loss = total([*(one.task_loss for one in students), *self._penalties(step), *distilled])
            scaled_loss = self.optimizer.scale_loss(loss)
        self._note_for_keras(students)
        self.meters.note(step, self.teachers.staleness_steps(step), loss, asked, targets, psis)
        return tape.gradient(scaled_loss, self.trainable_variables)

    def _phi(self, batches: Sequence[Batch], predictions: Sequence[Any]) -> list[StudentStep]:
        """The task loss of each student: Keras's `compute_loss`, as this replica's part of the batch's."""
        # Before a student predicts as a teacher, which would make Keras forget what its layers added.
        added = [[keras_private.added_loss(self, one) for one in student.losses] for student in self.students]
        fractions = whole_batch.replica_fractions(predictions, can_meet=not self._uses_xla())
        losses = keras_private.compile_loss(self)
        students: list[StudentStep] = []
        for batch, prediction, own, values in zip(batches, predictions, fractions, added, strict=True):
            task = TaskLosses.of_batch(losses, batch, prediction, own)
            if losses is not None:
                values.append(losses(batch.targets, prediction, task.sample_weight))
            if not values:
                raise ValueError(
                    "there is no task loss; give compile a loss, or a layer of the model add_loss"
                )
            students.append(StudentStep(batch, prediction, own, task, total(values)))
        return students

    def _taught(
        self, students: Sequence[StudentStep], step: tf.Tensor
    ) -> tuple[Sequence[StudentStep], list[SoftTargets]]:
        """Students on the rows of which they are taught, and what they learn from."""
        weights = self.distillation.weights_at(step, students[0].prediction)
        if self.sampling.share < 1:
            if self.teachers.teaches_rows():
                students = self.sampling.of_rows(students, step)
            else:
                weights = self.sampling.weights(weights, step)
        return students, self._soft_targets(students, weights, step)

    def _soft_targets(
        self, students: Sequence[StudentStep], weights: Outputs, step: tf.Tensor
    ) -> list[SoftTargets]:
        """What teachers predict for each batch, only in steps in which that has weight."""
        features, keys = zip(*((one.batch.features, one.batch.keys) for one in students), strict=True)
        predictions = [one.prediction for one in students]
        is_due = (tf.add_n(list(weights.values())) > 0) & self.teachers.any_present(step)
        weigh = self.distillation.teacher_weights

        def asked() -> list[tuple[Taught, tf.Tensor]]:
            taught = self.teachers.teach(features, keys, step, predictions)
            cast = [one.in_types_of(own) for one, own in zip(taught, predictions, strict=True)]
            return [(one, weigh(one)) for one in cast]

        taught = tf.cond(
            is_due,
            asked,
            lambda: [(one, one.present_PB) for one in self.teachers.wait(features, predictions)],
        )
        return [self.distillation.soft_targets(one, given, weights) for one, given in taught]

    def beside_update(self, data: Any) -> None:
        """Lets teachers predict the next batch, if it is going to be taught; not yet in a burn-in."""
        following, then = batch_of(data).following, self._steps_done(more_batches=1)
        if following is not None:
            has_weight = self.distillation.has_weight(self._steps_done()) & self.distillation.has_weight(then)
            is_due = has_weight & self.teachers.any_present(then) & tf.reduce_any(following.is_there_B)
            if self.sampling.share < 1:  # of steps, as rows are not drawn ahead
                is_due &= self.sampling.times(then) > 0
            self.teachers.teach_next(following.features, then, is_due)

    def _psi(
        self, students: Sequence[StudentStep], targets: Sequence[SoftTargets]
    ) -> tuple[list[Outputs], list[tf.Tensor]]:
        """Psi of each student by output, and all of them times their weights."""
        psis = [self.distillation(*one) for one in zip(students, targets, strict=True)]
        pairs = zip(targets, psis, strict=True)
        return psis, [one.weights[name] * psi for one, values in pairs for name, psi in values.items()]

    def _penalties(self, step: tf.Tensor) -> list[tf.Tensor]:
        decay = self.weight_decay
        return [decay.penalty(one.trainable_variables, step) for one in self.students] if decay else []

    def _note_for_keras(self, students: Sequence[StudentStep]) -> None:
        """Notes the mean of task losses as ``loss``, and the metrics given to `compile`."""
        mean = total([one.task_loss for one in students]) / len(students)
        tracker, rows = keras_private.loss_tracker(self), students[0].num_rows()
        tracker.update_state(of_whole_batch(mean), sample_weight=rows)
        for batch, prediction, *_ in students:
            self.compute_metrics(batch.features, batch.targets, prediction, batch.sample_weight)

    def test_step(self, data: Any) -> None:
        """Measures the students' task loss and metrics on one replica's batch."""
        batch = batch_of(data)
        predictions = self._predictions(batch.features)
        students = self._phi([batch] * len(predictions), predictions)
        task, ensemble = students[0].task, None
        if len(students) > 1 and task.losses is not None:
            ensemble = task.loss(mean_of(predictions))
        self.meters.note_task_losses([one.task_loss for one in students], students[0].num_rows(), ensemble)
        self._note_for_keras(students)

    def predict_step(self, data: Any) -> Any:
        """The mean of the students' predictions for text that their training lanes do not read."""
        return mean_of(self._predictions(batch_of(data).features))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The mean of the students' predictions."""
        return mean_of([student(inputs, training=training) for student in self.students])

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `fit`, with the callbacks of `teachers`, and warnings of teachers that are of no use."""
        call = inspect.signature(super().fit).bind(*args, **kwargs)
        if self.teachers.overlap and call.arguments.get("class_weight"):
            raise ValueError(
                "class_weight does not go with overlap=True; yield sample weights from the data set"
            )
        parts = self.distribute_strategy.num_replicas_in_sync
        call.arguments["x"] = self.teachers.feed(call.arguments.get("x"), parts=parts)
        given: Any = call.arguments.get("callbacks") or []
        is_list = isinstance(given, keras.callbacks.CallbackList)
        users = given.callbacks if is_list else keras.tree.flatten(given)
        with resuming(self, users, call.arguments) as users:
            if users is None:
                return keras.callbacks.History()
            self.meeting = decisions.Meeting()
            # At the end of an epoch, where all workers are, so that the chief alone may save.
            averaging = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: self.statistics.average())
            callbacks = [self.meeting, *self.teachers.callbacks(), Watch(), averaging, *users]
            if not is_list and (verbose := call.arguments.get("verbose", "auto")):
                callbacks.append(ProgressLine(verbose))
                call.arguments["verbose"] = 0
            if is_list:  # Another one: the user's shall not keep ours; Keras sees which may run in a thread.
                callbacks = keras.callbacks.CallbackList(callbacks, model=self, **given.params)
            call.arguments["callbacks"] = callbacks
            try:
                with keras_private.untuned_devices():
                    history = super().fit(*call.args, **call.kwargs)
            finally:
                self.teachers.end()
        self.statistics.settle()
        return history

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `evaluate`, with means over replicas and copies of the recurrent states of the lanes."""
        with self._in_use():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `predict`, with means over replicas and copies of the recurrent states of the lanes."""
        with self._in_use():
            return super().predict(*args, **kwargs)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        with self.statistics.in_use(), keras_private.untuned_devices():
            with self.distribute_strategy.scope():
                for state in self._second_states:
                    state.start()
            yield

    @property
    def statistics(self) -> ReplicaStatistics:
        """The students' state that replicas hold apart."""
        if self._statistics is None or not self.built:
            apart = [weight for student in self.students for weight in student.non_trainable_weights]
            self._statistics = ReplicaStatistics(self.distribute_strategy, apart)
        return self._statistics

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

    def build_for_data(self, element_spec: Any) -> None:
        """Builds everything; `fit` and `evaluate` do it if it has not been done."""
        lanes = recurrent_state.variables(self.students[0])

        def of_one_student(spec: Any) -> Any:
            # A batch to be dealt out has more rows than a stateful student has lanes.
            spec = on_one_replica(spec)
            rows = [lanes[0].shape[0]] if lanes and spec is not None else None
            return spec if rows is None else tf.TensorSpec([*rows, *spec.shape[1:]], spec.dtype)

        spec = keras.tree.map_structure(of_one_student, element_spec)
        super().build_for_data(spec)
        if (following := batch_of(spec).following) is not None:
            with self.distribute_strategy.scope():
                if self.teachers.hold(following.features):
                    self.train_function = None

    def build_for(self, features: Any) -> None:
        """Builds what teaches and compares outputs, once: those that are distilled must have equal shapes."""
        if self._is_compared:  # Keras asks at each validation.
            return
        if self.teachers.on_host and self._uses_xla():
            raise ValueError(
                "PredictionExchange, or SavedTeachers with cache_bytes, leaves the graph in each step, which "
                "XLA cannot compile; compile with jit_compile=False"
            )
        several = len(self.students) > 1
        names = [f"student {number}" if several else "the student" for number in range(len(self.students))]
        students = dict(zip(names, self.students, strict=True))
        outputs = self.distillation.build_alike({**students, **self.teachers.models()}, features)
        self.teachers.learn_outputs(outputs)
        self.teachers.prepare()
        self._second_states = self._second_states or self._make_second_states()
        self._is_compared = True

    def get_metrics_result(self, validation: bool = False) -> dict[str, tf.Tensor]:
        """The results that training logs, or validation."""
        hidden = self.meters.hidden(validation)
        return {name: value for name, value in super().get_metrics_result().items() if name not in hidden}

    def get_test_results(self) -> dict[str, tf.Tensor]:
        """The results that validation logs."""
        return self.get_metrics_result(validation=True)

    def _make_second_states(self) -> list[recurrent_state.SecondState]:
        return [recurrent_state.SecondState(student) for student in self.students]

    def _predictions(self, features: Any) -> list[Any]:
        predictions = []
        for student, state in zip(self.students, self._second_states, strict=True):
            with state.in_use():
                predictions.append(student(features, training=False))
        return predictions
