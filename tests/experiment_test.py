"""The experiment: exact resume, equal results however many replicas, and everything written that was
promised."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_experiments import (
    VOCABULARY_SIZE,
    toy_experiment,
    toy_model,
    toy_peers,
    toy_task,
    write_language_corpus,
)
from tests.toy_models import publish
from tf_codistill import checkpoints, evaluation, files, recurrent_state, runs, weights
from tf_codistill.exchange.topology import RandomPeers, teachers_of
from tf_codistill.experiment import Experiment, configured
from tf_codistill.groups.synchronous import SynchronousGroup
from tf_codistill.health import progress
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.tasks.base import Part
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.training.codistillation import CodistillationModel


def students(**settings) -> functools.partial[FellowStudents]:
    """Two students of one process."""
    return functools.partial(FellowStudents, **settings)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return write_language_corpus(str(tmp_path_factory.mktemp("corpus")))


@pytest.fixture
def peer(tmp_path) -> str:
    """A workdir in which group 1 has published one snapshot and is gone."""
    keras.utils.set_random_seed(77)
    model = toy_model(VOCABULARY_SIZE, batch_size=4)
    lanes = [np.full((4, 12), 0.1, "float32")] * 2
    publish(runs.exchange_dir(str(tmp_path)), 1, 3, model, lanes)
    return str(tmp_path)


def copy_peer(peer: str, workdir: str) -> None:
    """Another workdir of the same run, in which the same snapshot has been published."""
    there, here = pathlib.Path(runs.exchange_dir(peer)), pathlib.Path(runs.exchange_dir(workdir))
    shutil.copytree(there / "group_1", here / "group_1")
    shutil.copy(there / "run.json", here)


def everything(model: CodistillationModel) -> list[np.ndarray]:
    states = [state for student in model.students for state in recurrent_state.variables(student)]
    shared, own = model.teachers.state()
    variables = [*model.weights, *model.optimizer.variables]
    return [*weights.values(variables), *shared, *recurrent_state.values(states), *own]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    corpus, peer, tmp_path_factory, overlap: bool
) -> None:
    taught = functools.partial(toy_experiment, corpus, teaching=toy_peers(overlap=overlap))
    straight = taught().train(peer, 0, 2)
    assert straight.teachers.steps() == [3]

    workdir = tmp_path_factory.mktemp("resumed")
    copy_peer(peer, str(workdir))
    taught(num_steps=10).train(str(workdir), 0, 2)
    resumed = taught().train(str(workdir), 0, 2)
    assert resumed.step() == straight.step() == 20
    for one, other in zip(everything(straight), everything(resumed), strict=True):
        np.testing.assert_array_equal(one, other)

    records = [runs.read_metrics(runs.metrics_path(str(path), 0), "train") for path in (peer, workdir)]
    assert [r["step"] for r in records[1]] == [5, 10, 15, 20]
    for one, other in zip(*records, strict=True):
        assert one["loss"] == other["loss"]


def test_a_checkpoint_that_was_cut_off_is_not_resumed_from(corpus, tmp_path) -> None:
    toy_experiment(corpus).train(str(tmp_path), 0, 1)
    directory = runs.checkpoints_dir(str(tmp_path), 0)
    assert checkpoints.committed_steps(directory) == [10, 20]
    os.remove(os.path.join(directory, "checkpoint_00000020", "manifest.json"))
    steps = []
    toy_experiment(corpus).train(
        str(tmp_path), 0, 1, when_built=lambda: steps.extend(checkpoints.committed_steps(directory))
    )
    assert steps == [10]
    assert checkpoints.committed_steps(directory) == [10, 20]
    logged = [r["step"] for r in runs.read_metrics(runs.metrics_path(str(tmp_path), 0), "train")]
    assert logged == [5, 10, 15, 20]


@pytest.mark.parametrize("overlap", [False, True])
def test_two_replicas_equal_one(corpus, peer, overlap: bool) -> None:
    weights_of = []
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        workdir = os.path.join(peer, f"replicas_{strategy.num_replicas_in_sync}")
        copy_peer(peer, workdir)
        # Within 160 tokens the state of an untrained model would make of rounding a difference.
        task = toy_task(corpus, window_tokens=4)
        experiment = toy_experiment(task, num_steps=10, optimizer=lambda: keras.optimizers.SGD(0.1))
        experiment.teaching = toy_peers(overlap=overlap)
        model = experiment.train(workdir, 0, 2, strategy)
        assert model.teachers.steps() == [3]
        weights_of.append(weights.values(model.student.weights))
        validation = runs.read_metrics(runs.metrics_path(workdir, 0), "validation")
        weights_of[-1].append(np.array([record["loss"] for record in validation]))
    for one, two in zip(*weights_of, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def batch_of(task, step: int, number: int = 0, of: int = 1) -> list[np.ndarray]:
    """Inputs and targets of a step of training, for one of several groups."""
    stream = task.training(Part(number, of, seed=3))
    return [part.numpy() for part in next(iter(stream.dataset(first_step=step))).data]


def test_corpora_are_mixed_by_weight(corpus, tmp_path, fresh_gin) -> None:
    other = write_language_corpus(str(tmp_path / "other"), num_documents=90)
    gin.parse_config(f"LanguageTask.corpus_dir = {{{corpus!r}: 3, {other!r}: 1}}")
    mixed = toy_task(gin.query_parameter("LanguageTask.corpus_dir"))
    alone = toy_task(corpus, num_lanes=3)
    for inputs, expected in zip(batch_of(mixed, 2), batch_of(alone, 2), strict=True):
        assert len(inputs) == 4
        np.testing.assert_array_equal(inputs[:3], expected)
    for task, lanes in ((mixed, 4), (alone, 3)):
        assert task.validation().units_per_step == lanes * 8
    held_out = [next(iter(task.validation().dataset(first_step=2))).data for task in (mixed, alone)]
    np.testing.assert_array_equal(held_out[0][0][:3], held_out[1][0])
    assert toy_experiment(mixed).train(str(tmp_path / "run"), 0, 1).step() == 20


def test_groups_differ_in_initialisation_and_order_and_learn_from_each_other(corpus, tmp_path) -> None:
    first = [batch_of(toy_task(corpus), 0, group, 2)[0] for group in (0, 1)]
    assert (first[0] != first[1]).any()
    starts = []
    for num_steps in (10, 20):
        for group in (0, 1):
            model = toy_experiment(corpus, num_steps=num_steps).train(str(tmp_path), group, 2)
            starts.append(model.student.get_weights()[0])
    assert np.abs(starts[0] - starts[1]).max() > 0.01
    last = runs.read_metrics(runs.metrics_path(str(tmp_path), 0), "train")[-1]
    assert last["distillation_weight"] == 1
    assert last["distillation_loss"] > 0
    assert last["staleness_steps"] == pytest.approx(
        8
    )  # steps 16 to 20, with what group 1 published at step 10


def test_validation_changes_nothing_in_training(corpus, peer) -> None:
    results = []
    for every in (5, 20):
        workdir = os.path.join(peer, f"validated_every_{every}")
        copy_peer(peer, workdir)
        results.append(everything(toy_experiment(corpus, validate_every_steps=every).train(workdir, 0, 2)))
        assert len(runs.read_metrics(runs.metrics_path(workdir, 0), "validation")) == 20 // every
    for often, once in zip(*results, strict=True):
        np.testing.assert_array_equal(often, once)


def test_a_run_that_is_killed_before_its_model_is_saved_has_not_ended(corpus, tmp_path, monkeypatch) -> None:
    workdir, path = str(tmp_path), runs.student_path(str(tmp_path), 0)

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    experiment = toy_experiment(corpus)
    with monkeypatch.context() as patch:
        patch.setattr(type(experiment.task), "save", die)
        with pytest.raises(KeyboardInterrupt):
            experiment.train(workdir, 0, 1)
    assert progress.finished_steps(workdir, [0]) is None, "launch would not start it again"
    toy_experiment(corpus).train(workdir, 0, 1)
    assert progress.finished_steps(workdir, [0]) == 20
    assert files.exists(path)


def test_what_a_run_leaves(corpus, tmp_path) -> None:
    workdir = str(tmp_path)
    model = toy_experiment(corpus, validate_every_steps=5).train(workdir, 0, 1)
    path = runs.metrics_path(workdir, 0)
    assert [r["step"] for r in runs.read_metrics(path, "validation")] == [5, 10, 15, 20]
    assert [(r["step"], r["num_steps"]) for r in runs.read_metrics(path, "start")] == [(0, 20)]
    assert [r["step"] for r in runs.read_metrics(path, "end")] == [20]
    train = runs.read_metrics(path, "train")
    parts = {
        "loss",
        "total_loss",
        "distillation_loss",
        "distillation_weight",
        "staleness_steps",
        "tokens_per_sec",
    }
    assert all(parts <= set(record) for record in train)
    assert train[-1]["loss"] < train[0]["loss"]
    served = keras.saving.load_model(runs.student_path(workdir, 0))
    for one, other in zip(served.get_weights(), model.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert served(np.ones((3, 5), "int32")).shape == (3, 5, VOCABULARY_SIZE)
    assert _scalars(runs.tensorboard_dir(workdir, 0)) >= {
        "train/tokens_per_sec",
        "train/total_loss",
        "validation/loss",
    }


def test_an_experiment_trained_to_its_end_is_left_as_it_is(corpus, tmp_path) -> None:
    first = toy_experiment(corpus).train(str(tmp_path), 0, 1)
    again = toy_experiment(corpus).train(str(tmp_path), 0, 1)
    for one, other in zip(everything(first), everything(again), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 12}, "num_steps is 12; expected a positive multiple of log_every_steps, which is 5"),
        ({"validate_every_steps": 0}, "validate_every_steps is 0"),
        ({"log_every_steps": 0}, "log_every_steps is 0"),
        ({"teaching": toy_peers(topology="star-shaped")}, "topology is 'star-shaped'"),
        ({"measure_every_steps": 0}, "measure_every_steps is 0; expected at least 1"),
        ({"teaching": toy_peers(every_steps=0)}, "every_steps is 0; expected at least 1"),
        ({"teaching": toy_peers(precision="int4")}, "precision is 'int4'"),
        ({"distillation_weight": -0.5}, "-0.5"),
        ({"distillation_weight": float("nan")}, "nan"),
        (
            {"optimizer": lambda: keras.optimizers.SGD(gradient_accumulation_steps=2)},
            "steps is 2, but every step of an experiment takes one batch",
        ),
        ({"teaching": students(num_students=0)}, "num_students is 0; expected an integer >= 1"),
        ({"teaching": students(num_students=1.5)}, "num_students is 1.5"),
        ({"teaching": students()}, "num_groups is 2, but the 2 students of one process have no peers"),
    ],
)
def test_a_bad_setting_is_refused_before_training(corpus, tmp_path, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        toy_experiment(corpus, **changes).train(str(tmp_path), 0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus_dir": "/nowhere"}, r"/nowhere.*LanguageTask\.corpus_dir = '\.\.\.'"),
        ({"num_lanes": 5000}, "num_lanes is 5000"),
        ({"data": "same_batch"}, "data is 'same_batch'"),
        ({"peer_model_fns": {2: toy_model}}, r"has models for groups \[2\]; expected some of 0 to 1"),
    ],
)
def test_a_bad_setting_of_the_task_is_refused_before_training(corpus, tmp_path, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        toy_experiment(toy_task(**{"corpus_dir": corpus, **changes})).train(str(tmp_path), 0, 2)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ({}, {"num_students": 3, "topology": "pairs"}, "'pairs' needs an even number of groups; num_gr"),
        ({"peer_model_fns": {2: toy_model}}, {}, r"has models for groups \[2\]; expected some of 0 to 1"),
        ({}, {"refresh_every_steps": 0}, "refresh_every_steps is 0"),
        ({}, {"batches": "other"}, "batches is 'other'"),
        ({"data": "other"}, {}, "data is 'other'"),
    ],
)
def test_students_that_cannot_be_trained_are_refused(corpus, tmp_path, task, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        toy_experiment(toy_task(corpus, **task), teaching=students(**settings)).train(str(tmp_path))


def test_replicas_share_out_a_batch_evenly_or_not_at_all(corpus, tmp_path) -> None:
    with pytest.raises(ValueError, match="batch size is 5 examples or lanes; expected a multiple of the 2"):
        toy_experiment(toy_task(corpus, num_lanes=5)).train(str(tmp_path), strategy=two_replicas())


def test_a_group_out_of_range_is_refused(corpus, tmp_path) -> None:
    with pytest.raises(ValueError, match="group is 2; expected 0 <= group < num_groups, which is 2"):
        toy_experiment(corpus).train(str(tmp_path), 2, 2)


def test_another_model_in_the_workdir_is_refused(corpus, tmp_path) -> None:
    toy_experiment(corpus, num_steps=5).train(str(tmp_path), 0, 1)
    wider = lambda vocabulary_size, batch_size: keras.Sequential(  # noqa: E731
        [
            keras.Input((None,), batch_size=batch_size),
            keras.layers.Embedding(vocabulary_size, vocabulary_size),
        ]
    )
    with pytest.raises(ValueError, match="checkpoint.*another model"):
        toy_experiment(toy_task(corpus, model_fn=wider)).train(str(tmp_path), 0, 1)


def _scalars(directory: str) -> set[str]:
    names = set()
    for name in os.listdir(directory):
        for event in tf.compat.v1.train.summary_iterator(os.path.join(directory, name)):
            names |= {value.tag for value in event.summary.value}
    return names


def test_metrics_are_plain_json_lines(corpus, tmp_path) -> None:
    toy_experiment(corpus, num_steps=5).train(str(tmp_path), 0, 1)
    with open(runs.metrics_path(str(tmp_path), 0), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert {line["kind"] for line in lines} == {"start", "train", "end"}


def deeper(vocabulary_size: int, batch_size: int | None) -> keras.Model:
    return LanguageModel(vocabulary_size, embedding_dim=6, num_layers=2, num_units=10, batch_size=batch_size)


def test_groups_of_two_architectures_learn_from_each_other_and_resume(corpus, tmp_path) -> None:
    models = {}
    for group, num_steps in ((0, 10), (1, 20), (0, 20)):
        task = toy_task(corpus, peer_model_fns={1: deeper})
        experiment = toy_experiment(task, num_steps=num_steps)
        models[group] = experiment.train(str(tmp_path), group, 2)
    assert [models[group].teachers.steps() for group in (0, 1)] == [[20], [10]]
    for group in (0, 1):
        taught, peer = models[group].teachers.frozen[0], models[1 - group].student
        assert weights.first_difference(weights.description(taught), weights.description(peer)) is None
        last = runs.read_metrics(runs.metrics_path(str(tmp_path), group), "train")[-1]
        assert last["distillation_loss"] > 0
        assert last["teacher_task_loss"] > 0
    served = keras.saving.load_model(runs.student_path(str(tmp_path), 1))
    assert len(served.weights) == len(models[1].student.weights) != len(models[0].student.weights)


@pytest.mark.slow
def test_random_peers_resume_with_the_peers_that_they_had(corpus, tmp_path_factory) -> None:
    results = []
    for stops in ((20,), (10, 20)):
        workdir = str(tmp_path_factory.mktemp("random"))
        keras.utils.set_random_seed(5)
        for group in (1, 2, 3):
            model = toy_model(VOCABULARY_SIZE, batch_size=4)
            lanes = [np.full((4, 12), 0.1 * group, "float32")] * 2
            publish(runs.exchange_dir(workdir), group, 3, model, lanes, clock=lambda: 7.0)
        for num_steps in stops:
            teaching = toy_peers(topology=RandomPeers(2, seed=1))
            experiment = toy_experiment(corpus, num_steps=num_steps, teaching=teaching)
            model = experiment.train(workdir, 0, 4)
        assert sorted(model.teachers.peers()) == teachers_of(0, 4, RandomPeers(2, seed=1), exchange=4)
        results.append(everything(model))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("own", "topology", "message"),
    [
        ({3: deeper}, "fully_connected", r"the task has models for groups \[3\]; expected some of 0 to 2"),
        (
            *({1: deeper}, RandomPeers(1)),
            r"topology lets a teacher stand for any of groups \[1, 2\], to which peer_model_fns gives",
        ),
        ({}, RandomPeers(3), "RandomPeers needs 3 peers for each group; there are 2"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(corpus, tmp_path, own, topology, message) -> None:
    task = toy_task(corpus, peer_model_fns=own)
    with pytest.raises(ValueError, match=message):
        toy_experiment(task, teaching=toy_peers(topology=topology)).train(str(tmp_path), 0, 3)


def test_gin_says_topology_and_architectures(corpus, fresh_gin) -> None:
    gin.parse_config(f"""
        Experiment.task = @LanguageTask()
        LanguageTask.corpus_dir = {corpus!r}
        LanguageTask.peer_model_fns = {{1: @narrow/LanguageModel}}
        Experiment.num_steps = 50
        Experiment.optimizer = @keras.optimizers.SGD
        Experiment.teaching = @PeerExchange
        PeerExchange.topology = @RandomPeers()
        RandomPeers.num_peers = 2
        LanguageModel.embedding_dim = 4
        LanguageModel.num_layers = 1
        LanguageModel.num_units = 8
        narrow/LanguageModel.num_units = 5
    """)
    experiment = configured()
    widths = [experiment.task.make_model(9, group=group).weights[-2].shape[0] for group in (None, 0, 1)]
    assert widths == [8, 8, 5]
    teachers = [experiment.teachers("/nowhere", group, num_groups=4, rows=9) for group in (0, 2)]
    assert [one.taught_by for one in teachers] == [((0, 1),)] * 2
    with pytest.raises(ValueError, match="RandomPeers needs 2 peers for each group; there are 1"):
        experiment.teachers("/nowhere", group=0, num_groups=2, rows=9)


@pytest.mark.parametrize("topology", ["pairs", {0: [1], 1: [0]}, RandomPeers(2)], ids=str)
def test_a_group_is_alone_in_any_topology(corpus, tmp_path, topology) -> None:
    experiment = toy_experiment(corpus, teaching=toy_peers(topology=topology))
    teaching = experiment.teachers(str(tmp_path), group=0, num_groups=1, rows=4)
    model = experiment.build(teaching, group=0, rows=4)
    assert (teaching.taught_by, teaching.names(), teaching.models()) == (((),), [], {})
    assert len(model.students) == 1


class Executions(keras.callbacks.Callback):
    """Notes at which batch each execution ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[int] = []

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.ends.append(batch)

    def end(self) -> None:
        """As `MetricsLog` has it."""


