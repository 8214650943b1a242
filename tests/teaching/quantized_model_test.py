"""Quantized models predict what plain ones with the same numbers do, in less memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tf_codistill import recurrent_state, weights
from tf_codistill.exchange import precision as precisions
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching import quantized_model

REDUCED = ("bfloat16", "float16", "int8")
LANES = 2


def two_layers_of_192() -> keras.Model:
    return LanguageModel(1006, 192, 2, 192, batch_size=64)


def language_model() -> keras.Model:
    return LanguageModel(21, 16, 2, 17, batch_size=LANES)


def stock_lstm() -> keras.Model:
    inputs = keras.Input((5,), batch_size=LANES, dtype="int32")
    embedded = keras.layers.Embedding(21, 16)(inputs)
    hidden = keras.layers.LSTM(17, stateful=True, return_sequences=True)(embedded)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


def image_model() -> keras.Model:
    layers = [
        keras.Input((9, 9, 3)),
        keras.layers.Conv2D(5, 3),
        keras.layers.DepthwiseConv2D(5),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(4),
    ]
    return keras.Sequential(layers)


def tokens(seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).integers(0, 21, (LANES, 5)), tf.int32)


def images() -> tf.Tensor:
    return tf.random.stateless_normal([LANES, 9, 9, 3], [1, 2])


MODELS = {
    "language": (language_model, tokens),
    "stock_lstm": (stock_lstm, tokens),
    "image": (image_model, images),
}


def assign(model: keras.Model, arrays: list[np.ndarray], precision: str) -> None:
    """Replaces the weights of a model that has been quantized, as a teacher's snapshot does."""
    staged = quantized_model.staged(model, arrays, "float32", precision)
    weights.give(quantized_model.stored(model), staged)


def pair(make: Callable[[], keras.Model], precision: str) -> tuple[keras.Model, keras.Model]:
    """A quantized model, and a plain one with the numbers that the first has left."""
    quantized, plain = make(), make()
    source = np.random.default_rng(1)
    arrays = [source.uniform(-0.5, 0.5, weight.shape).astype("float32") for weight in plain.weights]
    if any("moving_variance" in weight.path for weight in plain.weights):
        arrays = [np.abs(array) for array in arrays]
    quantized_model.quantize(quantized, precision)
    assign(quantized, arrays, precision)
    rows = weights.description(plain)
    plain.set_weights(precisions.dequantize_all(precisions.quantize_all(arrays, precision), rows, precision))
    return quantized, plain


