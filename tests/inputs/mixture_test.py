"""Several corpora as one: lanes by weight, each reading one corpus as if it were alone."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import toy_corpora
from tf_codistill import files, tokens
from tf_codistill.inputs import language, mixture

LENGTHS = [3, 17, 1, 8, 30, 5, 12, 9, 2, 21, 7, 14]


@pytest.fixture
def directories(tmp_path) -> list[str]:
    corpora = {"a": 6, "b": 300, "c": 600}
    return [
        toy_corpora.write_corpus(str(tmp_path / name), toy_corpora.numbered_documents(LENGTHS, first_id))
        for name, first_id in corpora.items()
    ]


@pytest.mark.parametrize(
    ("num_lanes", "weights", "expected"),
    [
        (64, [3, 1], [48, 16]),
        (10, [1, 1, 1], [4, 3, 3]),
        (7, [0.5, 0.25, 0.25], [3, 2, 2]),
        (5, [97, 1, 1], [3, 1, 1]),
        (3, [1e9, 1, 1e-9], [1, 1, 1]),
        (4, [2], [4]),
    ],
)
def test_lanes_are_shared_out_by_largest_remainders(num_lanes, weights, expected) -> None:
    named = {str(index): weight for index, weight in enumerate(weights)}
    assert list(mixture.share_out(num_lanes, named).values()) == expected


@settings(deadline=None)
@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), more=st.integers(0, 200))
def test_shares_add_up_and_follow_the_weights(weights: list[float], more: int) -> None:
    num_lanes = len(weights) + more
    shares = mixture.share_out(num_lanes, {str(index): weight for index, weight in enumerate(weights)})
    assert sum(shares.values()) == num_lanes
    assert min(shares.values()) >= 1
    by_weight = [lanes for _, lanes in sorted(zip(weights, shares.values(), strict=True))]
    assert all(left <= right + 1 for left, right in zip(by_weight, by_weight[1:], strict=False))


@pytest.mark.parametrize("lanes", [None, slice(2, 7), range(1, 8, 3), range(7, 0, -2), range(0)])
def test_each_lane_reads_one_corpus_as_if_alone(directories: list[str], lanes: Any) -> None:
    weights = dict(zip(directories, (2, 1, 1), strict=True))
    arguments = {"seed": 5, "group": 1, "num_groups": 2, "data": "disjoint", "window_tokens": 3}
    mixed = mixture.open_corpora(weights).stream("train", num_lanes=8, **arguments)
    alone = [
        language.LaneStream(tokens.open_corpus(path).split("train"), num_lanes=count, **arguments)
        for path, count in zip(directories, (4, 2, 2), strict=True)
    ]
    assert mixed.steps_per_epoch == min(stream.steps_per_epoch for stream in alone)
    wanted = lanes if lanes is None or isinstance(lanes, slice) else slice(None)
    for step in (0, 1, 7, 40):
        whole = np.concatenate([stream.batch(step) for stream in alone], axis=1)
        expected = whole[:, list(lanes)] if isinstance(lanes, range) else whole[:, wanted or slice(None)]
        np.testing.assert_array_equal(mixed.batch(step, lanes), expected)


@pytest.mark.parametrize("lanes", [range(8), range(1, 8, 3), range(7, 0, -2), range(0)])
def test_keys_tell_the_corpora_apart_and_are_otherwise_those_of_one(
    directories: list[str], lanes: range
) -> None:
    weights = dict(zip(directories, (2, 1, 1), strict=True))
    arguments = {"seed": 5, "window_tokens": 3}
    mixed = mixture.open_corpora(weights).stream("train", num_lanes=8, **arguments)
    alone = [
        language.LaneStream(tokens.open_corpus(path).split("train"), num_lanes=count, **arguments)
        for path, count in zip(directories, (4, 2, 2), strict=True)
    ]
    for step in (0, 1, 7, 40):
        own = [stream.keys(step, range(stream.num_lanes)) for stream in alone]
        expected = np.concatenate([keys + [index * 2**48, 0] for index, keys in enumerate(own)])
        np.testing.assert_array_equal(mixed.keys(step, lanes), expected[list(lanes)])
    visits = [mixed.keys(40, range(8))[lane, 1] for lane in (0, 4, 6)]
    assert visits == [40 // stream.steps_per_epoch for stream in alone], "each corpus has epochs of its own"


def test_no_two_rows_of_a_mixture_have_the_same_key(directories: list[str]) -> None:
    mixed = mixture.open_corpora(dict.fromkeys(directories, 1.0)).stream(
        "train", seed=5, num_lanes=6, window_tokens=2
    )
    keys = np.concatenate([mixed.keys(step, range(6)) for step in range(120)])
    assert keys[:, 1].max() > 1
    assert len({tuple(key) for key in keys.tolist()}) == len(keys)


def test_workers_together_see_the_rows_of_one(directories: list[str]) -> None:
    weights = dict(zip(directories, (3, 2, 1), strict=True))
    mixed = mixture.open_corpora(weights).stream("train", seed=5, num_lanes=12, window_tokens=3)
    shares = [
        next(iter(language.dataset(mixed, first_step=4, worker=worker, num_workers=4))) for worker in range(4)
    ]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), mixed.batch(4))
    with pytest.raises(ValueError, match="expected lanes 0 to 11"):
        mixed.batch(0, range(11, 13))


def test_one_corpus_is_read_as_before(directories: list[str]) -> None:
    stream = mixture.open_corpora(directories[0]).stream("train", seed=5, num_lanes=4, window_tokens=3)
    assert isinstance(stream, language.LaneStream)
    split = tokens.open_corpus(directories[0]).split("train")
    expected = language.LaneStream(split, seed=5, num_lanes=4, window_tokens=3)
    np.testing.assert_array_equal(stream.batch(9), expected.batch(9))


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_told(directories: list[str], weight: float) -> None:
    with pytest.raises(ValueError, match=f"weight of corpus '{directories[1]}' is {weight}"):
        mixture.open_corpora({directories[0]: 1, directories[1]: weight})


def test_what_cannot_be_mixed_is_told(directories: list[str]) -> None:
    with pytest.raises(ValueError, match="names no corpus"):
        mixture.open_corpora({})
    corpora = mixture.open_corpora(dict.fromkeys(directories, 1.0))
    with pytest.raises(ValueError, match="num_lanes is 2 for 3 corpora"):
        corpora.stream("train", seed=1, num_lanes=2)
    other = directories[2]
    files.write(os.path.join(other, tokens.TOKENIZER), b"another tokenizer")
    mark = files.read_manifest(other)
    mark["vocabulary_fingerprint"] = files.checksum(os.path.join(other, tokens.TOKENIZER))
    files.commit(other, mark)
    with pytest.raises(
        ValueError, match=f"{other}' have different vocabularies .fingerprints [0-9a-f]{{12}}"
    ):
        mixture.open_corpora(dict.fromkeys(directories, 1.0))
