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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from tf_codistill import losses, schedules
from tf_codistill.training.multi_worker import total
from tf_codistill.training.whole_batch import Shares, is_mean

Psi: TypeAlias = losses.DistillationLoss | Callable[[Any, Any], Any]  # a keras.losses.Loss is callable
Losses: TypeAlias = Psi | Mapping[str, Psi]
Weights = schedules.Schedule | float | Mapping[str, schedules.Schedule | float]

Outputs = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Teaching:
    """What the teachers say of a batch, cut off from gradients.

    Attributes:
        predictions: The distilled outputs of each of P teachers.
        weights: Factor of psi in this step by output, float32 scalars; 0 for what nobody teaches.
        asked_P: 1 for each teacher that was asked, else 0; float32.
        shares_P: Its share in the mean; 0 also for one whose prediction is not finite.
        whole: The predictions with the outputs that are not distilled, structured like the student's.
    """

    predictions: list[Outputs]
    weights: Outputs
    asked_P: tf.Tensor
    shares_P: tf.Tensor
    whole: list[Any]

    def is_heard(self) -> tf.Tensor:
        """1.0 if any teacher has a share in the mean, else 0.0."""
        return tf.reduce_max(self.shares_P)

    def num_dropped(self) -> tf.Tensor:
        """How many teachers were asked and left out, because their predictions are not finite."""
        return tf.reduce_sum(self.asked_P - self.shares_P)


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
        self._psi = (
            {name: losses.get(one) for name, one in psi.items()}
            if isinstance(psi, Mapping)
            else losses.get(psi)
        )
        self._names = list(self._psi) if isinstance(self._psi, Mapping) else []
        if isinstance(weights, Mapping) and set(weights) != set(self._names):
            raise ValueError(
                f"distillation_weight names outputs {sorted(weights)}, distillation_loss names "
                f"{sorted(self._names)}; name the same in both, or give one weight for all"
            )
        self._schedules = (
            {name: _schedule(weight) for name, weight in weights.items()}
            if isinstance(weights, Mapping)
            else _schedule(weights)
        )

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
        if isinstance(prediction, Mapping):
            found = dict(prediction)
        elif isinstance(prediction, (list, tuple)):
            found = {str(number): part for number, part in enumerate(prediction)}
        else:
            found = {"": prediction}
        missing = sorted(set(self._names) - set(found))
        if missing:
            raise ValueError(
                f"distillation_loss names outputs {missing}, but the model has {sorted(found)}; "
                "correct the names"
            )
        return {name: found[name] for name in self._names or found}

    def shapes(self, prediction: Any) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the distilled parts of a prediction by name, without the batch axis."""
        return {name: tuple(part.shape[1:]) for name, part in self.outputs(prediction).items()}

    def build_alike(self, models: Mapping[str, keras.Model], features: Any) -> None:
        """Builds models that have not been built, and compares their distilled outputs.

        Args:
            models: Models by what they are called in errors; the first is the one that the others must match.
            features: Specification of their inputs: a structure of ``tf.TensorSpec``.

        Raises:
            ValueError: An output that is to be distilled does not exist, or has another shape in the first;
                or shapes alone do not suffice to build a model.
        """
        symbols = keras.tree.map_structure(
            lambda spec: keras.KerasTensor(spec.shape, keras.backend.standardize_dtype(spec.dtype)), features
        )
        shapes = {name: self.shapes(_output_spec(name, model, symbols)) for name, model in models.items()}
        first, expected = next(iter(shapes.items()))
        for name, found in shapes.items():
            if found != expected:
                raise ValueError(
                    f"{name} has outputs of shapes {found}, {first} of {expected}; "
                    "a teacher needs the outputs that are distilled, with the student's shapes"
                )

    def weights_at(self, step: tf.Tensor, prediction: Any) -> Outputs:
        """The weight of each distilled output at a step, whether anybody teaches or not.

        Args:
            step: Number of optimizer steps done, integer scalar.
            prediction: A prediction, for the names of its outputs.

        Returns:
            Float32 scalars by name.
        """
        return {name: _of(self._schedules, name)(step) for name in self.outputs(prediction)}

    def psi(self, name: str) -> losses.DistillationLoss:
        """The loss of an output."""
        return _of(self._psi, name)

    def is_on(self, step: int) -> bool:
        """Whether any output has a weight at a step, so that teachers are asked."""
        every = self._schedules.values() if isinstance(self._schedules, Mapping) else [self._schedules]
        return any(float(schedule(step)) > 0 for schedule in every)

    def __call__(
        self, teaching: Teaching, prediction: Any, sample_weight: Any, shares: Shares | None = None
    ) -> Outputs:
        """Computes psi of each output that anybody teaches.

        Args:
            teaching: What the teachers say.
            prediction: The student's prediction.
            sample_weight: Weights of the examples, for all outputs or by output, or None.
            shares: What `whole_batch.shares` returned for the prediction; None for that of a single replica.

        Returns:
            Scalars by name.
        """
        shares = shares or {}
        values = {}
        for name, output in self.outputs(prediction).items():
            psi = _of(self._psi, name)
            said = [one[name] for one in teaching.predictions]
            if said or not psi.needs_teachers:
                target = psi.aggregate(said, teaching.shares_P) if psi.needs_teachers else None
                value = psi(target, output, weight_of(sample_weight, name))
                values[name] = value * shares[name] if name in shares and is_mean(psi) else value
        return values

    def teach(self, predictions: Sequence[Any], wanted: Outputs, asked_P: tf.Tensor) -> Teaching:
        """Makes of the teachers' predictions what the student learns from.

        Args:
            predictions: The prediction of each teacher, structured like the student's; empty if there is
                none.
            wanted: What `weights_at` returned.
            asked_P: 1 for each teacher that was asked, else 0; float32.

        Returns:
            The teaching; a teacher whose prediction is not finite has no share in it.
        """
        whole = [tf.nest.map_structure(tf.stop_gradient, one) for one in predictions]
        said = [self.outputs(one) for one in whole]
        shares_P = asked_P * tf.stack([_is_finite(one) for one in said]) if said else asked_P
        heard = tf.reduce_max(shares_P) if said else tf.constant(0.0)
        weights = {
            name: weight * heard if _of(self._psi, name).needs_teachers else weight
            for name, weight in wanted.items()
        }
        return Teaching(said, weights, asked_P, shares_P, whole)

    def parts(self, values: Outputs, teaching: Teaching) -> Iterator[tuple[str, tf.Tensor, tf.Tensor]]:
        """What is logged: name, value, and 1.0 or 0.0 for whether it counts in this step.

        Args:
            values: psi of each output.
            teaching: What the teachers say.

        Yields:
            The parts.
        """
        counts = {name: tf.cast(weight > 0, tf.float32) for name, weight in teaching.weights.items()}
        strongest = tf.reduce_max(list(teaching.weights.values()))
        if values:
            psi = total([tf.cast(value, tf.float32) for value in values.values()])
            yield "distillation_loss", psi, tf.cast(strongest > 0, tf.float32)
        yield "distillation_weight", strongest, tf.constant(1.0)
        for name in self._names:
            if name in values:
                yield f"{name}_distillation_loss", values[name], counts[name]
            yield f"{name}_distillation_weight", teaching.weights[name], tf.constant(1.0)


def equal_logits(like: tf.Tensor) -> tf.Tensor:
    """What stands for the prediction of a teacher that is not asked: zeros, of the student's shape."""
    if like.shape.is_fully_defined():
        # A constant: teachers that waited for the student's prediction could not be computed beside it.
        return tf.zeros(like.shape, like.dtype)
    return tf.zeros_like(like)


