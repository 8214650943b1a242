"""A run on disk: where each group keeps what, and the metrics file that programs read.

    <workdir>/
        run.json                                 the run's name, by which snapshots of others are told apart
        exchange/group_0/snapshot_.../...        snapshots on their way to peers
        evaluation/                              of `evaluate --continuous`: metrics.jsonl and tensorboard/
        group_0/
            metrics.jsonl                        one JSON object per line, see below
            config.gin                           the bindings that were in force
            tokenizer/                           what the model reads text with, see `trained`
            checkpoints/checkpoint_00000500/...  what the group needs to resume
            tensorboard/                         event files
            student.keras                        the servable model, written at the end; student_0.keras and
                                                 so on if the group trains several in one process
            worker_0.log                         output of the group's first worker
            lease/                               whose process writes here, see `leases`
            generation_2/                        the same again, but for logs: where its next owner writes if
                                                 the one before may still do so, see `leases`

A line of the metrics file has ``kind`` and ``step``, then numbers by name:

    {"kind": "start", "step": 0, "num_steps": 2000, "time": 1700000000.0, ...}
    {"kind": "train", "step": 50, "elapsed_secs": 7.1, "tokens_per_sec": 14411.0, "loss": 5.9,
     "total_loss": 5.9, "distillation_loss": 0.0, "distillation_weight": 0.0, "teacher_agreement": 0.0,
     "staleness_steps": 0.0}
    {"kind": "validation", "step": 100, "elapsed_secs": 15.0, "loss": 5.4, "perplexity": 221.4}
    {"kind": "restart", "step": 700, "reason": "worker 0 of group 0 was killed by SIGKILL", "attempt": 1,
     "time": 1700000100.0}
    {"kind": "end", "step": 2000, "elapsed_secs": 280.0}

A restart's step is that from which the group went on. ``elapsed_secs`` counts the time spent in training,
restarts taken out. A workdir may be on remote storage, where each line writes the file anew; the logs of
workers are then on their machines.
"""

from __future__ import annotations

import itertools
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from tf_codistill import files

KINDS = ("start", "train", "validation", "end", "restart")
_GENERATION = re.compile(r"generation_(\d+)")
_BEGUN = "begun.json"
GROUP = re.compile(r"group_(\d{1,9})")
"""Name of a group's directory: its index."""
SNAPSHOT = re.compile("snapshot_([0-9]{10,18})_([0-9]{6,18})")  # both fit 64 bits
"""Name of a snapshot in a group's part of the exchange directory: incarnation and serial number."""
READER = "reader_"
"""What the name of a file there begins with that says which group learns from this one."""
CHECKPOINT = re.compile(r"checkpoint_(\d{8,})")
"""Name of a checkpoint in a group's directory of them: its step."""
ENSEMBLE = "ensemble"
"""What the ensemble of models is called beside them, wherever figures have names."""

_FIRST_LINE_BYTES = 1 << 16
_MOST_STEPS = 1 << 53  # whole numbers below it are exact in every program that reads the file


def exchange_dir(workdir: str) -> str:
    """The directory through which the groups of a run exchange snapshots."""
    return files.join(workdir, "exchange")


def snapshot_name(incarnation: int, serial: int) -> str:
    """The name of a snapshot there, as `SNAPSHOT` takes it apart."""
    return f"snapshot_{incarnation:010d}_{serial:06d}"


def evaluation_dir(workdir: str) -> str:
    """Where `evaluate --continuous` writes what it finds, unless it is told otherwise."""
    return files.join(workdir, "evaluation")


def leased_dir(workdir: str, group: int) -> str:
    """The directory of one group with all its generations and logs, whose lease says who writes in it."""
    return files.join(workdir, f"group_{group}")


def group_dir(workdir: str, group: int, generation: int | None = None) -> str:
    """The directory of one group of a run.

    Args:
        workdir: Directory of the run.
        group: Index of the group.
        generation: That of an owner, who writes nowhere else; the newest that has begun if not given.

    Returns:
        The directory.
    """
    directory = leased_dir(workdir, group)
    if generation is None:
        found = (_GENERATION.fullmatch(name) for name in files.names(directory))
        known = sorted((int(match.group(1)) for match in found if match), reverse=True)
        generation = next((one for one in known if has_begun(workdir, group, one)), 1)
    return directory if generation == 1 else files.join(directory, f"generation_{generation}")


def has_begun(workdir: str, group: int, generation: int) -> bool:
    """Whether a generation of a group's directory has all that it takes from the one before."""
    return generation == 1 or files.exists(files.join(group_dir(workdir, group, generation), _BEGUN))


def begin(workdir: str, group: int, generation: int) -> None:
    """Notes that it has: from now on readers look there."""
    files.write_json(files.join(group_dir(workdir, group, generation), _BEGUN), {"generation": generation})


def metrics_path(workdir: str, group: int, generation: int | None = None) -> str:
    """The metrics file of one group."""
    return files.join(group_dir(workdir, group, generation), "metrics.jsonl")


def checkpoints_dir(workdir: str, group: int, generation: int | None = None) -> str:
    """The directory of one group's checkpoints."""
    return files.join(group_dir(workdir, group, generation), "checkpoints")


def tensorboard_dir(workdir: str, group: int, generation: int | None = None) -> str:
    """The directory of one group's TensorBoard event files."""
    return files.join(group_dir(workdir, group, generation), "tensorboard")


