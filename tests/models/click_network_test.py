"""The paper's network and DCN-V2: sizes in closed form, cross layers against NumPy, XLA, precision, files."""

from __future__ import annotations

from typing import Any

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_codistill.models.click_network import Cross, click_network, deep_cross_network, widths

CARDINALITIES = [5, 300, 7]
COLUMNS = {"num_numeric": 4, "cardinalities": CARDINALITIES}
SMALL = {**COLUMNS, "hidden_units": (6, 5), "embedding_dim": 3}
MODELS: dict[str, Any] = {
    "fully connected": lambda **more: click_network(**{**SMALL, **more}),
    "stacked": lambda **more: deep_cross_network(**{**SMALL, **more}, num_cross_layers=2),
    "parallel": lambda **more: deep_cross_network(**{**SMALL, **more}, structure="parallel", cross_rank=2),
}


def features(number: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "numeric": rng.normal(size=(number, 4)).astype("float32"),
        "categories": rng.integers(0, CARDINALITIES, (number, 3)).astype("int32"),
    }


def test_the_network_of_the_paper_has_as_many_weights_as_it_must():
    model = click_network(num_numeric=13, cardinalities=[1000] * 26, embedding_dim=16)
    width = 13 + 26 * 16
    dense = (width + 1) * 2560 + (2560 + 1) * 1024 + (1024 + 1) * 256 + 256 + 1
    assert model.count_params() == 26 * 1000 * 16 + dense


@pytest.mark.parametrize(("rank", "matrix"), [(None, 13 * 13), (2, 2 * 2 * 13)], ids=["full", "low rank"])
@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_a_deep_and_cross_network_has_as_many_weights_as_it_must(rank, matrix, structure):
    width = 4 + 3 * 3
    assert width == 13
    model = deep_cross_network(**SMALL, num_cross_layers=3, cross_rank=rank, structure=structure)
    last = 5 if structure == "stacked" else width + 5
    dense = (width + 1) * 6 + (6 + 1) * 5 + last + 1
    assert model.count_params() == 312 * 3 + 3 * (matrix + width) + dense


def test_cross_layers_alone_are_a_network():
    model = deep_cross_network(**{**SMALL, "hidden_units": ()}, num_cross_layers=1)
    assert model.count_params() == 312 * 3 + 13 * 13 + 13 + 13 + 1


@pytest.mark.parametrize("rank", [None, 2])
def test_a_cross_layer_is_what_the_paper_says(rank):
    rng = np.random.default_rng(1)
    x0, x = rng.normal(size=(2, 5, 4))
    layer = Cross(rank, dtype="float64")
    layer.build([x0.shape, x.shape])
    layer.bias.assign(rng.normal(size=4))
    *kernels, bias = layer.get_weights()
    matrix = kernels[0] if rank is None else kernels[0] @ kernels[1]
    np.testing.assert_allclose(layer([x0, x]), x0 * (x @ matrix + bias) + x, rtol=1e-12)
    assert matrix.shape == (4, 4)
    assert np.linalg.matrix_rank(matrix) == (rank or 4)


