"""A run whose files somebody has filled with what a page, or a terminal, might take for its own."""

from __future__ import annotations

import pathlib

from tests import toy_runs

TAG = "<img src=x onerror=\"window.hostile=1;document.title='hostile'\">"
SCRIPT = "<script>window.hostile=1</script>"
TERMINAL = "\x1b[2J[red]\x07"
TEXT = f"{TAG}{SCRIPT}</td>{TERMINAL}"


def write(workdir: pathlib.Path) -> None:
    """Writes it wherever a text of the run is shown."""
    units = {"units": "<b onmouseover=x>"}
    toy_runs.log(
        workdir, 0, toy_runs.start(200) | units, toy_runs.restart(0, TEXT), toy_runs.train(50, loss=TEXT)
    )
    toy_runs.hold(workdir, 0, host=TEXT, pid=TEXT, beat_at=TEXT)
    toy_runs.log(workdir, 1, toy_runs.start(200) | {"num_steps": TEXT}, toy_runs.train(50))
    toy_runs.write_log(workdir, 1, "$ train", f"error: {TEXT}")
    toy_runs.publish(workdir, 2, serial=1, step=TEXT)
    path = pathlib.Path(toy_runs.log(workdir, 2, toy_runs.start(200)))
    path.write_text(path.read_text() + f"{TEXT}\n")
