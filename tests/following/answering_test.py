"""An evaluation-only worker: the group finds what has been predicted of each batch when it comes to it."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import pytest

from tests.toy_following import Run
from tests.toy_house import Points
from tf_codistill.exchange.predictions.channel import FileChannel
from tf_codistill.following import answering
from tf_codistill.tasks.base import Part
from tf_codistill.teaching.predictions import PredictionExchange

NUM_STEPS, MARGIN = 12, 2


def found(directory: pathlib.Path, **settings: Any) -> list[int]:
    """The steps of a group for which its peer has left something, while this goes on as the group does."""
    run = Run(directory, Points())
    run.publish(1, 10)
    exchange, steps, there = str(run.exchange), iter(range(NUM_STEPS)), list[int]()
    group = FileChannel(exchange)
    group.begin("group_0", {}, 0)

    def train(secs: float) -> None:
        step = next(steps, None)
        if step is None:
            run.finish()
            time.sleep(secs)
            return
        group.put("group_0", step, 0, b"")
        if group.get("group_1_for_0", step, 0, 0.0, 1 << 20) is not None:
            there.append(step)

    teaching = PredictionExchange(exchange, 0, 2, ahead=True, **settings)
    place = (Part(0, 2, seed=1), str(run.workdir), 1, 0, exchange)
    answering.answer(run.task, teaching, *place, show=lambda line: None, sleep=train)
    return there


@pytest.mark.parametrize(
    "settings", [{}, {"keep_steps": 4}, {"max_bytes": 500.0}, {"max_bytes": 1.0}], ids=str
)
def test_nothing_goes_before_the_group_has_come_to_it(tmp_path: pathlib.Path, settings: Any) -> None:
    assert found(tmp_path, **settings) == list(range(MARGIN - 1, NUM_STEPS))


def test_storage_that_fails_at_the_beginning_is_tried_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, failures = FileChannel.begin, iter([OSError("away")])

    def failing(channel: FileChannel, source: str, *arguments: Any) -> None:
        if source == "group_1_for_0" and (error := next(failures, None)):
            raise error
        begin(channel, source, *arguments)

    monkeypatch.setattr(FileChannel, "begin", failing)
    assert found(tmp_path)[-1:] == [NUM_STEPS - 1]


def test_who_is_not_let_in_is_told_so(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(channel: FileChannel, source: str) -> int:
        raise PermissionError("it wants another token")

    monkeypatch.setattr(FileChannel, "newest", refused)
    with pytest.raises(ValueError, match="predictions cannot be exchanged: it wants another token"):
        found(tmp_path)
