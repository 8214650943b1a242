"""What workers of one number held, dealt out to those of another: by NumPy alone."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from tf_codistill.redealing import Layout, Redealing

LAYOUTS = [Layout(*sizes) for sizes in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (1, 4), (3, 1), (2, 3))]
LANES = 12
PAIRS = list(itertools.product(LAYOUTS, LAYOUTS))


def held(layout: Layout, rows: np.ndarray) -> list[np.ndarray]:
    """What each worker holds of rows that lie in order over workers and their replicas."""
    return np.split(rows, layout.num_workers)


def dealt(before: Layout, now: Layout, rows: np.ndarray, how: str) -> np.ndarray:
    """What all workers hold afterwards, in order."""
    parts = held(before, rows)
    return np.concatenate(
        [getattr(Redealing(before, now, worker), how)(parts) for worker in range(now.num_workers)]
    )


@pytest.mark.parametrize(("before", "now"), PAIRS)
def test_each_lane_keeps_its_row(before: Layout, now: Layout) -> None:
    rows = np.arange(LANES * 5, dtype="float32").reshape(LANES, 5)
    for worker in range(now.num_workers):
        own = Redealing(before, now, worker).lanes(held(before, rows))
        each = LANES // now.num_workers
        np.testing.assert_array_equal(own, rows[worker * each : (worker + 1) * each])
        assert own.dtype == rows.dtype


@pytest.mark.parametrize(("before", "now"), PAIRS)
def test_replicas_have_their_own_or_the_mean(before: Layout, now: Layout) -> None:
    values = np.random.default_rng(0).normal(size=(before.size, 3)).astype("float32")
    found = dealt(before, now, values, "replicas")
    expected = values if before.size == now.size else [values.mean(0, dtype="float64")] * now.size
    np.testing.assert_array_equal(found, np.asarray(expected, "float32"))
    assert found.dtype == values.dtype


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16])
def test_values_that_agree_are_left_alone_to_the_bit(dtype: str) -> None:
    value = np.array([0.1, 1 / 3, -0.0, 6e4, np.inf, np.nan]).astype(dtype)
    for before, now in PAIRS:
        found = dealt(before, now, np.stack([value] * before.size), "replicas")
        assert [one.tobytes() for one in found] == [value.tobytes()] * now.size


def test_whole_numbers_have_no_mean() -> None:
    """Seeds, say: whoever is new takes those of the old replicas in turn."""
    seeds = np.array([[7, 1], [9, 1]], "int64")
    assert dealt(Layout(2, 1), Layout(1, 1), seeds, "replicas").tolist() == [[7, 1]]
    assert dealt(Layout(1, 2), Layout(2, 2), seeds, "replicas").tolist() == [[7, 1], [9, 1]] * 2
    assert dealt(Layout(1, 2), Layout(3, 1), np.array([True, False]), "replicas").tolist() == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize(("before", "now"), PAIRS)
def test_what_replicas_add_up_to_is_kept(before: Layout, now: Layout, dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 1000, (before.size, 2)).astype(dtype)
    found = dealt(before, now, values, "sums")
    assert found.shape == (now.size, 2)
    assert found.dtype == values.dtype
    np.testing.assert_allclose(found.sum(0), values.sum(0), rtol=1e-6)
    if dtype == "int32":
        np.testing.assert_array_equal(found.sum(0), values.sum(0))
    if before.size == now.size:
        np.testing.assert_array_equal(found, values)


def test_lanes_that_do_not_divide_are_refused() -> None:
    rows = held(Layout(2, 1), np.zeros((4, 1)))
    with pytest.raises(ValueError, match="4 lanes cannot be dealt out evenly to 3 workers"):
        Redealing(Layout(2, 1), Layout(3, 1), 0).lanes(rows)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ((2, 1), (1, 1), "1 worker in place of 2"),
        ((1, 1), (3, 1), "3 workers in place of 1"),
        ((1, 2), (1, 4), "1 worker of 4 replicas in place of 1 of 2"),
        ((2, 1), (1, 2), "1 worker of 2 replicas in place of 2 of 1"),
        ((2, 4), (4, 1), "4 workers of 1 replica in place of 2 of 4"),
    ],
)
def test_in_words(before: tuple[int, int], now: tuple[int, int], words: str) -> None:
    assert str(Redealing(Layout(*before), Layout(*now), 0)) == words