@pytest.mark.parametrize(
    ("kind", "compiled", "precision"),
    [
        ("language", False, "int8"),
        ("language", True, "int8"),
        ("stock_lstm", False, "bfloat16"),
        ("image", False, "int8"),
        ("image", False, "float16"),
        ("image", True, "bfloat16"),
        *(
            pytest.param(kind, compiled, precision, marks=pytest.mark.slow)
            for kind in MODELS
            for compiled in (False, True)
            for precision in precisions.PRECISIONS
        ),
    ],
)
def test_predicts_as_a_plain_model_does(kind: str, compiled: bool, precision: str) -> None:
    make, features = MODELS[kind]
    quantized, plain = pair(make, precision)

    def logits(model: keras.Model) -> list[np.ndarray]:
        symbol = keras.KerasTensor(features().shape, keras.backend.standardize_dtype(features().dtype))
        shape = model.compute_output_spec(symbol).shape

        @tf.function(jit_compile=compiled)
        def predict(is_present: tf.Tensor) -> tf.Tensor:
            return tf.cond(is_present, lambda: model(features(), training=False), lambda: tf.zeros(shape))

        return [predict(tf.constant(one)).numpy() for one in (True, False, True)]

    tolerance = 1e-5 if compiled else 0.0
    for one, other in zip(logits(quantized), logits(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    for one, other in zip(
        recurrent_state.values(recurrent_state.variables(quantized)),
        recurrent_state.values(recurrent_state.variables(plain)),
        strict=True,
    ):
        assert other.any()
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("shape", [(16, 2), (17, 3), (3, 5), (2, 3, 5, 7), (5, 5, 3, 1)], ids=str)
@pytest.mark.parametrize("on_tpus", [False, True])
def test_tensorflow_and_numpy_dequantize_the_same_bits(
    shape: tuple[int, ...], precision: str, on_tpus: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_tpus:  # what is done there, done here
        monkeypatch.setattr(tf.distribute, "TPUStrategy", tf.distribute.Strategy)
    array = np.random.default_rng(0).normal(size=shape).astype("float32")
    array.flat[0], array.flat[-1] = np.nan, 1e38
    layer = keras.layers.Layer()
    layer.kernel = layer.add_weight(shape=shape, trainable=False)
    model = keras.Sequential([layer])
    quantized_model.quantize(model, precision)
    assign(model, [array], precision)
    expected = precisions.dequantize(precisions.quantize(array, precision), "float32")
    for read in (tf.identity, tf.function(tf.identity), tf.function(tf.identity, jit_compile=True)):
        np.testing.assert_array_equal(read(layer.kernel), expected)
    np.testing.assert_array_equal(model.get_weights()[0], expected)


def test_mixed_precision_reads_half_of_what_is_dequantized() -> None:
    def make() -> keras.Model:
        return keras.Sequential([keras.Input((32,)), keras.layers.Dense(8, dtype="mixed_bfloat16")])

    quantized, plain = pair(make, "int8")
    features = tf.random.stateless_normal([LANES, 32], [1, 2])
    assert quantized(features).dtype == tf.bfloat16
    np.testing.assert_array_equal(quantized(features), plain(features))


@pytest.mark.parametrize("precision", REDUCED)
def test_the_memory_of_plain_weights_is_given_back(precision: str) -> None:
    model = two_layers_of_192()
    before = quantized_model.num_bytes(model)
    assert before == sum(weight.nbytes for weight in weights.values(model.weights))
    stored = [weakref.ref(weights.local_copies(weight)[0]) for weight in model.weights]
    quantized_model.quantize(model, precision)
    gc.collect()
    alive = sum(int(np.prod(one().shape)) * 4 for one in stored if one() is not None)
    after = quantized_model.num_bytes(model)
    assert alive < 0.01 * before, "vectors stay"
    assert after == sum(value.nbytes for value in weights.values(quantized_model.stored(model)))
    assert {one.dtype for one in quantized_model.stored(model)} == {"int64", "float32"}, "can be broadcast"
    assert before / after > (3.8 if precision == "int8" else 1.98)
    quantized_model.quantize(model, precision)
    assert quantized_model.num_bytes(model) == after, "what is quantized stays as it is"


def test_float32_leaves_a_model_alone() -> None:
    model = language_model()
    variables = [weights.local_copies(weight)[0] for weight in model.weights]
    quantized_model.quantize(model, "float32")
    assert quantized_model.stored(model) == model.weights
    for weight, variable in zip(model.weights, variables, strict=True):
        assert type(weight) is keras.Variable
        assert weights.local_copies(weight)[0] is variable


def test_only_a_snapshot_replaces_a_quantized_weight() -> None:
    model = language_model()
    described = weights.description(model)
    quantized_model.quantize(model, "int8")
    assert weights.description(model) == described
    with pytest.raises(ValueError, match="weight '.*/embeddings' of a teacher is quantized; only a snapshot"):
        model.weights[0].assign(np.zeros((21, 16), "float32"))
    before = model.get_weights()
    arrays = [array + 1 for array in before]
    for wrong in (arrays[:-1], [*arrays, arrays[0]], [*arrays[:-1], np.zeros(7, "float32")]):
        with pytest.raises(ValueError, match="do not fit|array has"):
            assign(model, wrong, "int8")
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "int8"])
def test_a_snapshot_of_the_same_precision_is_never_dequantized(precision: str, monkeypatch) -> None:
    quantized, _ = pair(language_model, precision)
    parts = precisions.quantize_all([array + 1 for array in quantized.get_weights()], precision)
    expected = quantized_model.staged(quantized, parts, precision, precision)

    def never(*_: object) -> None:
        raise AssertionError("it is dequantized")

    monkeypatch.setattr(precisions, "dequantize", never)
    arrays = quantized_model.staged(quantized, parts, precision, precision)
    for one, other, variable in zip(arrays, expected, quantized_model.stored(quantized), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == variable.dtype


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_snapshot_of_another_precision_fits(precision: str) -> None:
    quantized, _ = pair(language_model, "int8")
    arrays = quantized.get_weights()
    parts = precisions.quantize_all(arrays, precision)
    weights.give(
        quantized_model.stored(quantized), quantized_model.staged(quantized, parts, precision, "int8")
    )
    for one, other in zip(quantized.get_weights(), arrays, strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)


@pytest.mark.parametrize(
    "precision", ["int8", *(pytest.param(one, marks=pytest.mark.slow) for one in ("bfloat16", "float16"))]
)
def test_every_replica_has_the_weights_and_its_own_lanes(precision: str) -> None:
    quantized, plain = pair(language_model, precision)
    arrays = plain.get_weights()
    strategy = two_replicas()
    with strategy.scope():
        quantized = language_model()
        quantized_model.quantize(quantized, precision)
        assign(quantized, arrays, precision)
    features = strategy.experimental_distribute_values_from_function(
        lambda context: tokens(context.replica_id_in_sync_group)
    )

    @tf.function
    def predict() -> tf.Tensor:
        return strategy.run(lambda x: quantized(x, training=False), (features,))

    lanes = [recurrent_state.variables(plain), recurrent_state.variables(quantized)]
    for _ in range(2):
        found = strategy.experimental_local_results(predict())
    states = recurrent_state.values(lanes[1])
    for replica, logits in enumerate(found):
        recurrent_state.assign(lanes[0], [np.zeros((LANES, 17), "float32")] * 4)
        for _ in range(2):
            expected = plain(tokens(replica), training=False)
        np.testing.assert_allclose(logits, expected, atol=1e-6)
        for mine, all_lanes in zip(recurrent_state.values(lanes[0]), states, strict=True):
            np.testing.assert_allclose(all_lanes[replica * LANES : (replica + 1) * LANES], mine, atol=1e-6)