@pytest.mark.parametrize("rank", [None, 2])
def test_gradients_of_a_cross_layer_are_those_of_differences(rank):
    x0, x = tf.constant(np.random.default_rng(2).normal(size=(2, 3, 4)))
    layer = Cross(rank, dtype="float64")
    layer([x0, x])

    def of(x0: tf.Tensor, x: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
        with keras.StatelessScope(zip(layer.weights, values, strict=True)):
            return layer([x0, x])

    values = [x0, x, *(tf.constant(value) for value in layer.get_weights())]
    theoretical, numerical = tf.test.compute_gradient(of, values)
    for analytic, measured in zip(theoretical, numerical, strict=True):
        np.testing.assert_allclose(analytic, measured, atol=1e-5)


def test_the_second_cross_layer_multiplies_with_the_features_again():
    model = MODELS["stacked"]()
    x0 = keras.Model(model.inputs, model.get_layer("features").output)(features())
    first = keras.Model(model.inputs, model.get_layer("cross_0").output)(features())
    second = keras.Model(model.inputs, model.get_layer("cross_1").output)(features())
    kernel, bias = model.get_layer("cross_1").get_weights()
    np.testing.assert_allclose(second, x0 * (first @ kernel + bias) + first, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_comes_back(name, tmp_path):
    model = MODELS[name]()
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    expected = model(features())
    assert expected.shape == (6, 1)
    assert expected.dtype == tf.float32
    np.testing.assert_array_equal(loaded(features()), expected)
    again = tf.saved_model.load(_exported(model, str(tmp_path / "exported")))
    np.testing.assert_allclose(again.serve(features()), expected, rtol=1e-5)


def _exported(model: keras.Model, path: str) -> str:
    model.export(path, verbose=False)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_so_many_rows_has_the_weights_of_one_of_any(name):
    some, any_number = MODELS[name](batch_size=6), MODELS[name]()
    assert [weight.path for weight in some.weights] == [weight.path for weight in any_number.weights]
    any_number.set_weights(some.get_weights())
    np.testing.assert_array_equal(any_number(features()), some(features()))
    assert any_number(features(2)).shape == (2, 1)


@pytest.mark.parametrize("name", MODELS)
def test_xla_trains_as_the_graph_does(name):
    def trained(jit_compile: bool) -> list[np.ndarray]:
        keras.utils.set_random_seed(3)
        model = MODELS[name](dtype="float64")
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit_compile)
        model.fit(features(16), np.arange(16)[:, np.newaxis] % 2, batch_size=8, verbose=0, shuffle=False)
        return model.get_weights()

    for graph, xla in zip(trained(False), trained(True), strict=True):
        np.testing.assert_allclose(xla, graph, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_mixed_precision_changes_little_and_the_type_of_logits_not_at_all(name):
    whole, mixed = MODELS[name](), MODELS[name](dtype="mixed_bfloat16")
    mixed.set_weights(whole.get_weights())
    logits = mixed(features())
    assert logits.dtype == tf.float32
    assert mixed.get_layer("hidden_0").compute_dtype == "bfloat16"
    assert np.abs(logits - whole(features())).max() > 0
    np.testing.assert_allclose(logits, whole(features()), atol=0.1)


def test_widths_grow_with_the_column():
    assert widths([1, 3, 100, 10_000, 10**9]) == [8, 8, 20, 60, 64]
    assert widths([3, 10_000], embedding_dim=16) == [16, 16]
    model = click_network(**COLUMNS, hidden_units=(2,))
    assert [tuple(weight.shape) for weight in model.weights[:2]] == [(12, 8), (300, 24)]


def test_columns_may_be_of_one_kind_alone():
    numbers = click_network(num_numeric=2, cardinalities=[], hidden_units=(3,))
    assert numbers({"numeric": np.ones([5, 2]), "categories": np.zeros([5, 0])}).shape == (5, 1)
    categories = deep_cross_network(num_numeric=0, cardinalities=[4], hidden_units=(3,))
    assert categories({"numeric": np.ones([5, 0]), "categories": np.ones([5, 1])}).shape == (5, 1)


def test_dropout_is_of_training_alone():
    model = MODELS["fully connected"](dropout=0.5)
    np.testing.assert_array_equal(model(features()), model(features()))
    assert np.abs(model(features(), training=True) - model(features())).max() > 0


@pytest.mark.parametrize(
    ("make", "changed", "told"),
    [
        (click_network, {"num_numeric": 0, "cardinalities": []}, "expected at least one of either"),
        (click_network, {"num_numeric": -1}, "there are -1 numeric"),
        (click_network, {"embedding_dim": 0}, "embedding_dim is 0; expected an integer >= 1"),
        (click_network, {"hidden_units": (4, 0)}, "hidden_units is 0; expected an integer >= 1"),
        (click_network, {"dropout": 1.0}, "dropout is 1.0; expected a number >= 0 and < 1"),
        (deep_cross_network, {"structure": "beside"}, "expected one of stacked, parallel"),
        (deep_cross_network, {"num_cross_layers": 0}, "num_cross_layers is 0"),
        (deep_cross_network, {"cross_rank": 0}, "cross_rank is 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, changed, told):
    with pytest.raises(ValueError, match=told):
        make(**{**SMALL, **changed})


def test_gin_sets_sizes(fresh_gin):
    gin.parse_config("click_network.hidden_units = (2,)\nclick_network.embedding_dim = 1")
    assert click_network(**COLUMNS).count_params() == 312 + (4 + 3 + 1) * 2 + 2 + 1
