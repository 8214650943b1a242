"""The layer-normalised LSTM of Ba et al. (2016) written down once more, in NumPy, as the reference."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-5


def normalise(values: np.ndarray) -> np.ndarray:
    mean = values.mean(axis=-1, keepdims=True)
    variance = ((values - mean) ** 2).mean(axis=-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + EPSILON)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def run(
    inputs: np.ndarray, hidden: np.ndarray, cell: np.ndarray, weights: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs [B, T, D], last hidden and last cell state."""
    kernel, recurrent_kernel, input_gain, recurrent_gain, bias, cell_gain, cell_bias = weights
    outputs = []
    for step in range(inputs.shape[1]):
        from_input = normalise(inputs[:, step] @ kernel) * input_gain
        from_hidden = normalise(hidden @ recurrent_kernel) * recurrent_gain
        i, f, o, g = np.split(from_hidden + from_input + bias, 4, axis=-1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(normalise(cell) * cell_gain + cell_bias)
        outputs.append(hidden)
    return np.stack(outputs, axis=1), hidden, cell
