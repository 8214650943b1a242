"""The language model: sizes, both kinds, saving, training."""

from __future__ import annotations

import functools
import pathlib

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.toy_experiments import toy_experiment, toy_task, write_language_corpus
from tf_codistill import runs, weights
from tf_codistill.models.language_model import LanguageModel

SIZES = {"vocabulary_size": 11, "embedding_dim": 6, "num_layers": 2, "num_units": 5}
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 7))
GIN_DIR = pathlib.Path(__file__).parents[2] / "gin" / "models"


@pytest.mark.parametrize("batch_size", [None, 3])
def test_variables_exist_from_construction_on(batch_size):
    model = LanguageModel(**SIZES, batch_size=batch_size)
    assert model.built
    assert len(model.weights) == 1 + 2 * 7 + 2
    logits = model(TOKENS)
    assert logits.shape == (3, 7, 11)
    assert logits.dtype == tf.float32


def test_both_kinds_share_weights():
    lanes, served = LanguageModel(**SIZES, batch_size=3), LanguageModel(**SIZES)
    assert [w.path for w in lanes.weights] == [w.path for w in served.weights]
    served.set_weights(lanes.get_weights())
    np.testing.assert_allclose(served(TOKENS), lanes(TOKENS), atol=1e-6)
    assert np.abs(served(TOKENS) - lanes(TOKENS)).max() > 1e-3  # the lanes went on from where they were


def test_a_prediction_depends_on_earlier_tokens_only():
    model = LanguageModel(**SIZES)
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    before, after = np.asarray(model(TOKENS)), np.asarray(model(changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(axis=-1).all()


@pytest.mark.parametrize("batch_size", [None, 3])
def test_saved_model_comes_back(tmp_path, batch_size):
    model = LanguageModel(**SIZES, batch_size=batch_size, name="mine")
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded, LanguageModel)
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded(TOKENS), model(TOKENS))


def test_mixed_precision_survives_saving(tmp_path):
    model = LanguageModel(**SIZES, dtype="mixed_bfloat16")
    assert model(TOKENS).dtype == tf.float32
    assert model.recurrent_layers[0].compute_dtype == "bfloat16"
    model.save(str(tmp_path / "model.keras"))
    loaded = keras.models.load_model(str(tmp_path / "model.keras"))
    np.testing.assert_array_equal(loaded(TOKENS), model(TOKENS))


def test_fit_learns_a_cycle():
    keras.utils.set_random_seed(0)
    model = LanguageModel(**{**SIZES, "num_units": 16}, batch_size=4)
    tokens = (np.arange(16)[None] + np.arange(4)[:, None]) % 11
    model.compile(keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(tokens, (tokens + 1) % 11, batch_size=4, epochs=40, verbose=0).history["loss"]
    assert history[0] > 2
    assert history[-1] < 0.1


@pytest.mark.parametrize(
    "name", ["vocabulary_size", "embedding_dim", "num_layers", "num_units", "batch_size"]
)
def test_bad_sizes_are_told(name):
    with pytest.raises(ValueError, match=f"{name} of a LanguageModel is 0"):
        LanguageModel(**{**SIZES, "batch_size": 2, name: 0})


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_bad_dropout_is_told(dropout):
    with pytest.raises(ValueError, match=f"dropout of a LanguageModel is {dropout}"):
        LanguageModel(**SIZES, dropout=dropout)


def test_dropout_is_for_training_alone_and_each_time_another():
    model = LanguageModel(**SIZES, dropout=0.5)
    np.testing.assert_array_equal(model(TOKENS), model(TOKENS, training=False))
    first, second = model(TOKENS, training=True), model(TOKENS, training=True)
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - model(TOKENS)).max() > 1e-3


def test_without_dropout_training_predicts_the_same():
    model = LanguageModel(**SIZES)
    np.testing.assert_allclose(model(TOKENS, training=True), model(TOKENS), atol=1e-6)
    assert len(model.variables) == len(model.weights)


def test_weights_start_alike_with_and_without_dropout():
    started = []
    for dropout in (0.0, 0.5):
        keras.utils.set_random_seed(0)
        started.append(LanguageModel(**SIZES, dropout=dropout).get_weights())
    for without, with_dropout in zip(*started, strict=True):
        np.testing.assert_array_equal(without, with_dropout)


def test_dropout_is_where_zaremba_has_it(monkeypatch):
    seen = []
    call = keras.layers.Dropout.call

    def watched(layer, inputs, training=False):
        seen.append(tuple(inputs.shape))
        return call(layer, inputs, training=training)

    monkeypatch.setattr(keras.layers.Dropout, "call", watched)
    LanguageModel(**SIZES, dropout=0.5)(TOKENS, training=True)
    assert seen == [(3, 7, 6), (3, 7, 5), (3, 7, 5)]


def test_dropout_survives_saving(tmp_path):
    model = LanguageModel(**SIZES, dropout=0.25)
    model.save(str(tmp_path / "model.keras"))
    loaded = keras.models.load_model(str(tmp_path / "model.keras"))
    assert loaded.get_config()["dropout"] == 0.25
    np.testing.assert_array_equal(loaded(TOKENS), model(TOKENS))


@pytest.mark.parametrize(("dtype", "jit_compile"), [("float32", True), ("mixed_float16", False)])
def test_fit_with_dropout(dtype, jit_compile):
    keras.utils.set_random_seed(0)
    model = LanguageModel(**{**SIZES, "num_units": 16}, batch_size=4, dropout=0.1, dtype=dtype)
    tokens = (np.arange(8)[None] + np.arange(4)[:, None]) % 11
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, jit_compile=jit_compile)
    history = model.fit(tokens, (tokens + 1) % 11, batch_size=4, epochs=60, verbose=0).history["loss"]
    assert history[0] > 2
    assert history[-1] < 0.5


def test_dropout_resumes_exactly(tmp_path):
    """What is dropped after a restart is what would have been dropped without it."""
    task = toy_task(
        write_language_corpus(str(tmp_path / "corpus")),
        model_fn=functools.partial(LanguageModel, embedding_dim=8, num_layers=2, num_units=12, dropout=0.3),
    )
    undisturbed = toy_experiment(task).train(str(tmp_path / "undisturbed"))
    toy_experiment(task, num_steps=10).train(str(tmp_path / "resumed"))
    resumed = toy_experiment(task).train(str(tmp_path / "resumed"))
    assert weights.checksum(resumed) == weights.checksum(undisturbed)
    served = keras.models.load_model(runs.student_path(str(tmp_path / "resumed"), 0))
    assert served.get_config()["dropout"] == 0.3


@pytest.mark.parametrize(
    ("size", "vocabulary_size", "num_weights"),
    [("tiny", 1006, 524_270), ("small", 4096, 3_156_992), ("paper", 24_006, 44_411_846)],
)
def test_gin_sizes(size, vocabulary_size, num_weights):
    gin.clear_config()
    gin.parse_config_file(str(GIN_DIR / f"language_model_{size}.gin"))
    try:
        assert LanguageModel(vocabulary_size=vocabulary_size).count_params() == num_weights
    finally:
        gin.clear_config()
