"""Examples of one kind: what figures are broken down by.

    codes_N, names = assign(origins_N)         [0, 0, 2, ...], ["EWR", "JFK", "LGA"]
    codes_N, names = assign(distances_N)       [9, 3, 3, ...], ["80 to 214", ..., "2,454 to 4,983"]

Numbers with many values are cut into ten parts of about equal size. Of many words the most frequent have a
slice each, and all others one together.
"""

from __future__ import annotations

import numpy as np

from tf_codistill.reproducibility.measures import Array

MISSING = "(missing)"

_MAX_VALUES = 20
_PARTS = 10


def assign(column: Array) -> tuple[Array, list[str]]:
    """Which slice each example is in.

    Args:
        column: Numbers or strings [N]; NaN, None and empty strings are missing values.

    Returns:
        The index of each example's slice, integers [N], and the names of the slices.
    """
    if column.dtype.kind == "b":
        column = column.astype(str)
    if column.dtype.kind in "iuf":
        missing = ~np.isfinite(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)
        codes, names = _of_numbers(column[~missing])
    else:
        missing = np.array([value is None or value == "" for value in column.tolist()], bool)
        codes, names = _of_words(column[~missing].astype(str))
    found = np.full(len(column), len(names), np.int64)
    found[~missing] = codes
    return found, [*names, MISSING] if missing.any() else names


def _of_numbers(numbers: Array) -> tuple[Array, list[str]]:
    values, codes = np.unique(numbers, return_inverse=True)
    if len(values) <= _MAX_VALUES:
        return codes, _shown(values)
    edges = np.unique(np.quantile(numbers, np.arange(1, _PARTS) / _PARTS, method="higher"))
    _, codes = np.unique(np.searchsorted(edges, numbers, side="right"), return_inverse=True)
    parts = [numbers[codes == code] for code in range(codes.max() + 1)]
    ends = _shown(np.array([end for part in parts for end in (part.min(), part.max())]))
    return codes, [f"{low} to {high}" for low, high in zip(ends[::2], ends[1::2], strict=True)]


def _of_words(words: Array) -> tuple[Array, list[str]]:
    values, codes, counts = np.unique(words, return_inverse=True, return_counts=True)
    if len(values) <= _MAX_VALUES:
        return codes, values.tolist()
    frequent = np.sort(np.argsort(-counts, kind="stable")[: _MAX_VALUES - 1])
    place = np.full(len(values), len(frequent))
    place[frequent] = np.arange(len(frequent))
    return place[codes], [*values[frequent].tolist(), f"({len(values) - len(frequent):,} others)"]


def _shown(numbers: Array) -> list[str]:
    """Numbers as text, with as many digits as tell them apart."""
    if numbers.dtype.kind in "iu":
        return [f"{number:,}" for number in numbers.tolist()]
    for digits in range(6, 18):
        found = [f"{number:,.{digits}g}" for number in numbers.tolist()]
        if len(set(found)) == len(set(numbers.tolist())):
            break
    return found
