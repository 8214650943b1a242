"""The validation loss of every group of a run, and its picture.

alone = read_run("alone", "runs/quickstart/seed_1/alone")
two = read_run("codistillation", "runs/quickstart/seed_1/codistillation")
alone.best, alone.best_step                  3.718, 2000
two.curves[0].first_reaching(alone.best)     the index of the first validation at or below 3.718
png = draw([alone, two], "Two groups that learn from each other")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tf_codistill import pictures, runs

_OF_CURVES = ("kind", "step", "elapsed_secs", "loss", "time")


@dataclasses.dataclass(frozen=True)
class Curve:
    """The validations of one group, in order.

    Attributes:
        group: Index of the group.
        steps: Step of each validation, int64 [N].
        secs: Training time until then in seconds, float64 [N].
        losses: Validation loss, float64 [N].
        is_finished: Whether the group reached its last step.
        figures: What else validations say, float64 [N] by name.
    """

    group: int
    steps: np.ndarray
    secs: np.ndarray
    losses: np.ndarray
    is_finished: bool
    figures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def best_index(self) -> int:
        """Index of the first validation that has the lowest finite loss."""
        return int(np.argmin(np.where(np.isfinite(self.losses), self.losses, np.inf)))

    @property
    def best(self) -> float:
        """The lowest loss."""
        return float(self.losses[self.best_index])

    @property
    def final(self) -> float:
        """The last loss."""
        return float(self.losses[-1])

    def first_reaching(self, loss: float) -> int | None:
        """The index of the first validation whose loss is `loss` or less; None if there is none."""
        reached = np.flatnonzero(self.losses <= loss)
        return int(reached[0]) if reached.size else None


@dataclasses.dataclass(frozen=True)
class Run:
    """The curves of all groups of a run.

    Attributes:
        name: What the run is called in pictures and tables.
        workdir: Directory of the run.
        curves: One curve per group, at least one.
    """

    name: str
    workdir: str
    curves: tuple[Curve, ...]

    @property
    def best(self) -> float:
        """The lowest loss of any of its groups."""
        return min(curve.best for curve in self.curves)

    @property
    def best_step(self) -> int:
        """The first step at which a group had the lowest loss."""
        return min(int(c.steps[c.best_index]) for c in self.curves if c.best == self.best)


def read_run(name: str, workdir: str) -> Run:
    """Reads the learning curves of a run.

    Args:
        name: What to call the run.
        workdir: Directory of the run.

    Returns:
        One curve for every group that has written metrics.

    Raises:
        ValueError: No group has written metrics, or one of them has no finite validation loss yet.
    """
    groups = runs.groups(workdir)
    if not groups:
        raise ValueError(
            f"run {name!r} has no metrics below {workdir!r}; expected group_0/metrics.jsonl, train it first"
        )
    return Run(name, workdir, tuple(_read_curve(name, workdir, group) for group in groups))


def _read_curve(name: str, workdir: str, group: int) -> Curve:
    path = runs.metrics_path(workdir, group)
    records = runs.read_metrics(path)
    if back := runs.out_of_order(records):
        raise ValueError(
            f"steps of run {name!r} are out of order in {path!r}: {back[1]} comes after {back[0]}, as when "
            "two processes train one group; keep the lines of one of them"
        )
    validations = [record for record in records if record["kind"] == "validation"]
    losses = np.array([record["loss"] for record in validations], np.float64)
    if not np.isfinite(losses).any():
        raise ValueError(
            f"group {group} of run {name!r} has no finite validation loss in {path!r}; train it further"
        )
    return Curve(
        group=group,
        steps=np.array([record["step"] for record in validations], np.int64),
        secs=np.array([record["elapsed_secs"] for record in validations], np.float64),
        losses=losses,
        is_finished=any(record["kind"] == "end" for record in records),
        figures={
            name: np.array([record[name] for record in validations], np.float64)
            for name in validations[0]
            if name not in _OF_CURVES and all(name in record for record in validations)
        },
    )


def draw(shown: Sequence[Run], title: str) -> bytes:
    """Draws the validation loss over steps and over training time.

    Args:
        shown: The runs, the baseline first; its best loss becomes a dashed line, and where others pass
            that is marked.
        title: The sentence above the picture.

    Returns:
        The picture as PNG.
    """
    with matplotlib.rc_context(pictures.STYLE):
        figure = pictures.new_figure(title)
        by_step, by_time = figure.subplots(1, 2, sharey=True)
        _draw_panel(by_step, shown, over_time=False)
        _draw_panel(by_time, shown, over_time=True)
        by_step.set_ylabel("validation loss")
        by_step.set_xlabel("step")
        by_step.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        by_time.set_xlabel("training time (minutes)")
        by_step.set_ylim(*_loss_range(shown))
        return pictures.png(figure)


def _draw_panel(axes: Axes, shown: Sequence[Run], over_time: bool) -> None:
    baseline = shown[0]
    axes.grid(color=pictures.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    end = max(_along(curve, over_time)[-1] for run in shown for curve in run.curves)
    axes.set_xticks([tick for tick in MaxNLocator(5).tick_values(0, end) if 0 <= tick <= end])
    axes.set_xlim(0, end * 1.38)  # room for the labels at the ends of the lines
    axes.axhline(baseline.best, color=pictures.COLOURS[0], linewidth=1, linestyle=(0, (5, 4)))
    axes.annotate(
        pictures.plain(f"best of {baseline.name}: {baseline.best:.3f}"),
        (0, baseline.best),
        xytext=(6, 4),
        textcoords="offset points",
        color=pictures.COLOURS[0],
        fontsize=9,
    )
    for index, run in enumerate(shown):
        colour = pictures.COLOURS[index % len(pictures.COLOURS)]
        for curve in run.curves:
            x = _along(curve, over_time)
            axes.plot(x, curve.losses, color=colour, linewidth=1.9, alpha=1 / (1 + 0.6 * curve.group))
        if index:
            _mark_crossings(axes, run, baseline.best, colour, over_time)
    _label_ends(axes, shown, over_time)


def _mark_crossings(axes: Axes, run: Run, best: float, colour: str, over_time: bool) -> None:
    crossings = []
    for curve in run.curves:
        index = curve.first_reaching(best)
        if index is not None:
            crossings.append((_along(curve, over_time)[index], curve.losses[index]))
    if not crossings:
        return
    x, losses = zip(*sorted(crossings), strict=True)
    axes.plot(
        x, losses, "o", color=colour, markerfacecolor="white", markeredgewidth=1.8, markersize=7, zorder=5
    )
    form = "{:.1f}" if over_time else "{:,.0f}"
    where = " and ".join(dict.fromkeys(form.format(value) for value in x))
    axes.annotate(
        f"passed after {where} min" if over_time else f"passed at step {where}",
        (x[0], min(losses)),
        xytext=(-10, -10),
        textcoords="offset points",
        ha="right",
        va="top",
        color=colour,
        fontsize=9,
    )


def _label_ends(axes: Axes, shown: Sequence[Run], over_time: bool) -> None:
    """Writes each run's name and final loss where its lines end, pushed apart where they would touch."""
    low, high = _loss_range(shown)
    gap = (high - low) * 0.085
    ends = []
    for index, run in enumerate(shown):
        final = float(np.mean([curve.final for curve in run.curves]))
        x = max(_along(curve, over_time)[-1] for curve in run.curves)
        ends.append(
            (
                min(max(final, low + gap / 2), high - gap / 2) if np.isfinite(final) else high - gap / 2,
                x,
                final,
                run,
                pictures.COLOURS[index % len(pictures.COLOURS)],
            )
        )
    height = low - gap
    for target, x, final, run, colour in sorted(ends, key=lambda end: end[0]):
        height = max(target, height + gap)
        groups = f", mean of {len(run.curves)}" if len(run.curves) > 1 else ""
        axes.annotate(
            pictures.plain(f"{run.name}\n{final:.3f}{groups}"),
            (x, height),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9.5,
            fontweight="bold",
            linespacing=1.15,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
            annotation_clip=False,
        )


def _loss_range(shown: Sequence[Run]) -> tuple[float, float]:
    """The losses worth showing: from the lowest up to where the end of training still has room."""
    baseline, lowest = shown[0].best, min(run.best for run in shown)
    losses = np.concatenate([curve.losses for run in shown for curve in run.curves])
    highest = float(losses[np.isfinite(losses)].max())
    top = baseline + max(4 * (baseline - lowest), 0.3 * (highest - baseline), 0.01)
    return lowest - 0.08 * (top - lowest), top


def _along(curve: Curve, over_time: bool) -> np.ndarray:
    return curve.secs / 60 if over_time else curve.steps