def student_path(workdir: str, group: int, student: int | None = None, generation: int | None = None) -> str:
    """The servable model of one group, or of one of several students that it trains in one process."""
    name = "student" if student is None else f"student_{student}"
    return files.join(group_dir(workdir, group, generation), f"{name}.keras")


def config_path(workdir: str, group: int) -> str:
    """The gin bindings that were in force in one group."""
    return files.join(group_dir(workdir, group), "config.gin")


def bindings(workdir: str, group: int = 0) -> str:
    """The bindings that are in force in a run, as a gin file; empty if it has written none."""
    path = config_path(workdir, group)
    return files.read(path).decode("utf-8") if files.exists(path) else ""


def log_path(workdir: str, group: int, worker: int) -> str:
    """The log of one worker of one group."""
    return files.join(leased_dir(workdir, group), f"worker_{worker}.log")


def run_id(workdir: str) -> str:
    """The name of a run; it is given one when it is first asked for.

    Args:
        workdir: Directory of the run.

    Returns:
        Its name.

    Raises:
        CorruptError: ``run.json`` names no run.
    """
    path = files.join(files.ensure_directory(workdir), "run.json")
    try:
        found = files.read_json(path)
    except FileNotFoundError:
        files.write_json(path, {"run_id": uuid.uuid4().hex})
        return run_id(workdir)
    name = found.get("run_id") if isinstance(found, dict) else None
    if not isinstance(name, str):
        raise files.CorruptError(f"file {path!r} names no run; delete it or write it again")
    return name


def groups(workdir: str) -> list[int]:
    """The groups of a run that have written metrics, in order."""
    found = map(GROUP.fullmatch, files.names(workdir))
    indices = sorted(int(match.group(1)) for match in found if match)
    return [group for group in indices if files.exists(metrics_path(workdir, group))]


def append_metrics(path: str, kind: str, step: int, **values: float | int | str) -> None:
    """Appends one line to a metrics file, in place of a last one that a killed process left unfinished.

    Args:
        path: The metrics file; created if it is not there.
        kind: What the line is, one of `KINDS`.
        step: The optimizer step that it belongs to.
        **values: Numbers by name.

    Raises:
        ValueError: `kind` is not one of `KINDS`.
        OSError: The file cannot be written.
    """
    if kind not in KINDS:
        raise ValueError(f"kind of metrics is {kind!r}; expected one of {', '.join(KINDS)}")
    repair_metrics(path)
    files.append(path, _line({"kind": kind, "step": int(step), **values}))


def read_metrics(path: str, kind: str | None = None, max_bytes: int | None = None) -> list[dict[str, Any]]:
    """The lines of a metrics file.

    A last line that a killed process left unfinished is passed over.

    Args:
        path: The metrics file.
        kind: The only kind that is returned, one of `KINDS`; all by default.
        max_bytes: Of a larger file only its first line and its last so many bytes are read, in whole lines.

    Returns:
        One dictionary for each line, in order; empty if there is no file.

    Raises:
        ValueError: A line is no record of the kind that `append_metrics` writes.
        OSError: The file is there, but cannot be read.
    """
    if not files.exists(path):
        return []
    content, is_whole = _content(path, max_bytes)
    lines = content.decode("utf-8", "replace").split("\n")[:-1]
    records = [
        _record(path, f"line {number}" if is_whole else "a line", line)
        for number, line in enumerate(lines, start=1)
        if line
    ]
    return [record for record in records if kind in (None, record["kind"])]


def repair_metrics(path: str) -> None:
    """Drops a last line that a killed process left unfinished, so that the next one does not follow in it."""
    size = files.size_bytes(path) if files.exists(path) else 0
    if size and files.read(path, size - 1) != b"\n":
        content = files.read(path)
        files.write(path, content[: content.rfind(b"\n") + 1])


def rewind_metrics(path: str, step: int) -> None:
    """Drops what was logged after `step`, and any ending, so that a resumed run logs every step once.

    Restarts stay, for they have happened: one from after `step` has led back to it.
    """
    records = [
        r | {"step": min(r["step"], step)} if r["kind"] == "restart" else r for r in read_metrics(path)
    ]
    kept = [r for r in records if r["step"] <= step and r["kind"] != "end"]
    files.write(path, b"".join(map(_line, kept)))


def out_of_order(records: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Where lines of a metrics file go back, as they never do where one process at a time writes it.

    Args:
        records: What `read_metrics` returned.

    Returns:
        The first step that is less than one before it, after that one; None if all are in order.
    """
    steps = [record["step"] for record in records if record["kind"] != "restart"]
    return next(((earlier, step) for earlier, step in itertools.pairwise(steps) if step < earlier), None)


def _content(path: str, max_bytes: int | None) -> tuple[bytes, bool]:
    size = files.size_bytes(path) if max_bytes is not None else 0
    if max_bytes is None or size <= max_bytes:
        return files.read(path), True
    first, line_feed, _ = files.read(path, 0, min(max_bytes, _FIRST_LINE_BYTES)).partition(b"\n")
    last = files.read(path, size - max_bytes, max_bytes).partition(b"\n")[2]
    return (first + line_feed if line_feed else b"") + last, False


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()


def _record(path: str, which: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if (
        not isinstance(record, dict)
        or record.get("kind") not in KINDS
        or not isinstance(step := record.get("step"), int)
        or abs(step) >= _MOST_STEPS
    ):
        raise ValueError(f"{which} of metrics file {path!r} is no record: {line[:80]!r}; delete the line")
    return record
