r"""Trains one worker of one group.

    python -m tf_codistill.train --workdir=runs/two --group=0 --num_groups=2 --gin_file=gin/quickstart.gin

Start one for every worker of every group; TF_CONFIG tells the workers of a group about each other, the
workdir is all that groups share. On one machine `launch` does it. Started again with the same workdir it goes
on from its last checkpoint.
"""

from __future__ import annotations

from absl import flags, logging

from tf_codistill import distribution, experiment, files, program, runs

_GROUP = flags.DEFINE_integer("group", 0, "This group, from 0.")
_NUM_GROUPS = flags.DEFINE_integer(
    "num_groups", 1, "Groups that train together, 1 for a model trained alone."
)
_RUN_ID = flags.DEFINE_string("run_id", None, "Names the run; snapshots of another one are never taken.")
_STRATEGY = flags.DEFINE_enum(
    "strategy", "auto", distribution.STRATEGIES, "How the group's replicas train together."
)


def main() -> None:
    """Builds the experiment and trains it."""
    workdir, group = program.WORKDIR.value, _GROUP.value
    if not workdir:
        raise ValueError("--workdir is not set; name the directory of the run")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    strategy = distribution.create_strategy(_STRATEGY.value)
    program.parse_gin()

    def when_built() -> None:
        program.check_bindings()
        if distribution.is_chief(strategy):
            files.write(runs.config_path(workdir, group), program.bindings_in_force().encode())

    experiment.configured().train(
        workdir, group, _NUM_GROUPS.value, strategy, when_built, run_id=_RUN_ID.value
    )


if __name__ == "__main__":
    program.run(main)
