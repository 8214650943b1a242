"""What is wrong with a run while it trains: each warning once, and from then on its number.

alarms = Alarms(silent_secs=45.0, began_at=time.time())
alarms.look(healths, now)    ["group 1: no new snapshot and no new line of metrics for 45 s"], then []
alarms.counted()             "group 1: fell silent 2 times; group 0: 3 publications failed"
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from tf_codistill.health.signs import Health


class Alarms:
    """Looks at the groups again and again.

    Args:
        silent_secs: After so many seconds without a sign a group counts as silent.
        began_at: When the run was started, in seconds since the epoch; silence before it does not count.
    """

    def __init__(self, silent_secs: float, began_at: float) -> None:
        self._silent_secs, self._began_at = silent_secs, began_at
        self._silent: set[int] = set()
        self._times_silent: collections.Counter[int] = collections.Counter()
        self._failed: dict[int, int] = {}

    def look(self, healths: Sequence[Health], now: float) -> list[str]:
        """Looks at all groups.

        Args:
            healths: Their health.
            now: The time in seconds since the epoch.

        Returns:
            Warnings that have not been given before.
        """
        return [line for health in healths for line in (*self._silence(health, now), *self._failure(health))]

    def counted(self) -> str:
        """What has been warned of, in numbers; empty if nothing has."""
        silences = [
            f"group {group}: fell silent {_times(number)}" for group, number in self._times_silent.items()
        ]
        failures = [f"group {group}: {_publications(number)}" for group, number in self._failed.items()]
        return "; ".join([*silences, *failures])

    def _silence(self, health: Health, now: float) -> list[str]:
        group, secs = health.status.group, health.silent_secs(now)
        secs = None if secs is None else min(secs, now - self._began_at)
        if secs is None or secs <= self._silent_secs:
            self._silent.discard(group)
            return []
        if group in self._silent:
            return []
        self._silent.add(group)
        self._times_silent[group] += 1
        if self._times_silent[group] > 1:
            return []
        return [f"group {group}: no new snapshot and no new line of metrics for {self._silent_secs:g} s"]

    def _failure(self, health: Health) -> list[str]:
        group, number = health.status.group, health.status.failed_publications
        if number <= self._failed.get(group, 0):
            return []
        is_first = group not in self._failed
        self._failed[group] = number
        return (
            [f"group {group}: {_publications(number)}; its peers learn from older ones"] if is_first else []
        )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _publications(number: int) -> str:
    return f"{number} publication{'s' if number != 1 else ''} of a snapshot failed"
