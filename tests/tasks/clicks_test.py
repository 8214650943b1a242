"""The task of clicks: trained, resumed, evaluated, and served with its preprocessing."""

from __future__ import annotations

import functools
import math
import os
import pathlib
import subprocess
import sys
from typing import Any

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.toy_tables import criteo_lines, criteo_settings, toy_model, write, write_table
from tf_codistill import configurables, evaluation, experiment, runs, weights
from tf_codistill.experiment import Experiment
from tf_codistill.optimizers.sparse_adagrad import SparseAdagrad
from tf_codistill.tables import pipeline
from tf_codistill.tables.preprocessing import Preprocessing
from tf_codistill.tasks.base import Part
from tf_codistill.tasks.clicks import ClickTask
from tf_codistill.teaching.snapshots import PeerExchange


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_table(tmp_path_factory.mktemp("table"), 600)


def toy_task(table: str, **changes: Any) -> ClickTask:
    return ClickTask(
        **{"data_dir": table, "model_fn": toy_model, "batch_size": 32, "data": "same", **changes}
    )


def toy_experiment(table: str, **changes: Any) -> Experiment:
    settings: dict[str, Any] = {
        "task": toy_task(table),
        "num_steps": 20,
        "optimizer": lambda: SparseAdagrad(0.1),
        "teaching": functools.partial(PeerExchange, every_steps=5, wait=True),
        "log_every_steps": 5,
        "validate_every_steps": 10,
        "checkpoint_every_steps": 10,
        "seed": 3,
    }
    return Experiment(**{**settings, **changes})


@pytest.fixture(scope="module")
def trained(table: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    workdir = str(tmp_path_factory.mktemp("trained"))
    toy_experiment(table, num_steps=60).train(workdir)
    return workdir


def test_a_model_learns_and_is_measured(table: str, trained: str) -> None:
    records = runs.read_metrics(runs.metrics_path(trained, 0), "validation")
    assert [record["step"] for record in records] == [10, 20, 30, 40, 50, 60]
    assert records[-1]["loss"] < records[0]["loss"] < 0.8
    assert records[-1]["auc"] > 0.6
    assert 0.5 < records[-1]["normalized_entropy"] < 1.0
    task = toy_task(table)
    members = evaluation.from_checkpoint(task, trained, 0)
    row = evaluation.evaluate(task, members)["group 0"]
    assert row["loss"] == pytest.approx(records[-1]["loss"], rel=1e-6)
    test_row = evaluation.evaluate(toy_task(table, held_out="test"), members)["group 0"]
    assert test_row["loss"] != row["loss"]


def test_validation_is_the_mean_over_rows(table: str, trained: str) -> None:
    task = toy_task(table)  # 60 rows in batches of 32
    model = keras.saving.load_model(runs.student_path(trained, 0), compile=False)
    rows = task.table.part("validation")
    stream = task.validation()
    encoded = rows.take(np.arange(len(rows)))
    floats = encoded.view(np.float32)
    logits = model({"numeric": floats[:, 1:14], "categories": encoded[:, 14:]}).numpy()[:, 0].astype(float)
    labels = floats[:, 0].astype(float)
    expected = np.mean(np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * labels)
    assert stream.steps_per_epoch == 2
    found = evaluation.evaluate(task, {"it": evaluation.Member(model, None)})["it"]
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(table: str, tmp_path: pathlib.Path) -> None:
    straight = toy_experiment(table).train(str(tmp_path / "straight"))
    toy_experiment(table, num_steps=10).train(str(tmp_path / "resumed"))
    resumed = toy_experiment(table).train(str(tmp_path / "resumed"))
    assert resumed.step() == straight.step() == 20
    variables = [[*model.weights, *model.optimizer.variables] for model in (straight, resumed)]
    for one, other in zip(*map(weights.values, variables), strict=True):
        np.testing.assert_array_equal(one, other)


def test_served_rows_get_the_probabilities_of_the_trained_model(
    table: str, trained: str, tmp_path: pathlib.Path
) -> None:
    task, group_dir = toy_task(table), runs.group_dir(trained, 0)
    model = keras.saving.load_model(runs.student_path(trained, 0), compile=False)
    module = task.serving(model, group_dir)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(tmp_path / "served"), module.serve, options)
    rows = [line.partition(b"\t")[2] for line in criteo_lines(600)]
    (tmp_path / "rows").write_bytes(b"\n".join(rows))
    script = """
import sys, numpy, tensorflow as tf
served = tf.saved_model.load("served")
rows = open("rows", "rb").read().split(b"\\n")
numpy.save("found.npy", served.serve(tf.constant(rows))["probabilities"].numpy())
assert not [name for name in sys.modules if name.startswith("tf_codistill")], "that is cheating"
"""
    environment = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    part = task.table.part("train")
    encoded = np.concatenate(
        [task.table.part(name).take(np.arange(len(task.table.part(name)))) for name in task.table.parts]
    )
    assert len(encoded) == 600 > len(part)
    features = {"numeric": encoded.view(np.float32)[:, 1:14], "categories": encoded[:, 14:]}
    expected = task.probabilities(model(features)).numpy()
    found = np.load(tmp_path / "found.npy")
    assert found.shape == (600,)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.std() > 0.01


