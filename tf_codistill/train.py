r"""Trains one worker of one group.

    python -m tf_codistill.train --workdir=runs/two --group=0 --num_groups=2 --gin_file=gin/quickstart.gin

Start one for every worker of every group; TF_CONFIG tells the workers of a group about each other, the
workdir, or ``--exchange_dir`` if it is given, is all that groups share. `launch` does it, here or by a
scheduler; with ``--cluster`` group and TF_CONFIG follow from what the scheduler tells each worker.
Started again with the same workdir it goes on from its last checkpoint. The exit status is 0 when training
has come to its end, 75 when a signal has stopped it and the same command goes on.
"""

from __future__ import annotations

from absl import flags, logging

from tf_codistill import children, files, program, runs
from tf_codistill.launching import cluster

_CLUSTER = flags.DEFINE_enum(
    "cluster", None, cluster.CLUSTERS, "Who started this worker, and tells its group and the group's workers."
)
_GROUP = flags.DEFINE_integer("group", 0, "This group, from 0.")
_NUM_GROUPS = flags.DEFINE_integer("num_groups", 1, "Groups that begin together, 1 for a model alone.")
_RUN_ID = flags.DEFINE_string("run_id", None, "Names the run; snapshots of another one are never taken.")
_TAKE_OVER = flags.DEFINE_bool("take_over", False, "Take the group from a process that is alive.")
_INJECT = flags.DEFINE_multi_string(
    "inject", [], "A fault on purpose, kind@group:worker:step; see injection."
)
_START_FROM = flags.DEFINE_enum("start_from", "scratch", ["scratch", "peer"], "Where a new group begins.")
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "none", "mirrored", "multi_worker", "parameter_server", "tpu"],
    "How the group's replicas train together.",
)


def main() -> None:
    """Builds the experiment and trains it."""
    from tf_codistill import configurables, distribution, experiment, injection

    workdir, group = program.workdir("of the run"), _GROUP.value
    program.require("without --cluster", not _CLUSTER.value, _GROUP)
    if _CLUSTER.value:
        group = cluster.join(_CLUSTER.value)
    files.check_scheme(workdir, program.EXCHANGE_DIR.value)
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    if distribution.serve():  # the coordinator of an asynchronous group, which has ended
        return
    strategy = distribution.create_strategy(_STRATEGY.value)
    program.parse_gin()
    config, setting = runs.config_path(workdir, group), f"# num_groups: {_NUM_GROUPS.value}\n"

    def when_built() -> None:
        program.check_bindings()
        program.check_unchanged(config, setting, configurables.MAY_CHANGE)
        if distribution.is_chief(strategy):
            files.write(config, (setting + program.bindings_in_force()).encode())

    settings = experiment.configured()
    # Once before anything is made, so that a sentence of another kind does not come first, and once after.
    program.check_unchanged(config, setting, configurables.MAY_CHANGE)
    exchange_dir, faults = program.EXCHANGE_DIR.value, list(map(injection.parse, _INJECT.value))
    place = (runs.leased_dir(workdir, group), exchange_dir or runs.exchange_dir(workdir))
    worker = distribution.worker_index(strategy)
    callbacks = [injection.Injection(faults, group, worker, *place)] if faults else []
    how = (exchange_dir, _RUN_ID.value, _TAKE_OVER.value, _START_FROM.value, callbacks)
    status = 0
    try:
        settings.train(workdir, group, _NUM_GROUPS.value, strategy, when_built, *how)
    except KeyboardInterrupt:  # by a signal, behind a checkpoint
        status = children.TRY_AGAIN
    distribution.leave(strategy, status)


if __name__ == "__main__":
    program.run(main, program.WORKDIR, program.EXCHANGE_DIR, *program.GIN)
