"""Schedules as functions of the step, and the penalty on the weights."""

from __future__ import annotations

import json

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.replicas import two_replicas
from tf_codistill import schedules

SCHEDULES = [
    schedules.Constant(0.5),
    schedules.BurnIn(3, 0.5),
    schedules.LinearRamp(1, 4, 0.5),
    schedules.Cosine(1, 4, 0.0, initial=2.0),
    schedules.Piecewise([2, 3], [1e-4, 1e-5, 0.0]),
    schedules.ExponentialDecay(2.0, 2, 0.5, start_step=1),
]
EXPECTED = [  # for steps 0 to 5
    [0.5] * 6,
    [0, 0, 0, 0.5, 0.5, 0.5],
    [0, 0, 0.5 / 3, 1 / 3, 0.5, 0.5],
    [2, 2, 1.5, 0.5, 0, 0],
    [1e-4, 1e-4, 1e-5, 0, 0, 0],
    [2, 2, 2**0.5, 1, 0.5**0.5, 0.5],
]


def label(schedule: object) -> str:
    return type(schedule).__name__


@pytest.mark.parametrize(("schedule", "values"), zip(SCHEDULES, EXPECTED, strict=True), ids=label)
def test_values(schedule, values):
    np.testing.assert_allclose([schedule(step) for step in range(6)], values, rtol=1e-6, atol=1e-7)


def test_no_burn_in():
    assert float(schedules.BurnIn(steps=0)(0)) == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_works_in_a_graph_on_any_integer(schedule, dtype):
    graph = tf.function(schedule, input_signature=[tf.TensorSpec((), dtype)])
    for step in (0, 2, 3, 2**31 - 1):
        value = graph(tf.constant(step, dtype))
        assert value.dtype == tf.float32
        assert value.shape == ()
        np.testing.assert_allclose(value, schedule(step), rtol=1e-6)


def test_all_compile_to_one_xla_program():
    compiled = tf.function(lambda step: tf.stack([one(step) for one in SCHEDULES]), jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant(3)), np.array(EXPECTED)[:, 3], rtol=1e-5, atol=1e-6)


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
    st.sampled_from([schedules.LinearRamp, schedules.Cosine]),
    st.integers(0, 2**40),
    st.integers(1, 2**40),
    st.floats(0, 10, width=32),
    st.floats(0, 10, width=32),
    st.floats(0, 1),
)
def test_ramps_meet_their_ends_and_stay_between(kind, start, length, weight, initial, fraction):
    ramp = kind(start, start + length, weight, initial=initial)
    assert float(ramp(0)) == float(ramp(start)) == initial
    assert float(ramp(start + length)) == float(ramp(2**42)) == weight
    inside = float(ramp(start + int(fraction * length)))
    assert min(weight, initial) * (1 - 1e-6) <= inside <= max(weight, initial) * (1 + 1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_steps_far_beyond_float32_are_told_apart(schedule):
    """Only differences of steps become floats."""
    far = 2**40
    assert float(schedules.BurnIn(far)(far - 1)) == 0
    assert float(schedules.LinearRamp(far, far + 4)(far + 1)) == 0.25
    assert np.isfinite(schedule(far))


def test_follows_a_variable():
    step = tf.Variable(2, dtype=tf.int64)
    weight = schedules.BurnIn(steps=3)
    assert float(weight(step)) == 0
    step.assign_add(1)
    assert float(weight(step)) == 1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_config_makes_an_equal_schedule(schedule):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    twin = keras.saving.deserialize_keras_object(config)
    assert type(twin) is type(schedule)
    assert twin.get_config() == schedule.get_config()


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_bad_weight_is_told(value):
    for name, make in {
        "value": lambda: schedules.Constant(value),
        "weight": lambda: schedules.BurnIn(steps=1, weight=value),
        "initial": lambda: schedules.Cosine(0, 1, initial=value),
        "values": lambda: schedules.Piecewise([1], [0.0, value]),
        "rate": lambda: schedules.ExponentialDecay(1.0, 10, value),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} is {value}"):
            make()
    for make in (
        lambda: schedules.LinearRamp(0, 1, value),
        lambda: schedules.ExponentialDecay(value, 10, 0.5),
    ):
        with pytest.raises(ValueError, match="weight is"):
            make()
    with pytest.raises(ValueError, match="value is"):
        schedules.WeightDecay(value)


@pytest.mark.parametrize("steps", [-1, 1.5, True, float("nan"), float("inf")])
def test_bad_steps_are_told(steps):
    for name, make in {
        "steps": lambda: schedules.BurnIn(steps),
        "start_step": lambda: schedules.LinearRamp(steps, 10),
        "end_step": lambda: schedules.Cosine(0, steps),
        "boundaries": lambda: schedules.Piecewise([steps], [0.0, 1.0]),
        "decay_steps": lambda: schedules.ExponentialDecay(1.0, steps, 0.5),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} is {steps}"):
            make()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: schedules.LinearRamp(4, 4), "end_step is 4; expected more than start_step, which is 4"),
        (lambda: schedules.Piecewise([3, 2], [1, 2, 3]), r"boundaries is \[3, 2\]"),
        (lambda: schedules.Piecewise([2, 2], [1, 2, 3]), r"boundaries is \[2, 2\]"),
        (lambda: schedules.Piecewise([0], [1, 2]), r"boundaries is \[0\]"),
        (lambda: schedules.Piecewise([1], [1]), "values has 1 entries; expected 2"),
        (lambda: schedules.ExponentialDecay(1.0, 0, 0.5), "decay_steps is 0"),
        (lambda: schedules.ExponentialDecay(1.0, 1, 1.5), "rate is 1.5"),
        (lambda: schedules.ExponentialDecay(1.0, 1, 0.0), "rate is 0.0"),
        (lambda: schedules.WeightDecay(1.0, exempt="bias"), "exempt is 'bias'"),
    ],
)
def test_bad_arguments_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


