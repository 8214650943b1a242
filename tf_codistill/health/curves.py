r"""Curves over steps as SVG, which a browser shows without any program of ours.

    svg = chart("validation loss", {0: [(50, 5.4), (100, 4.9)], 1: [(50, 5.5)]})

       5.5 |o
           |  \ ---- group 0  4.9
       4.9 |___________
           0         100

Numbers are all that is drawn, so that nothing of a run's text can come into it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from tf_codistill import pictures

_WIDTH, _HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 96, 12, 26
_LABEL_GAP = 13.0

Points = Sequence[tuple[int, float]]


def colour(group: int) -> str:
    """The colour of a group; the first ones are told apart by everybody."""
    colours = pictures.COLOURS[1:]
    return colours[group % len(colours)]


def chart(title: str, curves: Mapping[int, Points]) -> str:
    """Draws a curve for each group.

    Args:
        title: What is drawn.
        curves: Steps and finite values of each group.

    Returns:
        A ``figure`` of HTML with the SVG; empty if there is no value at all.
    """
    drawn = {group: points for group, points in curves.items() if points}
    values = [value for points in drawn.values() for _, value in points]
    if not values:
        return ""
    last = max(max(step for step, _ in points) for points in drawn.values()) or 1
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5

    def x(step: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * max(step, 0) / last

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    parts = [
        *(_grid(y(value), _figure(value)) for value in (low, (low + high) / 2, high)),
        _text(x(0), _HEIGHT - 8, "0", "middle"),
        _text(x(last), _HEIGHT - 8, f"step {last:,}", "end"),
    ]
    ends = {}
    for group, points in drawn.items():
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour(group)}" stroke-width="1.8" '
            'stroke-linejoin="round" stroke-linecap="round"/>'
        )
        ends[group] = (y(points[-1][1]), points[-1][1])
    parts += [
        _text(
            _WIDTH - _RIGHT + 6, height + 4, f"group {group}  {_figure(ends[group][1])}", fill=colour(group)
        )
        for group, height in _apart({group: height for group, (height, _) in ends.items()}).items()
    ]
    caption = html.escape(title)
    return (
        f'<figure><figcaption>{caption}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{caption}">{"".join(parts)}</svg></figure>'
    )


def _apart(heights: Mapping[int, float]) -> dict[int, float]:
    """Heights of labels, pushed up where they would touch."""
    found, highest = {}, float("inf")
    for group, height in sorted(heights.items(), key=lambda item: -item[1]):
        highest = min(height, highest - _LABEL_GAP)
        found[group] = highest
    return found


def _grid(height: float, label: str) -> str:
    line = f'<path d="M{_LEFT} {height:.1f}H{_WIDTH - _RIGHT}" stroke="{pictures.GRID}"/>'
    return line + _text(_LEFT - 6, height + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = pictures.QUIET) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="11">'
        f"{html.escape(text)}</text>"
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
