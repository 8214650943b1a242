"""Stage 4: a row for each WET file, however paragraphs are shared out to token shards and tasks."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tf_codistill.corpus.document import Document
from tf_codistill.corpus.paragraph_ids import lists
from tf_codistill.corpus.stages import listing
from tf_codistill.corpus.stages.listing import Listed, ListStage
from tf_codistill.jobs import stages
from tf_codistill.jobs.engines import Local

WET_FILES = ("a.warc.wet.gz", "b, c.warc.wet.gz", "d.warc.wet.gz", "e.warc.wet.gz")
SHARDS = st.lists(
    st.lists(st.tuples(st.sampled_from(WET_FILES), st.sets(st.integers(0, 50), max_size=5)), max_size=4),
    min_size=1,
    max_size=3,
)


@pytest.fixture(autouse=True, params=[4, 1 << 20])
def numbers_per_task(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_NUMBERS_PER_TASK", request.param)


def document(wet_file: str, numbers: set[int]) -> Document:
    return Document("", None, ("text",) * len(numbers), tuple(sorted(numbers)), wet_file)


@settings(max_examples=50, deadline=None)
@given(SHARDS)
@example([[]])
@example([[("a.warc.wet.gz", set(range(20)))], [], [("e.warc.wet.gz", {3}), ("a.warc.wet.gz", {1 << 31})]])
def test_a_list_has_the_paragraphs_of_all_token_shards(shards: list[list[tuple[str, set[int]]]]) -> None:
    expected: dict[str, set[int]] = {wet_file: set() for wet_file in WET_FILES}
    with tempfile.TemporaryDirectory() as directory:
        paths, num_paragraphs = [], 0
        for index, shard in enumerate(shards):
            listed = Listed(WET_FILES)
            for wet_file, some in shard:
                # A paragraph is in no more than one document.
                numbers = {number + 100 * len(expected[wet_file]) for number in some}
                expected[wet_file] |= numbers
                listed.add([document(wet_file, numbers)])
            paths.append(f"{directory}/{index}.listed")
            num_paragraphs += listed.write(paths[-1])
        assert num_paragraphs == sum(map(len, expected.values()))
        stage = ListStage(f"{directory}/list", WET_FILES, paths[::-1], num_paragraphs)
        facts = stages.run(stage, Local(1))
        assert (
            sum(task["paragraphs"] for task in facts.values())
            == sum(stage.sizes().values())
            == num_paragraphs
        )
        stage.write(directory)
        path = f"{directory}/{listing.LIST}"
        assert lists.check(path)
        rows = [(wet_file, numbers.tolist()) for wet_file, numbers in lists.read(path)]
    assert rows == [(wet_file, sorted(expected[wet_file])) for wet_file in WET_FILES]


@pytest.mark.parametrize(("num_paragraphs", "num_files", "num_tasks"), [(0, 3, 1), (8, 3, 3), (100, 2, 2)])
def test_there_are_no_more_tasks_than_files(
    num_paragraphs: int, num_files: int, num_tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_NUMBERS_PER_TASK", 4)
    assert len(ListStage("", WET_FILES[:num_files], [], num_paragraphs).sizes()) == num_tasks
