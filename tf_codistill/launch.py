r"""Trains all groups of a run, on this machine or by a scheduler.

    python -m tf_codistill.launch --num_groups=2 --workers_per_group=2 --workdir=runs/two \
        --gin_file=gin/quickstart.gin --gin_bindings="num_steps = 500"

Each worker is a ``python -m tf_codistill.train``, which prints to ``<workdir>/group_<g>/worker_<w>.log``.
Here one line per group shows its progress, Ctrl-C stops all, and a group that fails is started again.
"""

from __future__ import annotations

from absl import flags

from tf_codistill import bindings, files, program
from tf_codistill.launching import schedulers

_NUM_GROUPS = flags.DEFINE_integer("num_groups", 2, "Groups to train, 1 for a model trained alone.", 1)
_FIRST_GROUP = flags.DEFINE_integer("first_group", 0, "The first of them; those before run elsewhere.", 0)
_START_FROM = flags.DEFINE_enum("start_from", "scratch", ["scratch", "peer"], "Where new groups begin.")
_WORKERS = flags.DEFINE_integer("workers_per_group", 1, "Workers of each group.", 1)
_KIND = flags.DEFINE_enum("group_kind", "synchronous", ["synchronous", "asynchronous"], "How workers train.")
_NUM_PS = flags.DEFINE_integer("num_ps", 1, "Parameter servers of each asynchronous group.", 1)
_SCHEDULER = flags.DEFINE_enum("scheduler", "local", schedulers.SCHEDULERS, "Who starts the workers.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Prints what would be submitted, and submits nothing.")
_INJECT = flags.DEFINE_multi_string("inject", [], "A fault on purpose, kind@group:worker:step.")
_BASE_PORT = flags.DEFINE_integer("base_port", None, "First port for the workers; free ones by default.")
_GPUS = flags.DEFINE_integer("gpus_per_worker", 0, "GPUs that each worker asks for.", 0)
_TAKE_OVER = flags.DEFINE_bool("take_over", False, "Take the groups from processes that are alive.")
_HANG = flags.DEFINE_float("hang_secs", 600.0, "Seconds without metrics that make a group hung, 0 for never.")
_RESTARTS = flags.DEFINE_integer("max_restarts", 20, "How often a group may be started again.", 0)
_PARTITION = flags.DEFINE_string("partition", None, "Slurm: where the run is queued.")
_ACCOUNT = flags.DEFINE_string("account", None, "Slurm: who pays.")
_TIME_LIMIT = flags.DEFINE_string("time_limit", None, "Slurm: time of a group until it is queued again.")
_SBATCH = flags.DEFINE_multi_string("sbatch", [], "Slurm: further option, such as --mem-per-cpu=4G.")
_IMAGE = flags.DEFINE_string("image", None, "Kubernetes: container image with this package in it.")
_VOLUME = flags.DEFINE_multi_string("volume", [], "Kubernetes: claim=path, a volume and its place.")
_SELECTOR = flags.DEFINE_multi_string("node_selector", [], "Kubernetes: label=value that nodes must have.")
_QUEUE = flags.DEFINE_string("queue", None, "Kubernetes: Kueue's local queue.")
_TPUS = flags.DEFINE_integer("tpus_per_worker", 0, "Kubernetes: TPU chips of each worker.", 0)
_SLICES = flags.DEFINE_string("slices", None, "Cloud TPUs: group 0 has the slice <slices>-0, and so on.")
_ZONE = flags.DEFINE_string("zone", None, "Cloud TPUs: zone of the slices.")
_SETTINGS = {
    "local": (_BASE_PORT, _RESTARTS, _HANG, _TAKE_OVER),
    "slurm": (_GPUS, _RESTARTS, _PARTITION, _ACCOUNT, _TIME_LIMIT, _SBATCH),
    "kubernetes": (_GPUS, _RESTARTS, _IMAGE, _VOLUME, _SELECTOR, _QUEUE, _TPUS),
    "tpu": (_SLICES, _ZONE),
}


def main() -> None:
    """Starts the workers and waits for them, or hands them to a scheduler."""
    from tf_codistill import injection
    from tf_codistill.experiment import Experiment

    workdir, exchange_dir = program.workdir("that is to hold the run"), program.EXCHANGE_DIR.value
    files.check_scheme(workdir, exchange_dir)
    settings = program.settings_of(_SCHEDULER, _SETTINGS)
    settings |= {pairs.name: program.named(pairs) for pairs in (_VOLUME, _SELECTOR) if pairs.name in settings}
    program.parse_gin()  # a mistake in it is told here once, not by every worker
    bindings.check_required(Experiment)
    is_asynchronous = _KIND.value == "asynchronous"
    program.require("with --group_kind=asynchronous", is_asynchronous, _NUM_PS)
    of_train = [f"--start_from={_START_FROM.value}"] * _START_FROM.present
    of_train += [f"--inject={injection.parse(one)}" for one in _INJECT.value]
    launch = schedulers.Launch(
        workdir=workdir,
        num_groups=_NUM_GROUPS.value,
        first_group=_FIRST_GROUP.value,
        exchange_dir=exchange_dir,
        workers_per_group=_WORKERS.value,
        train_flags=(*of_train, *program.gin_flags()),
        num_steps=bindings.value("Experiment.num_steps"),
        num_ps=_NUM_PS.value if is_asynchronous else 0,
    )
    schedulers.start(launch, _SCHEDULER.value, settings, _DRY_RUN.value)


if __name__ == "__main__":
    program.run(main, program.WORKDIR, program.EXCHANGE_DIR, *program.GIN)
