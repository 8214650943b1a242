"""Runs that nobody has trained: files as training writes them, without TensorFlow.

toy_runs.log(tmp_path, 0, start(200), train(50, loss=5.0))      lines of group_0/metrics.jsonl
toy_runs.publish(tmp_path, 1, serial=3, step=150)               a committed snapshot without weights
toy_runs.write(tmp_path)                                        two groups that learn from each other
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from typing import Any

from tf_codistill import files, runs

INCARNATION = 1_700_000_000
RUN_ID = "5eed"


def start(num_steps: int, step: int = 0, units: str = "tokens") -> dict[str, Any]:
    return {"kind": "start", "step": step, "num_steps": num_steps, "units": units}


def train(step: int, elapsed_secs: float = 0.0, **values: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "elapsed_secs": elapsed_secs, **values}


def validation(step: int, loss: float, elapsed_secs: float = 0.0) -> dict[str, Any]:
    return {"kind": "validation", "step": step, "loss": loss, "elapsed_secs": elapsed_secs}


def end(step: int) -> dict[str, Any]:
    return {"kind": "end", "step": step}


def restart(step: int, reason: str, attempt: int = 1) -> dict[str, Any]:
    return {"kind": "restart", "step": step, "reason": reason, "attempt": attempt, "time": 1.7e9}


def log(workdir: pathlib.Path, group: int, *records: dict[str, Any]) -> str:
    """Appends lines to the metrics of a group, and returns the file."""
    path = runs.metrics_path(str(workdir), group)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for record in records:
        runs.append_metrics(path, **record)
    return path


def write_log(workdir: pathlib.Path, group: int, *lines: str, worker: int = 0) -> str:
    """Writes the log of a worker, and returns the file."""
    path = pathlib.Path(runs.log_path(str(workdir), group, worker))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def swap(step: int, peer: int, serial: int, seat: int = 0) -> str:
    """The line of a log that says which snapshot a teacher took."""
    return (
        f"I1129 15:52:06.100000 7 exchanging.py:238] swap at step {step}, seat {seat}, peer {peer}, "
        f"incarnation {INCARNATION}, serial {serial}"
    )


def publish(
    workdir: pathlib.Path, group: int, serial: int, step: Any, run_id: str = RUN_ID, is_whole: bool = True
) -> pathlib.Path:
    """Makes the directory of a snapshot, committed if it is whole."""
    exchange = pathlib.Path(runs.exchange_dir(str(workdir)))
    directory = exchange / f"group_{group}" / f"snapshot_{INCARNATION:010d}_{serial:06d}"
    directory.mkdir(parents=True)
    files.write_json(str(exchange / "run.json"), {"run_id": RUN_ID})
    if is_whole:
        metadata = {"run_id": run_id, "step": step, "published_at": 1.7e9, "group": group}
        files.commit(str(directory), metadata)
    return directory


def learns_from(workdir: pathlib.Path, group: int, peer: int) -> None:
    """Announces that a group learns from a peer."""
    directory = pathlib.Path(runs.exchange_dir(str(workdir))) / f"group_{peer}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{runs.READER}{group}").touch()


def checkpoint(workdir: pathlib.Path, group: int, step: int, is_whole: bool = True) -> None:
    """Makes the directory of a checkpoint, committed if it is whole."""
    directory = pathlib.Path(runs.checkpoints_dir(str(workdir), group)) / f"checkpoint_{step:08d}"
    directory.mkdir(parents=True)
    if is_whole:
        files.commit(str(directory), {"step": step})


def hold(workdir: pathlib.Path, group: int, beat_at: Any, **values: Any) -> None:
    """Writes who trains a group, and when that last gave a sign of life."""
    directory = pathlib.Path(runs.leased_dir(str(workdir), group)) / "lease"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "token_000001.json").write_text(json.dumps(values), encoding="utf-8")
    (directory / "token_000001.beat").write_text(json.dumps({"at": beat_at}), encoding="utf-8")


def age(path: str | pathlib.Path, at: float) -> None:
    """Has a file last written at a time."""
    os.utime(path, (at, at))


def write(workdir: pathlib.Path, now: float, num_steps: int = 2000) -> None:
    """Two groups of which each learns from the other, at steps 1350 and 1300; all was written just now."""
    for group, last in ((0, 1350), (1, 1300)):
        log(workdir, group, start(num_steps))
        for step in range(50, last + 1, 50):
            loss = 3.6 + 0.05 * group + 2.4 * math.exp(-step / 400)
            values = {"loss": loss, "tokens_per_sec": 7180.0 - 15 * group}
            values |= {"distillation_loss": loss + 0.3, "staleness_steps": 50.0 + 10 * (step // 50 % 2)}
            log(workdir, group, train(step, step * 0.14, **values), validation(step, loss - 0.1, step * 0.14))
        checkpoint(workdir, group, last - last % 500)
        age(runs.metrics_path(str(workdir), group), now)
        age(publish(workdir, group, serial=last // 50, step=last) / files.MANIFEST, now)
        learns_from(workdir, group, 1 - group)
    write_log(workdir, 0, "$ python -m tf_codistill.train", swap(1320, peer=1, serial=26))
    write_log(workdir, 1, "$ python -m tf_codistill.train", swap(1300, peer=0, serial=27))
