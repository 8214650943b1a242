"""Lanes of text: every token is checked, and every batch is a function of its step."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import toy_corpora
from tf_codistill import batches, tokens
from tf_codistill.inputs import language

LENGTHS = [3, 17, 1, 8, 30, 5, 12, 9, 2, 21, 7, 14]
Ids = npt.NDArray[np.int32]
Keys = npt.NDArray[np.int64]


@pytest.fixture
def split(tmp_path: pathlib.Path) -> tokens.Split:
    documents = toy_corpora.numbered_documents(LENGTHS)
    return tokens.open_corpus(toy_corpora.write_corpus(str(tmp_path), documents, num_shards=3)).split("train")


def letters(ids: Ids) -> str:
    return "".join(
        "." if i == tokens.END_OF_DOCUMENT else chr(ord("a") + i - tokens.NUM_SPECIAL) for i in ids
    )


def draw(stream: language.LaneStream, first_step: int = 0, num_steps: int = 2) -> list[str]:
    """A line per lane: what each window reads and predicts."""
    windows = [stream.batch(first_step + step) for step in range(num_steps)]
    return [
        "   ".join(f"{letters(inputs[lane])}>{letters(targets[lane])}" for inputs, targets in windows)
        for lane in range(stream.num_lanes)
    ]


def epoch_row(stream: language.LaneStream, epoch: int) -> tuple[Ids, Ids]:
    """Inputs and targets of an epoch, each lane's windows joined, lane after lane."""
    first = epoch * stream.steps_per_epoch
    windows = [stream.batch(first + step) for step in range(stream.steps_per_epoch)]
    inputs, targets = (np.concatenate(part, axis=1).ravel() for part in zip(*windows, strict=True))
    return inputs, targets


def elements(dataset: tf.data.Dataset) -> list[tuple[Ids, Ids]]:
    return list(dataset.as_numpy_iterator())


def assert_same(left: Any, right: Any) -> None:
    np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def test_the_lanes_of_a_toy_corpus_token_by_token(tmp_path: pathlib.Path) -> None:
    documents = toy_corpora.numbered_documents([4, 3, 2, 5])  # abcd. efg. hi. jklmn.
    directory = toy_corpora.write_corpus(str(tmp_path), documents, num_shards=2)
    stored = tokens.open_corpus(directory).split("train")

    in_order = language.LaneStream(stored, seed=1, num_lanes=2, window_tokens=4, shuffle=False)
    assert in_order.steps_per_epoch == 2
    assert draw(in_order) == [
        ".abc>abcd   d.ef>.efg",
        "g.hi>.hi.   .jkl>jklm",  # "n." is left out
    ]

    # The picture pins the order too: a resumed run must find the lanes it left, under any NumPy.
    shuffled = language.LaneStream(stored, seed=1, num_lanes=3, window_tokens=3)
    assert shuffled.steps_per_epoch == 2
    assert draw(shuffled) == [
        ".hi>hi.   .ab>abc",
        "cd.>d.j   jkl>klm",
        "mn.>n.e   efg>fg.",
    ]
    assert draw(shuffled, first_step=2) == [
        ".jk>jkl   lmn>mn.",
        ".ef>efg   g.a>.ab",
        "bcd>cd.   .hi>hi.",
    ]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=4, max_size=12),
    num_lanes=st.integers(1, 5),
    window_tokens=st.integers(1, 4),
    seed=st.integers(0, 2**40),
    group=st.integers(0, 1),
    data=st.sampled_from(["same", "disjoint"]),
    shuffle=st.booleans(),
)
def test_an_epoch_is_whole_documents_each_token_once(
    lengths: list[int],
    num_lanes: int,
    window_tokens: int,
    seed: int,
    group: int,
    data: str,
    shuffle: bool,
) -> None:
    documents = toy_corpora.numbered_documents(lengths)
    partition = documents[group::2] if data == "disjoint" else documents
    num_tokens = sum(map(len, partition)) + len(partition)
    with tempfile.TemporaryDirectory() as directory:
        stored = tokens.open_corpus(toy_corpora.write_corpus(directory, documents, 3)).split("train")

        def make() -> language.LaneStream:
            return language.LaneStream(
                stored,
                seed=seed,
                group=group,
                num_groups=2,
                data=data,
                num_lanes=num_lanes,
                window_tokens=window_tokens,
                shuffle=shuffle,
            )

        if num_tokens < num_lanes * window_tokens:
            with pytest.raises(ValueError, match=f"use at most {num_tokens // window_tokens} lanes"):
                make()
            return
        stream = make()
        for epoch in range(2):
            inputs, targets = epoch_row(stream, epoch)
            assert_same(inputs, [tokens.END_OF_DOCUMENT, *targets[:-1]])
            assert 0 <= num_tokens - len(targets) < num_lanes * window_tokens
            check_whole_documents(targets.tolist(), partition, in_order=not shuffle)


