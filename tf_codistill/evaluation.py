"""How well trained models predict held-out documents, each alone and their ensemble.

    members = from_checkpoint(workdir, 0, make_model) | from_checkpoint(workdir, 1, make_model)
    losses = evaluate(members, stream)
    {"group 0": {"zero_state_loss": 3.71, "carried_state_loss": 3.60, "perplexity": 36.6,
                 "carried_from": "checkpoint"},
     "group 1": ...,
     "ensemble": ...}                         the mean of the members' probabilities, as a model of its own

The documents are read once from a zero state, which is how a served model begins, and once from a state that
the model carried here: that of its training lanes. The two can differ much, because the hidden state of a
training lane is never reset (section 3.1 of Anil et al. 2018), so that a zero state is one the model has not
seen since it began.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import checkpoints, recurrent_state, runs, trained, weights
from tf_codistill.inputs import language

ENSEMBLE = "ensemble"

Row = dict[str, float | str]


@dataclasses.dataclass(frozen=True)
class Member:
    """A model to evaluate.

    Attributes:
        model: A stateful language model with as many lanes as the evaluation.
        lanes: The recurrent state [any number of lanes, ...] that it carries here; None to carry over the
            state in which a first pass over the documents ended.
    """

    model: keras.Model
    lanes: list[np.ndarray] | None


def from_checkpoint(workdir: str, group: int, make_model: Callable[[int], keras.Model]) -> dict[str, Member]:
    """What one group of a run has trained, as its newest checkpoint has it.

    Args:
        workdir: Directory of the run.
        group: The group.
        make_model: Makes the stateful model that was trained, of the group with a number; called with one
            number after another for students that were trained in one process.

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
        model = make_model(group + len(members))
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


def from_saved_model(path: str, num_lanes: int) -> Member:
    """Any saved language model, for instance the servable ``student.keras`` of a group.

    Args:
        path: A ``.keras`` file.
        num_lanes: Lanes of the evaluation.

    Returns:
        The model; it has no recurrent state of its own.

    Raises:
        ValueError: There is no such file, or the model in it cannot carry a state over lanes.
    """
    return Member(trained.load_model(path, num_lanes), lanes=None)


def evaluate(members: Mapping[str, Member], stream: language.Stream) -> dict[str, Row]:
    """Measures each member and, of several, their ensemble on one pass over a stream.

    Args:
        members: The models by name.
        stream: Held-out documents; all windows of its first epoch are read.

    Returns:
        By name: ``zero_state_loss`` and ``carried_state_loss`` in nats per token, ``perplexity`` of the
        latter, and ``carried_from``, ``checkpoint`` or ``first pass``.
    """
    models = [member.model for member in members.values()]
    nats = _nats_function(models)
    for model in models:
        for state in recurrent_state.variables(model):
            state.assign(tf.zeros_like(state.value))
    from_zero = _pass(nats, stream)
    for member in members.values():
        if member.lanes is not None:
            recurrent_state.assign(recurrent_state.variables(member.model), member.lanes)
    carried = _pass(nats, stream)
    names = [*members, ENSEMBLE] if len(members) > 1 else list(members)
    origins = ["first pass" if member.lanes is None else "checkpoint" for member in members.values()]
    origins.append(" and ".join(sorted(set(origins))))
    return {
        name: {
            "zero_state_loss": float(zero),
            "carried_state_loss": float(kept),
            "perplexity": math.exp(min(float(kept), 700.0)),
            "carried_from": origin,
        }
        for name, zero, kept, origin in zip(names, from_zero, carried, origins, strict=False)
    }


def _nats_function(models: Sequence[keras.Model]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    @tf.function
    def nats(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Mean negative log-likelihood of each model, and of the mean of their probabilities."""
        logits = [model(inputs, training=False) for model in models]
        each = [-tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits_BTV) for logits_BTV in logits]
        ensemble = tf.reduce_logsumexp(tf.stack(each), axis=0) - math.log(len(models))
        return -tf.stack([tf.reduce_mean(log_likelihood) for log_likelihood in [*each, ensemble]])

    return nats


def _pass(nats: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], stream: language.Stream) -> np.ndarray:
    batches = language.dataset(stream, num_steps=stream.steps_per_epoch)
    return np.mean([nats(*batch).numpy() for batch in batches], axis=0)
