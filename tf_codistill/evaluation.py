"""How well trained models predict what was held out, each alone and their ensemble.

    members = from_checkpoint(task, workdir, 0) | from_checkpoint(task, workdir, 1)
    rows = evaluate(task, members)
    {"group 0": {"zero_state_loss": 3.71, "carried_state_loss": 3.60, "perplexity": 36.6,
                 "carried_from": "checkpoint"},
     "group 1": ...,
     "ensemble": ...}                         the mean of the members' predictions, as a model of its own

Models with a recurrent state read everything once from a zero state, which is how a served model begins, and
once from a state that the model carried here: that of its training lanes. The two can differ much, because
the hidden state of a training lane is never reset (section 3.1 of Anil et al. 2018), so that a zero state is
one the model has not seen since it began. Of models without one there is just ``loss``.

    evaluator = Evaluator(task, {"group 0": model, ...})  the same of models that get new weights now and then
    evaluator.measure({"group 0": lanes, ...})

    predictions(task, [members["group 0"]])               what a model, or an ensemble, says of each example
    for batch in predicted(task, [[one], [other]]): ...   the same of several, a batch at a time
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import checkpoints, keras_private, recurrent_state, runs, weights
from tf_codistill.batches import Batch, Keyed, batch_of
from tf_codistill.metrics import Churn
from tf_codistill.reproducibility.predictions import Predictions
from tf_codistill.tasks.base import Task
from tf_codistill.training import outputs

Row = dict[str, float | str]

DISAGREEMENT = "disagreement"
"""The figure of an ensemble that says how far its members are apart."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A model to evaluate.

    Attributes:
        model: A model that takes whole batches of validation.
        lanes: The recurrent state [any number of lanes, ...] that it carries here; None to carry over the
            state in which a first pass over the documents ended.
    """

    model: keras.Model
    lanes: list[np.ndarray] | None


def from_checkpoint(task: Task, workdir: str, group: int) -> dict[str, Member]:
    """What one group of a run has trained, as its newest checkpoint has it and as it would be served.

    Args:
        task: What was learned.
        workdir: Directory of the run.
        group: The group.

    Returns:
        The models by name, with the recurrent state of all training lanes of all workers: one, unless there
        were several students.

    Raises:
        ValueError: There is no checkpoint, it is damaged or holds another model.
    """
    directory = runs.checkpoints_dir(workdir, group)
    _, shared, owns = checkpoints.read_latest(directory)
    arrays = list(checkpoints.served(shared))
    lanes = [np.concatenate(parts) for parts in zip(*(own["lanes"] for own in owns), strict=True)]
    carries_none = not lanes  # as models of an asynchronous group
    members: list[Member] = []
    while arrays or not members:
        model = task.make_model(task.batch_size, group + len(members))
        own, arrays = arrays[: len(model.weights)], arrays[len(model.weights) :]
        try:
            weights.assign(model.weights, own)
        except ValueError as error:
            raise ValueError(
                f"checkpoint in {directory!r} holds another model: {error}; check --gin_file"
            ) from error
        number = len(recurrent_state.variables(model))
        members.append(Member(model, None if number and carries_none else lanes[:number]))
        lanes = lanes[number:]
    if len(members) == 1:
        return {f"group {group}": members[0]}
    return {f"group {group}, student {number}": member for number, member in enumerate(members)}


def from_saved_model(task: Task, path: str) -> Member:
    """Any saved model, for instance the servable ``student.keras`` of a group.

    Args:
        task: What was learned.
        path: A ``.keras`` file.

    Returns:
        The model; it has no recurrent state of its own.

    Raises:
        ValueError: There is no such file, or the model in it does not suit the task.
    """
    return Member(task.load_model(path), lanes=None)


def evaluate(task: Task, members: Mapping[str, Member]) -> dict[str, Row]:
    """Measures each member and, of several, their ensemble on what the task holds out.

    Args:
        task: What was learned.
        members: The models by name.

    Returns:
        By name: ``loss``, or ``zero_state_loss`` and ``carried_state_loss``, and what the task derives of
        it and of its metrics; ``carried_from``, ``checkpoint`` or ``first pass``.
    """
    evaluator = Evaluator(task, {name: member.model for name, member in members.items()})
    return evaluator.measure({name: member.lanes for name, member in members.items()})


class Evaluator:
    """Measures models again and again, with the weights that they have by then; the graph is traced once."""

    def __init__(self, task: Task, models: Mapping[str, keras.Model], disagreement: bool = False) -> None:
        """Makes what measures.

        Args:
            task: What was learned.
            models: The models by name, each of which takes whole batches of validation.
            disagreement: Whether to measure, as `DISAGREEMENT` of the ensemble, the mean absolute difference
                (see `reproducibility.measures`) between its members' probabilities, in the mean over pairs.
        """
        self._task, self._members = task, list(models)
        self._names = [*models, *([runs.ENSEMBLE] if len(models) > 1 else [])]
        self._states = [recurrent_state.variables(model) for model in models.values()]
        self._pass = _Pass(task, list(models.values()), disagreement and len(models) > 1)

    def measure(self, lanes: Mapping[str, Sequence[np.ndarray] | None]) -> dict[str, Row]:
        """Reads what is held out.

        Args:
            lanes: For each model the recurrent state that it carries, as `Member` has it.

        Returns:
            What `evaluate` returns.
        """
        carried = [lanes[name] for name in self._members]
        for state in self._states:
            recurrent_state.assign(state, [np.zeros(variable.shape, np.float32) for variable in state])
        first = self._pass()
        if not any(self._states):
            rows = zip(self._names, first, strict=True)
            return {name: {**row, **self._task.derived(row)} for name, row in rows}
        for state, own in zip(self._states, carried, strict=True):
            if own is not None:
                recurrent_state.assign(state, own)
        origins = ["first pass" if own is None else "checkpoint" for own in carried]
        origins.append(" and ".join(sorted(set(origins))))
        second = self._pass()
        return {
            name: {
                "zero_state_loss": zero["loss"],
                "carried_state_loss": kept["loss"],
                **{metric: value for metric, value in kept.items() if metric != "loss"},
                **self._task.derived(kept),
                "carried_from": origin,
            }
            for name, zero, kept, origin in zip(self._names, first, second, origins, strict=False)
        }


@dataclasses.dataclass(frozen=True, eq=False)
class PredictedBatch:
    """What several models say of the same examples.

    Attributes:
        probabilities: Of each model, float32 [B], of class 1, [B, C] or [B, T, C].
        labels: True classes, [B] or [B, T]; None if the targets are no classes.
        keys: Id and visit of each example, int64 [B, 2], or None.
        counted: Which positions have a sample weight, booleans [B, T]; None for all.
        features: What the models were given, arrays [B, ...] in the task's structure.
    """

    probabilities: list[np.ndarray]
    labels: np.ndarray | None
    keys: np.ndarray | None
    counted: np.ndarray | None
    features: Any


def predicted(task: Task, models: Sequence[Sequence[Member]]) -> Iterator[PredictedBatch]:
    """What models say of what the task holds out, in its order, a batch at a time.

    Models with a recurrent state begin with the one that each carries; with a zero state if there is one
    model that carries none, so that all begin alike.

    Args:
        task: What was learned.
        models: The members of each model: one, or several of which the model is the ensemble.

    Yields:
        A batch without the examples of sample weight 0.

    Raises:
        ValueError: A model's predictions and the targets do not fit together.
    """
    members = [member for ensemble in models for member in ensemble]
    states = [recurrent_state.variables(member.model) for member in members]
    begin = [member.lanes for member in members]
    for state, lanes in zip(states, begin, strict=True):
        from_zero = [np.zeros(variable.shape, np.float32) for variable in state]
        recurrent_state.assign(state, lanes if lanes and None not in begin else from_zero)

    @tf.function
    def predict(features: Any) -> list[Any]:
        each = [[member.model(features, training=False) for member in ensemble] for ensemble in models]
        means = [task.mean_prediction(one) if len(one) > 1 else one[0] for one in each]
        return [tf.cast(task.probabilities(mean), tf.float32) for mean in means]

    stream = task.validation()
    for data in stream.dataset(num_steps=stream.steps_per_epoch):
        batch = batch_of(data)
        arrays = keras.tree.map_structure(lambda part: None if part is None else np.asarray(part), batch)
        found = _predicted_batch(arrays, predict(batch.features))
        if len(found.probabilities[0]):
            yield found


def predictions(task: Task, members: Sequence[Member], run: str | None = None) -> Predictions:
    """What a model says of what the task holds out.

    Args:
        task: What was learned.
        members: The model, or several of which it is the ensemble.
        run: Names the run that trained it, if that is known.

    Returns:
        Predictions of all examples with their labels and keys, in the order of the task.

    Raises:
        ValueError: Predictions and targets do not fit together.
    """
    batches = list(predicted(task, [members]))

    def joined(name: str) -> np.ndarray | None:
        arrays = [getattr(batch, name) for batch in batches]
        return None if arrays[0] is None else np.concatenate(arrays)

    probabilities = np.concatenate([batch.probabilities[0] for batch in batches])
    return Predictions(probabilities, joined("labels"), joined("keys"), {}, joined("counted"), run)


def _predicted_batch(batch: Batch, predictions: Sequence[Any]) -> PredictedBatch:
    """Brings arrays into the shapes of `PredictedBatch`, without what has no weight."""
    probabilities = [_of_classes(np.asarray(one)) for one in predictions]
    positions = probabilities[0].shape[: max(1, probabilities[0].ndim - 1)]
    rows, counted = _weighted(batch.sample_weight, positions)
    return PredictedBatch(
        probabilities=[one[rows] for one in probabilities],
        labels=None if batch.targets is None else _labels(batch.targets, probabilities[0], positions)[rows],
        keys=None if batch.keys is None else batch.keys[rows],
        counted=counted,
        features=keras.tree.map_structure(lambda array: array[rows], batch.features),
    )


def _of_classes(predictions: np.ndarray) -> np.ndarray:
    """[B], [B, C] or [B, T, C], with all other axes for positions."""
    if predictions.ndim < 3:
        is_logistic = predictions.ndim == 2 and predictions.shape[-1] == 1
        return predictions[:, 0] if is_logistic else predictions
    if predictions.shape[-1] == 1:
        predictions = np.concatenate([1 - predictions, predictions], axis=-1)
    return predictions.reshape(len(predictions), -1, predictions.shape[-1])


def _weighted(weights: Any, positions: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Which rows have a weight; and of these which positions, None for all."""
    if weights is None:
        return np.ones(positions[0], bool), None
    is_weighted = np.greater(weights, 0)
    by_position = is_weighted.size == np.prod(positions) and len(positions) > 1
    is_weighted = is_weighted.reshape(positions if by_position else positions[:1])
    rows: np.ndarray = is_weighted.reshape(positions[0], -1).any(axis=1)
    return rows, is_weighted[rows] if by_position else None


