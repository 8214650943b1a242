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
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import checkpoints, keras_private, recurrent_state, runs, weights
from tf_codistill.batches import Batch, Keyed, batch_of
from tf_codistill.tasks.base import Task

ENSEMBLE = "ensemble"

Row = dict[str, float | str]


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
    """What one group of a run has trained, as its newest checkpoint has it.

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
    arrays = list(shared["weights"])
    lanes = [np.concatenate(parts) for parts in zip(*(own["lanes"] for own in owns), strict=True)]
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
        members.append(Member(model, lanes[:number]))
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
    names = [*members, ENSEMBLE] if len(members) > 1 else list(members)
    measure = _Pass(task, [member.model for member in members.values()])
    states = [recurrent_state.variables(member.model) for member in members.values()]
    for state in states:
        recurrent_state.assign(state, [np.zeros(lanes.shape, np.float32) for lanes in state])
    first = measure()
    if not any(states):
        return {name: {**row, **task.derived(row)} for name, row in zip(names, first, strict=True)}
    for member, state in zip(members.values(), states, strict=True):
        if member.lanes is not None:
            recurrent_state.assign(state, member.lanes)
    carried = measure()
    origins = ["first pass" if member.lanes is None else "checkpoint" for member in members.values()]
    origins.append(" and ".join(sorted(set(origins))))
    return {
        name: {
            "zero_state_loss": zero["loss"],
            "carried_state_loss": kept["loss"],
            **{metric: value for metric, value in kept.items() if metric != "loss"},
            **task.derived(kept),
            "carried_from": origin,
        }
        for name, zero, kept, origin in zip(names, first, carried, origins, strict=False)
    }


class _Pass:
    """Reads what is held out once with all members: a row of means for each, and for their ensemble."""

    def __init__(self, task: Task, models: list[keras.Model]) -> None:
        self._stream = task.validation()
        self._task, self._models = task, models
        number = len(models) + (len(models) > 1)
        self._compiled = [_Measured(task) for _ in range(number)]

    def __call__(self) -> list[dict[str, float]]:
        for one in self._compiled:
            one.reset_metrics()
        for data in self._stream.dataset(num_steps=self._stream.steps_per_epoch):
            self._batch(data)
        return [
            {name: float(value) for name, value in one.get_metrics_result().items()} for one in self._compiled
        ]

    @tf.function
    def _batch(self, data: Keyed) -> None:
        batch = batch_of(data)
        predictions = [model(batch.features, training=False) for model in self._models]
        if len(predictions) > 1:
            predictions.append(self._task.mean_prediction(predictions))
        for one, prediction in zip(self._compiled, predictions, strict=True):
            one.note(batch, prediction)


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