DECAY = schedules.WeightDecay(schedules.Piecewise([2, 4], [0.5, 0.25, 0.0]), exempt=["embedding"])


def model_and_weights(dtype: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Embedding(5, 3), keras.layers.Dense(4), keras.layers.LayerNormalization()]
    model = keras.Sequential([*layers, keras.layers.Dense(2, name="out")])
    for layer in model.layers:
        layer.dtype_policy = dtype
    model.build((None, 2))
    return model


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "bfloat16"])
def test_the_gradient_of_the_penalty_is_the_factor_times_the_kernel(policy):
    model = model_and_weights(policy)
    step = tf.Variable(0, dtype=tf.int64)

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            penalty = DECAY.penalty(model.trainable_variables, step)
        return penalty, tape.gradient(penalty, [v.value for v in model.trainable_variables])

    for at, factor in ((1, 0.5), (3, 0.25), (5, 0.0)):
        step.assign(at)
        penalty, found = gradients()
        squares = 0.0
        for variable, gradient in zip(model.trainable_variables, found, strict=True):
            if "kernel" in variable.path:
                kernel = tf.cast(variable.value, tf.float32).numpy()
                squares += (kernel**2).sum()
                np.testing.assert_allclose(tf.cast(gradient, tf.float32), factor * kernel, rtol=1e-6)
            else:
                assert gradient is None, variable.path
        assert penalty.dtype == tf.float32
        np.testing.assert_allclose(penalty, factor / 2 * squares, rtol=1e-5)


@pytest.mark.parametrize("strategy", [tf.distribute.get_strategy, two_replicas])
def test_sgd_with_the_penalty_is_sgd_with_weight_decay(strategy):
    """w <- w - rate * (gradient + factor * w), also when gradients are summed over two replicas."""
    strategy = strategy()
    with strategy.scope():
        variable = keras.Variable(np.full((2, 3), 2.0), name="kernel")
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build([variable])

    def step():
        with tf.GradientTape() as tape:
            loss = DECAY.penalty([variable], optimizer.iterations.value)
        optimizer.apply_gradients([(tape.gradient(loss, variable.value), variable)])

    run = tf.function(lambda: strategy.run(step))
    expected = 2.0
    for factor in (0.5, 0.5, 0.25, 0.25, 0.0):
        run()
        expected -= 0.1 * factor * expected
        np.testing.assert_allclose(tf.convert_to_tensor(variable), np.full((2, 3), expected), rtol=1e-6)


def test_nothing_to_decay_is_no_penalty():
    assert float(schedules.WeightDecay(1.0).penalty([keras.Variable([1.0, 2.0])], 0)) == 0
    assert float(schedules.WeightDecay(1.0).penalty([], 0)) == 0


def test_config_makes_an_equal_penalty():
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(DECAY)))
    twin = keras.saving.deserialize_keras_object(config)
    assert twin.get_config() == DECAY.get_config()
