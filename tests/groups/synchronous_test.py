"""A synchronous group: how it shares out batches, and what one worker of it feeds its model."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_experiments import toy_task, write_language_corpus
from tests.toy_house import Points, PointStream
from tf_codistill.groups.synchronous import SynchronousGroup
from tf_codistill.tasks.base import Part
from tf_codistill.training.codistillation import CodistillationModel

STRATEGIES = pytest.mark.parametrize("num_replicas", [1, 2])


def group(num_replicas: int) -> SynchronousGroup:
    return SynchronousGroup(two_replicas() if num_replicas == 2 else None)


def stream(index: int = 0) -> PointStream:
    return Points().training(Part(index, 2, seed=3))


def rows_of(distributed: Any, strategy: tf.distribute.Strategy) -> np.ndarray:
    return np.concatenate([np.asarray(part) for part in strategy.experimental_local_results(distributed)])


@STRATEGIES
def test_replicas_get_equal_parts_of_a_batch_or_none(num_replicas: int) -> None:
    one = group(num_replicas)
    assert one.is_chief
    assert one.rows(8) == 8 // num_replicas
    if num_replicas > 1:
        with pytest.raises(ValueError, match="the batch size is 7 examples or lanes; expected a multiple of"):
            one.rows(7)


@STRATEGIES
def test_replicas_together_read_the_batch_of_the_step(num_replicas: int) -> None:
    one = group(num_replicas)
    (expected,) = stream().dataset(first_step=5, num_steps=1)
    fed = next(iter(one.feed([stream()], first_step=5)))
    for ours, theirs in zip(keras.tree.flatten(fed), keras.tree.flatten(expected), strict=True):
        np.testing.assert_array_equal(rows_of(ours, one.strategy), theirs)


@STRATEGIES
def test_streams_side_by_side_take_turns_row_by_row(num_replicas: int) -> None:
    one = group(num_replicas)
    fed = next(iter(one.feed([stream(0), stream(1)], first_step=5)))
    for index in (0, 1):
        (expected,) = stream(index).dataset(first_step=5, num_steps=1)
        for ours, theirs in zip(keras.tree.flatten(fed), keras.tree.flatten(expected), strict=True):
            np.testing.assert_array_equal(rows_of(ours, one.strategy)[index::2], theirs)


class Slice:
    """Feeds as `tf.distribute.TPUStrategy` does: one process, and an input pipeline for each host."""

    num_replicas_in_sync, cluster_resolver = 4, None

    def distribute_datasets_from_function(self, part: Any) -> list[tf.data.Dataset]:
        number, replicas = 2, self.num_replicas_in_sync
        return [part(tf.distribute.InputContext(number, host, replicas)) for host in range(number)]


@pytest.mark.parametrize("kind", ["points", "lanes"])
def test_each_host_of_a_tpu_slice_reads_the_rows_of_its_replicas(kind: str, tmp_path: pathlib.Path) -> None:
    """A fake stands for the slice, as there is no TPU here."""
    task = Points() if kind == "points" else toy_task(write_language_corpus(str(tmp_path)))
    one = SynchronousGroup(Slice())
    assert one.is_chief
    assert one.rows(task.batch_size) == task.batch_size // 4
    stream = task.training(Part(0, 2, seed=3))
    fed = [iter(host) for host in one.feed([stream], first_step=5)]
    for expected in stream.dataset(first_step=5, num_steps=3):
        replicas = [keras.tree.flatten(next(host)) for host in fed for _ in range(2)]
        for whole, *parts in zip(keras.tree.flatten(expected), *replicas, strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_an_epoch_of_fit_is_a_log_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    model = CodistillationModel(lambda: keras.Sequential([keras.layers.Dense(1)]))
    monkeypatch.setattr(model, "fit", lambda data, **how: calls.append({"data": data, **how}))
    callback = keras.callbacks.Callback()
    task = Points()
    SynchronousGroup().fit(
        model,
        [task.training(Part(0, 1, seed=3))],
        task.validation(),
        first_epoch=3,
        num_steps=24,
        log_every_steps=2,
        validate_every_steps=6,
        callbacks=[callback],
    )
    (call,) = calls
    assert (call["initial_epoch"], call["epochs"], call["steps_per_epoch"]) == (3, 12, 2)
    assert (call["validation_freq"], call["validation_steps"]) == (3, 2)
    assert call["callbacks"] == [callback]
    (expected,) = task.training(Part(0, 1, seed=3)).dataset(first_step=6, num_steps=1)
    np.testing.assert_array_equal(next(iter(call["data"])).keys, expected.keys)