def check_whole_documents(targets: list[int], partition: list[list[int]], in_order: bool) -> None:
    """The row is documents of the partition, none twice; only the last one may be cut off."""
    waiting = [[*document, tokens.END_OF_DOCUMENT] for document in partition]
    while targets:
        end = targets.index(tokens.END_OF_DOCUMENT) + 1 if tokens.END_OF_DOCUMENT in targets else len(targets)
        found, targets = targets[:end], targets[end:]
        whole = next(document for document in waiting if document[:end] == found)
        assert whole is waiting[0] or not in_order
        waiting.remove(whole)
        assert found == whole or not targets


def test_a_step_asked_for_directly_is_the_step_reached(split: tokens.Split) -> None:
    def make() -> language.LaneStream:
        return language.LaneStream(split, seed=5, num_lanes=4, window_tokens=3)

    walked = make()
    num_steps = 3 * walked.steps_per_epoch + 2
    reached = [walked.batch(step) for step in range(num_steps)]
    for step in reversed(range(num_steps)):
        assert_same(make().batch(step), reached[step])
        assert_same(walked.batch(step), reached[step])
    assert_same(elements(language.dataset(make(), num_steps=num_steps)), reached)
    resumed = language.dataset(make(), first_step=7, num_steps=num_steps - 7)
    assert_same(elements(resumed), reached[7:])


def test_a_far_step_costs_no_more(split: tokens.Split) -> None:
    stream = language.LaneStream(split, seed=5, num_lanes=4, window_tokens=3)
    inputs, targets = stream.batch(10**12)
    assert inputs.shape == targets.shape == (4, 3)
    assert_same(stream.batch(10**12), (inputs, targets))


def test_orders_differ_between_epochs_groups_and_seeds(split: tokens.Split) -> None:
    def first_targets(seed: int, group: int, epoch: int) -> tuple[int, ...]:
        stream = language.LaneStream(
            split, seed=seed, group=group, num_groups=2, num_lanes=2, window_tokens=8
        )
        return tuple(epoch_row(stream, epoch)[1].tolist())

    choices = [(seed, group, epoch) for seed in range(3) for group in range(2) for epoch in range(3)]
    assert len({first_targets(*choice) for choice in choices}) == len(choices)


def test_disjoint_groups_never_read_a_common_token(split: tokens.Split) -> None:
    def ids_of(group: int, data: str) -> set[int]:
        stream = language.LaneStream(
            split, seed=5, group=group, num_groups=2, data=data, num_lanes=2, window_tokens=1
        )
        return set(epoch_row(stream, 0)[1].tolist()) - {tokens.END_OF_DOCUMENT}

    assert not ids_of(0, "disjoint") & ids_of(1, "disjoint")
    assert len(ids_of(0, "same") & ids_of(1, "same")) >= sum(LENGTHS) - 4


@pytest.mark.parametrize(("num_workers", "num_replicas"), [(2, 1), (1, 2), (2, 3), (4, 3)])
def test_workers_and_replicas_together_see_the_rows_of_one(
    split: tokens.Split, num_workers: int, num_replicas: int
) -> None:
    stream = language.LaneStream(split, seed=5, num_lanes=12, window_tokens=3)
    of_workers = [
        elements(
            language.dataset(
                stream,
                first_step=1,
                num_steps=4,
                worker=worker,
                num_workers=num_workers,
                num_replicas=num_replicas,
            )
        )
        for worker in range(num_workers)
    ]
    for index, whole in enumerate(elements(language.dataset(stream, first_step=1, num_steps=4))):
        first = index * num_replicas
        rows = [part for worker in of_workers for part in worker[first : first + num_replicas]]
        assert_same(np.concatenate(rows, axis=1), whole)
        assert_same(whole, stream.batch(1 + index))