def test_gin_says_how_many_steps_are_made_at_a_time(corpus, tmp_path, fresh_gin, monkeypatch) -> None:
    gin.parse_config("Experiment.steps_per_execution = 5")
    executions = Executions()
    monkeypatch.setattr("tf_codistill.experiment.MetricsLog", lambda *_: executions)
    pairs = toy_peers(topology="pairs")
    model = toy_experiment(corpus, num_steps=10, teaching=pairs).train(str(tmp_path), 0, 1)
    assert model.step() == 10
    assert executions.ends == [4, 4]


@pytest.mark.parametrize("number", [0, 2, 10])
def test_executions_that_do_not_fit_a_log_interval_are_refused(corpus, number) -> None:
    with pytest.raises(ValueError, match=f"steps_per_execution is {number}; expected a divisor of log_every"):
        toy_experiment(corpus, steps_per_execution=number)


def delayed(corpus, data: str = "disjoint", batches: str = "different", **changes) -> Experiment:
    """Two students of two architectures, taught by copies."""
    task = toy_task(corpus, data=data, peer_model_fns={1: deeper})
    return toy_experiment(task, teaching=students(batches=batches, refresh_every_steps=7), **changes)


def test_students_of_one_process_resume_with_the_copies_that_they_had(corpus, tmp_path) -> None:
    """The copies of step 7 teach until step 14: at step 10, where training stops, they cannot be had anew."""
    straight = delayed(corpus).train(str(tmp_path / "straight"))
    workdir = str(tmp_path / "resumed")
    delayed(corpus, num_steps=10).train(workdir)
    resumed = delayed(corpus).train(workdir)
    assert resumed.step() == straight.step() == 20
    copies = straight.teachers.state()[0]
    assert copies[0] == 14
    assert len(copies) > len(straight.students[0].weights)
    for one, other in zip(everything(straight), everything(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    both = [runs.read_metrics(runs.metrics_path(str(tmp_path / name), 0)) for name in ("straight", "resumed")]
    train = [[record for record in one if record["kind"] == "train"] for one in both]
    losses = [[record["loss"] for record in one] for one in train]
    assert losses[0] == losses[1]
    assert train[0][-1]["staleness_steps"] == pytest.approx(np.mean([1, 2, 3, 4, 5]))


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["different", "same"])
def test_two_replicas_equal_one_for_students_of_one_process(corpus, tmp_path, batches: str) -> None:
    found = []
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        experiment = delayed(corpus, batches=batches, optimizer=lambda: keras.optimizers.SGD(0.01))
        model = experiment.train(str(tmp_path / str(strategy.num_replicas_in_sync)), strategy=strategy)
        found.append(weights.values(model.weights))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_students_of_one_process_read_what_groups_read(corpus) -> None:
    task = toy_task(corpus, data="disjoint")
    parts = FellowStudents(batches="different").parts(group=0, num_groups=1)
    assert parts == [(0, 2), (1, 2)]
    streams = [task.training(Part(index, number, seed=3)) for index, number in parts]
    fed = next(iter(SynchronousGroup().feed(streams, first_step=3)))
    for group in (0, 1):
        for ours, theirs in zip(fed.data, batch_of(task, 3, group, 2), strict=True):
            np.testing.assert_array_equal(ours[group::2], theirs)
        keys = next(iter(streams[group].dataset(first_step=3))).keys
        np.testing.assert_array_equal(fed.keys[group::2], keys)
    assert FellowStudents(batches="same").parts(group=0, num_groups=1) == [(0, 1)]


def test_what_students_of_one_process_leave(corpus, tmp_path) -> None:
    task = toy_task(corpus)
    experiment = toy_experiment(task, teaching=students(), num_steps=10, measure_every_steps=1)
    model = experiment.train(str(tmp_path))
    for number, student in enumerate(model.students):
        served = keras.saving.load_model(runs.student_path(str(tmp_path), 0, number))
        for one, other in zip(served.get_weights(), student.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert not os.path.exists(runs.student_path(str(tmp_path), 0))
    assert runs.groups(str(tmp_path)) == [0]
    train = runs.read_metrics(runs.metrics_path(str(tmp_path), 0), "train")[-1]
    assert train["distillation_weight"] == 1
    assert train["staleness_steps"] == 0
    assert train["student_0_task_loss"] != train["student_1_task_loss"]
    validation = runs.read_metrics(runs.metrics_path(str(tmp_path), 0), "validation")[-1]
    each = [validation[f"student_{number}_task_loss"] for number in (0, 1)]
    assert validation["loss"] == pytest.approx(np.mean(each), rel=1e-5)
    members = evaluation.from_checkpoint(task, str(tmp_path), 0)
    for member, student in zip(members.values(), model.students, strict=True):
        np.testing.assert_array_equal(member.model.get_weights()[0], student.get_weights()[0])
        lanes = recurrent_state.values(recurrent_state.variables(student))
        np.testing.assert_array_equal(member.lanes, lanes)


@pytest.mark.parametrize("teaching", ["PeerExchange", "FellowStudents"])
def test_weight_decay_and_the_period_of_comparisons_reach_the_model(corpus, teaching: str, fresh_gin) -> None:
    gin.parse_config(f"""
        Experiment.task = @LanguageTask()
        LanguageTask.corpus_dir = {corpus!r}
        LanguageTask.model_fn = @LanguageModel
        Experiment.num_steps = 50
        Experiment.optimizer = @keras.optimizers.SGD
        Experiment.teaching = @{teaching}
        Experiment.measure_every_steps = 7
        Experiment.weight_decay = @WeightDecay()
        WeightDecay.factor = 0.25
        LanguageModel.embedding_dim = 4
        LanguageModel.num_layers = 1
        LanguageModel.num_units = 8
    """)
    experiment = configured()
    model = experiment.build(experiment.teachers("", 0, 1, rows=2), group=0, rows=2)
    assert len(model.students) == (2 if teaching == "FellowStudents" else 1)
    assert model.meters._measures.every_steps == 7
    assert float(model.weight_decay.factor(0)) == 0.25


def forgetful(dtype: str | None, vocabulary_size: int, batch_size: int | None) -> keras.Model:
    """What comes next, of the piece before alone."""
    layers = [
        keras.Input((None,), batch_size=batch_size),
        keras.layers.Embedding(vocabulary_size, 8),
        keras.layers.Dense(vocabulary_size, dtype=dtype),
        keras.layers.Activation("linear", dtype="float32"),
    ]
    return keras.Sequential(layers)


def test_every_validation_reads_the_same_windows_of_several_corpora(corpus, tmp_path) -> None:
    """A model that does not learn has the same loss each time, also behind a stop in the middle."""
    other = write_language_corpus(str(tmp_path / "other"), num_documents=90)
    task = toy_task({corpus: 1, other: 1}, model_fn=functools.partial(forgetful, None))
    changes = {"optimizer": lambda: keras.optimizers.SGD(0.0), "validate_every_steps": 5, "num_steps": 15}
    for steps in (10, 15):
        toy_experiment(task, teaching=Teaching, **{**changes, "num_steps": steps}).train(str(tmp_path))
    losses = [r["loss"] for r in runs.read_metrics(runs.metrics_path(str(tmp_path), 0), "validation")]
    assert losses == [losses[0]] * 3


def test_a_part_in_float16_gets_a_scaled_loss_and_skipped_steps_count(corpus, tmp_path) -> None:
    task = toy_task(corpus, model_fn=functools.partial(forgetful, "mixed_float16"))
    settings = {"teaching": Teaching, "validate_every_steps": 20}
    plain = toy_experiment(task, optimizer=lambda: keras.optimizers.SGD(0.1), num_steps=5, **settings)
    model = plain.train(str(tmp_path / "plain"))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(model.student.get_weights()[0]).all()

    def scaled() -> keras.optimizers.Optimizer:
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**24)

    ends = []
    for name, stops in (("straight", (20,)), ("resumed", (10, 20))):
        for num_steps in stops:
            experiment = toy_experiment(task, optimizer=scaled, num_steps=num_steps, **settings)
            model = experiment.train(str(tmp_path / name))
        ends.append(everything(model))
        assert int(model.optimizer.iterations) < model.step() == 20
        train = runs.read_metrics(runs.metrics_path(str(tmp_path / name), 0), "train")
        assert [record["step"] for record in train] == [5, 10, 15, 20]
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)
