from __future__ import annotations

import json

import keras
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import batches, compiled, examples
from tests.workers import run_workers
from tf_codistill import distribution
from tf_codistill.groups import decisions


def test_one_worker_decides_alone() -> None:
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        assert decisions.broadcast(strategy, [3, -1, 2**40]) == [3, -1, 2**40]
        assert decisions.broadcast(strategy, []) == []


def test_a_worker_counts_once_however_many_replicas_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = two_replicas()
    # Several replicas in each of several workers need GPUs: the part of one such worker in the sum is tested.
    monkeypatch.setattr(distribution, "num_workers", lambda strategy: 2)
    monkeypatch.setattr(distribution, "worker_index", lambda strategy: 0)
    monkeypatch.setattr(distribution, "num_local_replicas", lambda strategy: 2)
    assert decisions.broadcast(strategy, [7, -1]) == [7, -1]
    assert decisions.total(strategy, [1]) == [1], "the other worker adds nothing"


def test_callbacks_meet_at_the_end_of_each_execution_and_some_in_validation() -> None:
    calls: list[str] = []

    class Member(keras.callbacks.Callback):
        def __init__(self, name: str, size: int, in_validation: bool) -> None:
            super().__init__()
            self._name, self._size, self._in_validation = name, size, in_validation

        def on_train_begin(self, logs=None) -> None:
            self.model.meeting.join(self._size, self.propose, self.decide, self._in_validation)

        def propose(self) -> list[int]:
            calls.append(f"{self._name} proposes")
            return list(range(self._size))

        def decide(self, sums: list[int]) -> None:
            assert sums == list(range(self._size))
            calls.append(f"{self._name} decides")

    model = compiled(None, steps_per_execution=2)
    first, second = Member("first", 3, False), Member("second", 1, True)
    data = batches(*examples(0, 4))
    model.fit(data, validation_data=data, verbose=0, shuffle=False, callbacks=[first, second])
    both = ["first proposes", "second proposes", "first decides", "second decides"]
    assert calls == 2 * both + 2 * ["second proposes", "second decides"]
    before = model.meeting
    model.fit(data, verbose=0, shuffle=False)
    assert model.meeting is not before, "nobody who took part in another `fit` does in this one"
    assert len(calls) == 12


def test_who_proposes_more_than_was_agreed_is_refused() -> None:
    meeting = decisions.Meeting()
    meeting.join(2, lambda: [1], lambda sums: None)
    with pytest.raises(ValueError, match="1 integers are proposed; expected 2"):
        meeting.on_train_batch_end(0)


_TWO_WORKERS = """
from tf_codistill import distribution
strategy = distribution.create_strategy("auto")

import json
from tf_codistill.groups import decisions

index = distribution.worker_index(strategy)
print(json.dumps({
    "broadcast": decisions.broadcast(strategy, [7 + index, -1, 2**40 - index]),
    "total": decisions.total(strategy, [index + 1, 2**40]),
}))

meeting, sums, sent = decisions.Meeting(), [], []
meeting.set_model(type("Model", (), {"distribute_strategy": strategy}))
meeting.join(2, lambda: [index, 5], sums.append)
meeting.join(0, list, sums.append)
meeting.join(1, lambda: [10 + index], sums.append, in_validation=True)
total = decisions.total
decisions.total = lambda strategy, integers: sent.append(len(integers)) or total(strategy, integers)
meeting.on_train_batch_end(0)
meeting.on_test_batch_end(0)
print(json.dumps([sums, sent]))
"""


def test_two_workers_take_the_chiefs_decision() -> None:
    for output in run_workers(_TWO_WORKERS, 2):
        answer, met = map(json.loads, output.splitlines()[-2:])
        assert met == [[[1, 10], [], [21], [21]], [3, 1]], "by one collective each"
        assert answer == {
            "broadcast": [7, -1, 2**40],
            "total": [3, 2**41],
        }
