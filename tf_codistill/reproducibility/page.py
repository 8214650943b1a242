"""A comparison as people look at it: in a terminal, and as a page with pictures.

<output_dir>/
    index.html      figures with intervals, pictures, the examples that changed most; all text is escaped
    churn.png       one model against the other; how large the differences are
    slices_1.png    flips by the values of the first column, and so on

Console().print(as_table(comparison))
write_page(comparison, "runs/churn")
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from rich.markup import escape
from rich.table import Column, Table

from tf_codistill import files, pictures, terminal
from tf_codistill.reproducibility.comparison import Figures, ModelComparison, Slice
from tf_codistill.reproducibility.intervals import Estimate

PAGE = "index.html"
PICTURE = "churn.png"

_MAX_POINTS = 5000
_MAX_PAIRS = 6
_SHARES = ("flip_rate", "negative_flip_rate", "positive_flip_rate", "ambiguity", "accuracy")

_STYLE = """div { overflow-x: auto }
table { font-variant-numeric: tabular-nums }
td, th { padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid #eceff3; text-align: left;
  vertical-align: top }
small { color: #68717d; white-space: nowrap }"""


def as_table(comparison: ModelComparison) -> Table:
    """The figures for a terminal.

    Args:
        comparison: What came out.

    Returns:
        A table with a column for all pairs together, or for the one pair.
    """
    table = Table(
        Column("figure", no_wrap=True),
        *(Column(name, justify="right") for name in ("value", "low", "high")),
        title=escape(terminal.visible(title_of(comparison))),
    )
    for name, estimate in comparison.overall.items():
        table.add_row(_words(name), *_cells(name, estimate))
    for model, figures in comparison.models.items():
        table.add_section()
        for name, estimate in figures.items():
            words = f"{_words(name)} of {terminal.visible(model)}"
            table.add_row(escape(words), *_cells(name, estimate))
    return table


def notes(comparison: ModelComparison) -> str:
    """What a reader has to know, a line each, for a terminal."""
    return "\n".join(f"* {escape(terminal.visible(note))}" for note in comparison.notes)


def title_of(comparison: ModelComparison) -> str:
    """What was compared, in a few words."""
    pairs = comparison.counted_pairs()
    what = "Churn" if comparison.is_churn else "Distance of peers, not churn"
    who = f"{pairs[0].first} and {pairs[0].second}" if len(pairs) == 1 else f"{len(pairs)} pairs of models"
    return f"{what}: {who} on {comparison.num_examples:,} examples"


def write_page(comparison: ModelComparison, output_dir: str) -> str:
    """Writes the page and its pictures.

    Args:
        comparison: What came out.
        output_dir: Directory for the files; created if it does not exist, older ones are replaced.

    Returns:
        Path of the page.

    Raises:
        ValueError: The directory cannot be written to.
    """
    files.make_directory(output_dir)
    files.write(files.join(output_dir, PICTURE), draw(comparison))
    for index, (column, slices) in enumerate(comparison.slices.items(), 1):
        files.write(files.join(output_dir, _slice_picture(index)), draw_slices(column, slices))
    page = files.join(output_dir, PAGE)
    files.write(page, _html(comparison).encode("utf-8", "replace"))
    return page


def draw(comparison: ModelComparison) -> bytes:
    """Draws one model's predictions against another's, and how large differences are.

    Args:
        comparison: What came out.

    Returns:
        The picture as PNG.
    """
    with matplotlib.rc_context(pictures.STYLE):
        estimate = comparison.overall["mean_absolute_difference"]
        figure = pictures.new_figure(
            f"{title_of(comparison)}: mean absolute difference {estimate.value:.4f} "
            f"({estimate.low:.4f} to {estimate.high:.4f})"
        )
        left, right = figure.subplots(1, 2, width_ratios=[2, 3])
        _draw_scatter(left, comparison)
        _draw_histogram(right, comparison)
        return pictures.png(figure)


def draw_slices(column: str, slices: Sequence[Slice]) -> bytes:
    """Draws how often classes flip for each value of a column.

    Args:
        column: Its name.
        slices: Its values.

    Returns:
        The picture as PNG.
    """
    with matplotlib.rc_context(pictures.STYLE):
        figure = pictures.new_figure(f"Flips and differences by {column}")
        for axes, name in zip(
            figure.subplots(1, 2, sharey=True), ("flip_rate", "mean_absolute_difference"), strict=True
        ):
            estimates = [one.figures[name] for one in slices]
            values = np.array([one.value for one in estimates])
            errors = [[one.value - one.low for one in estimates], [one.high - one.value for one in estimates]]
            axes.barh(range(len(slices)), values, color=pictures.COLOURS[2], height=0.66, alpha=0.85)
            axes.errorbar(
                values,
                range(len(slices)),
                xerr=np.maximum(errors, 0),
                fmt="none",
                ecolor=pictures.INK,
                capsize=2,
            )
            labels = [f"{one.value} ({one.num_examples:,})" for one in slices]
            axes.set_yticks(range(len(slices)), labels, parse_math=False)
            axes.grid(axis="x", color=pictures.GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_xlim(left=0)
            axes.set_xlabel(_words(name))
            if name in _SHARES:
                axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.invert_yaxis()
        return pictures.png(figure)


def _draw_scatter(axes: Axes, comparison: ModelComparison) -> None:
    pair = comparison.counted_pairs()[0]
    names = list(dict.fromkeys(name for one in comparison.pairs for name in (one.first, one.second)))
    x, y = (comparison.scores[names.index(name)] for name in (pair.first, pair.second))
    every = max(1, math.ceil(len(x) / _MAX_POINTS))
    axes.plot([0, 1], [0, 1], color=pictures.QUIET, linewidth=1)
    axes.scatter(x[::every], y[::every], s=5, alpha=0.35, color=pictures.COLOURS[2], linewidths=0)
    axes.set_aspect("equal")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(pictures.plain(f"probability by {pair.first}"))
    axes.set_ylabel(pictures.plain(f"probability by {pair.second}"))


def _draw_histogram(axes: Axes, comparison: ModelComparison) -> None:
    pairs = comparison.counted_pairs()
    largest = max(float(pair.differences.max()) for pair in pairs) or 1.0
    bins = np.linspace(0, largest, 41).tolist()
    for pair, colour in zip(pairs[:_MAX_PAIRS], pictures.COLOURS, strict=False):
        label = pictures.plain(f"{pair.first}, {pair.second}")
        axes.hist(pair.differences, bins, histtype="step", color=colour, linewidth=1.4, label=label)
    axes.set_yscale("log")
    axes.grid(axis="y", color=pictures.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    more = f"; the first {_MAX_PAIRS} of {len(pairs)} pairs" if len(pairs) > _MAX_PAIRS else ""
    axes.set_xlabel(f"absolute difference of an example{more}")
    axes.set_ylabel("examples (logarithmic)")
    axes.legend(frameon=False, fontsize=9)


def _html(comparison: ModelComparison) -> str:
    pairs = {f"{pair.first} \u2192 {pair.second}": pair.figures for pair in comparison.pairs}
    notes = "".join(f"<li>{html.escape(note)}" for note in comparison.notes)
    parts = [
        f"<ul>{notes}</ul>",
        f'<img src="{PICTURE}" alt="One model against another; how large the differences are">',
        "<h2>All together</h2>",
        _figures_table("", {"": comparison.overall}),
        "<h2>Pairs</h2>",
        _figures_table("pair", pairs),
    ]
    if comparison.models:
        parts += ["<h2>Models</h2>", _figures_table("model", comparison.models)]
    for index, (column, slices) in enumerate(comparison.slices.items(), 1):
        rows = {f"{one.value} ({one.num_examples:,})": one.figures for one in slices}
        parts += [
            f"<h2>By {html.escape(column)}</h2>",
            f'<img src="{_slice_picture(index)}" alt="Flips by {html.escape(column)}">',
            _figures_table(column, rows),
        ]
    parts += ["<h2>Changed most</h2>", _changes_table(comparison)]
    return pictures.page(title_of(comparison), "\n".join(parts), _STYLE)


def _figures_table(corner: str, rows: Mapping[str, Figures]) -> str:
    columns = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    cells = [
        [html.escape(title), *(_html_estimate(name, figures.get(name)) for name in columns)]
        for title, figures in rows.items()
    ]
    return _table([html.escape(corner), *map(_words, columns)], cells)


def _html_estimate(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    value, low, high = _cells(name, estimate)
    return f"{value}<br><small>{low} to {high}</small>"


def _changes_table(comparison: ModelComparison) -> str:
    changes = comparison.most_changed
    if not changes:
        return ""
    columns = list(changes[0].columns)
    header = ["example", "key", "position", "label", "difference", *changes[0].probabilities, *columns]
    rows = [
        [
            *(
                "" if value is None else str(value)
                for value in (one.example, one.key, one.position, one.label)
            ),
            f"{one.difference:.4f}",
            *(f"{value:.4f} (class {one.classes[name]})" for name, value in one.probabilities.items()),
            *(one.columns[column] for column in columns),
        ]
        for one in changes
    ]
    return _table(map(html.escape, header), ([html.escape(cell) for cell in row] for row in rows))


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div><table>\n<tr>{head}</tr>\n{body}\n</table></div>"


def _cells(name: str, estimate: Estimate) -> tuple[str, str, str]:
    value, low, high = (
        "-" if not math.isfinite(number) else f"{number:.2%}" if name in _SHARES else f"{number:.4g}"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return value, low, high


def _words(name: str) -> str:
    return name.replace("_", " ")


def _slice_picture(index: int) -> str:
    return f"slices_{index}.png"