def test_what_is_kept_beside_a_model_is_compared(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "rows.txt", criteo_lines(300))
    tables = {}
    for name, settings in (("one", {}), ("other", {"min_count": 9}), ("more", {"test_share": 0.0})):
        tables[name] = str(tmp_path / name)
        chosen = criteo_settings(validation_share=0.2, **{"test_share": 0.1, **settings})
        fitted = tables["one"] if name == "more" else None
        pipeline.prepare([path], tables[name], chosen, preprocessing=fitted)
    group = str(tmp_path / "group_0")
    task = toy_task(tables["one"])
    task.keep_beside_model(group, is_writer=False)
    assert not os.path.exists(group)
    task.check_beside_model(group)
    task.keep_beside_model(group)
    for is_writer in (True, False):
        toy_task(tables["one"]).keep_beside_model(group, is_writer)
        with pytest.raises(
            ValueError, match=r"has another preprocessing \(fingerprint \w{16}\) than the model"
        ):
            toy_task(tables["other"]).keep_beside_model(group, is_writer)
    assert Preprocessing.load(f"{group}/preprocessing").fingerprint == task.table.preprocessing.fingerprint
    toy_task(tables["more"]).check_beside_model(group)
    with pytest.raises(ValueError, match="are others than those that the run beside .* began with"):
        toy_task(tables["more"]).keep_beside_model(group)
    with pytest.raises(ValueError, match="has another preprocessing"):
        toy_task(tables["other"]).check_beside_model(group)


def narrow(num_numeric: int, cardinalities: list[int], batch_size: int | None = None) -> keras.Model:
    inputs = keras.Input((num_numeric,), batch_size=batch_size, name="numeric")
    ids = keras.Input((len(cardinalities),), batch_size=batch_size, dtype="int32", name="categories")
    return keras.Model({"numeric": inputs, "categories": ids}, keras.layers.Dense(1)(inputs))


def test_groups_models_loss_and_the_ensemble(table: str) -> None:
    task = toy_task(table, peer_model_fns={1: narrow})
    assert (task.units, task.batch_size, task.groups_of_their_own()) == ("examples", 32, {1})
    assert len(task.make_model(4, 1).weights) == 2 < len(task.make_model(4, 0).weights)
    assert {each.shape for each in task.make_model(4, 0).inputs} == {(4, 13), (4, 39)}
    logits = [
        np.array([[-1.0], [2.0], [80.0], [-90.0]], "float32"),
        np.array([[0.5], [1.0], [90.0], [-80.0]], "float32"),
    ]
    mean = np.mean([1 / (1 + np.exp(-one.astype(float))) for one in logits], axis=0)
    prediction = task.mean_prediction(logits)
    np.testing.assert_allclose(task.probabilities(prediction), mean[:, 0], rtol=1e-5)
    assert np.isfinite(prediction).all()
    assert float(task.loss()(np.array([[1.0]]), np.array([[0.0]]))) == pytest.approx(math.log(2))
    keys = {part: task.training(Part(part, 2, seed=1)) for part in range(2)}
    assert keys[0].order != keys[1].order


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": "mine"}, "data is 'mine'; expected one of 'disjoint', 'same', 'same_batches'"),
        ({"held_out": "train"}, "held_out is 'train'; expected one of 'validation', 'test'"),
        ({"batch_size": "many"}, "batch_size is 'many'; expected an integer"),
        ({"model_fn": 3}, "model_fn is 3; expected a function"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        toy_task("/nowhere", **changes)


def test_settings_alone_read_nothing() -> None:
    with pytest.raises(
        ValueError, match=r"'/nowhere' does not exist; run prepare_clicks first\. Where a table"
    ):
        toy_task("/nowhere").training(Part(0, 1, seed=0))


@pytest.mark.usefixtures("fresh_gin")
def test_gin_names_the_task(table: str) -> None:
    assert "ClickTask.data_dir" in configurables.MAY_CHANGE
    gin.parse_config(
        f"""
        Experiment.task = @ClickTask()
        ClickTask.data_dir = '{table}'
        ClickTask.model_fn = @toy_model
        ClickTask.data = 'same_batches'
        ClickTask.batch_size = 16
        Experiment.num_steps = 50
        Experiment.optimizer = @keras.optimizers.Adagrad
        """
    )
    with gin.unlock_config():
        task = experiment.configured().task
    assert task.make_model(2).output_shape == (2, 1)
    assert task.training(Part(0, 2, 1)).order == task.training(Part(1, 2, 1)).order
