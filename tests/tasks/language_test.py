"""The task of a language model: lanes with keys, models for each group, and the tokenizer beside them."""

from __future__ import annotations

import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import toy_corpora, toy_texts
from tests.toy_experiments import VOCABULARY_SIZE, toy_model, toy_task, write_language_corpus
from tf_codistill import batches, files, tokens
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.tasks.base import Part
from tf_codistill.tasks.language import LanguageTask


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_language_corpus(str(tmp_path_factory.mktemp("corpus")))


def narrow(vocabulary_size: int, batch_size: int | None) -> keras.Model:
    return LanguageModel(vocabulary_size, embedding_dim=6, num_layers=1, num_units=5, batch_size=batch_size)


def test_settings_alone_read_nothing() -> None:
    task = LanguageTask(corpus_dir="/nowhere", num_lanes=6)
    assert (task.batch_size, task.units) == (6, "tokens")
    with pytest.raises(
        ValueError, match=r"'/nowhere'.*has moved, give .*LanguageTask\.corpus_dir = '\.\.\.'"
    ):
        task.training(Part(0, 1, seed=0))


def test_a_stream_yields_lanes_with_their_keys(corpus: str) -> None:
    task = toy_task(corpus)
    stream = task.training(Part(1, 2, seed=3))
    assert stream.units_per_step == 4 * 8
    assert stream.steps_per_epoch > 1
    (first,) = stream.dataset(first_step=2, num_steps=1)
    batch = batches.batch_of(first)
    assert batch.features.shape == batch.targets.shape == (4, 8)
    assert batch.sample_weight is None
    assert (batch.keys.dtype, batch.keys.shape) == (tf.int64, (4, 2))
    np.testing.assert_array_equal(batch.features[:, 1:], batch.targets[:, :-1])


def test_groups_read_the_same_documents_or_their_own(corpus: str) -> None:
    def ids(data: str, group: int) -> set[int]:
        stream = toy_task(corpus, data=data).training(Part(group, 2, seed=3))
        elements = stream.dataset(num_steps=stream.steps_per_epoch)
        return {int(key) for element in elements for key in element.keys[:, 0]}

    assert not ids("disjoint", 0) & ids("disjoint", 1)
    assert ids("same", 0) & ids("same", 1)


def test_validation_is_the_same_for_everybody_and_in_order(corpus: str) -> None:
    split = tokens.open_corpus(corpus).split("validation")
    stream = toy_task(corpus).validation()
    windows = [element.data[1].numpy() for element in stream.dataset(num_steps=stream.steps_per_epoch)]
    lanes = np.concatenate(windows, axis=1)
    np.testing.assert_array_equal(lanes.ravel(), split.gather(np.arange(lanes.size)))


def test_a_test_split_is_evaluated_in_the_place_of_validation(corpus: str, tmp_path: pathlib.Path) -> None:
    documents = toy_corpora.numbered_documents([30] * 8)
    directory = toy_corpora.write_corpus(str(tmp_path), documents, vocabulary_size=300, split="test")
    stream = toy_task(directory, held_out="test").validation()
    assert stream.units_per_epoch > 0
    with pytest.raises(ValueError, match="split 'test' is not in corpus .*; it has train, validation"):
        toy_task(corpus, held_out="test").validation()
    with pytest.raises(ValueError, match="held_out is 'train'; expected one of validation, test"):
        toy_task(corpus, held_out="train")


def test_a_group_may_have_a_model_of_its_own(corpus: str) -> None:
    task = toy_task(corpus, peer_model_fns={1: narrow})
    assert task.groups_of_their_own() == {1}
    widths = [task.make_model(2, group).weights[-2].shape[0] for group in (None, 0, 1)]
    assert widths == [12, 12, 5]
    served, trained = task.make_model(), task.make_model(rows=3)
    assert [weight.shape for weight in served.weights] == [weight.shape for weight in trained.weights]
    assert served(np.ones((7, 5), "int32")).shape == (7, 5, VOCABULARY_SIZE)


def test_loss_perplexity_and_the_mean_of_probabilities(corpus: str) -> None:
    task = toy_task(corpus)
    logits = [np.random.default_rng(seed).normal(size=(2, 3, 5)).astype("float32") for seed in range(3)]
    targets = np.array([[0, 1, 2], [3, 4, 0]])
    mean = np.mean([tf.nn.softmax(one) for one in logits], axis=0)
    np.testing.assert_allclose(tf.exp(task.mean_prediction(logits)), mean, rtol=1e-5)
    expected = -np.log(np.take_along_axis(mean, targets[..., None], -1)).mean()
    assert float(task.loss()(targets, task.mean_prediction(logits))) == pytest.approx(expected, rel=1e-5)
    assert task.derived({"loss": 1.5}) == {"perplexity": math.exp(1.5)}
    assert math.isfinite(task.derived({"loss": 1e5})["perplexity"])
    assert task.metrics() == []


def test_the_tokenizer_stays_beside_the_model_and_is_compared(tmp_path: pathlib.Path) -> None:
    corpus_dir = toy_texts.write_text_corpus(str(tmp_path / "corpus"))
    task, group = LanguageTask(corpus_dir=corpus_dir), str(tmp_path / "group_0")
    task.keep_beside_model(group, is_writer=False)
    assert not files.exists(group)
    task.keep_beside_model(group)
    LanguageTask(corpus_dir=corpus_dir).keep_beside_model(group, is_writer=False)
    assert (
        files.checksum(f"{group}/tokenizer/{tokens.TOKENIZER}")
        == task.corpora.corpora[corpus_dir].fingerprint
    )
    other = LanguageTask(corpus_dir=toy_texts.write_text_corpus(str(tmp_path / "other"), num_pieces=100))
    assert task.classes() == f"tokenizer {task.corpora.fingerprint[:12]}" != other.classes()
    for is_writer in (True, False):
        with pytest.raises(ValueError, match=r"another vocabulary \(fingerprint \w{64}\) than .* \w{64}\)"):
            other.keep_beside_model(group, is_writer)


def test_a_saved_model_gets_the_lanes_of_validation(corpus: str, tmp_path: pathlib.Path) -> None:
    served = toy_model(VOCABULARY_SIZE, None)
    served.save(tmp_path / "student.keras")
    model = toy_task(corpus, num_lanes=3).load_model(str(tmp_path / "student.keras"))
    assert model.get_config()["batch_size"] == 3
    for one, other in zip(model.get_weights(), served.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
