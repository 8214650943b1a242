"""Faults on purpose: what each does, and that it does so once."""

import os
import pathlib
import signal
import time

import numpy as np
import pytest

from tests.exchange.store_test import MODEL, arrays, publish, store
from tf_codistill import files, injection
from tf_codistill.files import storage


class Steps:
    """In place of a model: how many steps it has made."""

    def __init__(self) -> None:
        self.done = 0
        self.students: list = []

    def step(self) -> int:
        return self.done


def injected(directory: pathlib.Path, *texts: str, group: int = 0, worker: int = 0) -> injection.Injection:
    faults = [injection.parse(text) for text in texts]
    place = (str(directory / f"group_{group}"), str(directory / "exchange"))
    callback = injection.Injection(faults, group, worker, *place)
    callback.set_model(Steps())
    return callback


def at(step: int, callback: injection.Injection) -> None:
    callback.model.done = step
    callback.on_train_batch_end(0)


@pytest.mark.parametrize("text", ["kill", "kill@0:0", "explode@0:0:5", "kill@0:0:-5", "kill@a:0:5", ""])
def test_what_is_no_fault_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="expected kind@group:worker:step with a kind of kill, hang, slow"):
        injection.parse(text)


def test_it_happens_to_its_worker_at_its_step_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    faults = ("kill@0:0:12", "kill@0:0:20", "kill@1:0:5", "kill@0:1:5")
    at(11, injected(tmp_path, *faults))
    assert sent == []
    at(12, injected(tmp_path, *faults))
    assert sent == [signal.SIGKILL]
    again = injected(tmp_path, *faults)  # which resumes from step 10
    at(12, again)
    assert len(sent) == 1
    at(20, again)
    assert len(sent) == 2


def test_slow_steps_pass(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    callback = injected(tmp_path, "slow@0:0:3")
    for step in range(1, 40):
        at(step, callback)
    assert slept == [0.5] * 20


@pytest.mark.parametrize("kind", ["corrupt_snapshot", "truncate_snapshot", "delete_snapshot"])
def test_a_snapshot_that_was_harmed_is_not_read(tmp_path: pathlib.Path, kind: str) -> None:
    writer, reader = store(tmp_path / "exchange"), store(tmp_path / "exchange", 1)
    writer.announce(MODEL, 0)
    publish(writer, 10)
    publish(writer, 20)
    ref = reader.newest(0)
    at(20, injected(tmp_path, f"{kind}@0:0:20"))
    with pytest.raises((ValueError, OSError)):
        reader.read(ref, MODEL)
    publish(writer, 30)
    read = reader.read(reader.newest(0), MODEL)
    np.testing.assert_array_equal(read.weights[0], arrays(30)[0])


@pytest.mark.parametrize(("kind", "can_read"), [("full_disk", True), ("storage_503", False)])
def test_storage_fails_for_a_while(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str, can_read: bool
) -> None:
    monkeypatch.setattr(storage, "of", storage.of)  # which is as it was when the test ends
    monkeypatch.setattr(injection, "OUTAGE_SECS", 0.5)
    path = str(tmp_path / "file")
    files.write(path, b"before")
    at(5, injected(tmp_path, f"{kind}@0:0:5"))
    with pytest.raises(OSError, match="No space left" if can_read else "503"):
        files.write(path, b"after")
    if can_read:
        assert files.read(path) == b"before"
    else:
        with pytest.raises(OSError, match="503"):
            files.read(path)
    time.sleep(0.6)
    files.write(path, b"after")
    assert files.read(path) == b"after"
    assert os.listdir(tmp_path / "group_0" / "injected") == [f"{kind}@0_0_5"]
    assert files.names(str(tmp_path)) == ["file", "group_0"], "nothing half written is left"
