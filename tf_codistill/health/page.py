"""A run as a page: what `table` shows, with colours for what is old, and curves.

    page(overview)                        self-contained, as it was at that moment
    page(overview, refresh_secs=2.0)      takes the text of `body` anew from its server every two seconds

All text is escaped, and the page's own policy lets a browser run nothing but the few lines below.
"""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence

from tf_codistill import pictures
from tf_codistill.health import curves, overview, table
from tf_codistill.health.overview import Overview
from tf_codistill.health.progress import CURVES

BODY_PATH = "body"
TITLE = "Groups of a run"

_TITLES = ("validation loss", "distillation loss", "staleness of teachers, in steps")
_STYLE = """main { overflow-x: auto }
table { font-variant-numeric: tabular-nums; font-size: .93rem; margin-bottom: 1.2rem }
td, th { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #eceff3; text-align: left;
  vertical-align: top }
th { color: #68717d; font-weight: normal; white-space: nowrap }
td { overflow-wrap: anywhere }
.tight { white-space: nowrap }
p { color: #68717d }
.old { color: #9a6700 } .bad { color: #b42318; font-weight: bold }
.lost main { opacity: .4 }
section { display: flex; flex-wrap: wrap; gap: 1rem 2rem }
figure { margin: 0; flex: 1 1 20rem; max-width: 27rem } figcaption { font-weight: bold }
svg { width: 100%; height: auto; font-family: inherit }"""
# A page whose server is gone says so, rather than show what was as if it still were.
_SCRIPT = """const said = document.querySelector("aside");
async function refresh() {
  try {
    const answer = await fetch("BODY_PATH", {cache: "no-store", signal: AbortSignal.timeout(10000)});
    if (!answer.ok) throw new Error(answer.status);
    document.querySelector("main").innerHTML = await answer.text();
    said.textContent = "";
  } catch {
    said.textContent = "no answer since " + (said.dataset.since ||= new Date().toLocaleTimeString());
  }
  if (!said.textContent) delete said.dataset.since;
  document.body.classList.toggle("lost", Boolean(said.textContent));
  setTimeout(refresh, PERIOD);
}
setTimeout(refresh, PERIOD);"""


def script(refresh_secs: float) -> str:
    """The few lines that take the body anew every so many seconds."""
    return _SCRIPT.replace("BODY_PATH", BODY_PATH).replace("PERIOD", str(round(1000 * refresh_secs)))


def page(run: Overview, refresh_secs: float | None = None) -> str:
    """The whole page.

    Args:
        run: What it shows.
        refresh_secs: How often it asks its server for what is new; None for a page that stays as it is.

    Returns:
        HTML that loads nothing else.
    """
    updates = "" if refresh_secs is None else script(refresh_secs)
    main = f'<main>{body(run)}</main>\n<aside class="bad" role="status"></aside>'
    return pictures.page(TITLE, main, _STYLE, updates)


def body(run: Overview) -> str:
    """What of the page changes: the table and the curves."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(run.at))
    where = f"<p>{html.escape(overview.text(run.workdir) or '')} at {moment}</p>"
    if not run.groups:
        return f"{where}\n<p>No group has begun yet.</p>"
    drawn = (
        curves.chart(
            title, {health.status.group: health.status.curves.get(name, ()) for health in run.groups}
        )
        for title, name in zip(_TITLES, CURVES, strict=True)
    )
    said = run.evaluated.sentence(run.at) if run.evaluated else ""
    below = f"<p>{html.escape(said)}</p>\n" if said else ""
    return f"{where}\n{_tables(run)}\n{below}<section>{''.join(drawn)}</section>"


def _tables(run: Overview) -> str:
    """How far the groups are, and how they fare, as on a terminal."""
    fares, marks = [], []
    for health in run.groups:
        figures = overview.group_figures(run, health)
        fares.append({"group": str(health.status.group), **table.health_cells(figures)})
        marks.append(table.marks(figures, run.silent_secs))
    progress = [health.status.cells() for health in run.groups]
    return f"{_table(progress, [{}] * len(progress))}\n{_table(fares, marks)}"


def _table(rows: Sequence[Mapping[str, str]], marks: Sequence[Mapping[str, str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = [
        "<tr>" + "".join(_cell(name, row.get(name, "-"), marked.get(name)) for name in names) + "</tr>"
        for row, marked in zip(rows, marks, strict=True)
    ]
    return f"<table>\n<tr>{head}</tr>\n" + "\n".join(lines) + "\n</table>"


def _cell(column: str, text: str, mark: str | None) -> str:
    classes = " ".join(filter(None, ("" if column in table.WIDE else "tight", mark)))
    point = f'<span style="color: {curves.colour(int(text))}">\u25cf</span> ' if column == "group" else ""
    return f'<td class="{classes}">{point}{html.escape(text)}</td>'
