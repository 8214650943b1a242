"""Explanations: pages drawn at random, with what was taken away from them and by whom."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich import console as rich_console

from tests import http_server
from tests.toy_crawls import SETTINGS, page_text, write_crawl
from tf_codistill.corpus.filters import Boilerplate, LongParagraphs
from tf_codistill.corpus.paragraph_ids.selection import Selection
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.report import explain
from tf_codistill.corpus.report.explain import draw, show
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import listing
from tf_codistill.corpus.wet import WetWriter


def shown(drawn: explain.Drawn, is_terminal: bool = False) -> str:
    file = io.StringIO()
    show(drawn, rich_console.Console(file=file, force_terminal=is_terminal, width=80, highlight=False))
    return file.getvalue()


def test_every_page_is_counted_and_some_are_drawn(tmp_path: Path) -> None:
    paths = write_crawl(tmp_path)
    drawn = draw(WetFiles(paths), SETTINGS, num_documents=4)
    assert drawn.counts == {"kept": 60, "link_list": 2, "no_long_paragraphs": 2, "other_language": 2}
    assert len(drawn.kept) == len(drawn.dropped) == 4
    assert [example.reason for example in drawn.kept] == [None] * 4
    reasons = [example.reason for example in drawn.dropped]
    assert reasons == sorted(reasons, key=str)
    everything = draw(WetFiles(paths), SETTINGS, num_documents=100)
    assert (len(everything.kept), len(everything.dropped)) == (60, 6)


def test_pages_of_one_reason_are_drawn(tmp_path: Path) -> None:
    paths = write_crawl(tmp_path)
    everything = draw(WetFiles(paths), SETTINGS, num_documents=100)
    drawn = draw(WetFiles(paths), SETTINGS, num_documents=100, reason="link_list")
    assert drawn.counts == everything.counts
    assert drawn.kept == []
    urls = {example.document.url for example in drawn.dropped}
    assert urls == {e.document.url for e in everything.dropped if e.reason == "link_list"}
    assert len(urls) == 2
    kept = draw(WetFiles(paths), SETTINGS, num_documents=3, reason="kept")
    assert (len(kept.kept), kept.dropped) == (3, [])
    expected = (
        "no page has the outcome 'links'; name one of 60 kept, 2 link_list, 2 no_long_paragraphs, 2 other"
    )
    with pytest.raises(ValueError, match=expected):
        draw(WetFiles(paths), SETTINGS, num_documents=3, reason="links")


def test_pages_are_drawn_by_seed_whatever_the_order_of_files(tmp_path: Path) -> None:
    paths = write_crawl(tmp_path)
    first = draw(WetFiles(paths), SETTINGS, num_documents=3)
    again = draw(WetFiles(paths[::-1]), SETTINGS, num_documents=3)
    other = draw(WetFiles(paths), SETTINGS, num_documents=3, seed=1)
    assert {example.document.url for example in first.kept} == {e.document.url for e in again.kept}
    assert {example.document.url for example in first.kept} != {e.document.url for e in other.kept}
    drawn = [
        e.document.url for seed in range(40) for e in draw(WetFiles(paths[:1]), SETTINGS, 10, seed=seed).kept
    ]
    assert len(set(drawn)) == 30  # every page has its chance


def test_a_sample_is_read_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "_SAMPLE_FILES", 2)
    monkeypatch.setattr(explain, "_SAMPLE_PAGES", 10)
    monkeypatch.setattr(explain, "_PAGES_FOR_EACH", 1)
    paths = write_crawl(tmp_path, num_files=4)  # the last three pages of each are dropped
    drawn = draw(WetFiles(paths), SETTINGS, num_documents=3)
    assert (drawn.counts, drawn.files, drawn.dropped) == ({"kept": 10}, (2, 4), [])
    assert drawn.kept == draw(WetFiles(paths[::-1]), SETTINGS, num_documents=3).kept
    assert "10 of the pages of 2 of 4 files read: 10 kept\n" in shown(drawn)
    read = {
        tuple(sorted({e.document.wet_file for e in draw(WetFiles(paths), SETTINGS, 10, seed=n).kept}))
        for n in range(60)
    }
    assert len(read) == 6, "every two of four files have their chance"


def test_for_a_rare_reason_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "_SAMPLE_FILES", 2)
    monkeypatch.setattr(explain, "_SAMPLE_PAGES", 10)
    monkeypatch.setattr(explain, "_PAGES_FOR_EACH", 1)
    paths = write_crawl(tmp_path, num_files=4)
    one, three, five = (draw(WetFiles(paths), SETTINGS, number, reason="link_list") for number in (1, 3, 5))
    assert [len(drawn.dropped) for drawn in (one, three, five)] == [1, 3, 4]
    # The first file to its link list and five pages of the second; both whole and a part of the third; all.
    assert [drawn.files for drawn in (one, three, five)] == [(2, 4), (3, 4), None]
    assert one.counts == {"kept": 15 + 5, "other_language": 1, "link_list": 1}
    assert sum(five.counts.values()) == 60 + 12


def test_each_step_tells_what_it_takes_away(tmp_path: Path) -> None:
    path = str(tmp_path / "crawl.warc.wet.gz")
    long, another = page_text(0).split("\n")[1:]
    with WetWriter(path, description="pages of a test") as writer:
        writer.write("https://example.org/a", f"Home\n{long}\n\nAll rights reserved, 2017\n{another}", "eng")
        writer.write("https://example.org/b", "All rights reserved, 2017\nA short line is not long.", "eng")
    drawn = draw(WetFiles([path]), SETTINGS, num_documents=1)
    (kept,), (dropped,) = drawn.kept, drawn.dropped
    assert kept.taken_away == {0: LongParagraphs.__name__, 3: Boilerplate.__name__}
    assert kept.left is not None
    assert kept.left.numbers == (1, 4)
    assert (dropped.reason, dropped.left) == ("no_long_paragraphs", None)
    assert dropped.taken_away == {5: Boilerplate.__name__}
    lines = shown(drawn).splitlines()
    assert lines[0] == "kept     https://example.org/a"
    assert lines[1] == (
        "         crawl.warc.wet.gz, eng: 2 of 4 paragraphs left, "
        "taken away: 1 by Boilerplate, 1 by LongParagraphs"
    )
    assert lines[2].split() == ["-", "0", "Home", "LongParagraphs"]
    assert lines[3].startswith(f"    +        1  {long[:80]}")
    assert lines[4].split() == ["-", "3", "All", "rights", "reserved,", "2017", "Boilerplate"]
    assert "dropped  https://example.org/b" in lines
    assert "2 pages read: 1 kept, 1 no_long_paragraphs" in lines


def test_a_selection_takes_the_place_of_filters(tmp_path: Path) -> None:
    paths = write_crawl(tmp_path / "crawl")
    prepare(WetFiles(paths), str(tmp_path / "corpus"), SETTINGS)
    listed = Selection.open(str(tmp_path / "corpus" / listing.LIST))
    drawn = draw(WetFiles(paths), SETTINGS, 2, listed)
    assert drawn.counts == {"kept": 60, "not_selected": 6}
    assert not drawn.may_repeat
    for example in drawn.kept:
        assert example.taken_away == {example.document.numbers[0]: "not_selected"}
    assert {example.reason for example in drawn.dropped} == {"not_selected"}


def test_files_of_addresses_with_a_query_are_known_to_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    paths = write_crawl(tmp_path / "crawl", num_files=1)
    prepare(WetFiles(paths), str(tmp_path / "corpus"), SETTINGS)
    listed = Selection.open(str(tmp_path / "corpus" / listing.LIST))
    with http_server.serve({"/crawl-0.warc.wet.gz": Path(paths[0]).read_bytes()}) as server:
        drawn = draw(WetFiles([f"{server.url}/crawl-0.warc.wet.gz?key=a/b"]), SETTINGS, 2, listed)
    assert drawn.counts == {"kept": 60, "not_selected": 3}
    assert {example.document.wet_file for example in drawn.kept} == {"crawl-0.warc.wet.gz"}


def test_unreadable_stretches_are_counted(tmp_path: Path) -> None:
    (path,) = write_crawl(tmp_path, num_files=1)
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 0xFF
    Path(path).write_bytes(content)
    counts = draw(WetFiles([path]), SETTINGS, num_documents=1).counts
    assert sum(number for reason, number in counts.items() if reason.startswith("unreadable: ")) >= 1


def test_nothing_on_a_page_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    path = str(tmp_path / "crawl.warc.wet.gz")
    with WetWriter(path, description="pages of a test") as writer:
        writer.write("https://example.org/a\x1b[2J", "\x1b]0;title\x07 [bold]" + page_text(0), "eng")
        writer.write("https://example.org/b", "x" * 500 + "\n" + "line\n" * 20, "eng")
    drawn = draw(WetFiles([path]), SETTINGS, num_documents=2)
    plain, coloured = shown(drawn), shown(drawn, is_terminal=True)
    assert "\x1b" not in plain
    assert "\x1b[1;32m" in coloured
    assert "\x1b]" not in coloured
    assert "\x07" not in coloured
    assert "[bold]" in plain
    assert "... 9 paragraphs more" in plain
    assert "x" * 90 + " ..." in plain


def test_a_number_without_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_documents is 0"):
        draw(WetFiles(write_crawl(tmp_path)), SETTINGS, num_documents=0)


def test_the_program_explains_and_prepares_nothing(tmp_path: Path) -> None:
    write_crawl(tmp_path, num_good=4)
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-m", "tf_codistill.prepare_corpus", "--explain=1"]
    command += [f"--files={tmp_path}/*.gz", "--gin_file=gin/corpus/common_crawl.gin"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("kept     https://example.org/")
    assert "10 pages read: 4 kept, 2 link_list, 2 no_long_paragraphs, 2 other_language" in run.stdout
    assert sorted(tmp_path.iterdir()) == before
