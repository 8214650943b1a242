r"""Compares runs: learning curves, a table and a sentence, as PNG and Markdown.

    python -m tf_codistill.report --runs=alone=runs/one --runs=codistillation=runs/two \
        --evaluation=runs/evaluation.json --output_dir=runs/report

    python -m tf_codistill.report --results=docs/results/cifar.jsonl --figure=accuracy \
        --output_dir=runs/report

The first of the runs, or of the settings of a sweep, is the baseline. Runs may still be training.
"""

from __future__ import annotations

from absl import flags

from tf_codistill import learning_curves, program, reporting

_RUNS = flags.DEFINE_multi_string("runs", [], "Run as name=workdir; repeat it, the baseline first.")
_EVALUATION = flags.DEFINE_multi_string("evaluation", [], "JSON file written by `evaluate`; may be repeated.")
_RESULTS = flags.DEFINE_multi_string("results", [], "Results of a sweep in place of runs; may be repeated.")
_FIGURE = flags.DEFINE_string("figure", "loss", "With --results: the figure of validation that is drawn.")
_BASELINE = flags.DEFINE_string("baseline", None, "With --results: the baseline; the first by default.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory for the report.", required=True)


def main() -> None:
    """Reads the runs, writes the report, prints its sentences; of a sweep the report itself."""
    program.require("with --results", bool(_RESULTS.value), _FIGURE, _BASELINE)
    program.require("without --results", not _RESULTS.value, _RUNS, _EVALUATION)
    if _RESULTS.value:
        from tf_codistill.sweeps import pages, results

        found = [one for path in _RESULTS.value for one in results.read(path)]
        print(pages.write(found, _OUTPUT_DIR.value, _FIGURE.value, _BASELINE.value))
        return
    shown = [learning_curves.read_run(name, workdir) for name, workdir in program.named(_RUNS)]
    evaluations = [reporting.read_evaluation(path) for path in _EVALUATION.value]
    sentences = reporting.write_report(shown, evaluations, _OUTPUT_DIR.value)
    print(f"report: {_OUTPUT_DIR.value}/{reporting.REPORT}", *sentences, sep="\n")


if __name__ == "__main__":
    program.run(main)
