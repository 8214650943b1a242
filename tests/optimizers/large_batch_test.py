"""Momentum without rates and rates for large batches, against closed forms in NumPy."""

from __future__ import annotations

import json
import math
from typing import Any

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.architecture_test import ROOT
from tests.replicas import two_replicas
from tf_codistill import configurables  # noqa: F401 - names for gin
from tf_codistill.optimizers import large_batch as optimizers
from tf_codistill.optimizers.large_batch import CosineRate, MomentumSGD, SteppedRate

IMAGES = 1_281_167
RATES = [0.5, 0.5, 0.05, 0.05, 0.2, 0.005]
GRADIENTS = np.random.default_rng(0).normal(size=(len(RATES), 3))


@keras.saving.register_keras_serializable("tests")
class Listed(keras.optimizers.schedules.LearningRateSchedule):
    """Rates as they are listed."""

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates

    def __call__(self, step: Any) -> tf.Tensor:
        return tf.gather(tf.constant(self.rates, tf.float32), tf.cast(step, tf.int32))

    def get_config(self) -> dict[str, Any]:
        return {"rates": self.rates}


def by_numpy(momentum: float, nesterov: bool, is_corrected: bool = True) -> np.ndarray:
    """Where a weight that starts at 1 is after each step."""
    weight, memory, path = np.ones(3), np.zeros(3), []
    for rate, gradient in zip(np.float32(RATES).astype("float64"), GRADIENTS, strict=True):
        if is_corrected:
            memory = momentum * memory + gradient
            weight = weight - rate * (gradient + momentum * memory if nesterov else memory)
        else:
            memory = momentum * memory - rate * gradient
            weight = weight + (momentum * memory - rate * gradient if nesterov else memory)
        path.append(weight)
    return np.array(path)


def by(optimizer: keras.optimizers.Optimizer, compiled: bool | None = None) -> np.ndarray:
    """The same by a Keras optimizer; eagerly, in a graph, or compiled by XLA."""
    variable = keras.Variable(np.ones(3), dtype="float64")
    optimizer.build([variable])
    apply = optimizer.apply
    if compiled is not None:
        apply = tf.function(optimizer.apply, jit_compile=compiled)
    path = []
    for gradient in GRADIENTS:
        apply([tf.constant(gradient)])
        path.append(variable.numpy())
    return np.array(path)


