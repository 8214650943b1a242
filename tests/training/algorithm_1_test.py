"""Every psi and every rule of averaging over teachers against Algorithm 1 in NumPy, derived by hand."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest

from tests.training.codistillation_test import BATCH, NUM_CLASSES, batches, examples, regression, softmax
from tf_codistill import losses, schedules
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

BURN_IN, EVERY, NUM_STEPS, RATE = 10, 5, 30, 0.3

Gradient = Callable[[np.ndarray, list[np.ndarray]], np.ndarray]


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def averaged(teachers: list[np.ndarray], rule: str, squash: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The targets that one comparison is made with."""
    if rule == "logits":
        return squash(np.mean(teachers, axis=0))
    return np.mean([squash(teacher) for teacher in teachers], axis=0)


def cross_entropy(rule: str, temperature: float = 1.0) -> Gradient:
    # T^2 H(q, softmax(z / T)) has the gradient T (p - q); its mean over pairs is that with the mean of the q.
    def gradient(z: np.ndarray, teachers: list[np.ndarray]) -> np.ndarray:
        targets = averaged([teacher / temperature for teacher in teachers], rule, softmax)
        return temperature * (softmax(z / temperature) - targets)

    return gradient


def squared_probabilities(rule: str) -> Gradient:
    # sum_c (p_c - q_c)^2 through the Jacobian of softmax; linear in q, so that pairs average out.
    def gradient(z: np.ndarray, teachers: list[np.ndarray]) -> np.ndarray:
        p = softmax(z)
        difference = 2 * (p - averaged(teachers, rule, softmax))
        return p * (difference - (p * difference).sum(-1, keepdims=True))

    return gradient


def squared_logits(z: np.ndarray, teachers: list[np.ndarray]) -> np.ndarray:
    return 2 * (z - np.mean(teachers, axis=0)) / NUM_CLASSES


def binary_cross_entropy(rule: str) -> Gradient:
    # Each of the C logits is an example of its own.
    return lambda z, teachers: (sigmoid(z) - averaged(teachers, rule, sigmoid)) / NUM_CLASSES


def binary_squared(rule: str) -> Gradient:
    def gradient(z: np.ndarray, teachers: list[np.ndarray]) -> np.ndarray:
        p = sigmoid(z)
        return 2 * (p - averaged(teachers, rule, sigmoid)) * p * (1 - p) / NUM_CLASSES

    return gradient


RULES = ("probabilities", "logits", "losses")
CASES: dict[str, tuple[losses.DistillationLoss, Gradient]] = {
    "squared logits, logits": (losses.SquaredLogits(mean_over="logits"), squared_logits),
    "squared logits, losses": (losses.SquaredLogits(mean_over="losses"), squared_logits),
    "soft cross-entropy at temperature 2": (
        losses.SoftCrossEntropy(temperature=2.0),
        cross_entropy("probabilities", 2.0),
    ),
}
for rule in RULES:
    CASES |= {
        f"soft cross-entropy, {rule}": (losses.SoftCrossEntropy(mean_over=rule), cross_entropy(rule)),
        f"KL divergence, {rule}": (losses.KLDivergence(mean_over=rule), cross_entropy(rule)),
        f"squared probabilities, {rule}": (
            losses.SquaredProbabilities(mean_over=rule),
            squared_probabilities(rule),
        ),
        f"binary soft cross-entropy, {rule}": (
            losses.BinarySoftCrossEntropy(mean_over=rule),
            binary_cross_entropy(rule),
        ),
        f"binary KL divergence, {rule}": (
            losses.BinaryKLDivergence(mean_over=rule),
            binary_cross_entropy(rule),
        ),
        f"binary squared probabilities, {rule}": (
            losses.BinarySquaredProbabilities(mean_over=rule),
            binary_squared(rule),
        ),
    }
IN_CI = (
    "soft cross-entropy, probabilities",
    "squared logits, losses",
    "binary squared probabilities, logits",
)


Arrays = list[np.ndarray]


def algorithm_1(
    start: list[Arrays], data: list[tuple[np.ndarray, np.ndarray]], d_psi: Gradient
) -> list[Arrays]:
    """Softmax regression by SGD; groups take turns of EVERY steps, taught by what the others published."""
    theta = [[a.astype("float64") for a in arrays] for arrays in start]
    published: list[list[np.ndarray] | None] = [None] * len(theta)
    for first in range(0, NUM_STEPS, EVERY):
        for i, (kernel, bias) in enumerate(theta):
            teachers = [p for j, p in enumerate(published) if j != i and p is not None]
            for step in range(first, first + EVERY):
                x, y = (part[step * BATCH : (step + 1) * BATCH] for part in data[i])
                z = x @ kernel + bias
                d_z = softmax(z) - np.eye(NUM_CLASSES)[y]
                if step >= BURN_IN and teachers:
                    d_z += d_psi(z, [x @ k + b for k, b in teachers])
                kernel -= RATE * x.T @ d_z / BATCH
                bias -= RATE * d_z.mean(0)
            published[i] = [kernel.copy(), bias.copy()]
    return theta


@pytest.mark.parametrize(
    ("num_groups", "case"),
    [
        pytest.param(2, "soft cross-entropy, probabilities"),
        *(pytest.param(3, name, marks=() if name in IN_CI else pytest.mark.slow) for name in CASES),
    ],
)
def test_weights_equal_algorithm_1(num_groups: int, case: str, tmp_path) -> None:
    psi, d_psi = CASES[case]
    models = []
    for group in range(num_groups):
        exchange = PeerExchange(str(tmp_path), group, num_groups, every_steps=EVERY, wait=True)
        model = CodistillationModel(regression, exchange, psi, schedules.BurnIn(BURN_IN))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(RATE), loss, jit_compile=False)
        models.append(model)
    start = [[np.array(w) for w in model.student.get_weights()] for model in models]
    data = [examples(group, NUM_STEPS) for group in range(num_groups)]
    for first in range(0, NUM_STEPS, EVERY):
        for group, model in enumerate(models):
            x, y = (part[first * BATCH : (first + EVERY) * BATCH] for part in data[group])
            model.fit(batches(x, y), verbose=0)
    expected = algorithm_1(start, data, d_psi)
    for model, arrays in zip(models, expected, strict=True):
        for weight, array in zip(model.student.get_weights(), arrays, strict=True):
            np.testing.assert_allclose(weight, array, atol=1e-5)
