"""When a run has begun and when it has ended, by what its groups have written."""

from __future__ import annotations

import pathlib

import pytest

from tests import toy_runs
from tf_codistill import files, runs
from tf_codistill.following import waiting


def test_bindings_come_with_the_first_group_that_has_any(tmp_path: pathlib.Path) -> None:
    acts = iter(
        [
            lambda: toy_runs.log(tmp_path, 1, toy_runs.start(10)),
            lambda: files.write(runs.config_path(str(tmp_path), 1), b"Experiment.seed = 3\n"),
        ]
    )
    shown: list[str] = []
    found = waiting.wait_for_bindings(str(tmp_path), shown.append, lambda secs: next(acts)())
    assert found == "Experiment.seed = 3\n"
    assert shown == [f"waiting for a group of {str(tmp_path)!r} to begin"]
    assert waiting.wait_for_bindings(str(tmp_path), shown.append) == found
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("ended", "config", "publishing", "expected"),
    [
        ([], b"", [], None),
        ([False], b"", [], [0]),
        ([True, False], b"", [], [1]),
        ([True, True], b"", [], []),
        ([True, True], b"", [1, 4], [4]),
        ([True, True], b"# num_groups: 2\nExperiment.seed = 3\n", [], []),
        ([True, True], b"# num_groups: 4\nExperiment.seed = 3\n", [], [2, 3]),
    ],
)
def test_groups_that_have_not_ended(
    tmp_path: pathlib.Path,
    ended: list[bool],
    config: bytes,
    publishing: list[int],
    expected: list[int] | None,
) -> None:
    for group, has_ended in enumerate(ended):
        toy_runs.log(tmp_path, group, toy_runs.start(10), toy_runs.train(5), *[toy_runs.end(10)] * has_ended)
        files.write(runs.config_path(str(tmp_path), group), config)
    assert waiting.unfinished(str(tmp_path), publishing) == expected


def test_a_group_that_goes_on_after_its_end_is_awaited(tmp_path: pathlib.Path) -> None:
    toy_runs.log(tmp_path, 0, toy_runs.start(10), toy_runs.end(10))
    assert waiting.unfinished(str(tmp_path)) == []
    toy_runs.log(tmp_path, 0, toy_runs.start(20, step=10), toy_runs.train(15))
    assert waiting.unfinished(str(tmp_path)) == [0]


def test_polls_of_remote_storage_are_rarer() -> None:
    assert waiting.poll_secs("runs/two", "gs://bucket/exchange") > waiting.poll_secs("runs/two", "exchange")
