"""The report of a sweep: curves with bands over seeds, and tables of means with intervals.

    <output_dir>/
        curves.png     a figure of validation over steps and over training time; mean and interval over seeds
        sweep.md       the picture, how fast, how good, and with what each was trained

`write` returns what it has written in ``sweep.md``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from tf_codistill import files, pictures
from tf_codistill.reporting import columns, loss_among, table
from tf_codistill.sweeps.results import Result
from tf_codistill.sweeps.summary import Band, Interval, Summary

PICTURE = "curves.png"
REPORT = "sweep.md"

_TRAINED = (
    *("", "seeds", "best validation loss", "at the end", "ends below the baseline's best"),
    *("passes that after, of its steps", "of its compute"),
)


def write(
    results: Sequence[Result], output_dir: str, figure: str = "loss", baseline: str | None = None
) -> str:
    """Writes the report.

    Args:
        results: What is known of the runs.
        output_dir: Directory for it; older files are replaced.
        figure: What the picture shows, ``loss`` or another figure of validations.
        baseline: What the others are compared with; the first setting by default.

    Returns:
        The report, as Markdown.

    Raises:
        ValueError: There are no results with curves, or no such baseline or figure.
    """
    summary = Summary(results, baseline)
    bands = {name: summary.band(name, figure) for name in summary.settings}
    report = "\n\n".join(_parts(summary)) + "\n"
    files.make_directory(output_dir)
    files.write(files.join(output_dir, PICTURE), _picture(bands, figure))
    files.write(files.join(output_dir, REPORT), report.encode("utf-8"))
    return report


def _parts(summary: Summary) -> list[str]:
    held_out, differences = summary.held_out(), summary.differences()
    titles = columns({row: {name: one.mean for name, one in held_out[row].items()} for row in held_out})
    cells = [
        [row, *(_shown(held_out[row].get(name), differences.get(row, {}).get(name)) for name in titles)]
        for row in held_out
    ]
    loss = loss_among(titles)
    if shares := summary.share_of_ensemble(loss) if loss else {}:
        titles["share"] = "of the ensemble's gain"
        for row in cells:
            row.append(_percent(shares[row[0]]) if row[0] in shares else "")
    several = f"{len(summary.settings)} settings"
    return [
        f"# {' and '.join(summary.settings) if len(summary.settings) <= 3 else several}",
        f"![Validation over steps and over training time]({PICTURE})",
        f"The baseline is *{summary.baseline}*. Means over seeds, and Student's intervals at 95 %; a run of "
        "several groups counts with their mean.",
        "## While training",
        table(_TRAINED, (_trained(summary, name) for name in summary.settings)),
        "## On what was held out",
        "In brackets: less the baseline, seed by seed.",
        table(["", *titles.values()], cells),
        "## With what",
        "\n".join(_with_what(summary)),
    ]


def _trained(summary: Summary, name: str) -> list[str]:
    found = summary.results(name)
    row = [name, str(len(found)), summary.best(name).text(), summary.final(name).text()]
    if name == summary.baseline:
        return [*row, "", "", ""]
    passes = (summary.share_of_steps(name), summary.share_of_compute(name))
    below = summary.below_baseline(name)
    return [*row, below.text(), *(_share(one, below.number) for one in passes)]


def _share(share: Interval, number: int) -> str:
    """A share of those of `number` seeds that the baseline has, too."""
    if not share.number:
        return f"in none of {number}" if number else ""
    return _percent(share) + ("" if share.number == number else f" in {share.number} of {number}")


def _percent(share: Interval) -> str:
    spread = "" if math.isnan(share.low) else f" ± {(share.high - share.low) / 2:.0%}"
    return f"{share.mean:.0%}{spread}"


def _shown(one: Interval | None, difference: Interval | None) -> str:
    if one is None:
        return ""
    return one.text(4) + (f" ({difference.text(4)})" if difference is not None and difference.number else "")


def _with_what(summary: Summary) -> Iterable[str]:
    for name in summary.settings:
        found = summary.results(name)
        commits = ", ".join(sorted({one.commit for one in found if one.commit})) or "unknown"
        secs = sum(float(curve.secs[-1]) for one in found for curve in one.curves)
        seeds = ", ".join(str(one.seed) for one in found)
        trained = found[0].trained_with
        with_what = ", ".join(f"`{part}`" for part in [*trained.gin_files, *trained.bindings])
        yield f"* {name}: {with_what}; seeds {seeds}; commit {commits}; {secs:,.0f} s of training in all"


def _picture(bands: dict[str, Band], figure: str) -> bytes:
    with matplotlib.rc_context(pictures.STYLE):
        drawn = pictures.new_figure(f"Validation, {figure.replace('_', ' ')}: mean and interval over seeds")
        by_step, by_time = drawn.subplots(1, 2, sharey=True)
        for colour, (name, band) in zip(itertools.cycle(pictures.COLOURS), bands.items(), strict=False):
            for axes, along in ((by_step, band.steps), (by_time, band.secs / 60)):
                _draw(axes, along, band, colour, name)
        by_step.set_ylabel(figure.replace("_", " "))
        by_step.set_xlabel("step")
        by_time.set_xlabel("training time of all groups (minutes)")
        by_step.legend(frameon=False)
        return pictures.png(drawn)


def _draw(axes: Axes, along: np.ndarray, band: Band, colour: str, name: str) -> None:
    axes.grid(color=pictures.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.plot(along, band.means, color=colour, linewidth=1.9, label=pictures.plain(name))
    axes.fill_between(along, band.lows, band.highs, color=colour, alpha=0.15, linewidth=0)
