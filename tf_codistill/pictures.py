"""How pictures and pages look: colours, fonts, the way to a PNG, the frame of an HTML page.

with matplotlib.rc_context(STYLE):
    figure = new_figure("Two groups that learn from each other")
    axes = figure.subplots()
    ...
    content = png(figure)
html = page("A title", '<img src="figure.png" alt="What it shows">')
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import textwrap

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Okabe and Ito's colours, told apart by everybody; the baseline is grey.
COLOURS = ("#4d5560", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00")
QUIET = "#8a929c"
INK = "#22272e"
GRID = "#eceff3"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#c9ced6",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "text.color": INK,
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #22272e;
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem }}
img {{ width: 100%; height: auto }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
table {{ border-collapse: collapse }}
{style}
</style>
<h1>{title}</h1>
{body}
{script}</html>
"""
_TITLE_CHARACTERS = 95  # that fit the width


def new_figure(title: str) -> Figure:
    """A wide figure with its title at the left, in several lines if it is long."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04)
    figure = Figure(figsize=(12, 5.2), dpi=150, layout=layout, facecolor="white")
    lines = plain(textwrap.fill(title, _TITLE_CHARACTERS))
    figure.suptitle(lines, x=0.012, ha="left", fontsize=14, fontweight="bold")
    return figure


def plain(text: str) -> str:
    """Text that Matplotlib takes for text, and not for a formula."""
    return text.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """The content of a PNG file with the figure."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def policy(script: str = "") -> str:
    """What a browser may do for a page: show pictures beside it, run one script, which may ask its server.

    Args:
        script: The text of the one script; empty if nothing may be run.

    Returns:
        A Content-Security-Policy.
    """
    allowed = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'"
    if not script:
        return allowed
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{allowed}; script-src 'sha256-{digest}'; connect-src 'self'"


def page(title: str, body: str, style: str = "", script: str = "") -> str:
    """An HTML page that loads nothing but pictures beside it.

    Args:
        title: Its title, as text.
        body: What follows the title, as HTML.
        style: Further rules of CSS.
        script: The one script that runs on it, in JavaScript; none by default.

    Returns:
        The page.
    """
    scripts = f"<script>{script}</script>\n" if script else ""
    return _PAGE.format(
        title=html.escape(title), body=body, style=style, script=scripts, policy=policy(script)
    )
