"""Transformers of keras-hub: packed documents, the cache of keys and values, sizes, saving, training."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import toy_texts
from tests.replicas import two_replicas
from tests.toy_experiments import toy_experiment, toy_peers, toy_task, write_language_corpus
from tf_codistill import generation, runs, tokens, weights
from tf_codistill.models.causal import TextReader
from tf_codistill.models.transformer import Transformer
from tf_codistill.trained import Trained

keras_hub = pytest.importorskip("keras_hub", reason="the extra `hub` is not installed")

VOCABULARY, CONTEXT = 40, 24
HEADS = {"num_query_heads": 4, "num_key_value_heads": 2}
SIZES = {"num_layers": 2, "hidden_dim": 16, "intermediate_dim": 24}
NETWORKS: dict[str, dict[str, Any]] = {
    "keras_hub.models.LlamaCausalLM": {**SIZES, **HEADS, "tie_word_embeddings": True},
    "keras_hub.models.GPT2CausalLM": {**SIZES, "num_heads": 4, "dropout": 0.1},
}
LLAMA, GPT2 = NETWORKS
GIN_DIR = pathlib.Path(__file__).parents[2] / "gin" / "models"
END = tokens.END_OF_DOCUMENT


def transformer(
    network: str = LLAMA, vocabulary_size: int = VOCABULARY, batch_size: int | None = None, **changes: Any
) -> Transformer:
    settings = {"arguments": NETWORKS[network], "context_tokens": CONTEXT, **changes}
    return Transformer(vocabulary_size, network, batch_size=batch_size, **settings)


def sharp(network: str, vocabulary_size: int = VOCABULARY) -> Transformer:
    """A model with weights so large that every token matters to those after it."""
    keras.utils.set_random_seed(5)
    model = transformer(network, vocabulary_size)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(12 * weight)
    return model


def documents(*lengths: int) -> list[np.ndarray]:
    """Documents, each with END_OF_DOCUMENT at its end."""
    rng = np.random.default_rng(1)
    return [np.append(rng.integers(tokens.NUM_SPECIAL, VOCABULARY, n), END).astype("int32") for n in lengths]


def losses(model: Transformer, targets: np.ndarray) -> np.ndarray:
    """Of each token of what follows an END_OF_DOCUMENT."""
    inputs = np.concatenate([[END], targets[:-1]]).astype("int32")
    return keras.losses.sparse_categorical_crossentropy(targets[None], model(inputs[None]), True)[0].numpy()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_of_a_packed_batch_is_that_of_its_documents_one_by_one(network: str) -> None:
    model, packed = sharp(network), documents(3, 7, 1, 9)
    expected = [losses(model, document) for document in packed]
    np.testing.assert_allclose(losses(model, np.concatenate(packed)), np.concatenate(expected), rtol=2e-4)
    row = {"token_ids": np.concatenate(packed)[None], "padding_mask": np.ones((1, CONTEXT))}
    assert np.abs(model.backbone(row) - model._documents(row)).max() > 0.1, "it is the mask that does it"


@pytest.mark.parametrize("network", NETWORKS)
def test_a_prediction_depends_on_earlier_tokens_of_its_document_alone(network: str) -> None:
    model, ids = sharp(network), np.concatenate(documents(6, 8, 5))
    changed = ids.copy()
    changed[8] ^= 1
    before, after = (np.asarray(model(row[None])[0]) for row in (ids, changed))
    differs = np.abs(before - after).max(axis=-1) > 1e-3
    (borders,) = np.nonzero(ids == END)
    assert borders.tolist() == [6, 15, 21]
    assert np.flatnonzero(differs).tolist() == list(range(8, 15))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_document_alone_is_predicted_as_keras_hub_does(network: str) -> None:
    model = sharp(network)
    (document,) = documents(CONTEXT - 1)
    theirs = getattr(keras_hub.models, network.rpartition(".")[2])(model.backbone, preprocessor=None)
    row = np.concatenate([[END], document[:-1]])[None].astype("int32")
    expected = theirs({"token_ids": row, "padding_mask": np.ones_like(row)})
    np.testing.assert_allclose(model(row), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_saved_model_comes_back(network: str, policy: str, tmp_path: pathlib.Path) -> None:
    model, ids = transformer(network, dtype=policy), np.ones((2, 5), "int32")
    assert model(ids).dtype == tf.float32
    assert model.backbone.transformer_layers[0].compute_dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert len(model.weights) == len(model.backbone.weights), "the two graphs share their layers"
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded(ids), model(ids))


class Uncached(TextReader):
    """Reads a text as `CachedReader` says that it does, each time all of it."""

    def __init__(self, model: Transformer) -> None:
        self._whole = tf.function(lambda ids: model(ids)[0, -1], reduce_retracing=True)
        self._ids: list[int] = []

    def reset(self, state: Any = None) -> None:
        self._ids = []

    def state(self) -> list[np.ndarray]:
        raise NotImplementedError

    def read(self, ids: np.ndarray) -> tf.Tensor:
        logits = []
        for token in ids.tolist():
            if token == END:
                self._ids = []
            elif len(self._ids) == CONTEXT:
                self._ids = self._ids[CONTEXT // 2 :]
            self._ids.append(token)
            logits.append(self._whole(tf.constant([self._ids])))
        return tf.stack(logits)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_text_is_read_in_any_parts_and_beyond_the_context(network: str) -> None:
    model = sharp(network)
    text = np.concatenate([[END], *documents(5, 2 * CONTEXT + 3, 1, CONTEXT)])
    expected = Uncached(model).read(text)
    for length in (7, len(text)):
        reader = model.reader()
        parts = [reader.read(text[start : start + length]) for start in range(0, len(text), length)]
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=2e-3, atol=2e-3)
    reader.reset()
    reader.read(text[:30])
    state = reader.state()
    rest = reader.read(text[30:])
    reader.reset(state)
    np.testing.assert_allclose(reader.read(text[30:]), rest, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_generation_with_a_cache_is_that_without(
    network: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = toy_texts.write_group(tmp_path).pieces
    model = sharp(network, pieces.vocabulary_size)

    def texts() -> list[str]:
        trained, found = Trained(model, pieces), []
        for settings in ({"seed": 1}, {"seed": 2, "top_k": 5}, {"temperature": 0}):
            trained.reset()
            more = {"num_tokens": 2 * CONTEXT, "continue_after_end": True, **settings}
            found.append("".join(generation.generate(trained, "Anna went to the river.\nIt was", **more)))
        return found

    cached = texts()
    monkeypatch.setattr(Transformer, "reader", lambda model: Uncached(model))
    assert texts() == cached
    assert len(set(cached)) == 3


@pytest.mark.parametrize(
    ("network", "policy", "jit_compile"), [(LLAMA, "mixed_bfloat16", True), (GPT2, "float32", False)]
)
def test_fit_learns_a_cycle(network: str, policy: str, jit_compile: bool) -> None:
    keras.utils.set_random_seed(0)
    arguments = {**NETWORKS[network], "num_layers": 1}
    model = transformer(network, vocabulary_size=11, arguments=arguments, dtype=policy)
    ids = (np.arange(16)[None] + np.arange(4)[:, None]) % 10 + 1
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, jit_compile=jit_compile)
    history = model.fit(ids, ids % 10 + 1, batch_size=4, epochs=40, verbose=0).history["loss"]
    assert history[0] > 2
    assert history[-1] < 0.5


def test_an_interrupted_run_resumes_exactly(tmp_path: pathlib.Path) -> None:
    """Dropout and all."""
    task = toy_task(
        write_language_corpus(str(tmp_path / "corpus")), model_fn=functools.partial(transformer, GPT2)
    )
    undisturbed = toy_experiment(task).train(str(tmp_path / "undisturbed"))
    toy_experiment(task, num_steps=10).train(str(tmp_path / "resumed"))
    resumed = toy_experiment(task).train(str(tmp_path / "resumed"))
    assert weights.checksum(resumed) == weights.checksum(undisturbed)


def test_two_replicas_equal_one(tmp_path: pathlib.Path) -> None:
    task = toy_task(
        write_language_corpus(str(tmp_path / "corpus")), model_fn=functools.partial(transformer, LLAMA)
    )
    weights_of = []
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        workdir = str(tmp_path / f"replicas_{strategy.num_replicas_in_sync}")
        experiment = toy_experiment(task, num_steps=5, optimizer=lambda: keras.optimizers.SGD(0.1))
        weights_of.append(weights.values(experiment.train(workdir, 0, 1, strategy).student.weights))
    for one, two in zip(*weights_of, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_groups_of_two_networks_codistil(tmp_path: pathlib.Path) -> None:
    workdir, models = str(tmp_path / "two"), {}
    task = toy_task(
        write_language_corpus(str(tmp_path / "corpus")),
        model_fn=functools.partial(transformer, LLAMA),
        peer_model_fns={1: functools.partial(transformer, GPT2)},
        window_tokens=16,
    )
    for group, num_steps in ((0, 10), (1, 20), (0, 20)):
        experiment = toy_experiment(task, num_steps=num_steps, teaching=toy_peers(precision="int8"))
        models[group] = experiment.train(workdir, group, 2)
    assert [models[group].teachers.steps() for group in (0, 1)] == [[20], [10]]
    for group, network in enumerate((LLAMA, GPT2)):
        last = runs.read_metrics(runs.metrics_path(workdir, group), "train")[-1]
        assert 0 < last["distillation_loss"] < 4
        served = task.load_model(runs.student_path(workdir, group))
        assert served.get_config()["network"] == network
        assert weights.checksum(served) == weights.checksum(models[group].student)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "keras_hub.models.Llama7CausalLM"}, "network is '.*Llama7CausalLM', which cannot be im"),
        ({"network": "keras_hub.models.LlamaBackbone"}, "expected a CausalLM of keras-hub with a cache"),
        ({"arguments": {"depth": 3}}, r"arguments of a Transformer on .*LlamaCausalLM are {'depth': 3}: "),
        ({"context_tokens": 0}, "context_tokens of a Transformer is 0; expected an integer >= 1"),
        (
            {
                "network": "keras_hub.models.GemmaCausalLM",
                "arguments": {
                    "head_dim": 4,
                    **HEADS,
                    "num_layers": 1,
                    "hidden_dim": 8,
                    "intermediate_dim": 8,
                },
            },
            "no layer of GemmaBackbone takes a decoder_attention_mask",
        ),
    ],
)
def test_a_setting_that_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transformer(VOCABULARY, **{"network": LLAMA, "arguments": NETWORKS[LLAMA], **changes})


def test_a_window_that_is_too_long_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"a window has 25 tokens, but context_tokens .* is 24; expected Lang"
    ):
        transformer()(np.ones((1, 25), "int32"))


@pytest.mark.parametrize(
    ("size", "vocabulary_size", "num_weights"),
    [("tiny", 1006, 525_952), ("small", 4096, 3_164_416), ("124m", 50_257, 124_439_808)],
)
def test_gin_sizes(size: str, vocabulary_size: int, num_weights: int, fresh_gin: None) -> None:
    gin.parse_config_file(str(GIN_DIR / f"transformer_{size}.gin"))
    assert Transformer(vocabulary_size=vocabulary_size).count_params() == num_weights
