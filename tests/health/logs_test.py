import pytest

from tests.toy_runs import swap, write_log
from tf_codistill.health import logs

START = "$ python -m tf_codistill.train --group=0"


def test_the_last_swap_of_each_teacher_counts(tmp_path):
    lines = [
        START,
        swap(50, peer=1, serial=1),
        swap(60, peer=2, serial=4, seat=1),
        swap(100, peer=3, serial=2),
    ]
    found = logs.read(write_log(tmp_path, 0, *lines))
    assert {seat: (taken.peer, taken.serial) for seat, taken in found.swaps.items()} == {0: (3, 2), 1: (2, 4)}


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ((START, "step 50 train: loss 4.1"), None),
        ((START, "error: the corpus is missing; prepare it", "bye"), "the corpus is missing; prepare it"),
        ((START, "Traceback:", "a.b.SomeError: no", "ValueError: no room"), "ValueError: no room"),
        ((START, "MemoryError"), "MemoryError"),
        ((START, "ValueError: no room", START, "step 50 train: loss 4.1"), None),
        ((START, "E0000 00:00:1795.1 7 cuda_platform.cc:52] failed call to cuInit"), None),
        ((START, "an Error of no kind", "KeyboardInterrupt"), None),
        ((), None),
    ],
)
def test_the_last_error_since_the_start(tmp_path, lines, error):
    assert logs.read(write_log(tmp_path, 0, *lines)).last_error == error


def test_metrics_are_left_out_of_the_last_lines(tmp_path):
    lines = [
        START,
        "a",
        "I1129 15:52:06.1 7 metrics_log.py:99] step 50 train: loss 4.1",
        "b",
        "step 50 validation: loss 4.1",
        "a footstep 50 train: of no kind",
    ]
    path = write_log(tmp_path, 0, *lines)
    assert logs.last_lines(path, 3) == ["a", "b", "a footstep 50 train: of no kind"]
    assert logs.last_lines(path, 9)[0] == START


def test_only_the_end_of_a_log_is_read(tmp_path, monkeypatch):
    path = write_log(tmp_path, 0, swap(50, peer=1, serial=1), "x" * 100, "ValueError: no", "y" * 100)
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 150)
    assert logs.read(path) == logs.Log({}, "ValueError: no")
    assert logs.last_lines(path, 9) == ["ValueError: no", "y" * 100]
