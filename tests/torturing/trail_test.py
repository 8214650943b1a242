"""The audit trail: what a process has done is there when it is killed, and what was taken back is known."""

import os
import signal
import subprocess
import sys

from tf_codistill.torturing import trail

WRITER = """
import os, signal, sys
from tf_codistill.torturing.trail import Trail
written = Trail(sys.argv[1], 2)
written.begin(40)
for step in range(41, 61):
    written.note("step", step, keys=-step)
os.write(written._file, b'{"kind": "st')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_has_noted_is_there(tmp_path):
    ended = subprocess.run([sys.executable, "-c", WRITER, tmp_path], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    (start,) = trail.read(str(tmp_path), 2)
    assert start.step == 40
    assert [(record["step"], record["keys"]) for record in start.of_kind("step")] == [
        (step, -step) for step in range(41, 61)
    ]
    times = [start.at, *(record["time"] for record in start.records)]
    assert times == sorted(times)
    assert trail.read(str(tmp_path), 0) == []


def test_each_start_has_a_file_of_its_own(tmp_path):
    for step in (0, 10, 5):
        written = trail.Trail(str(tmp_path), 0)
        written.note("step", 99)  # before it begins: to nowhere
        written.begin(step)
        written.note("step", step + 1)
    starts = trail.read(str(tmp_path), 0)
    assert [(start.step, start.records[0]["step"]) for start in starts] == [(0, 1), (10, 11), (5, 6)]
    assert len(os.listdir(tmp_path / "group_0")) == 3


def start(step, *steps):
    records = [{"kind": "step", "step": one, "keys": 100 * step + one, "time": 0.0} for one in steps]
    return trail.Start(step, 0.0, [*records, {"kind": "fault", "step": 1, "fault": "nan", "time": 0.0}])


def test_a_start_takes_back_what_is_behind_the_checkpoint_that_it_goes_on_from():
    starts = [start(0, 1, 2, 3, 4), start(2, 3, 4, 5, 6), start(0), start(4, 5, 6)]
    kept = [(record["step"], record["keys"]) for record in trail.ancestry(starts[:2])]
    assert kept == [(1, 1), (2, 2), (3, 203), (4, 204), (5, 205), (6, 206)]
    assert [record["step"] for record in trail.ancestry(starts)] == [5, 6], "all was lost, and yet it goes on"
