"""Text that anybody may have written, made fit for a terminal; and a console for tables.

print(visible(page.text))
console().print(table)          a terminal has its width, a pipe or a file that of the table
"""

from __future__ import annotations

import re

from rich.console import Console

_NO_LIMIT = 1 << 16  # in characters

# What would move a terminal's cursor or change its colours, and what turns the direction of writing.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """A text without what would do something to a terminal: control characters are shown as U+FFFD.

    Args:
        text: Any text, as it was found in the web.

    Returns:
        A text of the same length, in which tabs and line ends are kept.
    """
    return _INVISIBLE.sub("\ufffd", text)


def console() -> Console:
    """Standard output for tables.

    Returns:
        A console as wide as the terminal. Where there is none, rich would break lines at 80 characters, which
        whoever reads names from a pipe cannot undo: there it is as wide as what is printed.
    """
    found = Console()
    if not found.is_terminal:
        found.width = _NO_LIMIT
    return found
