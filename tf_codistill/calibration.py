"""Whether what is promised happens: of the rows with a prediction of 0.3, are three in ten clicked?

    table = reliability_table(probabilities, labels)      bins of equal width, or of equally many rows
    table.predicted, table.observed, table.weights        mean prediction, share of clicks, rows of each bin
    expected_calibration_error(probabilities, labels)     mean distance between the two, over rows
    draw_reliability({"lone": table, "codistilled": other})        a PNG file

Everything here takes NumPy arrays. `click_metrics.Calibration` is the one figure for all rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from tf_codistill import pictures

BINS = ("width", "mass")


@dataclasses.dataclass(frozen=True)
class ReliabilityTable:
    """Rows by what was predicted for them; bins without rows are left out.

    Attributes:
        predicted: Mean prediction of each of N bins, float64 [N].
        observed: Share of clicks among its rows, float64 [N].
        weights: Its rows, or the sum of their weights, float64 [N].
        num_rows: Rows in it, whatever they weigh, int64 [N].
    """

    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    num_rows: npt.NDArray[np.int64]

    def error(self) -> float:
        """The expected calibration error: mean distance of observed from predicted, over rows."""
        return float(np.average(np.abs(self.observed - self.predicted), weights=self.weights))

    def deviations(self) -> npt.NDArray[np.float64]:
        """Standard deviation of the share of clicks of each bin, if predictions were right, float64 [N]."""
        return np.sqrt(self.predicted * (1 - self.predicted) / self.num_rows)


def reliability_table(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    num_bins: int = 20,
    bins: str = "mass",
    weights: npt.ArrayLike | None = None,
) -> ReliabilityTable:
    """Compares predictions with what happened.

    Args:
        probabilities: Predictions of R rows, 0 to 1, [R].
        labels: 1 for a click and 0 for none, [R].
        num_bins: How many bins there are at most.
        bins: ``mass`` for bins of equally many rows, which suits small probabilities; rows of equal
            predictions stay together. ``width`` for bins of equal width.
        weights: Weights of the rows, at least 0, [R]; None for 1.

    Returns:
        The table.

    Raises:
        ValueError: Arrays do not fit each other, hold what they cannot, or are empty; or there is no bin.
    """
    p, y, w = _checked(probabilities, labels, weights)
    if num_bins < 1 or bins not in BINS:
        raise ValueError(f"num_bins is {num_bins} and bins {bins!r}; expected at least 1, and one of {BINS}")
    if bins == "width":
        edges = np.linspace(0, 1, num_bins + 1)[1:-1]
    else:
        edges = np.quantile(p, np.linspace(0, 1, num_bins + 1)[1:-1], method="inverted_cdf")
    places = np.searchsorted(np.unique(edges), p, side="left")
    sums = [np.bincount(places, values, num_bins).astype(np.float64) for values in (w, w * p, w * y)]
    num_rows = np.bincount(places, minlength=num_bins).astype(np.int64)
    there = sums[0] > 0
    mass, predicted, observed = (one[there] for one in sums)
    return ReliabilityTable(predicted / mass, observed / mass, mass, num_rows[there])


def expected_calibration_error(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    num_bins: int = 20,
    bins: str = "mass",
    weights: npt.ArrayLike | None = None,
) -> float:
    """The mean over rows of how far the share of clicks is from the mean prediction, bin by bin.

    Args:
        probabilities: Predictions of R rows, 0 to 1, [R].
        labels: 1 for a click and 0 for none, [R].
        num_bins: How many bins there are at most. The fewer rows a bin has, the more of the error is chance.
        bins: ``mass`` or ``width``, see `reliability_table`.
        weights: Weights of the rows, [R]; None for 1.

    Returns:
        The error, 0 to 1.

    Raises:
        ValueError: Arrays do not fit each other, hold what they cannot, or are empty; or there is no bin.
    """
    return reliability_table(probabilities, labels, num_bins, bins, weights).error()


def draw_reliability(
    tables: Mapping[str, ReliabilityTable], title: str = "Does what is predicted happen?"
) -> bytes:
    """Draws the reliability diagram: observed share of clicks over mean prediction, one line for each model.

    Args:
        tables: Tables by the name of the model.
        title: The title.

    Returns:
        The content of a PNG file.

    Raises:
        ValueError: There is no table.
    """
    if not tables:
        raise ValueError("there is no reliability table to draw; give at least one")
    with matplotlib.rc_context(pictures.STYLE):
        figure = pictures.new_figure(title)
        left, right = figure.subplots(1, 2)
        for colour, (name, table) in zip(_colours(len(tables)), tables.items(), strict=True):
            _draw_line(left, name, table, colour)
            _draw_ratio(right, name, table, colour)
        _finish(left, right, max(float(table.predicted.max()) for table in tables.values()))
        return pictures.png(figure)


def _draw_line(axes: Axes, name: str, table: ReliabilityTable, colour: str) -> None:
    label = f"{name}, expected calibration error {table.error():.4f}"
    axes.errorbar(
        table.predicted,
        table.observed,
        2 * table.deviations(),
        color=colour,
        marker="o",
        markersize=4,
        linewidth=1.5,
        elinewidth=0.8,
        label=label,
    )


def _draw_ratio(axes: Axes, name: str, table: ReliabilityTable, colour: str) -> None:
    is_positive = table.predicted > 0
    ratios = table.observed[is_positive] / table.predicted[is_positive]
    axes.plot(table.predicted[is_positive], ratios, color=colour, marker="o", markersize=4, label=name)


def _finish(left: Axes, right: Axes, largest: float) -> None:
    left.plot([0, largest], [0, largest], color=pictures.QUIET, linestyle="--", linewidth=1)
    left.set(
        xlabel="mean prediction of a bin",
        ylabel="share of clicks in it; bars: two standard deviations of chance",
    )
    left.legend(loc="upper left", frameon=False)
    right.axhline(1, color=pictures.QUIET, linestyle="--", linewidth=1)
    right.set(xlabel="mean prediction of a bin", ylabel="share of clicks / prediction", xscale="log")
    for axes in (left, right):
        axes.grid(color=pictures.GRID)
        axes.set_axisbelow(True)


def _colours(number: int) -> list[str]:
    return [pictures.COLOURS[index % len(pictures.COLOURS)] for index in range(number)]


def _checked(probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None) -> Any:
    """The arrays as float64 [R]."""
    p = np.asarray(probabilities, np.float64).reshape(-1)
    y = np.asarray(labels, np.float64).reshape(-1)
    w = np.ones_like(p) if weights is None else np.asarray(weights, np.float64).reshape(-1)
    if not len(p) or not len(p) == len(y) == len(w):
        raise ValueError(
            f"there are {len(p)} probabilities, {len(y)} labels and {len(w)} weights; expected equally many, "
            "at least one"
        )
    for name, values, is_good in (
        ("probabilities", p, (p >= 0) & (p <= 1)),
        ("labels", y, (y == 0) | (y == 1)),
        ("weights", w, (w >= 0) & np.isfinite(w)),
    ):
        if not is_good.all():
            row = int(np.argmin(is_good))
            expected = {"probabilities": "0 to 1", "labels": "0 or 1", "weights": "at least 0"}[name]
            raise ValueError(f"{name} have {values[row]} in row {row}; expected {expected}")
    if not w.sum():
        raise ValueError("all weights are 0; expected at least one row that counts")
    return p, y, w
