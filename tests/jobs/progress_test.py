"""Progress: plain lines where there is no terminal."""

from __future__ import annotations

import pytest

from tf_codistill.jobs import progress


def test_last_line_says_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("reading", total=1200, unit="pages") as shown:
        for _ in range(3):
            shown.advance(400)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("reading: 1,200 of 1,200 pages in ")
    assert "pages/s" in output.err
    assert output.err.count("\n") == 1


def test_a_line_every_few_seconds_tells_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Progress("reading", total=100, unit="pages") as shown:
        for _ in range(25):
            now += 1.0
            shown.advance()
        lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "reading: 11 of 100 pages in 11.0 s (1 pages/s, 89 s left)",
        "reading: 22 of 100 pages in 22.0 s (1 pages/s, 78 s left)",
    ]


def test_the_total_may_be_learned_on_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("fetching", total=1, unit="bytes") as shown:
        shown.expect(300)
        shown.advance(300)
    assert capsys.readouterr().err.startswith("fetching: 300 of 300 bytes in ")


def test_failure_does_not_look_finished(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with progress.Progress("reading", total=10, unit="pages"):
            raise KeyError

    pytest.raises(KeyError, fail)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.Progress("reading", total=10, unit="pages") as shown:
        shown.advance(10)
        shown.expect(40)
        shown.advance(10)
    output = capsys.readouterr().err
    assert "reading" in output
    assert "50%" in output
