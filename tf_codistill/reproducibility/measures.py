"""Measures between two predictions of the same examples, and of one prediction against its labels.

    vectors = per_example(p_NC, q_NC, labels_N)  {"count": [N], "absolute_difference": [N], "flips": [N], ...}
    totals = {name: vector.sum() for name, vector in vectors.items()}
    summarise(totals)                            {"mean_absolute_difference": 0.029, "flip_rate": 0.04, ...}

Probabilities are [N] (that of class 1), [N, C], or [N, T, C] with T positions in an example. Every measure is
a function of sums over examples, so that a bootstrap adds up other examples and asks `summarise` again:

    mean_absolute_difference   mean |p - q| (Anil et al. 2018); of C classes half the sum over them, which is
                               the same for two and known as the total variation distance
    relative_difference        mean 2 |p - q| / (p + q), of class 1, or of the likeliest class of (p + q) / 2
    flip_rate                  share of positions whose class differs: the likeliest, or p >= threshold
    negative_flip_rate         share that the first has right and the second wrong ("bad" flips)
    positive_flip_rate         share that the first has wrong and the second right ("good" flips)
    win_loss_ratio             positive / negative flips
    log_loss_difference        log loss of the second minus that of the first
    kl, jsd                    KL(first || second), and the Jensen-Shannon divergence, in nats
    ambiguity                  share of positions on which k models do not all choose the same class
    log_loss, accuracy, auc    of one model; auc of two classes
    calibration                mean prediction / mean label; of C classes mean confidence / accuracy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Vectors = dict[str, npt.NDArray[np.float64]]

FLOOR = float(np.finfo(np.float64).eps)
"""What a probability counts as in a logarithm at least, so that a prediction of 0 has a finite loss."""

RATIOS = {
    "mean_absolute_difference": ("absolute_difference", "count"),
    "relative_difference": ("relative_difference", "count"),
    "flip_rate": ("flips", "count"),
    "negative_flip_rate": ("negative_flips", "count"),
    "positive_flip_rate": ("positive_flips", "count"),
    "win_loss_ratio": ("positive_flips", "negative_flips"),
    "log_loss_difference": ("log_loss_difference", "count"),
    "kl": ("kl", "count"),
    "jsd": ("jsd", "count"),
    "ambiguity": ("disagreements", "positions"),
    "log_loss": ("log_loss", "count"),
    "accuracy": ("correct", "count"),
    "calibration": ("predicted", "observed"),
}
"""Each figure as the quotient of two sums over examples."""


def per_position(first: Array, second: Array, labels: Array | None = None, threshold: float = 0.5) -> Vectors:
    """What the figures of a pair are sums of, at each position.

    Args:
        first: Probabilities, [N], [N, C] or [N, T, C].
        second: Probabilities of another model for the same examples, of the same shape.
        labels: True classes, integers [N] or [N, T]; None if they are not known.
        threshold: From which probability on a prediction [N] chooses class 1.

    Returns:
        Arrays [N] or [N, T] by name; with labels also the flips to and from the true class.
    """
    p, q = classes(first), classes(second)
    choice_p, choice_q = choices(first, threshold), choices(second, threshold)
    flips = choice_p != choice_q
    one_p, one_q = (p[..., 1], q[..., 1]) if first.ndim == 1 else _likeliest_together(p, q)
    log_p, log_q, mean = _log(p), _log(q), (p + q) / 2
    log_mean = _log(mean)
    found: dict[str, Array] = {
        "count": np.ones(flips.shape),
        "absolute_difference": np.abs(p - q).sum(axis=-1) / 2,
        "relative_difference": quotient(2 * np.abs(one_p - one_q), one_p + one_q, of_nothing=0.0),
        "flips": flips,
        "kl": (p * (log_p - log_q)).sum(axis=-1),
        "jsd": (p * (log_p - log_mean) + q * (log_q - log_mean)).sum(axis=-1) / 2,
    }
    if labels is not None:
        found["negative_flips"] = flips & (choice_p == labels)
        found["positive_flips"] = flips & (choice_q == labels)
        found["log_loss_difference"] = _of_label(log_p, labels) - _of_label(log_q, labels)
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def per_position_of_model(probabilities: Array, labels: Array, threshold: float = 0.5) -> Vectors:
    """What the figures of one model are sums of, at each position; without the AUC, see `auc_vectors`.

    Args:
        probabilities: [N], [N, C] or [N, T, C].
        labels: True classes, integers [N] or [N, T].
        threshold: From which probability on a prediction [N] chooses class 1.

    Returns:
        Arrays [N] or [N, T] by name.
    """
    p = classes(probabilities)
    correct = choices(probabilities, threshold) == labels
    is_binary = probabilities.ndim == 1
    found = {
        "count": np.ones(correct.shape),
        "log_loss": -_log(_of_label(p, labels)),
        "correct": correct,
        "predicted": p[..., 1] if is_binary else p.max(axis=-1),
        "observed": labels if is_binary else correct,
    }
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def over_positions(vectors: Mapping[str, Array], counted: Array | None = None) -> Vectors:
    """Adds up over the positions of each example.

    Args:
        vectors: Arrays [N] or [N, ...] by name.
        counted: Which positions count, booleans of the same shape; None for all.

    Returns:
        Arrays [N] by name.
    """
    if counted is not None:
        vectors = {name: np.where(counted, values, 0) for name, values in vectors.items()}
    return {name: values.reshape(len(values), -1).sum(axis=1) for name, values in vectors.items()}


def per_example(
    first: Array,
    second: Array,
    labels: Array | None = None,
    *,
    threshold: float = 0.5,
    counted: Array | None = None,
) -> Vectors:
    """`per_position`, added up over the positions of each example.

    Args:
        first: Probabilities, [N], [N, C] or [N, T, C].
        second: Probabilities of another model for the same examples, of the same shape.
        labels: True classes, integers [N] or [N, T]; None if they are not known.
        threshold: From which probability on a prediction [N] chooses class 1.
        counted: Which positions count, booleans [N] or [N, T]; None for all.

    Returns:
        Arrays [N] by name.
    """
    return over_positions(per_position(first, second, labels, threshold), counted)


def auc_vectors(probabilities: Array, labels: Array) -> Vectors:
    """The area under the ROC curve as sums over examples, so that it can be resampled like the other figures.

    An example's component is the share of the other class that it is ranked right with (DeLong et al. 1988);
    the AUC is the mean over the positive ones, or that over the negative ones. Resampling the components is
    the first-order approximation of ranking each resample anew.

    Args:
        probabilities: Of class 1, [N].
        labels: 0 or 1, [N].

    Returns:
        Arrays [N] by name.
    """
    is_positive = np.asarray(labels) == 1
    num_positive = int(is_positive.sum())
    num_negative = len(is_positive) - num_positive
    ranks, own = _midranks(probabilities), np.zeros(len(is_positive))
    for part in (is_positive, ~is_positive):
        own[part] = _midranks(np.asarray(probabilities)[part])
    below = ranks - own  # how many of the other class are below, those that are equal by half
    right = np.where(is_positive, below / max(num_negative, 1), (num_positive - below) / max(num_positive, 1))
    half = right - (right[is_positive].mean() if num_positive and num_negative else 0.0) / 2
    return {
        "auc_positive": np.where(is_positive, half, 0.0),
        "positives": is_positive.astype(np.float64),
        "auc_negative": np.where(is_positive, 0.0, half),
        "negatives": (~is_positive).astype(np.float64),
    }


def summarise(sums: Mapping[str, Any]) -> dict[str, Array]:
    """The figures that follow from sums over examples.

    Args:
        sums: Sums by name, scalars, or arrays with a value for each resample.

    Returns:
        The figures by name, of the same shape: those that the sums suffice for. NaN where there is nothing to
        divide, infinity for a win_loss_ratio without a loss.
    """
    found = {
        name: quotient(sums[of], sums[by]) for name, (of, by) in RATIOS.items() if of in sums and by in sums
    }
    if "auc_positive" in sums:
        found["auc"] = quotient(sums["auc_positive"], sums["positives"]) + quotient(
            sums["auc_negative"], sums["negatives"]
        )
    return found


def measure(
    first: Array, second: Array, labels: Array | None = None, *, threshold: float = 0.5
) -> dict[str, float]:
    """The figures of a pair, without intervals.

    Args:
        first: Probabilities, [N], [N, C] or [N, T, C].
        second: Probabilities of another model for the same examples, of the same shape.
        labels: True classes, integers [N] or [N, T]; None if they are not known.
        threshold: From which probability on a prediction [N] chooses class 1.

    Returns:
        The figures by name.
    """
    vectors = per_example(np.asarray(first), np.asarray(second), labels, threshold=threshold)
    sums = {name: vector.sum() for name, vector in vectors.items()}
    return {name: float(value) for name, value in summarise(sums).items()}


def ambiguous(chosen: Sequence[Array]) -> Array:
    """Where some of k models chooses another class than the rest.

    Args:
        chosen: What `choices` returned of each model, arrays of one shape.

    Returns:
        Booleans of that shape.
    """
    return np.any([choice != chosen[0] for choice in chosen], axis=0)


def choices(probabilities: Array, threshold: float = 0.5) -> Array:
    """The class that a prediction amounts to.

    Args:
        probabilities: [N], [N, C] or [N, T, C].
        threshold: From which probability on a prediction [N] chooses class 1.

    Returns:
        Integers [N] or [N, T]; the likeliest class, the first of several.
    """
    if probabilities.ndim == 1:
        return (probabilities >= threshold).astype(np.int64)
    return probabilities.argmax(axis=-1)


def classes(probabilities: Array) -> npt.NDArray[np.float64]:
    """The probabilities of all classes, float64 [N, 2], [N, C] or [N, T, C]."""
    p = np.asarray(probabilities, np.float64)
    return np.stack([1 - p, p], axis=-1) if p.ndim == 1 else p


def quotient(of: Any, by: Any, of_nothing: float = float("nan")) -> Array:
    """Divides, `of_nothing` for 0 / 0."""
    of, by = np.asarray(of, np.float64), np.asarray(by, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((of == 0) & (by == 0), of_nothing, of / by)


def _of_label(values: Array, labels: Array) -> Array:
    return np.take_along_axis(values, np.asarray(labels, np.int64)[..., np.newaxis], axis=-1)[..., 0]


def _log(p: Array) -> Array:
    return np.log(np.maximum(p, FLOOR))


def _likeliest_together(p: Array, q: Array) -> tuple[Array, Array]:
    index = (p + q).argmax(axis=-1)[..., np.newaxis]
    return np.take_along_axis(p, index, axis=-1)[..., 0], np.take_along_axis(q, index, axis=-1)[..., 0]


def _midranks(values: Array) -> Array:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
