from __future__ import annotations

import json

import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.workers import run_workers
from tf_codistill import distribution
from tf_codistill.groups import decisions


def test_one_worker_decides_alone() -> None:
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        assert decisions.broadcast(strategy, [3, -1, 2**40]) == [3, -1, 2**40]
        assert decisions.broadcast(strategy, []) == []
        assert decisions.all_agree(strategy, True)
        assert not decisions.all_agree(strategy, False)
        assert decisions.any_worker(strategy, True)
        assert not decisions.any_worker(strategy, False)


def test_a_worker_counts_once_however_many_replicas_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = two_replicas()
    # Several replicas in each of several workers need GPUs: the part of one such worker in the sum is tested.
    monkeypatch.setattr(distribution, "num_workers", lambda strategy: 2)
    monkeypatch.setattr(distribution, "worker_index", lambda strategy: 0)
    monkeypatch.setattr(distribution, "num_local_replicas", lambda strategy: 2)
    assert decisions.broadcast(strategy, [7, -1]) == [7, -1]
    assert not decisions.all_agree(strategy, True), "the other worker has not agreed"


_TWO_WORKERS = """
from tf_codistill import distribution
strategy = distribution.create_strategy("auto")

import json
from tf_codistill.groups import decisions

index = distribution.worker_index(strategy)
print(json.dumps({
    "broadcast": decisions.broadcast(strategy, [7 + index, -1, 2**40 - index]),
    "both": decisions.all_agree(strategy, True),
    "one": decisions.all_agree(strategy, index == 0),
    "any": decisions.any_worker(strategy, index == 1),
    "not any": decisions.any_worker(strategy, False),
    "other": decisions.all_agree(strategy, index == 1),
    "none": decisions.all_agree(strategy, False),
}))
"""


def test_two_workers_take_the_chiefs_decision() -> None:
    for answer in map(json.loads, run_workers(_TWO_WORKERS, 2)):
        assert answer == {
            "broadcast": [7, -1, 2**40],
            "both": True,
            "one": False,
            "any": True,
            "not any": False,
            "other": False,
            "none": False,
        }
