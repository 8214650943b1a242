"""The distillation term of a model with one output or several: the sum over outputs of weight(step) x psi.

    Distillation(SoftCrossEntropy(), BurnIn(3000))            every output alike
    Distillation(
        {"class": SoftCrossEntropy(temperature=2.0), "score": BinarySoftCrossEntropy()},
        {"class": BurnIn(3000), "score": 0.5},                an output without a name is not distilled
    )

    predictions of the teachers    [{"class": [B, C], "score": [B, 1], "embedding": [B, D]}, ...]    P of them
    prediction of the student       {"class": [B, C], "score": [B, 1], "embedding": [B, D]}
                                         |                |
                                     psi_class        psi_score
                                     x weight(step)   x weight(step)

The output of a model that has only one is called ``""``, several in a sequence ``"0"``, ``"1"``, ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from tf_codistill import keras_private, losses, schedules
from tf_codistill.exchange.predictions.forms import LOGITS
from tf_codistill.teaching.base import Taught
from tf_codistill.training.outputs import Outputs, aligned, by_name, weight_of
from tf_codistill.training.task_losses import StudentStep
from tf_codistill.training.whole_batch import is_mean, total

Psi: TypeAlias = losses.DistillationLoss | Callable[[Any, Any], Any]  # a keras.losses.Loss is callable
Losses: TypeAlias = Psi | Mapping[str, Psi]
Weights = schedules.Schedule | float | Mapping[str, schedules.Schedule | float]


@dataclasses.dataclass(frozen=True)
class SoftTargets:
    """What one student learns from in a step, cut off from gradients.

    Attributes:
        predictions: The distilled outputs of each of P teachers.
        weights: Factor of psi in this step by output, float32 scalars; 0 for what nobody teaches.
        present_PB: How present each teacher is in each row, 0 to 1, float32.
        teacher_weights_PB: Its weight in the mean; 0 also where its prediction is not finite.
        complete: The predictions with the outputs that are not distilled, structured like the student's.
    """

    predictions: list[Outputs]
    weights: Outputs
    present_PB: tf.Tensor
    teacher_weights_PB: tf.Tensor
    complete: list[Any]

    def taught_B(self) -> tf.Tensor:  # noqa: N802 - B is a shape letter
        """How much of each row is taught, 0 to 1, float32 [B]."""
        return tf.reduce_max(self.teacher_weights_PB, axis=0)

    def is_taught(self) -> tf.Tensor:
        """1.0 if any row is taught by any teacher, else 0.0."""
        if not self.predictions:
            return tf.constant(0.0)
        return tf.cast(tf.reduce_max(self.teacher_weights_PB) > 0, tf.float32)

    def num_dropped(self) -> tf.Tensor:
        """How many teachers were left out of the mean, because their predictions are not finite."""
        return tf.reduce_sum(mean_over_rows(self.present_PB - self.teacher_weights_PB))


def mean_over_rows(values_PB: tf.Tensor) -> tf.Tensor:
    """Means [P] over rows; 0 on a replica that has none, as of a last batch of fewer rows than replicas."""
    rows = tf.cast(tf.shape(values_PB)[1], values_PB.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values_PB, axis=1), rows)


class Distillation:
    """psi and its weight for each output that is distilled."""

    def __init__(self, psi: Losses | None = None, weights: Weights = 1.0) -> None:
        """Takes note of the losses and their weights.

        Args:
            psi: One loss for every output, or losses by the name of the output: any that `losses.get` takes;
                soft-target cross-entropy if not given. An output without a loss is not distilled.
            weights: A number or a function of the step for every output, or one of these by name.

        Raises:
            ValueError: A constant weight is negative or not finite, or weights name other outputs than
                losses.
        """
        self._psi = _each(psi, losses.get)
        self._names = list(self._psi) if isinstance(self._psi, Mapping) else []
        if isinstance(weights, Mapping) and set(weights) != set(self._names):
            raise ValueError(
                f"distillation_weight names outputs {sorted(weights)}, distillation_loss names "
                f"{sorted(self._names)}; name the same in both, or give one weight for all"
            )
        self._schedules = _each(weights, _schedule)

    def part_names(self) -> list[str]:
        """Names of what is logged beside the totals: loss and weight of each output that was named."""
        parts = ("distillation_loss", "distillation_weight")
        return [f"{name}_{part}" for name in self._names for part in parts]

    def outputs(self, prediction: Any) -> dict[str, Any]:
        """The distilled parts of a prediction.

        Args:
            prediction: What a model returned: a tensor, or a mapping or sequence of tensors.

        Returns:
            The parts by name.

        Raises:
            ValueError: An output that was named does not exist.
        """
        found = by_name(prediction)
        missing = sorted(set(self._names) - set(found))
        if missing:
            raise ValueError(
                f"distillation_loss names outputs {missing}, but the model has {sorted(found)}; "
                "correct the names"
            )
        return {name: found[name] for name in self._names or found}

    def check_teaching(self, fidelity: str) -> None:
        """Checks that what arrives of teachers suffices.

        Args:
            fidelity: One of `forms.FIDELITIES`.

        Raises:
            ValueError: A loss compares logits, or logistic outputs, but only a softmax of logits arrives.
        """
        for psi in self._psi.values() if isinstance(self._psi, Mapping) else [self._psi]:
            takes = (getattr(psi, "teacher", ""), getattr(psi, "mean_over", ""))
            if fidelity != LOGITS and ("logits" in takes or getattr(psi, "binary", False)):
                raise ValueError(
                    f"distillation_loss {psi.name!r} takes teachers' logits, but of their predictions only "
                    f"{fidelity} arrive; let PredictionExchange have form=Logits(), or take another loss"
                )

    def build_alike(self, models: Mapping[str, keras.Model], features: Any) -> Any:
        """Builds models that have not been built, and compares their distilled outputs.

        Args:
            models: Models by what they are called in errors; the first is the one that the others must match.
            features: Specification of their inputs: a structure of ``tf.TensorSpec``.

        Returns:
            Specification of all outputs of the first one.

        Raises:
            ValueError: An output that is to be distilled does not exist, or has another shape in the first;
                or shapes alone do not suffice to build a model.
        """
        symbols = keras.tree.map_structure(
            lambda spec: keras.KerasTensor(spec.shape, keras.backend.standardize_dtype(spec.dtype)), features
        )
        specs = {name: _output_spec(name, model, symbols) for name, model in models.items()}
        shapes = {
            name: {output: tuple(spec.shape[1:]) for output, spec in self.outputs(outputs).items()}
            for name, outputs in specs.items()
        }
        first, expected = next(iter(shapes.items()))
        for name, found in shapes.items():
            if found != expected:
                raise ValueError(
                    f"{name} has outputs of shapes {found}, {first} of {expected}; "
                    "a teacher needs the outputs that are distilled, with the student's shapes"
                )
        return next(iter(specs.values()))

    def weights_at(self, step: tf.Tensor, prediction: Any) -> Outputs:
        """The weight of each distilled output of a prediction after so many steps, float32 scalars."""
        return {name: _of(self._schedules, name)(step) for name in self.outputs(prediction)}

    def has_weight(self, step: tf.Tensor) -> tf.Tensor:
        """Whether any output has weight after so many steps, a boolean scalar."""
        given = self._schedules
        each = given.values() if isinstance(given, Mapping) else [given]
        return tf.reduce_max([schedule(step) for schedule in each]) > 0

    def psi(self, name: str) -> losses.DistillationLoss:
        """The loss of an output."""
        return _of(self._psi, name)

    def __call__(self, student: StudentStep, targets: SoftTargets) -> Outputs:
        """Computes psi of each output that anybody teaches: a sum over taught rows, divided by all rows."""
        outputs = {
            name: output
            for name, output in self.outputs(student.prediction).items()
            if targets.predictions or not self.psi(name).needs_teachers
        }
        if not outputs:
            return {}

        def value(name: str) -> tf.Tensor:
            psi, target = self.psi(name), None
            weight, fraction = weight_of(student.batch.sample_weight, name), student.fractions.get(name)
            if psi.needs_teachers:
                predictions = [one[name] for one in targets.predictions]
                target = psi.aggregate(predictions, targets.teacher_weights_PB)
                taught_B, every = targets.taught_B(), weight
                weight = taught_B if weight is None else aligned(taught_B, len(weight.shape)) * weight
            loss = psi(target, outputs[name], weight)
            if psi.needs_teachers and psi.reduction == "mean_with_sample_weight":
                # Which divides by the weight of taught rows.
                loss *= tf.cast(_share_of_weight(weight, every, outputs[name]), loss.dtype)
            if psi.reduction == "sum" and student.share is not None:
                return loss / student.share
            return loss if fraction is None or not is_mean(psi) else loss * fraction

        return tf.cond(
            tf.reduce_max(list(targets.weights.values())) > 0,
            lambda: {name: value(name) for name in outputs},
            lambda: {name: tf.zeros([], self.psi(name).dtype) for name in outputs},
        )

    def teacher_weights(self, taught: Taught) -> tf.Tensor:
        """The weight of each teacher in the mean, [P, B]: how present it is in a row that is finite, or 0."""
        finite = [_is_finite(self.outputs(one)) for one in taught.predictions]
        return taught.present_PB * tf.stack(finite) if finite else taught.present_PB

    def soft_targets(self, taught: Taught, teacher_weights_PB: tf.Tensor, weights: Outputs) -> SoftTargets:
        """Makes of what teachers predict what a student learns from.

        Args:
            taught: What the student is taught.
            teacher_weights_PB: Those of it, see `teacher_weights`.
            weights: What `weights_at` returned.

        Returns:
            The targets.
        """
        complete = [tf.nest.map_structure(tf.stop_gradient, one) for one in taught.predictions]
        predictions = [self.outputs(one) for one in complete]
        targets = SoftTargets(predictions, weights, taught.present_PB, teacher_weights_PB, complete)
        is_taught = targets.is_taught()
        due = {
            name: weight * is_taught if self.psi(name).needs_teachers else weight
            for name, weight in weights.items()
        }
        return dataclasses.replace(targets, weights=due)

    def parts(self, values: Outputs, targets: SoftTargets) -> Iterator[tuple[str, tf.Tensor, tf.Tensor]]:
        """What is logged of psi by output: name, value, and 1.0 or 0.0 for whether it counts in this step."""
        counts = {name: tf.cast(weight > 0, tf.float32) for name, weight in targets.weights.items()}
        strongest = tf.reduce_max(list(targets.weights.values()))
        if values:
            psi = total([tf.cast(value, tf.float32) for value in values.values()])
            yield "distillation_loss", psi, tf.cast(strongest > 0, tf.float32)
        yield "distillation_weight", strongest, tf.constant(1.0)
        for name in self._names:
            if name in values:
                yield f"{name}_distillation_loss", values[name], counts[name]
            yield f"{name}_distillation_weight", targets.weights[name], tf.constant(1.0)


def _output_spec(name: str, model: keras.Model, symbols: Any) -> Any:
    try:
        return model.compute_output_spec(symbols)
    except (ValueError, RuntimeError) as error:
        if model.built:
            raise
        raise ValueError(
            f"{name}, {model.name!r}, has not been built, and cannot be from the shapes of its inputs alone, "
            "as with stateful layers in a subclassed model; let model_fn call it once on a batch before it "
            f"returns it. Keras says: {error}"
        ) from error


def _each(given: Any, make: Callable[[Any], Any]) -> Any:
    """What is made of the one that is given for every output, or of each that is given by name."""
    if isinstance(given, Mapping):
        return {name: make(one) for name, one in given.items()}
    return make(given)


def _of(given: Any, name: str) -> Any:
    return given[name] if isinstance(given, Mapping) else given


def _schedule(weight: schedules.Schedule | float) -> schedules.Schedule:
    return weight if callable(weight) else schedules.Constant(weight)


def _share_of_weight(weight: tf.Tensor, every: tf.Tensor | None, output: tf.Tensor) -> tf.Tensor:
    """What weights of positions sum up to, as a share of the sum of those of all; `every` is None for 1."""
    every, mask = tf.ones_like(weight) if every is None else every, keras_private.mask(output)
    kept = 1.0 if mask is None else tf.cast(mask, tf.float32)
    axes = len(weight.shape) if mask is None else max(len(weight.shape), len(mask.shape))
    part, whole = (tf.reduce_sum(aligned(one, axes) * kept) for one in (weight, every))
    return tf.math.divide_no_nan(part, whole)


def _is_finite(outputs: Outputs) -> tf.Tensor:
    """1.0 for each row in which all outputs are finite, else 0.0; [B]."""
    # A sum is finite exactly if all terms are, but for an overflow, and cheaper than a look at each of them.
    sums = [
        tf.reduce_sum(tf.cast(output, tf.float32), axis=list(range(1, len(output.shape))))
        for output in outputs.values()
    ]
    return tf.cast(tf.math.is_finite(tf.add_n(sums)), tf.float32)
