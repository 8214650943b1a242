r"""Tortures a small job: random faults at random times; says what followed, and whether what must hold does.

    python -m tf_codistill.torture --minutes=10 --mtbf_secs=20 --num_groups=3 --workdir=runs/torture

Workers are killed, stopped, terminated, made to hang, slow down or diverge, snapshots harmed, storage taken
away, and the launcher killed. In the end every step must have been logged once, every batch learned from
once, no torn snapshot taken, the loss be within noise of runs without faults: see docs/fault_tolerance.md.
The exit status is 1 if an invariant fails. Ctrl-C ends everything.
"""

from __future__ import annotations

import os
import sys

from absl import flags

from tf_codistill import files, program

_MINUTES = flags.DEFINE_float("minutes", 10.0, "For how long there are faults.")
_MTBF = flags.DEFINE_float("mtbf_secs", 20.0, "Mean seconds between two faults, whomever they hit.")
_NUM_GROUPS = flags.DEFINE_integer("num_groups", 3, "Groups of the job.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Fixes faults and job.", 0)
_KINDS = flags.DEFINE_list("kinds", None, "Kinds of faults, with commas between them; all by default.")
_CONTROLS = flags.DEFINE_integer("num_controls", 2, "Runs without faults, which tell what noise is.", 1)
_HANG = flags.DEFINE_float(
    "hang_secs", 30.0, "That of launch: seconds without metrics that make a group hung."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the report.")

_LINE_CHARACTERS = 160


def main() -> None:
    """Tortures, and reports."""
    from rich.console import Console

    from tf_codistill.torturing import course

    if not program.WORKDIR.value:
        raise ValueError("--workdir is not set; name a new directory for the job")
    if _OUTPUT.value:
        files.make_directory(os.path.dirname(_OUTPUT.value) or ".")  # before a torture that would be lost
    kinds = {} if _KINDS.value is None else {"kinds": _KINDS.value}
    settings = course.Settings(
        workdir=program.WORKDIR.value,
        minutes=_MINUTES.value,
        mtbf_secs=_MTBF.value,
        num_groups=_NUM_GROUPS.value,
        seed=_SEED.value,
        num_controls=_CONTROLS.value,
        hang_secs=_HANG.value,
        **kinds,
    )
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else _LINE_CHARACTERS
    report = course.torture(settings, console)
    report.print(console)
    if _OUTPUT.value:
        files.write_json(_OUTPUT.value, report.figures())
    if not report.holds:
        sys.exit(1)


if __name__ == "__main__":
    program.run(main, program.WORKDIR)
