"""What one model says of each example, and whether it can be compared with what another says.

    lone = Predictions(probabilities_N, labels=labels_N, keys=ids_N, columns={"origin": origins_N})
    lone.check("lone")                                      ValueError: NaN, logits, labels that are no class
    check_alignment({"lone": lone, "codistilled": other})   ValueError: lengths, classes, keys, order, labels

Two models are compared example by example, so that what is wrong with one of them, or with the order of its
rows, is an error that names it, never a large churn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from tf_codistill.reproducibility.measures import Array

_ELEMENTS_AT_A_TIME = 1 << 18  # what a processor keeps near itself: twice as fast as 1 << 22
_SUM_TOLERANCE = 0.02  # bfloat16 has eight bits, and files are often rounded
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of one model.

    Attributes:
        probabilities: [N], of class 1; [N, C]; or [N, T, C] with T positions in an example.
        labels: True classes, integers [N] or [N, T]; None if they are not known.
        keys: What names the examples, integers or strings [N], or [N, 2] with the visit; or None.
        columns: What else is known of them, arrays [N] by name; slices are made by these.
        counted: Which positions count, booleans [N, T]; None for all.
        run: Names the run that trained the model; None if that is not known. Models of one run are peers.
    """

    probabilities: Array
    labels: Array | None = None
    keys: Array | None = None
    columns: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    counted: Array | None = None
    run: str | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    def rows(self, rows: slice) -> Predictions:
        """Some of the examples."""
        return dataclasses.replace(
            self,
            probabilities=self.probabilities[rows],
            labels=None if self.labels is None else self.labels[rows],
            keys=None if self.keys is None else self.keys[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
            counted=None if self.counted is None else self.counted[rows],
        )

    def parts(self) -> Iterator[Predictions]:
        """The examples in order, a few at a time, so that what is computed of them stays small."""
        for rows in slices_of(self.probabilities):
            yield self.rows(rows)

    def check(self, name: str) -> None:
        """Checks that these are probabilities, and that what belongs to them fits.

        Args:
            name: How errors call them.

        Raises:
            ValueError: Something does not fit.
        """
        check_probabilities(name, self.probabilities)
        positions = _positions(self.probabilities)
        for what, array, shapes in (
            ("labels", self.labels, [positions]),
            ("keys", self.keys, [positions[:1], (len(self), 2)]),
            ("counted", self.counted, [positions]),
            *((f"column {column!r}", values, [positions[:1]]) for column, values in self.columns.items()),
        ):
            if array is not None and array.shape not in shapes:
                raise ValueError(
                    f"{what} of {name!r} have the shape {list(array.shape)}; expected "
                    f"{' or '.join(str(list(shape)) for shape in shapes)} beside probabilities of the shape "
                    f"{list(self.probabilities.shape)}"
                )
        if self.labels is not None:
            check_labels(name, self.labels, num_classes(self.probabilities), self.counted)


def num_classes(probabilities: Array) -> int:
    """How many classes there are."""
    return 2 if probabilities.ndim == 1 else int(probabilities.shape[-1])


def slices_of(probabilities: Array) -> Iterator[slice]:
    """Rows in order, so few at a time that some arrays of them are small."""
    row = max(1, int(np.prod(probabilities.shape[1:], dtype=np.int64)))
    step = max(1, _ELEMENTS_AT_A_TIME // row)
    for first in range(0, len(probabilities), step):
        yield slice(first, first + step)


def check_probabilities(name: str, probabilities: Array, first_row: int = 0) -> None:
    """Checks that these are probabilities.

    Args:
        name: How errors call the model.
        probabilities: [N], [N, C] or [N, T, C].
        first_row: Number of the first example, for errors.

    Raises:
        ValueError: They are not.
    """
    if probabilities.ndim not in (1, 2, 3) or not len(probabilities):
        raise ValueError(
            f"probabilities of {name!r} have the shape {list(probabilities.shape)}; expected [N] (of class "
            "1), [N, C] or [N, T, C] with at least one example"
        )
    if probabilities.dtype.kind not in "fiu":
        raise ValueError(f"probabilities of {name!r} are {probabilities.dtype}; expected floating point")
    if probabilities.ndim > 1 and probabilities.shape[-1] < 2:
        raise ValueError(
            f"probabilities of {name!r} have the shape {list(probabilities.shape)}, with one class; expected "
            "at least 2 on the last axis, or [N] with the probability of class 1"
        )
    for rows in slices_of(probabilities):
        _check_values(name, np.asarray(probabilities[rows], np.float64), first_row + (rows.start or 0))


def check_labels(name: str, labels: Array, num_classes: int, counted: Array | None = None) -> None:
    """Checks that labels are classes.

    Args:
        name: How errors call what they belong to.
        labels: Any array.
        num_classes: How many classes there are.
        counted: Which of them count, booleans of the same shape; None for all.

    Raises:
        ValueError: They are not.
    """
    is_class = np.zeros(labels.shape, bool)
    if labels.dtype.kind in "biuf":
        is_class = (labels >= 0) & (labels < num_classes) & (labels == np.floor(labels))
    if counted is not None:
        is_class |= ~counted
    if not is_class.all():
        where = tuple(int(index) for index in np.argwhere(~is_class)[0])
        raise ValueError(
            f"label of example {_place(where)} of {name!r} is {labels[where]!s}; expected an integer from "
            f"0 to {num_classes - 1}"
        )


def check_alignment(predictions: Mapping[str, Predictions]) -> None:
    """Checks that row i of all is of the same example.

    Args:
        predictions: Predictions by name.

    Raises:
        ValueError: There are fewer than two, or they differ in length, classes, keys, the order of keys, or
            labels.
    """
    if len(predictions) < 2:
        raise ValueError(
            f"there is {len(predictions)} model to compare ({', '.join(predictions)}); name at least two, "
            "trained independently"
        )
    (name, first), *others = predictions.items()
    for other, second in others:
        check_shapes(name, first.probabilities, other, second.probabilities)
    for what, arrays in (
        ("key", {name: one.keys for name, one in predictions.items()}),
        ("label", {name: one.labels for name, one in predictions.items()}),
    ):
        (known, array), *more = [(name, array) for name, array in arrays.items() if array is not None] or [
            ("", np.empty(0))
        ]
        for other, other_array in more:
            _check_equal(what, known, array, other, other_array)


def check_shapes(name: str, first: Array, other: str, second: Array) -> None:
    """Checks that two models have as many examples and classes.

    Args:
        name: Name of the first.
        first: Its probabilities.
        other: Name of the second.
        second: Its probabilities.

    Raises:
        ValueError: They have not.
    """
    if len(first) != len(second):
        raise ValueError(
            f"{name!r} has {len(first):,} examples and {other!r} has {len(second):,}; expected predictions "
            "of the same examples, in the same order"
        )
    if first.shape != second.shape:
        raise ValueError(
            f"probabilities of {name!r} have the shape {list(first.shape)}, those of {other!r} "
            f"{list(second.shape)}; expected models with the same outputs"
        )


def matching(keys: Array, of_data: Array, whose: str) -> Array:
    """Where in a table of examples those with some keys are.

    Args:
        keys: Keys, [N], or [N, 2] with the visit, which the table does not have.
        of_data: Keys of the rows of the table, [M].
        whose: How errors call what the keys are of.

    Returns:
        Indices of rows, integers [N].

    Raises:
        ValueError: The table has a key twice, or lacks one.
    """
    ids = keys[:, 0] if keys.ndim == 2 else keys
    if (ids.dtype.kind in "iu") != (of_data.dtype.kind in "iu"):
        ids, of_data = ids.astype(str), of_data.astype(str)
    order = np.argsort(of_data, kind="stable")
    ordered = of_data[order]
    if (twice := ordered[1:][ordered[1:] == ordered[:-1]]).size:
        raise ValueError(
            f"--data has the key {twice[0]!s} more than once; give every example a key of its own"
        )
    place = np.searchsorted(ordered, ids).clip(max=len(ordered) - 1)
    if (missing := ids[ordered[place] != ids]).size:
        raise ValueError(
            f"--data lacks {len(missing):,} of the {len(ids):,} keys of {whose!r}, {missing[0]!s} for one; "
            "expected a row for every example"
        )
    return order[place]


def _positions(probabilities: Array) -> tuple[int, ...]:
    return tuple(probabilities.shape[: max(1, probabilities.ndim - 1)])


def _check_values(name: str, p: Array, first_row: int) -> None:
    def first(wrong: Array) -> tuple[str, tuple[int, ...]]:
        where = tuple(int(index) for index in np.argwhere(wrong)[0])
        position = where[: max(1, p.ndim - 1)]
        return _place((first_row + position[0], *position[1:])), where

    if (wrong := ~np.isfinite(p)).any():
        place, where = first(wrong)
        raise ValueError(
            f"prediction of {name!r} for example {place} is {p[where]}; expected a number; "
            f"{int(wrong.sum())} of these values are not finite: see whether training has diverged"
        )
    if (wrong := (p < -_TOLERANCE) | (p > 1 + _TOLERANCE)).any():
        place, where = first(wrong)
        raise ValueError(
            f"prediction of {name!r} for example {place} is {p[where]:.6g}; expected a probability, 0 to 1; "
            "give probabilities in place of logits, or say --from_logits of a saved model"
        )
    if p.ndim > 1 and (wrong := np.abs(p.sum(axis=-1) - 1) > _SUM_TOLERANCE).any():
        place, where = first(wrong)
        raise ValueError(
            f"probabilities of {name!r} for example {place} add up to {p[where].sum():.6g}; expected 1 over "
            "the classes, which are on the last axis"
        )


def _check_equal(what: str, name: str, first: Array, other: str, second: Array) -> None:
    if what == "key" and {first.ndim, second.ndim} == {1, 2}:  # one does not tell the visit
        first, second = (array[:, 0] if array.ndim == 2 else array for array in (first, second))
    if (first.dtype.kind in "iuf") != (second.dtype.kind in "iuf"):
        first, second = first.astype(str), second.astype(str)
    if first.shape != second.shape:
        raise ValueError(
            f"{what}s of {name!r} have the shape {list(first.shape)}, those of {other!r} "
            f"{list(second.shape)}; expected the same examples"
        )
    differs = first != second
    if not differs.any():
        return
    where = tuple(int(index) for index in np.argwhere(differs)[0])
    row = where[0]
    remedy = f"expected the same {what}s in both"
    if what == "key":
        is_order = np.array_equal(_sorted(first), _sorted(second))
        remedy = (
            "both have the same keys, but in another order: sort both by their keys"
            if is_order
            else f"{int(differs.reshape(len(first), -1).any(axis=1).sum()):,} of {len(first):,} keys differ: "
            "predict the same examples with both models"
        )
    one, two = (_shown(array[row if what == "key" else where]) for array in (first, second))
    raise ValueError(
        f"{what} of example {_place(where[:1])} is {one} in {name!r} and {two} in {other!r}; {remedy}"
    )


def _sorted(keys: Array) -> Array:
    return keys[np.lexsort(keys.T[::-1])] if keys.ndim == 2 else np.sort(keys)


def _shown(value: Array) -> str:
    return " visit ".join(str(part) for part in np.atleast_1d(value))


def _place(where: tuple[int, ...]) -> str:
    return f"{where[0]}" + (f", position {where[1]}" if len(where) > 1 else "")
