"""The retry policy: how often and how soon a server is asked again.

policy = RetryPolicy(num_tries=8)
policy.wait_secs(3)                 2 to 4 seconds after the third failure in a row
policy.wait_secs(3, "120")          the server's Retry-After is at least 120 s: 122 to 124
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import random
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon a server is asked again.

    Attributes:
        num_tries: Number of tries in a row that may bring nothing new before the file is given up.
        first_wait_secs: Wait after the first such try; it doubles with each further one.
        longest_wait_secs: The wait grows no longer than this.
        longest_retry_after_secs: A server that asks for a longer wait (Retry-After) is given up at once.
        timeout_secs: A connection on which nothing arrives for so long counts as dropped.
        sleep: Waits for a number of seconds.
        clock: Seconds since 1970.
        draw: A random number from 0 to 1; the wait is between half of what it should be and all of it.

    Raises:
        ValueError: There is no try, or no time for one.
    """

    num_tries: int = 8
    first_wait_secs: float = 1.0
    longest_wait_secs: float = 60.0
    longest_retry_after_secs: float = 600.0
    timeout_secs: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if self.num_tries < 1 or self.timeout_secs <= 0:
            raise ValueError(
                f"num_tries is {self.num_tries} and timeout_secs {self.timeout_secs}; expected at least one "
                "try and a time above 0"
            )

    def wait_secs(self, num_failures: int, retry_after: str | None = None) -> float:
        """How long to wait before the next try.

        Args:
            num_failures: Number of tries in a row that have failed, at least 1.
            retry_after: The server's header of that name: seconds, or a date.

        Returns:
            Seconds, never fewer than the server asks for.
        """
        backoff = min(self.first_wait_secs * 2.0 ** (num_failures - 1), self.longest_wait_secs)
        return self.asked_secs(retry_after) + backoff * (0.5 + 0.5 * self.draw())

    def asked_secs(self, retry_after: str | None) -> float:
        """How long a server asks to wait.

        Args:
            retry_after: Its header of that name, or None.

        Returns:
            Seconds; 0 if there is no header, or one that nobody understands.
        """
        if retry_after is None:
            return 0.0
        if retry_after.strip().isdecimal():
            return float(retry_after)
        try:
            date = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return 0.0
        date = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
        return max(0.0, date.timestamp() - self.clock())
