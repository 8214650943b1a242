from __future__ import annotations

import pytest
from rich.table import Column, Table

from tf_codistill.terminal import console, visible

NAME = "corpora/" + "a_long_name_" * 12 + ".txt"


def table() -> Table:
    shown = Table(Column("file", overflow="fold"), "tokens")
    shown.add_row(NAME, "17")
    return shown


def test_control_characters_do_nothing() -> None:
    text = "a\tb\nc\x1b[2J\x9b\u202e\x00\r"
    assert visible(text) == "a\tb\nc\ufffd[2J\ufffd\ufffd\ufffd\ufffd"


def test_no_table_breaks_names_where_no_terminal_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(table())
    assert any(NAME in line and "17" in line for line in capsys.readouterr().out.splitlines())


def test_on_a_terminal_a_table_is_as_wide_as_that(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes anything for a terminal
    monkeypatch.setenv("COLUMNS", "80")
    console().print(table())
    assert NAME not in capsys.readouterr().out
