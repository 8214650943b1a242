"""Distillation from models trained before (two-phase, saved models), and label smoothing."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.toy_experiments import VOCABULARY_SIZE, toy_experiment, write_language_corpus
from tests.training.codistillation_test import batches, compiled, examples, regression
from tf_codistill import losses, recurrent_state, runs, tokens
from tf_codistill.inputs.frequencies import unigram_frequencies
from tf_codistill.training.fixed_teachers import FixedTeachers


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return write_language_corpus(str(tmp_path_factory.mktemp("corpus")))


def test_a_saved_model_teaches(tmp_path) -> None:
    teacher = regression()
    teacher.save(tmp_path / "teacher.keras")
    model = compiled(1, 1.0)
    model.fit(
        batches(*examples(0, 2)), verbose=0, callbacks=[FixedTeachers([str(tmp_path / "teacher.keras")])]
    )
    assert model.teachers.steps() == [0]
    np.testing.assert_array_equal(model.teachers.models[0].get_weights()[0], teacher.get_weights()[0])


def test_two_phase_distillation_goes_on_where_it_stopped(corpus, tmp_path) -> None:
    first = [
        toy_experiment(corpus, distillation_weight=0.0).train(str(tmp_path / "one"), g, 2) for g in (0, 1)
    ]
    sources = [runs.group_dir(str(tmp_path / "one"), group) for group in (0, 1)]
    settings = {"fixed_teachers": sources, "seed": 9, "distillation_weight": 1.0}
    straight = toy_experiment(corpus, **settings).train(str(tmp_path / "straight"), 0, 1)
    for teacher, trained in zip(straight.teachers.models, first, strict=True):
        np.testing.assert_array_equal(teacher.get_weights()[0], trained.student.get_weights()[0])
    train = runs.read_metrics(runs.metrics_path(str(tmp_path / "straight"), 0), "train")
    assert all(record["distillation_loss"] > 0 for record in train)

    toy_experiment(corpus, num_steps=10, **settings).train(str(tmp_path / "resumed"), 0, 1)
    resumed = toy_experiment(corpus, **settings).train(str(tmp_path / "resumed"), 0, 1)
    for one, other in zip(straight.student.get_weights(), resumed.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(
        straight.teachers.recurrent_states(), resumed.teachers.recurrent_states(), strict=True
    ):
        np.testing.assert_array_equal(*(recurrent_state.values([state]) for state in (one, other)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.keras", "absent.keras"),
        ("absent", "absent.*checkpoint"),
        ("wide.keras", "does not fit the teacher"),
    ],
)
def test_a_source_that_cannot_teach_is_named(tmp_path, source: str, message: str) -> None:
    keras.Sequential([keras.Input((5,)), keras.layers.Dense(9)]).save(tmp_path / "wide.keras")
    model = compiled(1, 1.0)
    with pytest.raises(ValueError, match=message):
        model.fit(batches(*examples(0, 2)), verbose=0, callbacks=[FixedTeachers([str(tmp_path / source)])])
    assert model.step() == 0


def test_the_number_of_sources_must_fit() -> None:
    with pytest.raises(ValueError, match="is empty"):
        FixedTeachers([])
    with pytest.raises(ValueError, match="2 sources.*num_teachers=2"):
        compiled(1, 1.0).fit(batches(*examples(0, 2)), verbose=0, callbacks=[FixedTeachers(["a", "b"])])


def test_unigram_frequencies_count_every_piece(corpus) -> None:
    split = tokens.open_corpus(corpus).split("train")
    ids = split.gather(np.arange(split.num_tokens))
    counts = np.maximum([np.sum(ids == piece) for piece in range(VOCABULARY_SIZE)], 1)
    np.testing.assert_allclose(unigram_frequencies(corpus), counts / counts.sum())


def test_label_smoothing_needs_no_teacher_and_changes_training(corpus, tmp_path) -> None:
    unigram = losses.UnigramSmoothing(unigram_frequencies(corpus))
    weights = []
    for name, psi, weight in (
        ("none", None, 1.0),
        ("uniform", losses.UniformSmoothing(), 0.5),
        ("unigram", unigram, 0.5),
    ):
        experiment = toy_experiment(corpus, distillation_loss=psi, distillation_weight=weight)
        model = experiment.train(str(tmp_path / name), 0, 1)
        weights.append(model.student.get_weights()[0])
        train = runs.read_metrics(runs.metrics_path(str(tmp_path / name), 0), "train")[-1]
        assert (train["distillation_loss"] > 0) == (name != "none")
        assert train["distillation_weight"] == (0.0 if name == "none" else 0.5)
    assert np.abs(weights[0] - weights[1]).max() > 1e-3
    assert np.abs(weights[1] - weights[2]).max() > 1e-3
