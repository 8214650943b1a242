"""Distillation from models trained before (two-phase, saved models), and label smoothing."""

from __future__ import annotations

import functools
import pathlib

import keras
import numpy as np
import pytest

from tests.toy_experiments import VOCABULARY_SIZE, toy_experiment, write_language_corpus
from tests.toy_models import NUM_CLASSES, NUM_FEATURES, batches, compiled, deep, examples, regression
from tf_codistill import checkpoints, losses, runs, tokens
from tf_codistill.inputs.frequencies import unigram_frequencies
from tf_codistill.teaching.saved import SavedTeachers


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return write_language_corpus(str(tmp_path_factory.mktemp("corpus")))


def test_a_saved_model_teaches(tmp_path) -> None:
    teacher = regression()
    teacher.save(tmp_path / "teacher.keras")
    teachers = SavedTeachers([tmp_path / "teacher.keras"])
    model = compiled(teachers)
    assert teachers.steps() == [-1], "no file is touched before training"
    model.fit(batches(*examples(0, 2)), verbose=0)
    assert teachers.steps() == [0]
    assert teachers.names() == [str(tmp_path / "teacher.keras")]
    np.testing.assert_array_equal(teachers.frozen[0].get_weights()[0], teacher.get_weights()[0])


def test_models_of_other_architectures_teach(tmp_path) -> None:
    saved = {"regression.keras": regression(), "deep.keras": deep()}
    for name, teacher in saved.items():
        teacher.save(tmp_path / name)
    teachers = SavedTeachers([str(tmp_path / name) for name in saved], model_fns=[regression, deep])
    model = compiled(teachers)
    model.fit(batches(*examples(0, 2)), verbose=0)
    for frozen, teacher in zip(teachers.frozen, saved.values(), strict=True):
        for one, other in zip(frozen.get_weights(), teacher.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_teacher_of_another_precision_than_the_students_teaches(tmp_path) -> None:
    def half() -> keras.Model:
        layers = [keras.Input((NUM_FEATURES,)), keras.layers.Dense(NUM_CLASSES, dtype="mixed_bfloat16")]
        return keras.Sequential(layers)

    regression().save(tmp_path / "teacher.keras")
    teachers = SavedTeachers([str(tmp_path / "teacher.keras")], model_fns=[regression])
    logs = compiled(teachers, model_fn=half).fit(batches(*examples(0, 2)), verbose=0).history
    assert logs["distillation_loss"][0] > 0
    assert logs["dropped_teachers"] == [0.0]


def test_two_phase_distillation_goes_on_where_it_stopped(corpus, tmp_path) -> None:
    averaging = toy_experiment(
        corpus, distillation_weight=0.0, optimizer=lambda: keras.optimizers.Adam(0.01, use_ema=True)
    )
    first = [averaging.train(str(tmp_path / "one"), group, 2) for group in (0, 1)]
    sources = [runs.group_dir(str(tmp_path / "one"), group) for group in (0, 1)]
    teaching = functools.partial(SavedTeachers, sources)
    settings = {"teaching": teaching, "seed": 9, "distillation_weight": 1.0}
    straight = toy_experiment(corpus, **settings).train(str(tmp_path / "straight"), 0, 1)
    _, shared, _ = checkpoints.read_latest(runs.checkpoints_dir(str(tmp_path / "one"), 0))
    assert np.any(shared["weights"][0] != first[0].student.get_weights()[0]), "or it would not be averages"
    for teacher, trained in zip(straight.teachers.frozen, first, strict=True):
        np.testing.assert_array_equal(teacher.get_weights()[0], trained.student.get_weights()[0])
    train = runs.read_metrics(runs.metrics_path(str(tmp_path / "straight"), 0), "train")
    assert all(record["distillation_loss"] > 0 for record in train)

    toy_experiment(corpus, num_steps=10, **settings).train(str(tmp_path / "resumed"), 0, 1)
    resumed = toy_experiment(corpus, **settings).train(str(tmp_path / "resumed"), 0, 1)
    for one, other in zip(straight.student.get_weights(), resumed.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for ours, theirs in zip(straight.teachers.state(), resumed.teachers.state(), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.keras", "absent.keras"),
        ("absent", "absent.*checkpoint"),
        ("wide.keras", "does not fit the teacher"),
        ("damaged.keras", "damaged.keras' cannot be loaded: Bad CRC-32"),
    ],
)
def test_a_source_that_cannot_teach_is_named(tmp_path, source: str, message: str) -> None:
    keras.Sequential([keras.Input((5,)), keras.layers.Dense(9)]).save(tmp_path / "wide.keras")
    content = bytearray((tmp_path / "wide.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.keras").write_bytes(content)
    model = compiled(SavedTeachers([str(tmp_path / source)]))
    with pytest.raises(ValueError, match=message):
        model.fit(batches(*examples(0, 2)), verbose=0)
    assert model.step() == 0


def test_the_number_of_sources_must_fit() -> None:
    with pytest.raises(ValueError, match="is empty"):
        SavedTeachers([])
    with pytest.raises(ValueError, match=r"sources is PosixPath\('a.keras'\); expected a sequence"):
        SavedTeachers(pathlib.Path("a.keras"))
    with pytest.raises(ValueError, match=r"sources is 'a.keras'; expected .*\['a.keras'\]"):
        SavedTeachers("a.keras")
    with pytest.raises(ValueError, match="2 sources, but 1 model_fns"):
        SavedTeachers(["a", "b"], model_fns=[regression])
    with pytest.raises(ValueError, match="precision is 'int4'"):
        SavedTeachers(["a"], "int4")


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
