r"""Trains a matrix of runs, settings x axes x seeds, and says with intervals what they show together.

    python -m tf_codistill.sweep --gin_file=gin/images/cifar_sweep.gin --output_dir=runs/cifar/sweep

    <output_dir>/<setting>/seed_<s>/      the runs        <output_dir>/runs.jsonl     what became of each
    <output_dir>/results.jsonl            a line for each: setting, commit, curves, what was held out
    <output_dir>/sweep.md, curves.png     the report; `report --results=...` makes it anew

Several runs are trained at a time; Ctrl-C stops them, and the same command goes on where each one stopped.
"""

from __future__ import annotations

import os

from absl import flags

from tf_codistill import files, program

_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory of the runs and the report.", required=True)
_RESULTS = flags.DEFINE_string(
    "results", None, "File of results; runs in it are not repeated. <output_dir>/results.jsonl by default."
)


def main() -> None:
    """Trains what has no result yet, measures it, writes the report."""
    from tf_codistill import run_matrix
    from tf_codistill.sweeps import pages, results, sweep

    program.parse_gin()
    what = sweep.Sweep()  # type: ignore[call-arg]
    program.check_bindings()
    path = _RESULTS.value or files.join(_OUTPUT_DIR.value, "results.jsonl")
    known, expected = results.read(path), what.expected()
    results.check_alike([*known, *expected])

    def missing() -> list[results.Result]:
        return [one for one in expected if not any(one.is_of(other) for other in known)]

    def keep_what_is_done(*_: object) -> None:
        for one in sweep.finished(missing(), _OUTPUT_DIR.value, sweep.measure):
            known[:] = sweep.keep(path, one, expected)

    files.make_directory(os.path.dirname(path) or ".")  # before runs whose results would be lost
    keep_what_is_done()  # before it was stopped
    runs = sweep.trials(missing(), _OUTPUT_DIR.value)
    try:
        run_matrix.train(runs, _OUTPUT_DIR.value, when_done=keep_what_is_done, **program.matrix_limits())
    finally:  # of what there is, where a run has failed or Ctrl-C was pressed
        if any(one.curves for one in known):
            print(pages.write(sweep.in_order(known, expected), _OUTPUT_DIR.value))


if __name__ == "__main__":
    program.run(main, *program.GIN, *program.MATRIX)
