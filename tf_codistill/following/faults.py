"""What goes wrong while a run is followed: each kind warned of once, all of them counted.

faults.note("group 1", error)      warning: group 1: snapshot '...' is damaged ...
faults.note("group 1", error)      nothing new, but faults.number is 2
"""

from __future__ import annotations

import re

from absl import logging


class Faults:
    """Counts faults.

    Attributes:
        number: How many there have been.
    """

    def __init__(self) -> None:
        """There have been none."""
        self.number = 0
        self._told: set[tuple[str, str]] = set()

    def note(self, where: str, error: Exception) -> None:
        """Counts a fault, and warns of it unless the same has been told of the same place.

        Args:
            where: The place, such as the group.
            error: What happened.
        """
        self.number += 1
        sentence = (str(error).splitlines() or [type(error).__name__])[0]
        about = re.sub(r"[0-9a-f]*\d[0-9a-f]*", "", sentence)  # of whichever snapshot
        if (where, about) not in self._told:
            logging.warning("%s: %s", where, sentence)
        self._told.add((where, about))
