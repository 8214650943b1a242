r"""Trains everything anew, several times, and tells how far predictions change: table 1 of Anil et al. 2018.

    python -m tf_codistill.retrain --workdir=runs/churn --gin_file=gin/clicks/churn.gin --num_retrains=5

    <workdir>/<setting>/seed_<s>/    the runs        <workdir>/table.md, churn.png, retrain.json
    <workdir>/runs.jsonl             what became of each         <workdir>/predictions/: for `churn`

Several runs are trained at a time; Ctrl-C stops them, and the same command goes on where each one stopped.
"""

from __future__ import annotations

from absl import flags

from tf_codistill import program

_NUM_RETRAINS = flags.DEFINE_integer("num_retrains", 5, "Retrains of each row of the table.", lower_bound=2)


def main() -> None:
    """Trains what is not done yet, and measures all."""
    from tf_codistill import retraining, run_matrix

    if not program.WORKDIR.value:
        raise ValueError("--workdir is not set; name the directory that is to hold the runs")
    program.parse_gin()
    what = retraining.Retraining()  # type: ignore[call-arg]
    program.check_bindings()
    trials = what.trials(program.WORKDIR.value, _NUM_RETRAINS.value)
    run_matrix.train(trials, program.WORKDIR.value, **program.matrix_limits())
    predicting = retraining.Predicting(trials[0].workdir, what.measured_with, program.WORKDIR.value)
    print(retraining.write(what.rows(trials, predicting), program.WORKDIR.value))


if __name__ == "__main__":
    program.run(main, program.WORKDIR, *program.GIN, *program.MATRIX)
