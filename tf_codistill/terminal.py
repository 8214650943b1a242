"""Text that anybody may have written, made fit for a terminal."""

from __future__ import annotations

import re

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
