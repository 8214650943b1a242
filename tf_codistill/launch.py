r"""Trains all groups of a run on this machine.

    python -m tf_codistill.launch --num_groups=2 --workers_per_group=2 --workdir=runs/two \
        --gin_file=gin/quickstart.gin --gin_bindings="num_steps = 500"

Each worker is a ``python -m tf_codistill.train`` of its own. One line per group shows its progress; what the
workers print goes to ``<workdir>/group_<g>/worker_<w>.log``. Ctrl-C stops them all, one that fails stops the
others. A workdir on remote storage has its logs on this machine.
"""

from __future__ import annotations

import sys

from absl import flags

from tf_codistill import bindings, files, program, runs
from tf_codistill.launching import local

_NUM_GROUPS = flags.DEFINE_integer("num_groups", 2, "Groups to train, 1 for a model trained alone.")
_WORKERS_PER_GROUP = flags.DEFINE_integer("workers_per_group", 1, "Processes of each group.")
_BASE_PORT = flags.DEFINE_integer("base_port", None, "First port for the workers; free ones by default.")


def train_command(group: int) -> list[str]:
    """The command line of the workers of one group.

    Args:
        group: Index of the group.

    Returns:
        The arguments, the interpreter first; everything given to this program goes to the workers.
    """
    exchange_dir = program.EXCHANGE_DIR.value
    return [
        *(sys.executable, "-m", "tf_codistill.train"),
        *(f"--workdir={program.WORKDIR.value}", f"--group={group}", f"--num_groups={_NUM_GROUPS.value}"),
        *([f"--exchange_dir={exchange_dir}"] if exchange_dir else []),
        f"--run_id={runs.run_id(program.WORKDIR.value)}",
        *(f"--gin_file={path}" for path in program.GIN_FILE.value),
        *(f"--gin_bindings={binding}" for binding in program.GIN_BINDINGS.value),
    ]


def main() -> None:
    """Starts the workers and waits for them."""
    from tf_codistill.experiment import Experiment

    if not program.WORKDIR.value:
        raise ValueError("--workdir is not set; name the directory that is to hold the run")
    files.check_scheme(program.WORKDIR.value, program.EXCHANGE_DIR.value)
    program.parse_gin()  # a mistake in it is told here once, not by every worker
    bindings.check_required(Experiment)
    local.launch(
        program.WORKDIR.value,
        num_groups=_NUM_GROUPS.value,
        workers_per_group=_WORKERS_PER_GROUP.value,
        base_port=_BASE_PORT.value,
        exchange_dir=program.EXCHANGE_DIR.value,
        num_steps=bindings.value("Experiment.num_steps"),
        command=train_command,
    )


if __name__ == "__main__":
    program.run(main, program.WORKDIR, program.EXCHANGE_DIR, *program.GIN)
