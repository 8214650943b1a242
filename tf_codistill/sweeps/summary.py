"""What several seeds say: means with intervals, and differences between runs of equal seeds.

    interval([3.52, 3.52, 3.53])                         Interval(mean=3.523, low=3.509, high=3.538, number=3)
    summary = Summary(results, baseline="lone")
    summary.best("two groups")                           of the best validation loss of each seed
    summary.below_baseline("two groups")                 lone's less this one's, seed by seed
    summary.share_of_steps("two groups")                 of lone's steps to its best loss, until it is passed
    summary.share_of_ensemble("loss")["two groups"]      of what an ensemble of two lone ones gains
    summary.held_out()                                   {"two groups": {"accuracy": Interval(...)}, ...}

A run of several groups counts with the mean over them: what one may expect of the group that is served.
Intervals are Student's, at 95 %: percentiles of a bootstrap over three seeds are their range, which holds the
truth in three quarters of the cases: as often as not all three are on the same side of it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from tf_codistill.learning_curves import Curve
from tf_codistill.runs import ENSEMBLE
from tf_codistill.sweeps.results import Result, check_alike


class Interval(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: The mean; nan of nothing.
        low: Lower end of the interval; nan if there are fewer than two seeds, or one is not finite.
        high: Upper end.
        number: How many seeds there are.
    """

    mean: float
    low: float
    high: float
    number: int

    def text(self, digits: int = 3) -> str:
        """As ``1.154 ± 0.012``; of one seed without the second half, of none empty."""
        if not self.number:
            return ""
        spread = "" if math.isnan(self.low) else f" ± {(self.high - self.low) / 2:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent values and Student's interval around it.

    Args:
        values: A value for each seed.
        confidence: Share of such intervals that hold the true mean, if values are normally distributed.

    Returns:
        The interval.
    """
    if len(values) < 2:
        return Interval(values[0] if values else math.nan, math.nan, math.nan, len(values))
    mean = statistics.fmean(values)
    deviation = statistics.stdev(values) if math.isfinite(mean) else math.nan
    error = deviation / math.sqrt(len(values))
    half = float(special.stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
    return Interval(mean, mean - half, mean + half, len(values))


@dataclasses.dataclass(frozen=True)
class Band:
    """The validations of a setting over its seeds.

    Attributes:
        steps: Step of each validation, [N].
        secs: Training time of all groups together until then, in seconds, [N].
        means: Mean over seeds and groups, [N].
        lows: Lower ends of intervals, [N].
        highs: Upper ends, [N].
    """

    steps: np.ndarray
    secs: np.ndarray
    means: np.ndarray
    lows: np.ndarray
    highs: np.ndarray


class Summary:
    """Figures of a sweep.

    Args:
        results: All results; of each setting and seed the last counts.
        baseline: What the others are compared with; the first setting that has curves by default.

    Attributes:
        settings: Names of the settings that were trained, the baseline first.
        baseline: Name of the baseline.

    Raises:
        ValueError: No run has curves, or none those of the baseline; or results of a setting are of runs
            that were not trained and measured alike.
    """

    def __init__(self, results: Sequence[Result], baseline: str | None = None) -> None:
        self._by_name: dict[str, dict[int, Result]] = {}
        for one in results:
            self._by_name.setdefault(one.setting, {})[one.seed] = one
        check_alike(results)
        trained = [name for name, by_seed in self._by_name.items() if all(r.curves for r in by_seed.values())]
        if not trained or baseline not in (None, *trained):
            raise ValueError(
                f"baseline is {baseline!r}; expected one of the settings with learning curves, {trained}"
            )
        self.baseline = baseline or trained[0]
        self.settings = [self.baseline, *(name for name in trained if name != self.baseline)]

    def results(self, setting: str) -> list[Result]:
        """The results of a setting, by seed."""
        return [one for _, one in sorted(self._by_name[setting].items())]

    def best(self, setting: str) -> Interval:
        """Of the best validation loss."""
        return interval(list(self._of_curves(setting, lambda curve: curve.best).values()))

    def final(self, setting: str) -> Interval:
        """Of the last validation loss."""
        return interval(list(self._of_curves(setting, lambda curve: curve.final).values()))

    def below_baseline(self, setting: str) -> Interval:
        """By how much the last validation loss is below the baseline's best of the same seed."""
        best = self._of_curves(self.baseline, lambda curve: curve.best)
        return _paired(best, self._of_curves(setting, lambda curve: curve.final))

    def share_of_steps(self, setting: str) -> Interval:
        """After which share of the baseline's steps to its best loss that loss of the same seed is passed.

        Of the seeds in which all groups pass it; `Interval.number` says how many these are.
        """
        return self._share(setting, lambda curve, index: float(curve.steps[index]), of_all=False)

    def share_of_compute(self, setting: str) -> Interval:
        """The same of the training time of all groups together."""
        return self._share(setting, lambda curve, index: float(curve.secs[index]), of_all=True)

    def band(self, setting: str, figure: str = "loss") -> Band:
        """The course of a figure, at those steps at which every group of every seed was validated.

        Args:
            setting: The setting.
            figure: ``loss``, or another figure of validations.

        Returns:
            Means and intervals over seeds.

        Raises:
            ValueError: Validations have no such figure.
        """
        found = self.results(setting)
        curves = [curve for one in found for curve in one.curves]
        if figure != "loss" and any(figure not in curve.figures for curve in curves):
            raise ValueError(f"figure is {figure!r}; expected loss or one of {sorted(curves[0].figures)}")
        steps = functools.reduce(np.intersect1d, (curve.steps for curve in curves))

        def at_steps(curve: Curve, values: np.ndarray) -> np.ndarray:
            return values[np.searchsorted(curve.steps, steps)]

        by_seed = np.array(
            [
                np.mean(
                    [at_steps(c, c.losses if figure == "loss" else c.figures[figure]) for c in one.curves],
                    axis=0,
                )
                for one in found
            ]
        )
        secs = np.mean([np.sum([at_steps(c, c.secs) for c in one.curves], axis=0) for one in found], axis=0)
        of_steps = [interval(list(column)) for column in by_seed.T.astype(float)]
        means, lows, highs = (
            np.array([getattr(one, name) for one in of_steps]) for name in ("mean", "low", "high")
        )
        return Band(steps, secs, means, lows, highs)

    def held_out(self) -> dict[str, dict[str, Interval]]:
        """Figures of what was held out: of each setting, and of ensembles within it, over seeds."""
        return {
            row: {name: interval(list(by_seed.values())) for name, by_seed in figures.items()}
            for row, figures in self._held_out().items()
        }

    def differences(self) -> dict[str, dict[str, Interval]]:
        """Each figure of what was held out less that of the baseline, seed by seed."""
        found = self._held_out()
        first = found.get(self.baseline, {})
        return {
            row: {name: _paired(by_seed, first[name]) for name, by_seed in figures.items() if name in first}
            for row, figures in found.items()
            if row != self.baseline
        }

    def share_of_ensemble(self, figure: str) -> dict[str, Interval]:
        """How much each row of `held_out` has of what an ensemble gains over the baseline, seed by seed.

        Args:
            figure: A loss among the figures of what was held out.

        Returns:
            Shares by row; nothing if there is no ensemble of the baseline's models, or it does not gain.
        """
        found = self._held_out()
        of_baseline = (
            name
            for name, by_seed in self._by_name.items()
            if all(
                one.members and {of for of, _ in one.members} == {self.baseline} for one in by_seed.values()
            )
        )
        ensemble = next(of_baseline, None)
        if ensemble is None:
            return {}
        single, best = (found.get(name, {}).get(figure, {}) for name in (self.baseline, ensemble))
        gains = {seed: single[seed] - best[seed] for seed in single.keys() & best.keys()}
        if not gains or min(gains.values()) <= 0:
            return {}
        return {
            row: interval(
                [
                    (single[s] - figures[figure][s]) / gains[s]
                    for s in sorted(gains.keys() & figures[figure].keys())
                ]
            )
            for row, figures in found.items()
            if figure in figures and row not in (self.baseline, ensemble)
        }

    def _held_out(self) -> dict[str, dict[str, dict[int, float]]]:
        found: dict[str, dict[str, dict[int, float]]] = {}
        names = [*self.settings, *(name for name in self._by_name if name not in self.settings)]
        for setting in names:
            for one in self.results(setting):
                models = [row for name, row in one.held_out.items() if name != ENSEMBLE]
                rows = {setting: models}
                if ENSEMBLE in one.held_out:
                    rows[f"{setting}, {ENSEMBLE}" if models else setting] = [one.held_out[ENSEMBLE]]
                for row, figures in rows.items():
                    for name in (name for name, value in figures[0].items() if not isinstance(value, str)):
                        mean = statistics.fmean(model[name] for model in figures)
                        found.setdefault(row, {}).setdefault(name, {})[one.seed] = mean
        return found

    def _of_curves(self, setting: str, value: Callable[[Curve], float]) -> dict[int, float]:
        return {one.seed: statistics.fmean(map(value, one.curves)) for one in self.results(setting)}

    def _share(self, setting: str, value: Callable[[Curve, int], float], of_all: bool) -> Interval:
        """Of the baseline's best curve of each seed; of all groups together, or of one in the mean."""
        shares = []
        for one in self.results(setting):
            rival = self._by_name[self.baseline].get(one.seed)
            if rival is None:
                continue
            best = min(rival.curves, key=lambda curve: curve.best)
            passed = [(curve, curve.first_reaching(best.best)) for curve in one.curves]
            values = [value(curve, index) for curve, index in passed if index is not None]
            if len(values) == len(one.curves):
                groups = len(rival.curves) if of_all else 1
                total = sum(values) if of_all else statistics.fmean(values)
                shares.append(total / groups / value(best, best.best_index))
        return interval(shares)


def _paired(first: Mapping[int, float], second: Mapping[int, float]) -> Interval:
    return interval([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])