@pytest.mark.parametrize("compiled", [None, False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_is_a_sum_of_gradients(momentum, nesterov, compiled):
    expected = by_numpy(momentum, nesterov)
    np.testing.assert_allclose(
        by(MomentumSGD(Listed(RATES), momentum, nesterov), compiled), expected, rtol=1e-12
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_where_the_rate_changes_keras_does_otherwise(nesterov):
    ours = by(MomentumSGD(Listed(RATES), 0.875, nesterov))
    theirs = by(keras.optimizers.SGD(Listed(RATES), 0.875, nesterov))
    np.testing.assert_allclose(theirs, by_numpy(0.875, nesterov, is_corrected=False), rtol=1e-12)
    np.testing.assert_allclose(ours[:2], theirs[:2], rtol=1e-12)
    assert np.abs(ours[2:] - theirs[2:]).min() > 0.01, "from the first step with another rate on"


def test_at_a_constant_rate_both_are_the_same():
    np.testing.assert_allclose(by(MomentumSGD(0.1, 0.875)), by(keras.optimizers.SGD(0.1, 0.875)), rtol=1e-12)


def test_keras_sgd_with_its_momentum_rescaled_does_the_same():
    """Equation 10 of Goyal et al. 2017: the old momentum times the ratio of the rates."""
    weight, velocity, before = np.ones(3), np.zeros(3), RATES[0]
    for rate, gradient in zip(RATES, GRADIENTS, strict=True):
        velocity = 0.9 * (rate / before) * velocity - rate * gradient
        weight, before = weight + velocity, rate
    np.testing.assert_allclose(by(MomentumSGD(Listed(RATES)))[-1], weight, rtol=1e-6)


def test_two_replicas_add_up_their_gradients():
    with two_replicas().scope():
        variable = keras.Variable(np.ones(3), dtype="float64")
        optimizer = MomentumSGD(Listed(RATES))
        optimizer.build([variable])

    @tf.function
    def step(gradient: tf.Tensor) -> None:
        two_replicas().run(lambda: optimizer.apply([gradient / 2]))

    for gradient in GRADIENTS:
        step(tf.constant(gradient))
    np.testing.assert_allclose(tf.convert_to_tensor(variable), by_numpy(0.9, False)[-1], rtol=1e-12)


def test_rows_without_a_gradient_move_on():
    """An embedding's gradient has only some of the rows; the momentum of the others is not lost."""
    table = keras.Variable(np.zeros((4, 2), "float32"))
    optimizer = MomentumSGD(1.0, momentum=0.5)
    optimizer.build([table])
    for row in (1, 2):
        rows = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([row]), tf.constant([4, 2]))
        optimizer.apply([rows])
    np.testing.assert_array_equal(table, [[0, 0], [-1.5, -1.5], [-1, -1], [0, 0]])


def test_clipping_and_scaled_losses_are_those_of_keras():
    variable = keras.Variable(np.zeros(2, "float32"))
    optimizer = keras.optimizers.LossScaleOptimizer(MomentumSGD(1.0, clipnorm=1.0), initial_scale=8.0)
    optimizer.build([variable])
    optimizer.apply([tf.constant([24.0, 32.0])])  # of a loss times 8: [3, 4]
    np.testing.assert_allclose(variable, [-0.6, -0.8], rtol=1e-6)
    optimizer.apply([tf.constant([np.inf, 0.0])])  # is left out, momentum and all
    np.testing.assert_allclose(variable, [-0.6, -0.8], rtol=1e-6)


def test_in_half_precision_weights_are_float32():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(width, dtype="mixed_float16") for width in (2, 1)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(keras.optimizers.LossScaleOptimizer(MomentumSGD(SteppedRate(80, 8))), "mse")
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    losses = model.fit(x, x[:, :1], batch_size=8, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert {variable.dtype for variable in model.weights} == {"float32"}


def test_an_optimizer_comes_back_from_its_config():
    optimizer = MomentumSGD(SteppedRate(1000, 10), 0.8, nesterov=True, clipnorm=1.0)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    twin = keras.saving.deserialize_keras_object(config)
    assert isinstance(twin, MomentumSGD)
    assert twin.get_config() == optimizer.get_config()
    assert keras.optimizers.SGD().get_config().keys() <= twin.get_config().keys()


@pytest.mark.parametrize("momentum", [-0.1, 1.0, True, float("nan")])
def test_bad_momentum_is_told(momentum):
    with pytest.raises(ValueError, match=f"momentum is {momentum}; expected a number"):
        MomentumSGD(momentum=momentum)


# Rates.


@pytest.mark.parametrize(
    ("epoch", "batch_size", "step"),
    [
        (0, 256, 0),
        (30, 8192, 4692),  # 4691.77
        (90, 16_384, 7038),  # 7037.66
        (90, 256, 450_411),  # 450,410.27
        (1, IMAGES, 1),
        (2.5, IMAGES, 3),
        (1e9, 1, 1_281_167_000_000_000),
    ],
)
def test_the_first_step_of_an_epoch(epoch, batch_size, step):
    assert optimizers.step_of_epoch(epoch, IMAGES, batch_size) == step
    assert step * batch_size >= epoch * IMAGES
    assert step == 0 or (step - 1) * batch_size < epoch * IMAGES


@pytest.mark.parametrize("batch_size", [256, 8192, 16_384])
def test_stepped_rate_of_goyal(batch_size):
    rate, steps = SteppedRate(IMAGES, batch_size), IMAGES / batch_size
    peak = 0.1 * batch_size / 256
    warm_up, *cuts = optimizers.steps_of_epochs([5, 30, 60, 80], IMAGES, batch_size)
    assert warm_up == math.ceil(5 * steps)
    expected = {0: 0.1, warm_up // 2: 0.1 + (peak - 0.1) * (warm_up // 2) / warm_up, warm_up: peak}
    expected[warm_up - 1] = peak - (peak - 0.1) / warm_up
    for number, cut in enumerate(cuts):
        expected[cut - 1], expected[cut] = peak * 0.1**number, peak * 0.1 ** (number + 1)
    expected[math.ceil(200 * steps)] = peak * 0.001
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-6, err_msg=f"step {step}")


def test_cosine_rate():
    rate = CosineRate(IMAGES, 8192, num_epochs=90, final_fraction=0.01)
    first, last = optimizers.steps_of_epochs([5, 90], IMAGES, 8192)
    assert rate(0) == np.float32(0.1)
    assert rate(first) == rate.peak_rate == np.float32(3.2)
    np.testing.assert_allclose(rate(last), 0.032, rtol=1e-6)
    assert rate(last) == rate(10 * last)
    for step in (first + 1, (first + last) // 2, last - 1):
        wave = 0.5 + 0.5 * math.cos(math.pi * (step - first) / (last - first))
        np.testing.assert_allclose(rate(step), 3.2 * (0.01 + 0.99 * wave), rtol=1e-5)


def test_a_small_batch_starts_with_its_own_rate():
    """It would come down to its rate otherwise, from one that is too high for it."""
    rate = SteppedRate(
        1000, 64, reference_rate=0.1, reference_batch_size=256, warmup_epochs=2, decay_epochs=[4]
    )
    np.testing.assert_allclose(
        [rate(step) for step in (0, 31, 32, 62, 63)], [0.025] * 4 + [0.0025], rtol=1e-6
    )


def test_there_need_be_neither_warm_up_nor_cuts():
    rate = SteppedRate(1000, 512, warmup_epochs=0, decay_epochs=[])
    np.testing.assert_allclose([rate(step) for step in (0, 1, 10**12)], 0.2, rtol=1e-6)


SCHEDULES = [SteppedRate(IMAGES, 8192, decay_epochs=[18, 38, 44]), CosineRate(IMAGES, 512, num_epochs=90)]


@pytest.mark.parametrize("rate", SCHEDULES, ids=lambda rate: type(rate).__name__)
def test_a_schedule_works_in_graphs_and_comes_back(rate):
    twin = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(rate)))
    )
    assert twin.get_config() == rate.get_config()
    for dtype in (tf.int32, tf.int64, tf.float32):
        for compiled in (False, True):
            graph = tf.function(rate, input_signature=[tf.TensorSpec((), dtype)], jit_compile=compiled)
            for step in (0, 100, 800, 5000):
                np.testing.assert_allclose(graph(tf.cast(step, dtype)), twin(step), rtol=1e-5)
    optimizer = keras.optimizers.SGD(rate)
    assert optimizer.learning_rate == rate(0)


@pytest.mark.parametrize(
    ("epochs", "batch_size", "multiple_of", "number"),
    [(90, 256, 1, 450_411), (90, 16_384, 50, 7050), (92.7, 16_384, 50, 7250), (1, IMAGES, 1, 1)],
)
def test_steps_of_a_run(epochs, batch_size, multiple_of, number):
    assert optimizers.steps_of_run(epochs, IMAGES, batch_size, multiple_of) == number


@pytest.mark.parametrize(
    ("name", "num_steps", "peak", "cuts"),
    [
        ("goyal", 14_100, 3.2, [4692, 9384, 12_512]),
        ("paper_baseline", 7250, 6.4, [2346, 4692, 6256]),
        ("sodhani_alone", 225_250, 0.2, [75_069, 150_137, 200_183]),
        ("sodhani", 225_250, 0.1, [90_083, 190_174, 220_201]),
    ],
)
@pytest.mark.usefixtures("fresh_gin")
def test_recipes_have_the_rates_of_their_papers(name, num_steps, peak, cuts):
    """Of Sodhani et al. both have equally many steps, and weight decay is cut when the rate is."""
    gin.add_config_file_search_path(str(ROOT))
    gin.parse_config_file(f"gin/images/{name}.gin", skip_unknown=True)
    rate, decay = gin.get_configurable("SteppedRate")(), gin.get_configurable("WeightDecay")()
    assert gin.get_configurable("steps_of_run")() == num_steps
    for number, cut in enumerate(cuts):
        before, after = peak * 0.1**number, peak * 0.1 ** (number + 1)
        np.testing.assert_allclose([rate(cut - 1), rate(cut)], [before, after], rtol=1e-6)
        values = [1e-4, 1e-5, 0, 0] if name == "sodhani" else [1e-4] * 4
        np.testing.assert_allclose([decay.factor(cut - 1), decay.factor(cut)], values[number : number + 2])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_examples": 0}, "num_examples is 0; expected an integer >= 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5; expected an integer >= 1"),
        ({"batch_size": True}, "batch_size is True"),
        ({"reference_rate": 0.0}, "reference_rate is 0.0; expected a finite number above 0"),
        ({"reference_batch_size": -1}, "reference_batch_size is -1"),
        ({"warmup_epochs": -1}, "epoch is -1; expected a finite number >= 0"),
        ({"decay_epochs": [30, 30]}, r"decay_epochs is \[30, 30\]; expected epochs that increase"),
        (
            {"decay_epochs": [3, 30]},
            r"decay_epochs is \[3, 30\]; expected none before the warm-up ends, at 5",
        ),
        ({"decay_factor": 1.0}, "decay_factor is 1.0"),
    ],
)
def test_bad_rates_are_told(bad, message):
    with pytest.raises(ValueError, match=message):
        SteppedRate(**{"num_examples": 1000, "batch_size": 10, **bad})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_epochs": 5}, "num_epochs is 5; expected more than warmup_epochs, 5.0"),
        ({"final_fraction": 1.5}, "final_fraction is 1.5"),
    ],
)
def test_bad_waves_are_told(bad, message):
    with pytest.raises(ValueError, match=message):
        CosineRate(**{"num_examples": 1000, "batch_size": 10, "num_epochs": 10, **bad})