def _labels(targets: Any, probabilities: np.ndarray, positions: tuple[int, ...]) -> np.ndarray:
    """Classes: as they are, or the likeliest of targets that are probabilities themselves."""
    (targets, *more) = keras.tree.flatten(targets)
    if not more and targets.size == probabilities.size and probabilities.ndim > 1:
        return np.asarray(targets.reshape(probabilities.shape).argmax(axis=-1))
    if more or targets.size != np.prod(positions):
        raise ValueError(
            f"targets have the shape {list(targets.shape)} beside predictions of the shape "
            f"{list(probabilities.shape)}; expected one class for each position, of one output"
        )
    return np.asarray(targets.reshape(positions))


class _Pass:
    """Reads what is held out once with all members: a row of means for each, and for their ensemble."""

    def __init__(self, task: Task, models: list[keras.Model], disagreement: bool) -> None:
        stream = task.validation()
        self._data = stream.dataset(num_steps=stream.steps_per_epoch)
        self._task, self._models = task, models
        number = len(models) + (len(models) > 1)
        self._compiled = [_Measured(task) for _ in range(number)]
        self._apart = Churn(name=DISAGREEMENT) if disagreement else None

    def __call__(self) -> list[dict[str, float]]:
        for one in self._compiled:
            one.reset_metrics()
        if self._apart:
            self._apart.reset_state()
        for data in self._data:
            self._batch(data)
        rows = [
            {name: float(value) for name, value in one.get_metrics_result().items()} for one in self._compiled
        ]
        if self._apart:
            rows[-1][DISAGREEMENT] = float(self._apart.result())
        return rows

    @tf.function
    def _batch(self, data: Keyed) -> None:
        batch = batch_of(data)
        predictions = [model(batch.features, training=False) for model in self._models]
        if self._apart:
            self._compare(batch, predictions, self._apart)
        if len(predictions) > 1:
            predictions.append(self._task.mean_prediction(predictions))
        for one, prediction in zip(self._compiled, predictions, strict=True):
            one.note(batch, prediction)

    def _compare(self, batch: Batch, predictions: Sequence[Any], apart: Churn) -> None:
        """Counts every position that has a weight once for each pair, as `predicted` does."""
        probabilities = [outputs.by_name(self._task.probabilities(one)) for one in predictions]
        for first, second in itertools.combinations(probabilities, 2):
            for name, output in first.items():
                weight = outputs.weight_of(batch.sample_weight, name)
                apart.update_state(output, second[name], None if weight is None else weight > 0)


class _Measured(keras.Model):
    """What Keras makes of the task's loss and metrics, for predictions that are there already."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.compile(loss=task.loss(), weighted_metrics=task.metrics())

    def note(self, batch: Batch, prediction: Any) -> None:
        loss = self.compute_loss(batch.features, batch.targets, prediction, batch.sample_weight)
        rows = tf.shape(tf.nest.flatten(prediction)[0])[0]
        keras_private.loss_tracker(self).update_state(loss, sample_weight=rows)
        self.compute_metrics(batch.features, batch.targets, prediction, batch.sample_weight)