def test_lanes_can_be_asked_for_by_range_or_slice(split: tokens.Split) -> None:
    stream = language.LaneStream(split, seed=5, num_lanes=6, window_tokens=3)
    whole = np.asarray(stream.batch(3))
    assert_same(stream.batch(3, range(2, 5)), whole[:, 2:5])
    assert_same(stream.batch(3, slice(4, None)), whole[:, 4:])
    assert_same(stream.batch(3, range(5, 0, -2)), whole[:, 5:0:-2])
    for lanes in (range(4, 7), range(-1, 2)):
        with pytest.raises(ValueError, match="expected lanes 0 to 5"):
            stream.batch(3, lanes)


def test_the_dataset_has_static_shapes_and_no_end(split: tokens.Split) -> None:
    stream = language.LaneStream(split, seed=5, num_lanes=6, window_tokens=3)
    endless = language.dataset(stream, worker=1, num_workers=2)
    assert endless.element_spec == (tf.TensorSpec((3, 3), tf.int32),) * 2
    assert int(endless.cardinality()) == tf.data.INFINITE_CARDINALITY
    assert int(language.dataset(stream, num_steps=5, num_replicas=2).cardinality()) == 10


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"num_lanes": 0}, "num_lanes is 0"),
        ({"window_tokens": 0}, "window_tokens is 0"),
        ({"group": 1, "data": "disjoint"}, "group is 1 of num_groups=1"),
        ({"data": "all"}, "data is 'all'"),
        ({"num_lanes": 50}, "num_lanes is 50 with window_tokens=3.* has 141 tokens; use at most 47 lanes"),
    ],
)
def test_a_stream_that_cannot_be_is_told(
    split: tokens.Split, changed: dict[str, Any], complaint: str
) -> None:
    arguments: dict[str, Any] = {"seed": 5, "num_lanes": 4, "window_tokens": 3}
    with pytest.raises(ValueError, match=complaint):
        language.LaneStream(split, **{**arguments, **changed})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"num_workers": 4}, r"num_lanes is 6; expected a multiple of .* = 4 \* 1"),
        ({"worker": 2, "num_workers": 2}, "worker is 2 of num_workers=2"),
        ({"num_replicas": 0}, "num_replicas=0"),
        ({"first_step": -1}, "first_step is -1"),
        ({"num_steps": -1}, "num_steps is -1"),
    ],
)
def test_a_dataset_that_cannot_be_is_told(
    split: tokens.Split, arguments: dict[str, int], complaint: str
) -> None:
    stream = language.LaneStream(split, seed=5, num_lanes=6, window_tokens=3)
    with pytest.raises(ValueError, match=complaint):
        language.dataset(stream, **arguments)
    with pytest.raises(ValueError, match="step is -1"):
        stream.batch(-1)


def keyed_rows(stream: language.LaneBatches, epoch: int) -> tuple[Keys, Ids]:
    """Key and targets of each row of an epoch."""
    first, lanes = epoch * stream.steps_per_epoch, range(stream.num_lanes)
    steps = range(first, first + stream.steps_per_epoch)
    keys = np.concatenate([stream.keys(step, lanes) for step in steps])
    return keys, np.concatenate([stream.batch(step)[1] for step in steps])


def up_to_its_end(targets: Ids) -> str:
    """What a row has of the document in which it begins."""
    return letters(targets).split(".")[0]


