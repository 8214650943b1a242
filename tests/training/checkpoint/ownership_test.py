"""Who may write where a group trains: the workdir's part, and that of an exchange elsewhere."""

from __future__ import annotations

import pathlib

import pytest
import tensorflow as tf

from tf_codistill import files, runs
from tf_codistill.training.checkpoint.ownership import Ownership


def own(workdir: pathlib.Path, exchange: pathlib.Path | None = None, take_over: bool = False) -> Ownership:
    return Ownership(str(workdir), 0, tf.distribute.get_strategy(), exchange and str(exchange), take_over)


def test_an_exchange_elsewhere_has_one_owner_too(tmp_path: pathlib.Path) -> None:
    with own(tmp_path / "one", tmp_path / "exchange"):
        with pytest.raises(ValueError, match="exchange/group_0' is held by process "):
            own(tmp_path / "other", tmp_path / "exchange").__enter__()
        with own(tmp_path / "other"):
            pass  # what was taken before it was refused has been let go
    with own(tmp_path / "other", tmp_path / "exchange") as later:
        assert later.generation == 1


def test_a_new_generation_begins_with_what_there_is(tmp_path: pathlib.Path) -> None:
    with own(tmp_path):
        files.write(runs.metrics_path(str(tmp_path), 0), b"")
        runs.append_metrics(runs.metrics_path(str(tmp_path), 0), "train", 10)
        for name in ("tokenizer", "checkpoints", "tensorboard"):
            (tmp_path / "group_0" / name).mkdir()
            (tmp_path / "group_0" / name / "file").write_text(name)
        (tmp_path / "group_0" / "worker_0.log").write_text("log")
        with own(tmp_path, take_over=True) as zombies_heir:
            directory = pathlib.Path(runs.group_dir(str(tmp_path), 0))
            assert (zombies_heir.generation, directory.name) == (2, "generation_2")
            assert sorted(path.name for path in directory.iterdir()) == [
                "begun.json",
                "metrics.jsonl",
                "tokenizer",
            ]
            assert (directory / "tokenizer" / "file").read_text() == "tokenizer"
            assert [record["step"] for record in runs.read_metrics(str(directory / "metrics.jsonl"))] == [10]
