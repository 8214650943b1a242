"""Compares models: whole predictions of each, or batch by batch.

    comparison = compare({"retrain 1": predictions_1, "retrain 2": predictions_2}, slices=["origin"])

Where predictions are too large to be held for all models at once (those of a language model), a `Comparer`
takes them batch by batch and keeps a few numbers for each example and pair:

    comparer = Comparer(["lone 1", "lone 2"])
    for batch in batches:
        comparer.add([p_BTV, q_BTV], labels_BT, keys_B2)
    comparison = comparer.result()
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_codistill.reproducibility import measures, slicing
from tf_codistill.reproducibility.comparison import Change, Figures, ModelComparison, Pair, Slice
from tf_codistill.reproducibility.intervals import Bootstrap
from tf_codistill.reproducibility.measures import Array, Vectors
from tf_codistill.reproducibility.predictions import (
    Predictions,
    check_alignment,
    check_labels,
    check_probabilities,
    check_shapes,
    num_classes,
    slices_of,
)

LABEL = "label"
"""The slice that there is without a column of that name, where labels are known."""


def compare(
    predictions: Mapping[str, Predictions],
    *,
    threshold: float = 0.5,
    slices: Sequence[str] = (),
    cluster: str | None = None,
    bootstrap: Bootstrap | None = None,
    num_changed: int = 20,
) -> ModelComparison:
    """Compares models whose predictions are there.

    Args:
        predictions: Predictions by name of the model, of the same examples in the same order, at least two.
        threshold: From which probability on a prediction [N] chooses class 1.
        slices: Columns by whose values to break figures down; ``label`` is one where labels are known.
        cluster: A column: examples with the same value are resampled together.
        bootstrap: How intervals are made; 2,000 resamples at 95 % by default.
        num_changed: How many of the examples that changed most to name.

    Returns:
        The comparison.

    Raises:
        ValueError: Predictions are no probabilities, or not of the same examples; there is no such column.
    """
    for name, one in predictions.items():
        one.check(name)
    check_alignment(predictions)
    comparer = Comparer(list(predictions), [one.run for one in predictions.values()], threshold)
    everyone = list(predictions.values())
    columns: dict[str, Array] = {}
    for one in reversed(everyone):
        columns |= one.columns
    first = Predictions(
        everyone[0].probabilities,
        next((one.labels for one in everyone if one.labels is not None), None),
        next((one.keys for one in everyone if one.keys is not None), None),
        columns,
        next((one.counted for one in everyone if one.counted is not None), None),
    )
    for rows in slices_of(first.probabilities):
        part = first.rows(rows)
        probabilities = [one.probabilities[rows] for one in everyone]
        comparer.add(probabilities, part.labels, part.keys, part.columns, part.counted)
    return comparer.result(slices, cluster, bootstrap, num_changed)


class Comparer:
    """Compares models batch by batch."""

    def __init__(
        self, names: Sequence[str], runs: Sequence[str | None] | None = None, threshold: float = 0.5
    ) -> None:
        """Takes note of who is compared.

        Args:
            names: Names of the models, at least two.
            runs: The run that trained each, None where it is not known; not known of any by default.
            threshold: From which probability on a prediction [N] chooses class 1.

        Raises:
            ValueError: There are too few models, two of one name, or the threshold is no probability.
        """
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                f"models are named {', '.join(names) or 'not at all'}; expected at least two, each with "
                "a name of its own"
            )
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}; expected a probability between 0 and 1")
        self._names, self._threshold = list(names), threshold
        self._runs = list(runs or [None] * len(names))
        pairs = list(itertools.combinations(range(len(names)), 2))
        independent = [pair for pair in pairs if not self._is_same_run(*pair)]
        self._is_churn, self._counted_pairs = bool(independent), independent or pairs
        self._pairs = {pair: _Growing() for pair in pairs}
        self._models = [_Growing() for _ in names]
        self._together, self._examples, self._columns = _Growing(), _Growing(), _Growing()
        self._num_examples = 0
        self._given: tuple[Any, ...] | None = None

    def add(
        self,
        probabilities: Sequence[Array],
        labels: Array | None = None,
        keys: Array | None = None,
        columns: Mapping[str, Array] | None = None,
        counted: Array | None = None,
    ) -> None:
        """Takes a batch.

        Args:
            probabilities: Those of each model, [B], [B, C] or [B, T, C].
            labels: True classes, integers [B] or [B, T]; None in every batch if they are not known.
            keys: What names the examples, [B] or [B, 2]; None in every batch if nothing does.
            columns: What else is known of them, arrays [B] by name, the same names in every batch.
            counted: Which positions count, booleans [B, T]; None for all.

        Raises:
            ValueError: These are no probabilities, no classes, or shapes differ.
        """
        name, first = self._names[0], probabilities[0]
        for other, array in zip(self._names, probabilities, strict=True):
            check_shapes(name, first, other, array)
            check_probabilities(other, array, self._num_examples)
        given = (first.shape[1:], labels is None, keys is None, *sorted(columns or {}))
        if self._given not in (None, given):
            raise ValueError(
                f"a batch has {given} where those before had {self._given}; expected in each batch the same "
                "shape, labels or none, keys or none, and columns"
            )
        self._given = given
        if labels is not None:
            check_labels(name, labels, num_classes(first), counted)
            labels = (labels if counted is None else np.where(counted, labels, 0)).astype(np.int64)
        for rows in slices_of(first):
            parts = [None if array is None else array[rows] for array in (labels, counted)]
            self._take([np.asarray(array[rows]) for array in probabilities], *parts)
        self._num_examples += len(first)
        self._columns.append(columns or {})
        self._examples.append({} if keys is None else {"key": keys})

    def result(
        self,
        slices: Sequence[str] = (),
        cluster: str | None = None,
        bootstrap: Bootstrap | None = None,
        num_changed: int = 20,
    ) -> ModelComparison:
        """What came out.

        Args:
            slices: Columns by whose values to break figures down; ``label`` is one where labels are known.
            cluster: A column: examples with the same value are resampled together.
            bootstrap: How intervals are made; 2,000 resamples at 95 % by default.
            num_changed: How many of the examples that changed most to name.

        Returns:
            The comparison.

        Raises:
            ValueError: There were no examples, or there is no such column.
        """
        if not self._num_examples:
            raise ValueError("there are no examples to compare; expected at least one")
        bootstrap = bootstrap or Bootstrap()
        clusters = None if cluster is None else self._column(cluster).astype(str)

        def figures(vectors: Vectors, rows: Array | slice = slice(None)) -> Figures:
            part = {name: vector[rows] for name, vector in vectors.items()}
            return bootstrap.estimates(part, measures.summarise, None if clusters is None else clusters[rows])

        overall = self._overall()
        broken_down = {}
        for column in slices:
            codes, names = slicing.assign(self._column(column))
            rows_of = [np.flatnonzero(codes == code) for code in range(len(names))]
            broken_down[column] = [
                Slice(name, len(rows), figures(overall, rows))
                for name, rows in zip(names, rows_of, strict=True)
            ]
        return ModelComparison(
            num_examples=self._num_examples,
            num_positions=int(overall["positions"].sum()),
            is_churn=self._is_churn,
            threshold=self._threshold,
            confidence=bootstrap.confidence,
            models={
                name: figures(self._of_model(index))
                for index, name in enumerate(self._names)
                if LABEL in self._examples
            },
            pairs=[self._pair(pair, figures(sums.all())) for pair, sums in self._pairs.items()],
            overall=figures(overall),
            slices=broken_down,
            most_changed=self._most_changed(num_changed),
            notes=self._notes(),
            scores=self._examples["score"].T,
        )

    def _take(self, probabilities: list[Array], labels: Array | None, counted: Array | None) -> None:
        """Keeps of a few examples what is added up later, and their worst position."""
        differences: Any = 0
        for pair, sums in self._pairs.items():
            first, second = (probabilities[index] for index in pair)
            vectors = measures.per_position(first, second, labels, self._threshold)
            if pair in self._counted_pairs:
                differences = differences + vectors["absolute_difference"] / len(self._counted_pairs)
            sums.append(measures.over_positions(vectors, counted))
        chosen = [measures.choices(array, self._threshold) for array in probabilities]
        disagreements = measures.ambiguous([chosen[index] for index in self._representatives()])
        together = {"positions": np.ones(chosen[0].shape), "disagreements": disagreements.astype(np.float64)}
        self._together.append(measures.over_positions(together, counted))
        differences = differences if counted is None else np.where(counted, differences, 0)
        scores = _scores(probabilities, labels)
        where = differences.argmax(axis=1) if differences.ndim == 2 else None
        self._examples.append(
            {
                "score": _mean_over_positions(scores, counted),
                "position": np.zeros(len(differences), np.int64) if where is None else where,
                "difference": _at(where, differences),
                "score there": _at(where, scores),
                "class there": _at(where, np.stack(chosen, axis=-1)),
            }
        )
        if labels is not None:
            self._examples.append({LABEL: _at(where, labels)})
            for sums, array in zip(self._models, probabilities, strict=True):
                vectors = measures.per_position_of_model(array, labels, self._threshold)
                sums.append(measures.over_positions(vectors, counted))

    def _overall(self) -> Vectors:
        pooled = [self._pairs[pair].all() for pair in self._counted_pairs]
        summed = {name: np.sum([vectors[name] for vectors in pooled], axis=0) for name in pooled[0]}
        return {**summed, **self._together.all()}

    def _of_model(self, index: int) -> Vectors:
        vectors = self._models[index].all()
        if self._is_binary:
            vectors |= measures.auc_vectors(self._examples["score"][:, index], self._examples[LABEL])
        return vectors

    def _pair(self, pair: tuple[int, int], figures: Figures) -> Pair:
        sums = self._pairs[pair]
        differences = measures.quotient(sums["absolute_difference"], sums["count"], of_nothing=0.0)
        first, second = (self._names[index] for index in pair)
        return Pair(first, second, self._is_same_run(*pair), figures, differences)

    def _most_changed(self, number: int) -> list[Change]:
        found = self._examples
        differences = found["difference"]
        order = np.argsort(-differences, kind="stable")[:number]
        return [
            Change(
                example=int(row),
                key=_key(found["key"][row]) if "key" in found else None,
                position=int(found["position"][row]) if self._has_positions else None,
                label=int(found[LABEL][row]) if LABEL in found else None,
                difference=float(differences[row]),
                probabilities=dict(zip(self._names, found["score there"][row].tolist(), strict=True)),
                classes=dict(zip(self._names, found["class there"][row].tolist(), strict=True)),
                columns={name: str(values[row]) for name, values in self._columns.all().items()},
            )
            for row in order
        ]

    def _notes(self) -> list[str]:
        peers = [pair for pair in self._pairs if self._is_same_run(*pair)]
        notes = [
            f"{self._names[i]} and {self._names[j]} are peers of the same run; their distance is not churn"
            for i, j in peers
        ]
        if not self._is_churn:
            notes.append("no two models are of independent runs: nothing here is churn")
        elif peers:
            notes.append("overall figures are of the pairs of independent runs alone")
        if None in self._runs:
            unknown = [name for name, run in zip(self._names, self._runs, strict=True) if run is None]
            notes.append(
                f"of {', '.join(unknown)} it is not known which run trained it; peers would not show"
            )
        if "key" not in self._examples:
            notes.append("no model has keys: that all have their rows in one order could not be checked")
        notes.append("intervals are over examples of these models, not over other retrains")
        return notes

    @property
    def _is_binary(self) -> bool:
        return self._given is not None and self._given[0] == ()

    @property
    def _has_positions(self) -> bool:
        return self._given is not None and len(self._given[0]) > 1

    def _representatives(self) -> list[int]:
        """One model of each run; or all, if they are of one."""
        known: dict[Any, int] = {}
        for index, run in enumerate(self._runs):
            known.setdefault(index if run is None else run, index)
        return list(known.values()) if self._is_churn else list(range(len(self._names)))

    def _is_same_run(self, first: int, second: int) -> bool:
        return self._runs[first] is not None and self._runs[first] == self._runs[second]

    def _column(self, name: str) -> Array:
        if name in self._columns:
            return self._columns[name]
        has_label = LABEL in self._examples and not self._has_positions
        if name == LABEL and has_label:
            return self._examples[LABEL]
        known = [*self._columns.all(), *([LABEL] if has_label else [])]
        raise ValueError(
            f"there is no column {name!r} to slice or resample by; the predictions and --data have "
            f"{', '.join(known) or 'none'}"
        )


class _Growing:
    """Arrays by name that grow batch by batch."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Array]] = {}

    def append(self, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            self._parts.setdefault(name, []).append(np.asarray(array))

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __getitem__(self, name: str) -> Array:
        if len(self._parts[name]) > 1:
            self._parts[name] = [np.concatenate(self._parts[name])]
        return self._parts[name][0]

    def all(self) -> dict[str, Array]:
        return {name: self[name] for name in self._parts}


def _scores(probabilities: Sequence[Array], labels: Array | None) -> Array:
    """Of each model the probability of class 1, of the true class, or of the likeliest in the mean."""
    if probabilities[0].ndim == 1:
        return np.stack(probabilities, axis=-1).astype(np.float64)
    index = np.mean(probabilities, axis=0).argmax(axis=-1) if labels is None else labels
    shown = [np.take_along_axis(array, index[..., np.newaxis], axis=-1) for array in probabilities]
    return np.concatenate(shown, axis=-1).astype(np.float64)


def _mean_over_positions(scores: Array, counted: Array | None) -> Array:
    if scores.ndim == 2:
        return scores
    shares = np.ones(scores.shape[:2]) if counted is None else counted.astype(np.float64)
    return measures.quotient(
        (scores * shares[..., np.newaxis]).sum(axis=1), shares.sum(axis=1)[:, np.newaxis], 0.0
    )


def _at(where: Array | None, values: Array) -> Array:
    """What is at one position of each example, where there are several."""
    return values if where is None else values[np.arange(len(where)), where]


def _key(key: Array) -> str:
    return " visit ".join(map(str, np.atleast_1d(key).tolist()))
