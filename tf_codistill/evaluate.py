r"""Evaluates trained models on what their task holds out, or the groups of a run while they train.

    python -m tf_codistill.evaluate --runs=alone=runs/one --runs=codistillation=runs/two \
        --output=runs/evaluation.json
    python -m tf_codistill.evaluate --continuous --workdir=runs/two      beside `launch`, until that is done

Prints, and writes as JSON, loss and metrics of each group's model, or of each of its students, of the
ensemble of each run, and of every ``--model=name=file.keras``; with ``--continuous`` those of the snapshots
that groups publish, see docs/status.md. Without ``--gin_file`` the bindings of the first run are in force.
"""

from __future__ import annotations

import os

from absl import flags, logging

from tf_codistill import files, gpus, program, reporting, runs, terminal

_RUNS = flags.DEFINE_multi_string("runs", [], "Run as name=workdir; may be repeated.")
_MODELS = flags.DEFINE_multi_string("model", [], "Saved model as name=file.keras; may be repeated.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results; with --continuous a directory.")
_CONTINUOUS = flags.DEFINE_bool("continuous", False, "Follow a run while it trains, until it has finished.")


def main() -> None:
    """Evaluates every run and model that was named, or follows one run."""
    program.require("with --continuous", _CONTINUOUS.value, program.WORKDIR, program.EXCHANGE_DIR)
    program.require("without --continuous", not _CONTINUOUS.value, _RUNS, _MODELS)
    (_follow if _CONTINUOUS.value else _evaluate)()


def _follow() -> None:
    workdir, exchange_dir = program.WORKDIR.value, program.EXCHANGE_DIR.value
    if not workdir:
        raise ValueError("--workdir is not set; name the directory of the run to follow")
    gpus.take_memory_as_needed()  # the groups need it
    from tf_codistill import experiment
    from tf_codistill.following import rounds, waiting

    files.check_scheme(workdir, exchange_dir, _OUTPUT.value)
    program.parse_gin(instead="" if program.GIN_FILE.value else waiting.wait_for_bindings(workdir))
    rounds.follow(experiment.configured().task, workdir, exchange_dir, _OUTPUT.value)


def _evaluate() -> None:
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
    terminal.console().print(reporting.terminal_table(rows, f"On {number:,} {task.units} that were held out"))
    if _OUTPUT.value:
        files.write_json(_OUTPUT.value, {"models": rows, "num_units": number, "units": task.units})


if __name__ == "__main__":
    program.run(main, program.WORKDIR, program.EXCHANGE_DIR, *program.GIN)
