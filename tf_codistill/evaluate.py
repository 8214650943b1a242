r"""Evaluates trained models on the held-out documents of a corpus.

    python -m tf_codistill.evaluate --runs=alone=runs/one --runs=codistillation=runs/two \
        --output=runs/evaluation.json

Prints, and writes as JSON, the loss from a zero state and from a carried state and the perplexity of each
group's model, or of each of its students, of the ensemble of each run, and of every
``--model=name=file.keras``. Without a ``--gin_file`` the bindings of the first run are in force.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from absl import flags, logging
from rich.console import Console
from rich.table import Column, Table

from tf_codistill import files, program, reporting, runs

_RUNS = flags.DEFINE_multi_string("runs", [], "Run as name=workdir; may be repeated.")
_MODELS = flags.DEFINE_multi_string("model", [], "Saved model as name=file.keras; may be repeated.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")


def main() -> None:
    """Evaluates every run and model that was named."""
    from tf_codistill import evaluation, experiment

    named_runs, named_models = program.named(_RUNS), program.named(_MODELS)
    workdirs = [workdir for _, workdir in named_runs]
    if not (named_runs or named_models):
        raise ValueError("nothing to evaluate; name --runs=name=workdir, or --model=name=file")
    if untrained := [workdir for workdir in workdirs if not runs.groups(workdir)]:
        raise ValueError(f"--runs names {untrained[0]!r}, but no group has been trained there")
    if _OUTPUT.value:
        files.make_directory(os.path.dirname(_OUTPUT.value) or ".")  # before an evaluation that would be lost
    program.parse_gin(instead=runs.bindings(workdirs[0]) if workdirs else "")
    task = experiment.configured().task
    for workdir in workdirs:
        for group in runs.groups(workdir):
            task.check_beside_model(runs.group_dir(workdir, group))
    rows: dict[str, evaluation.Row] = {}
    for name, workdir in named_runs:
        logging.info("evaluating %s", name)
        members: dict[str, evaluation.Member] = {}
        for group in runs.groups(workdir):
            members |= evaluation.from_checkpoint(task, workdir, group)
        rows |= {f"{name}, {part}": row for part, row in evaluation.evaluate(task, members).items()}
    for name, path in named_models:
        rows |= evaluation.evaluate(task, {name: evaluation.from_saved_model(task, path)})
    number = task.validation().units_per_epoch
    _print(rows, f"On {number:,} {task.units} that were held out")
    if _OUTPUT.value:
        files.write_json(_OUTPUT.value, {"models": rows, "num_units": number, "units": task.units})


def _print(rows: Mapping[str, Mapping[str, float | str]], title: str) -> None:
    columns = reporting.columns(rows)
    figures = (Column(name, justify="right") for name in columns.values())
    table = Table(Column("model", no_wrap=True), *figures, title=title)
    for name, row in rows.items():
        table.add_row(name, *reporting.cells(row, columns))
    Console().print(table)


if __name__ == "__main__":
    program.run(main, *program.GIN)
