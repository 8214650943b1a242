"""LayerNormLSTM against a NumPy reference, and wherever TensorFlow can run it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import numpy_lstm
from tests.replicas import two_replicas
from tf_codistill.models import layer_norm_lstm
from tf_codistill.models.layer_norm_lstm import LayerNormLSTM

B, T, WIDTH, UNITS = 3, 5, 6, 4


def make_layer(seed: int = 0, batch_size: int | None = B, units: int = UNITS, **kwargs) -> LayerNormLSTM:
    """A layer whose every weight matters; gains at exactly 1 would hide mistakes."""
    layer = LayerNormLSTM(units, **kwargs)
    layer.build((batch_size, T, WIDTH))
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(("gain" in weight.name) + 0.5 * rng.normal(size=weight.shape))
    return layer


def random(*shape: int, seed: int = 1, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def assign_states(layer: LayerNormLSTM, *values: np.ndarray) -> None:
    for state, value in zip(layer.states, values, strict=True):
        state.assign(value)


def test_forward_equals_the_reference():
    layer = make_layer(stateful=True, dtype="float64")
    hidden, cell = random(B, UNITS, seed=2), random(B, UNITS, seed=3)
    assign_states(layer, hidden, cell)
    outputs = layer(random(B, T, WIDTH))
    expected = numpy_lstm.run(random(B, T, WIDTH), hidden, cell, layer.get_weights())
    for value, reference in zip((outputs, *layer.states), expected, strict=True):
        np.testing.assert_allclose(np.asarray(value), reference, atol=1e-12)


@pytest.mark.parametrize("num_parts", [1, 3])
def test_gradient_equals_finite_differences_of_the_reference(monkeypatch, num_parts):
    monkeypatch.setattr(layer_norm_lstm, "_num_parts", lambda batch_size: num_parts)
    layer = make_layer(stateful=True, dtype="float64")
    inputs, hidden, cell = random(B, T, WIDTH), random(B, UNITS, seed=2), random(B, UNITS, seed=3)
    assign_states(layer, hidden, cell)
    direction = random(B, T, UNITS, seed=4)
    watched = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        loss = tf.reduce_sum(tf.sin(layer(watched)) * direction)
    gradients = tape.gradient(loss, [watched, *[weight.value for weight in layer.weights]])

    arguments = [inputs, *layer.get_weights()]

    def reference(position: int, value: np.ndarray) -> float:
        changed = [value if i == position else argument for i, argument in enumerate(arguments)]
        outputs, _, _ = numpy_lstm.run(changed[0], hidden, cell, changed[1:])
        return float((np.sin(outputs) * direction).sum())

    for position, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        expected = np.zeros_like(argument)
        for index in np.ndindex(argument.shape):
            step = np.zeros_like(argument)
            step[index] = 1e-5
            rise = reference(position, argument + step) - reference(position, argument - step)
            expected[index] = rise / 2e-5
        np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-7, rtol=1e-6)


def test_gradient_of_the_initial_state_and_of_the_last_state():
    layer = make_layer(dtype="float64")
    kernel = layer._centred(layer.recurrent_kernel)
    vectors = [tf.convert_to_tensor(weight) for weight in layer.weights[2:]]
    projected, states = random(T, B, 4 * UNITS), [random(B, UNITS, seed=2), random(B, UNITS, seed=3)]
    projected -= projected.mean(axis=-1, keepdims=True)

    def last_states(hidden, cell):
        _, hidden, cell = layer_norm_lstm._recur(tf.constant(projected), hidden, cell, kernel, *vectors)
        return tf.reduce_sum(hidden**2) + tf.reduce_sum(tf.sin(cell))

    analytic, numeric = tf.test.compute_gradient(last_states, states, delta=1e-4)
    for mine, expected in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-6)
        assert np.abs(mine).max() > 1e-3


def test_state_is_carried_from_window_to_window():
    inputs = random(B, 2 * T, WIDTH, dtype="float32")
    whole, windows = make_layer(stateful=True), make_layer(stateful=True)
    expected = whole(inputs)
    outputs = np.concatenate([windows(inputs[:, :T]), windows(inputs[:, T:])], axis=1)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    assert np.abs(outputs[:, T:] - make_layer()(inputs[:, T:])).max() > 0.01


def test_stateless_layer_starts_each_call_from_zeros():
    layer = make_layer(batch_size=None)
    inputs = random(B, T, WIDTH, dtype="float32")
    first, second = layer(inputs), layer(inputs)
    np.testing.assert_array_equal(first, second)
    assert layer.states is None
    zeros = np.zeros((B, UNITS))
    expected, _, _ = numpy_lstm.run(inputs, zeros, zeros, layer.get_weights())
    np.testing.assert_allclose(first, expected, atol=1e-5)


def test_state_is_not_a_weight(tmp_path):
    layer = make_layer(stateful=True)
    names = [weight.name for weight in layer.weights]
    assert names == [weight.name for weight in make_layer().weights]
    assert len(layer.variables) == len(names) == 7
    assert [state.name for state in layer.states] == ["hidden_state", "cell_state"]
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "weights"))
    assert not [name for name, _ in tf.train.list_variables(path) if "state" in name]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_graph_and_xla_agree_with_eager(batch_size):
    inputs = tf.constant(random(batch_size, T, WIDTH, dtype="float32"))

    def train(layer):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(inputs) ** 2)
        return loss, tape.gradient(loss, layer.trainable_weights), [state.value for state in layer.states]

    results = []
    for compiled in (None, False, True):
        layer = make_layer(batch_size=batch_size, stateful=True)
        step = train if compiled is None else tf.function(train, jit_compile=compiled)
        step(layer)  # and the next call starts from the state it leaves
        results.append([np.asarray(value) for value in tf.nest.flatten(step(layer))])
    for other in results[1:]:
        for value, expected in zip(other, results[0], strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [3, 64])
def test_prediction_equals_training(batch_size):
    inputs = tf.constant(random(batch_size, T, WIDTH, dtype="float32"))
    results = []
    for training in (True, False):
        layer = make_layer(batch_size=batch_size, stateful=True)
        with tf.GradientTape() as tape:
            outputs = layer(inputs, training=training)
            loss = tf.reduce_sum(outputs**2)
        results.append([outputs, *layer.states, *tape.gradient(loss, layer.trainable_weights)])
    for value, expected in zip(*results, strict=True):
        np.testing.assert_allclose(np.asarray(value), np.asarray(expected), rtol=1e-3, atol=1e-4)


def test_any_number_of_steps_in_one_graph():
    layer = make_layer(batch_size=None)
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, WIDTH), tf.float32)])
    for batch_size, num_steps in ((1, 1), (2, 7), (B, T)):
        inputs = random(batch_size, num_steps, WIDTH, dtype="float32")
        np.testing.assert_allclose(graph(inputs), layer(inputs), atol=1e-6)


def test_half_precision_stays_close():
    inputs = random(B, T, WIDTH, dtype="float32")
    exact, half = make_layer(stateful=True), make_layer(stateful=True, dtype="mixed_bfloat16")
    expected, outputs = exact(inputs), half(inputs)
    assert outputs.dtype == tf.bfloat16
    assert {variable.dtype for variable in (*half.weights, *half.states)} == {"float32"}
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, atol=0.03)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(half(inputs), tf.float32) ** 2)
    gradients = tape.gradient(loss, half.trainable_weights)
    assert all(gradient.dtype == tf.float32 and np.isfinite(gradient).all() for gradient in gradients)


def test_every_replica_keeps_its_own_state():
    strategy = two_replicas()
    inputs = random(2 * B, T, WIDTH, dtype="float32")
    alone = make_layer(batch_size=2 * B, stateful=True)
    with strategy.scope():
        layer = make_layer(stateful=True)

    def values(context):
        first = context.replica_id_in_sync_group * B
        return tf.constant(inputs[first : first + B])

    batch = strategy.experimental_distribute_values_from_function(values)

    @tf.function
    def step(batch):
        with tf.GradientTape() as tape:
            outputs = layer(batch)
            loss = tf.reduce_sum(outputs**2)
        return outputs, tape.gradient(loss, layer.trainable_weights)

    for _ in range(2):
        with tf.GradientTape() as tape:
            expected = alone(inputs)
            loss = tf.reduce_sum(expected**2)
        expected_gradients = tape.gradient(loss, alone.trainable_weights)
        outputs, gradients = strategy.run(step, args=(batch,))
    outputs = np.concatenate(strategy.experimental_local_results(outputs))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        value = sum(strategy.experimental_local_results(gradient))
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-4)


def test_forget_bias_is_in_the_forget_gate():
    layer = LayerNormLSTM(2, forget_bias=1.5)
    layer.build((None, None, 3))
    np.testing.assert_array_equal(layer.bias.numpy(), [0, 0, 1.5, 1.5, 0, 0, 0, 0])


def test_bad_arguments_are_told():
    with pytest.raises(ValueError, match="units of layer 'x' is 0"):
        LayerNormLSTM(0, name="x")
    with pytest.raises(ValueError, match="'x' is stateful.*give a fixed batch size"):
        LayerNormLSTM(2, stateful=True, name="x").build((None, T, WIDTH))


def test_config_makes_an_equal_layer():
    layer = LayerNormLSTM(5, stateful=True, forget_bias=0.5, name="x")
    twin = keras.layers.deserialize(keras.layers.serialize(layer))
    assert twin.get_config() == layer.get_config()
