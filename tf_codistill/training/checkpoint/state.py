"""All that training depends on, as arrays and back.

shared    weights        of each student, in order
          served         the same with the averages that the optimizer makes of them; empty if it makes none
          optimizer
          teachers       of the teaching
own       replicas       what each replica holds apart: batch statistics, random generators, batches seen
          metrics        of the epoch, each replica's part
          lanes          recurrent states of this worker's lanes, student by student
          teacher_lanes  of the teaching, which reads the same lanes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import logging

from tf_codistill import keras_private, recurrent_state, weights
from tf_codistill.redealing import Redealing

Replicas = list[np.ndarray]
"""Values of a variable on the replicas of this worker, [replicas, ...], for each variable."""


def of(model: Any, metrics: Replicas | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What training depends on; all workers must call it.

    Args:
        model: The `CodistillationModel`.
        metrics: What `metrics_of` has returned, if the metrics are in use for something else now.

    Returns:
        What the workers share, and what is this worker's own.
    """
    teachers, teacher_lanes = model.teachers.state()
    model.statistics.average()
    shared = {
        "weights": model.statistics.values([one for student in model.students for one in student.weights]),
        "served": _served(model),
        "optimizer": weights.values(model.optimizer.variables),
        "teachers": teachers,
    }
    own = {
        "replicas": [np.stack(model.statistics.own(one)) for one in _apart(model)],
        "metrics": metrics_of(model) if metrics is None else metrics,
        "lanes": recurrent_state.values(_lanes(model)),
        "teacher_lanes": teacher_lanes,
    }
    return shared, own


def _served(model: Any) -> list[np.ndarray]:
    averages = {id(weight): average for weight, average in keras_private.averages(model.optimizer)}
    held = [averages.get(id(weight), weight) for student in model.students for weight in student.weights]
    return model.statistics.values(held) if averages else []


def metrics_of(model: Any) -> Replicas:
    """The values of the metrics of an epoch."""
    return [np.stack(weights.replica_values(one)) for one in _metrics(model)]


def assign(model: Any, shared: dict[str, Any], own: dict[str, Any]) -> None:
    """Takes back everything but the metrics of the epoch.

    Args:
        model: The `CodistillationModel`, built.
        shared: The first of what `of` returned.
        own: The second.

    Raises:
        ValueError: It does not fit.
    """
    _check_replicas(_apart(model), own["replicas"])
    weights.assign([one for student in model.students for one in student.weights], shared["weights"])
    weights.assign(model.optimizer.variables, shared["optimizer"])
    recurrent_state.restore(_lanes(model), own["lanes"])
    model.teachers.restore(shared["teachers"], own["teacher_lanes"])
    weights.assign_replicas(_apart(model), own["replicas"])


def num_replicas(own: dict[str, Any]) -> int:
    """How many replicas a worker had, by its own part of what `of` returned."""
    return len(own["replicas"][-1])


def redealt(model: Any, owns: Sequence[dict[str, Any]], redealing: Redealing) -> dict[str, Any]:
    """What is to be this worker's own, where another number of workers or replicas has written it.

    Args:
        model: The `CodistillationModel`, built.
        owns: What was each old worker's own, in order.
        redealing: Deals it out.

    Returns:
        What `assign` is to be given.

    Raises:
        ValueError: It cannot be dealt out.
    """
    parts = {name: list(zip(*(own[name] for own in owns), strict=True)) for name in owns[0]}
    return {
        "replicas": [
            *map(redealing.replicas, parts["replicas"][:-1]),
            model.batches_seen.redealt(parts["replicas"][-1], redealing),
        ],
        "metrics": [redealing.sums(one) for one in parts["metrics"]],
        "lanes": [redealing.lanes(one) for one in parts["lanes"]],
        "teacher_lanes": model.teachers.redeal([own["teacher_lanes"] for own in owns], redealing),
    }


def assign_metrics(model: Any, metrics: Replicas) -> None:
    """Gives the metrics of the epoch the values that `metrics_of` returned, if they are still the same."""
    try:
        _check_replicas(_metrics(model), metrics)
    except ValueError as error:
        logging.warning("metrics of the epoch begin anew where training goes on: %s", error)
    else:
        weights.assign_replicas(_metrics(model), metrics)


def _apart(model: Any) -> list[keras.Variable]:
    known = {id(weight) for student in model.students for weight in student.trainable_weights}
    known |= {id(lane) for lane in _lanes(model)}
    # Among them are random number generators, which are no weights to Keras.
    held = {id(variable): variable for student in model.students for variable in student.variables}
    seen = model.batches_seen
    return [variable for key, variable in held.items() if key not in known] + [seen.number, seen.first]


def _lanes(model: Any) -> list[keras.Variable]:
    return [lane for student in model.students for lane in recurrent_state.variables(student)]


def _metrics(model: Any) -> list[keras.Variable]:
    return [variable for metric in model.metrics for variable in metric.variables]


def _check_replicas(variables: Sequence[keras.Variable], values: Replicas) -> None:
    if len(variables) != len(values):
        raise ValueError(f"{len(values)} arrays do not fit {len(variables)} variables")
    for variable, copies in zip(variables, values, strict=True):
        expected = (len(weights.local_copies(variable)), *variable.shape)
        if expected != copies.shape:
            raise ValueError(
                f"variable {variable.path!r} has shape {expected[1:]} on {expected[0]} replicas; there are "
                f"{len(copies)} arrays of shape {copies.shape[1:]}"
            )