def test_a_key_names_the_same_text_in_any_order(split: tokens.Split) -> None:
    found: dict[int, set[str]] = {}
    for seed, group, epoch in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (7, 0, 0), (7, 1, 5)]:
        stream = language.LaneStream(
            split, seed=seed, group=group, num_groups=2, data="same", num_lanes=3, window_tokens=4
        )
        keys, targets = keyed_rows(stream, epoch)
        assert keys.dtype == np.int64
        assert_same(split.gather(keys[:, 0]), targets[:, 0])
        assert len(set(keys[:, 0].tolist())) == len(keys), "no row of an epoch has the key of another"
        assert set(keys[:, 1].tolist()) == {epoch}
        for key, row in zip(keys[:, 0].tolist(), targets, strict=True):
            found.setdefault(key, set()).add(up_to_its_end(row))
    assert len(found) < 5 * len(keys), "some rows begin where one of another order did"
    assert all(len(texts) == 1 for texts in found.values())


def test_every_token_has_a_key_of_its_own_whatever_the_order(split: tokens.Split) -> None:
    streams = [language.LaneStream(split, seed=seed, num_lanes=1, window_tokens=1) for seed in (1, 2)]
    keys = [keyed_rows(stream, epoch=3)[0] for stream in streams]
    assert (keys[0] != keys[1]).any(), "the orders differ"
    for found in keys:
        assert sorted(found.tolist()) == [[position, 3] for position in range(split.num_tokens)]


def test_disjoint_groups_have_no_key_in_common(split: tokens.Split) -> None:
    arguments = {"seed": 5, "num_groups": 2, "data": "disjoint", "num_lanes": 2, "window_tokens": 3}
    both = [language.LaneStream(split, group=group, **arguments) for group in (0, 1)]
    ids = [set(keyed_rows(stream, 0)[0][:, 0].tolist()) for stream in both]
    assert not ids[0] & ids[1]


def test_groups_of_the_same_batches_read_the_same_rows_at_each_step(split: tokens.Split) -> None:
    arguments = {"num_groups": 2, "data": "same_batches", "num_lanes": 2, "window_tokens": 3}
    one, other = (language.LaneStream(split, seed=5, group=group, **arguments) for group in (0, 1))
    for found, expected in zip(keyed_rows(one, 1), keyed_rows(other, 1), strict=True):
        assert_same(found, expected)
    elsewhere = language.LaneStream(split, seed=6, group=0, **arguments)
    assert (keyed_rows(one, 1)[0] != keyed_rows(elsewhere, 1)[0]).any()


@pytest.mark.parametrize(("num_workers", "num_replicas"), [(1, 1), (2, 3)])
def test_keys_travel_with_their_rows(split: tokens.Split, num_workers: int, num_replicas: int) -> None:
    stream = language.LaneStream(split, seed=5, num_lanes=12, window_tokens=3)
    of_workers = [
        elements(
            language.dataset(
                stream,
                first_step=9,
                num_steps=1,
                worker=worker,
                num_workers=num_workers,
                num_replicas=num_replicas,
                keyed=True,
            )
        )
        for worker in range(num_workers)
    ]
    parts = [part for worker in of_workers for part in worker]
    assert all(isinstance(part, batches.Keyed) for part in parts)
    assert_same(np.concatenate([part.keys for part in parts]), stream.keys(9, range(12)))
    assert_same(np.concatenate([part.data for part in parts], axis=1), stream.batch(9))
    spec = language.dataset(stream, worker=0, num_workers=2, keyed=True).element_spec
    assert spec.keys == tf.TensorSpec((6, 2), tf.int64)


MIRRORED = """
import sys
import numpy as np
import tensorflow as tf
from tf_codistill import batches, tokens
from tf_codistill.inputs import language

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
split = tokens.open_corpus(sys.argv[1]).split("train")
stream = language.LaneStream(split, seed=5, num_lanes=6, window_tokens=3)
batches = strategy.distribute_datasets_from_function(lambda _: language.dataset(stream, num_replicas=2))
for step, (inputs, targets) in zip(range(20), batches):
    rows = [np.concatenate(strategy.experimental_local_results(part)) for part in (inputs, targets)]
    np.testing.assert_array_equal(rows, stream.batch(step))
"""


def test_each_replica_of_a_strategy_gets_its_own_lanes(tmp_path: pathlib.Path) -> None:
    # A process of its own: logical devices must be set before TensorFlow starts.
    directory = toy_corpora.write_corpus(str(tmp_path), toy_corpora.numbered_documents(LENGTHS))
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED, directory], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