def _output_spec(name: str, model: keras.Model, symbols: Any) -> Any:
    if model.built:
        return model.compute_output_spec(symbols)
    try:
        return model.compute_output_spec(symbols)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}, {model.name!r}, has not been built, and cannot be from the shapes of its inputs alone, "
            "as with stateful layers in a subclassed model; let model_fn call it once on a batch before it "
            f"returns it. Keras says: {error}"
        ) from error


def _of(given: Any, name: str) -> Any:
    return given[name] if isinstance(given, Mapping) else given


def _schedule(weight: schedules.Schedule | float) -> schedules.Schedule:
    return weight if callable(weight) else schedules.Constant(weight)


def weight_of(sample_weight: Any, name: str) -> Any:
    """The sample weights of an output, given for all outputs, by name or in sequence; None if there are none.

    Args:
        sample_weight: Weights of the examples, for all outputs or by output, or None.
        name: Name of the output.

    Returns:
        A tensor, or None.
    """
    if isinstance(sample_weight, (list, tuple)):
        return sample_weight[int(name or 0)]
    return sample_weight.get(name) if isinstance(sample_weight, Mapping) else sample_weight


def _is_finite(outputs: Outputs) -> tf.Tensor:
    # A sum is finite exactly if all terms are, but for an overflow, and cheaper than a look at each of them.
    sums = [tf.reduce_sum(tf.cast(output, tf.float32)) for output in outputs.values()]
    return tf.cast(tf.math.is_finite(tf.add_n(sums)), tf.float32)
