from __future__ import annotations

import numpy as np
import pytest

from tf_codistill.reproducibility.slicing import assign


def test_few_values_have_a_slice_each() -> None:
    codes, names = assign(np.array(["b", "a", "", "b"]))
    assert [names[code] for code in codes] == ["b", "a", "(missing)", "b"]
    codes, names = assign(np.array(["b", None], dtype=object))
    assert [names[code] for code in codes] == ["b", "(missing)"]
    codes, names = assign(np.array([1000, 7, 1000]))
    assert [names[code] for code in codes] == ["1,000", "7", "1,000"]
    codes, names = assign(np.array([True, False]))
    assert [names[code] for code in codes] == ["True", "False"]
    codes, names = assign(np.array([0.5, np.nan]))
    assert [names[code] for code in codes] == ["0.5", "(missing)"]


def test_many_numbers_are_cut_into_ten_parts() -> None:
    column = np.random.default_rng(0).permutation(1000)
    codes, names = assign(column)
    assert names[0] == "0 to 99"
    assert names[-1] == "900 to 999"
    np.testing.assert_array_equal(np.bincount(codes), [100] * 10)
    assert all(column[codes == code].max() < column[codes == code + 1].min() for code in range(9))


def test_a_number_that_most_have_is_not_cut() -> None:
    column = np.array([0] * 900 + list(range(1, 101)))
    codes, names = assign(column)
    assert len(set(codes[:900])) == 1
    assert len(names) == codes.max() + 1


def test_the_rarest_of_many_words_share_a_slice() -> None:
    words = np.repeat([f"w{index:02}" for index in range(30)], np.arange(30, 0, -1))
    codes, names = assign(words)
    assert len(names) == 20
    assert names[-1] == "(11 others)"
    assert names[codes[-1]] == "(11 others)"
    assert names[codes[0]] == "w00"
    assert (codes == 19).sum() == sum(range(1, 12))


@pytest.mark.parametrize("number", [3, 200])
def test_numbers_that_differ_have_names_that_differ(number: int) -> None:
    codes, names = assign(1_700_000_000.5 + np.arange(number))
    assert len(set(names)) == len(names) == codes.max() + 1
    assert names[0] == ("1,700,000,000.5" if number == 3 else "1,700,000,000.5 to 1,700,000,019.5")
