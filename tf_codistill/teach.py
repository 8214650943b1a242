r"""Lets a peer's snapshots predict what a group reads next, on another machine (section 2.1 of the paper).

    python -m tf_codistill.launch --num_groups=2 --workdir=runs/ahead --gin_file=gin/ahead.gin
    python -m tf_codistill.teach --workdir=runs/ahead --peer=1 --group=0
    python -m tf_codistill.teach --workdir=runs/ahead --peer=0 --group=1

Training waits for nobody: batches that have not been predicted in time are learned from without a teacher.
It ends when the group has come to its end, may be interrupted at any time, and goes on where the group is.
"""

from __future__ import annotations

from absl import flags

from tf_codistill import files, gpus, program, runs

_PEER = flags.DEFINE_integer("peer", None, "Group whose snapshots predict.", 0, required=True)
_GROUP = flags.DEFINE_integer("group", None, "Group whose batches are predicted.", 0, required=True)
_AHEAD_STEPS = flags.DEFINE_integer("ahead_steps", 100, "Steps that it works ahead of the group, at most.", 1)


def main() -> None:
    """Follows and predicts."""
    workdir, exchange_dir = program.WORKDIR.value, program.EXCHANGE_DIR.value
    if not workdir:
        raise ValueError("--workdir is not set; name the directory of the run")
    gpus.take_memory_as_needed()  # the groups need it
    from tf_codistill import experiment
    from tf_codistill.following import answering, members, waiting
    from tf_codistill.tasks.base import Part

    files.check_scheme(workdir, exchange_dir)
    program.parse_gin(instead="" if program.GIN_FILE.value else waiting.wait_for_bindings(workdir))
    configured, group = experiment.configured(), _GROUP.value
    exchange_dir = exchange_dir or runs.exchange_dir(workdir)
    waiting.wait_for_bindings(workdir)  # a group that has begun tells how many there are
    task, number = configured.task, waiting.num_groups(workdir)
    teaching = configured.teachers(exchange_dir, group, number, task.batch_size, members.run_id(workdir))
    ((index, of),) = teaching.parts(group, number)
    part, peer = Part(index, of, configured.seed), _PEER.value
    answering.answer(task, teaching, part, workdir, peer, group, exchange_dir, _AHEAD_STEPS.value)


if __name__ == "__main__":
    program.run(main, program.WORKDIR, program.EXCHANGE_DIR, *program.GIN)
