"""An inspection as people look at it: in a terminal, and as a page.

<output_dir>/
    index.html      the facts and stretches of text; every character of the web is escaped
    corpus.png      how long documents are, and what became of those that were read

print(as_text(inspection))
write_page(inspection, "runs/inspection")
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tf_codistill import files, pictures
from tf_codistill.corpus.report.inspection import Inspection, Rows

PAGE = "index.html"
PICTURE = "corpus.png"

_LINE_CHARACTERS = 100
_MAX_BARS = 10
_PIECES_PER_LINE = 4

_STYLE = """td { padding: .15rem 1.5rem .15rem 0; border-bottom: 1px solid #eceff3; white-space: pre-wrap }
td + td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
.pieces { columns: 4 14rem } .pieces td { white-space: pre }
blockquote { white-space: pre-wrap; overflow-wrap: anywhere; margin: 1rem 0; padding: .5rem 1rem;
  border-left: 3px solid #0072b2; background: #f7f8fa }"""


def as_text(inspection: Inspection) -> str:
    """The inspection as lines for a terminal."""
    return "\n".join(_lines(inspection))


def write_page(inspection: Inspection, output_dir: str) -> str:
    """Writes the page and its picture, in place of older ones; returns the path of the page.

    A ValueError says that the directory cannot be written to.
    """
    files.make_directory(output_dir)
    files.write(files.join(output_dir, PICTURE), draw(inspection))
    page = files.join(output_dir, PAGE)
    files.write(page, _html(inspection).encode("utf-8"))
    return page


def draw(inspection: Inspection) -> bytes:
    """Draws how long documents are and what became of them, as PNG."""
    num_kept, num_read = inspection.outcomes["kept"], sum(inspection.outcomes.values())
    share = f"{num_kept / num_read:.1%} of " if num_read else ""
    with matplotlib.rc_context(pictures.STYLE):
        figure = pictures.new_figure(f"{share}{num_read:,} documents were kept")
        lengths, outcomes = figure.subplots(1, 2, width_ratios=[3, 2])
        _draw_lengths(lengths, inspection)
        _draw_outcomes(outcomes, inspection)
        return pictures.png(figure)


def _lines(inspection: Inspection) -> Iterator[str]:
    for title, rows in inspection.sections:
        yield from ("", title)
        width = max((len(label) for label, _ in rows), default=0) + 2
        cells = [f"  {label:<{width}}{value}" for label, value in rows]
        if _is_long(rows):
            num_lines = -(-len(cells) // _PIECES_PER_LINE)  # go down one column after another
            lines = (cells[line::num_lines] for line in range(num_lines))
            cells = ["".join(f"{cell:<32}" for cell in line).rstrip() for line in lines]
        yield from cells
    for name, windows in inspection.windows.items():
        yield from ("", f"Stretches of {name}, from anywhere")
        for window in windows:
            yield ""
            for paragraph in window.split("\n"):
                yield textwrap.indent(textwrap.fill(paragraph, _LINE_CHARACTERS), "  | ") or "  |"


def _is_long(rows: Rows) -> bool:
    return len(rows) > 24


def _html(inspection: Inspection) -> str:
    shown = "How long documents are, and what became of those that were read"
    parts = [f'<img src="{PICTURE}" alt="{shown}">']
    for title, rows in inspection.sections:
        cells = "\n".join(
            f"<tr><td>{html.escape(label)}</td><td>{html.escape(value)}</td></tr>" for label, value in rows
        )
        name = ' class="pieces"' if _is_long(rows) else ""
        parts.append(f"<h2>{html.escape(title)}</h2>\n<div{name}><table>\n{cells}\n</table></div>")
    for name, windows in inspection.windows.items():
        parts.append(f"<h2>Stretches of {html.escape(name)}, from anywhere</h2>")
        parts += [f'<blockquote dir="auto">{html.escape(window)}</blockquote>' for window in windows]
    return pictures.page(f"Corpus {inspection.directory}", "\n".join(parts), _STYLE)


def _draw_lengths(axes: Axes, inspection: Inspection) -> None:
    axes.grid(axis="y", color=pictures.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    every = np.concatenate([*inspection.lengths.values(), np.zeros(0, np.int64)])
    low, high = (max(1, every.min()), every.max()) if every.size else (1, 10)
    bins = np.geomspace(low * 0.9, high * 1.1, 41).tolist()
    axes.set_xscale("log")
    for index, (name, lengths) in enumerate(inspection.lengths.items()):
        if not lengths.size:
            continue
        colour = pictures.COLOURS[2 - index] if index < 2 else pictures.COLOURS[index + 1]
        label = f"{name}: {len(lengths):,} documents, median {np.median(lengths):,.0f}"
        axes.hist(lengths, bins, color=colour, alpha=0.8, label=label, edgecolor="white", linewidth=0.6)
        axes.axvline(float(np.median(lengths)), color=colour, linewidth=1.4, linestyle=(0, (5, 4)))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda length, _: f"{length:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axes.set_xlabel("length of a document (tokens, logarithmic)")
    axes.set_ylabel("documents")
    if every.size:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 0.99))


def _draw_outcomes(axes: Axes, inspection: Inspection) -> None:
    (kept, num_kept), *reasons = inspection.outcomes.items()
    bars = [(kept, num_kept), *reasons[:_MAX_BARS]]
    if more := reasons[_MAX_BARS:]:
        bars.append((f"{len(more)} other reasons", sum(number for _, number in more)))
    labels = [textwrap.shorten(label.replace("_", " "), 36, placeholder=" \u2026") for label, _ in bars]
    numbers = [number for _, number in bars]
    colours = [pictures.COLOURS[2], *[pictures.COLOURS[0]] * (len(bars) - 1)]
    axes.barh(range(len(bars)), numbers, color=colours, height=0.66)
    axes.set_yticks(range(len(bars)), labels, parse_math=False)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=pictures.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, max(1, *numbers) * 1.2)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axes.set_xlabel("documents")
    for place, number in enumerate(numbers):
        axes.annotate(
            f"{number:,}", (number, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        )
