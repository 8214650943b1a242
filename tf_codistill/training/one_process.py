"""All copies in one process (Anil et al. 2018, footnote 1): N students in one Keras model.

    batches="same"         student 0  F(theta_0, f)   ---->  prediction of student 0, teaching for 1 and 2
        f ------------>    student 1  F(theta_1, f)   ---->  prediction of student 1, teaching for 0 and 2
                           student 2  F(theta_2, f)   ---->  prediction of student 2, teaching for 0 and 1

    batches="different"    rows 0, N, 2N, ... of the batch are student 0's, rows 1, N + 1, ... student 1's;
                           its teachers read them too, in a forward pass of their own

    refresh_every_steps=1  teachers are the students as they are: no second copy of any weights
    refresh_every_steps=k  teachers are copies of the students, taken anew every k steps

With the same batch and teachers that are up to date each forward pass serves twice, so that codistillation
costs little more than training N models. Nothing is exchanged through files: this is for models of which
several fit a device.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import recurrent_state, schedules
from tf_codistill.peers.teachers import ModelFn
from tf_codistill.peers.topology import Topology
from tf_codistill.training.comparison import Comparison, Task
from tf_codistill.training.distillation import Distillation, Losses, Outputs, Teaching, Weights
from tf_codistill.training.fellow_students import FellowStudents
from tf_codistill.training.multi_worker import MultiWorkerModel, of_whole_batch, on_one_replica, total
from tf_codistill.training.watch import WatchStudents

_PARTS = (
    "task_loss",
    "distillation_loss",
    "distillation_weight",
    "staleness_steps",
    "dropped_teachers",
)
_PARTS_OF_EACH = ("task_loss", "distillation_loss", "teacher_agreement", "teacher_kl")


class CodistillingStudents(MultiWorkerModel):
    """Trains N students side by side, each on its task and towards the mean prediction of its teachers.

    One optimizer, given to `compile`, updates all students by the sum of their losses. The gradient of one is
    not touched by the others, because teaching is cut off; only an optimizer that looks at all gradients at
    once, as ``global_clipnorm`` does, ties them together.

    Logs are those of `CodistillationModel`, as means over the students, and of each of them
    ``student_0_task_loss``, ``student_0_distillation_loss``, ``student_0_teacher_agreement`` and
    ``student_0_teacher_kl``; ``teacher_0_task_loss`` is that of student 0 when it teaches, and staleness that
    of the copies when they are asked. Metrics given to `compile` see the predictions of all students.

    `evaluate` logs ``loss``, the mean of the students' task losses, ``student_0_task_loss`` and so on, and
    ``ensemble_task_loss``, that of the mean of their predictions. `predict` returns this mean: of logits, if
    these are what the models return. Both read whole batches, also with ``batches="different"``.

    Stateful students carry their recurrent state from one training batch to the next; `evaluate` and
    `predict` start from a copy. A teacher that reads another student's rows, or a stale copy, has a state of
    its own for them. Until it is first asked this is that of its own lanes.

    Attributes:
        students: The models: plain ones, to be saved and served one by one.
        teachers: Who teaches whom, and the stale copies.
    """

    def __init__(
        self,
        model_fn: ModelFn | Sequence[ModelFn],
        num_students: int = 2,
        distillation_loss: Losses | None = None,
        distillation_weight: Weights = 1.0,
        batches: str = "same",
        topology: Topology = "fully_connected",
        refresh_every_steps: int = 1,
        weight_decay: schedules.WeightDecay | None = None,
        measure_every_steps: int = 10,
        name: str = "codistilling_students",
    ) -> None:
        """Creates the students; call it in the scope of the strategy that will train them.

        Args:
            model_fn: Makes a model that maps features to logits [B, ..., C], or to several such outputs; one
                for each student where they differ. Students start apart because Keras's seeds advance from
                model to model: an initializer with a fixed seed would make them equal.
            num_students: How many, N, at least 1.
            distillation_loss: psi for every output, or by name for those to distil; soft-target cross-entropy
                if not given.
            distillation_weight: Factor of psi, a number or a function of the step, for every output or by
                name.
            batches: ``"same"``: all students learn from the whole batch. ``"different"``: student i learns
                from rows i, i + N, i + 2N, ... of a batch that is N times as large. Examples of N datasets
                are dealt out so by ``tf.data.Dataset.choose_from_datasets`` before ``batch``.
            topology: Who teaches whom.
            refresh_every_steps: 1 for teachers that are up to date, k for copies of the students that are
                taken anew at steps 0, k, 2k, ... `RandomPeers` are drawn anew at the same steps.
            weight_decay: L2 penalty on the students' matrices that follows a schedule.
            measure_every_steps: Steps between two comparisons of teachers and students, at least 1.
            name: Name of the model.

        Raises:
            ValueError: An argument is out of its range, there are not as many models as students, or the
                topology does not fit their number.
        """
        super().__init__(name=name)
        _check(num_students, batches, refresh_every_steps)
        model_fns = [model_fn] * num_students if callable(model_fn) else list(model_fn)
        if len(model_fns) != num_students:
            raise ValueError(f"num_students is {num_students}, but there are {len(model_fns)} model_fns")
        self.distillation = Distillation(distillation_loss, distillation_weight)
        self.comparison = Comparison(self.distillation, num_students, measure_every_steps)
        self.weight_decay = weight_decay
        self._share_batch = batches == "same"
        self.students = [make() for make in model_fns]
        self.teachers = FellowStudents(
            self.students, model_fns, topology, self._share_batch, refresh_every_steps
        )
        self._second_states: list[recurrent_state.SecondState] = []
        self._parts = {part: keras.metrics.Mean(name=part) for part in self._part_names()}
        self._ensemble_task_loss = keras.metrics.Mean(name="ensemble_task_loss")
        self.built = all(student.built for student in self.students)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The mean of the students' predictions.

        Args:
            inputs: Features, as the models of `model_fn` take them.
            training: Whether the students are being trained.

        Returns:
            Structured as the prediction of one student.
        """
        return _mean([student(inputs, training=training) for student in self.students])

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `fit`, with warnings of students that are of no use to each other.

        Args:
            *args: As in Keras.
            **kwargs: As in Keras.

        Returns:
            As in Keras.
        """
        call = inspect.signature(super().fit).bind(*args, **kwargs)
        callbacks = call.arguments.get("callbacks") or []
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            watch = WatchStudents(len(self.students))
            call.arguments["callbacks"] = [*keras.tree.flatten(callbacks), watch]
        return super().fit(*call.args, **call.kwargs)

    def gradients(self, data: Any) -> list[Any]:
        """The gradients of the sum of the students' losses on one replica's batch.

        Args:
            data: Features, targets and optionally sample weights.

        Returns:
            A gradient for each of ``trainable_variables``, of the loss as the optimizer scaled it.
        """
        parts = [keras.utils.unpack_x_y_sample_weight(part) for part in self._dealt_out(data)]
        with tf.GradientTape() as tape:
            predictions = [
                student(part[0], training=True) for student, part in zip(self.students, parts, strict=True)
            ]
            # Before a student is asked as a teacher, which would make Keras forget what its layers added.
            added = [student.losses for student in self.students]
            shares = self.shares(predictions)
            task_losses = [
                self.task_loss(part, prediction, its, share) + self._penalty(number)
                for number, (part, prediction, its, share) in enumerate(
                    zip(parts, predictions, added, shares, strict=True)
                )
            ]
            with tape.stop_recording():
                staleness = self.teachers.staleness_steps(self._steps_done())
                teachings = self._teachings([part[0] for part in parts], predictions)
            psis = [
                self.distillation(teaching, prediction, part[2], share)
                for teaching, prediction, part, share in zip(
                    teachings, predictions, parts, shares, strict=True
                )
            ]
            weighed = [
                teaching.weights[name] * psi
                for teaching, by_output in zip(teachings, psis, strict=True)
                for name, psi in by_output.items()
            ]
            loss = total([*task_losses, *weighed])
            scaled_loss = self.optimizer.scale_loss(loss)
        self._count_loss(loss / len(self.students), parts[0][0])
        for number, (part, prediction) in enumerate(zip(parts, predictions, strict=True)):
            self._count_parts(number, task_losses[number], psis[number], teachings[number])
            self._count(number, "staleness_steps", staleness, teachings[number].is_heard())
            task_weight = self.task_weights(part[2], prediction, shares[number])
            self._compare(
                number, teachings[number], prediction, Task(self._compile_loss, part[1], task_weight)
            )
            self.compute_metrics(part[0], part[1], prediction, part[2])
        return tape.gradient(scaled_loss, self.trainable_variables)

    def test_step(self, data: Any) -> None:
        """Measures the task losses of the students and of their mean prediction on one replica's batch.

        Args:
            data: Features, targets and optionally sample weights.
        """
        features, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        predictions = self._validation_predictions(features)
        added = [student.losses for student in self.students]
        shares = self.shares(predictions)
        task_losses = []
        for number, prediction in enumerate(predictions):
            task_losses.append(self.task_loss(data, prediction, added[number], shares[number]))
            self._parts[f"student_{number}_task_loss"].update_state(of_whole_batch(task_losses[-1]))
            self.compute_metrics(features, targets, prediction, sample_weight)
        self._count_loss(total(task_losses) / len(task_losses), features)
        if self._compile_loss is not None:
            task_weight = self.task_weights(sample_weight, predictions[0], shares[0])
            of_mean = Task(self._compile_loss, targets, task_weight).loss(_mean(predictions))
            self._ensemble_task_loss.update_state(of_mean)

    def predict_step(self, data: Any) -> Any:
        """The mean of the students' predictions for text that their training lanes do not read.

        Args:
            data: Features, and what may stand beside them.

        Returns:
            Structured as the prediction of one student.
        """
        features, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return _mean(self._validation_predictions(features))

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves each student, as ``model.student_0.keras`` and so on for ``model.keras``.

        Args:
            filepath: Where to, as in Keras.
            *args: As in Keras.
            **kwargs: As in Keras.
        """
        root, ending = os.path.splitext(os.fspath(filepath))
        for number, student in enumerate(self.students):
            student.save(f"{root}.student_{number}{ending}", *args, **kwargs)

    def before_train_step(self) -> None:
        """Takes new copies of the students, if teachers are copies and it is time to."""
        self.teachers.refresh(self._steps_done())

    def build_for_data(self, element_spec: Any) -> None:
        """Builds students, optimizer, loss and metrics; `fit` and `evaluate` do it if it has not been done.

        Args:
            element_spec: Specification of the elements of a dataset, distributed or not.
        """
        super().build_for_data(keras.tree.map_structure(self._for_one_student, element_spec))

    def build_for(self, features: Any) -> None:
        """Builds stale copies and compares outputs; called by `fit` and `evaluate` in the strategy's scope.

        Args:
            features: Specification of the features of one student on one replica.

        Raises:
            ValueError: An output that is to be distilled does not exist, or has different shapes.
        """
        models = {f"student {number}": student for number, student in enumerate(self.students)}
        copies = {f"the copy of student {number}": copy for number, copy in self.teachers.copies.items()}
        self.distillation.build_alike({**models, **copies}, features)
        self.teachers.prepare()
        self.second_states()

    def second_states(self) -> list[recurrent_state.SecondState]:
        """The recurrent states that validation uses in place of the training lanes', one for each student."""
        if not self._second_states and all(student.built for student in self.students):
            self._second_states = [recurrent_state.SecondState(student) for student in self.students]
        return self._second_states

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """The results that training logs: everything but what only validation measures."""
        return self._results_without({self._ensemble_task_loss.name})

    def get_test_results(self) -> dict[str, tf.Tensor]:
        """The results that validation logs: of the parts of the training loss each student's task loss."""
        measured = {f"student_{number}_task_loss" for number in range(len(self.students))}
        return self._results_without(set(self._parts) - measured)

    def _results_without(self, names: set[str]) -> dict[str, tf.Tensor]:
        return {name: value for name, value in super().get_metrics_result().items() if name not in names}

    def _part_names(self) -> list[str]:
        of_each = [
            f"student_{number}_{part}" for number in range(len(self.students)) for part in _PARTS_OF_EACH
        ]
        return [*_PARTS, *self.distillation.part_names(), *self.comparison.part_names(), *of_each]

    def _dealt_out(self, data: Any) -> list[Any]:
        """Each student's part of a batch."""
        number = len(self.students)
        if self._share_batch:
            return [data] * number
        rows = keras.tree.flatten(data)[0].shape[0]
        if rows is not None and rows % number:
            raise ValueError(
                f"a batch of {rows} rows on one replica cannot be dealt out to {number} students; with "
                f"batches='different' its size has to be a multiple of {number}"
            )
        # By turns, so that a student gets the same rows of a batch however many replicas share it.
        return [
            keras.tree.map_structure(lambda part, i=i: None if part is None else part[i::number], data)
            for i in range(number)
        ]

    def _for_one_student(self, spec: Any) -> Any:
        """A specification with as many rows as stateful students have lanes: a batch to deal out has more."""
        spec = on_one_replica(spec)
        lanes = recurrent_state.variables(self.students[0])
        if self._share_batch or not lanes or spec is None:
            return spec
        return tf.TensorSpec([lanes[0].shape[0], *spec.shape[1:]], spec.dtype)

    def _teachings(self, features: list[Any], predictions: list[Any]) -> list[Teaching]:
        step = self._steps_done()
        wanted = self.distillation.weights_at(step, predictions[0])
        is_due = tf.add_n(list(wanted.values())) > 0
        asked = [self.teachers.asked(learner, step, is_due) for learner in range(len(self.students))]
        said = self.teachers.predictions(features, predictions, asked)
        return [
            self.distillation.teach(one, wanted, asked_P) for one, asked_P in zip(said, asked, strict=True)
        ]

    def _penalty(self, number: int) -> tf.Tensor | float:
        if self.weight_decay is None:
            return 0.0
        step = self._steps_done()
        return self.weight_decay.penalty(self.students[number].trainable_variables, step)

    def _validation_predictions(self, features: Any) -> list[Any]:
        predictions = []
        for student, state in zip(self.students, self.second_states(), strict=True):
            with state.in_use():
                predictions.append(student(features, training=False))
        return predictions

    def _count_parts(self, number: int, task_loss: tf.Tensor, psis: Outputs, teaching: Teaching) -> None:
        always = tf.constant(1.0)
        losses = {name: of_whole_batch(psi) for name, psi in psis.items()}
        self._count(number, "task_loss", of_whole_batch(task_loss), always)
        self._count(number, "dropped_teachers", teaching.num_dropped(), always)
        for part, value, counts in self.distillation.parts(losses, teaching):
            self._count(number, part, value, counts)

    def _compare(self, number: int, teaching: Teaching, prediction: Any, task: Task) -> None:
        if not teaching.predictions:
            return
        num_measured = tf.convert_to_tensor(self._parts[f"student_{number}_teacher_agreement"].count)
        is_due = self.comparison.is_due(self._steps_done() + 1, num_measured, teaching)
        numbers = self.teachers.taught_by[number]
        for part, value, counts in self.comparison(teaching, prediction, task, is_due, numbers):
            self._count(number, part, value, counts)

    def _count(self, number: int, part: str, value: tf.Tensor, counts: tf.Tensor) -> None:
        self._parts[part].update_state(value, counts)
        if part in _PARTS_OF_EACH:
            self._parts[f"student_{number}_{part}"].update_state(value, counts)


def _mean(predictions: list[Any]) -> Any:
    return keras.tree.map_structure(_mean_of_outputs, *predictions)


def _mean_of_outputs(*outputs: tf.Tensor) -> tf.Tensor:
    mean = keras.ops.mean(keras.ops.stack(outputs), axis=0)
    mask = getattr(outputs[0], "_keras_mask", None)
    if mask is not None:
        mean._keras_mask = mask
    return mean


def _check(num_students: int, batches: str, refresh_every_steps: int) -> None:
    for name, value in (("num_students", num_students), ("refresh_every_steps", refresh_every_steps)):
        if value < 1 or value != int(value):
            raise ValueError(f"{name} is {value!r}; expected an integer >= 1")
    if batches not in ("same", "different"):
        raise ValueError(f"batches is {batches!r}; expected 'same' or 'different'")
