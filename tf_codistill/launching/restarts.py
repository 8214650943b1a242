"""Whether a group that has failed is started again, and when.

restarts = Restarts(max_restarts=3)
delay_secs = restarts.after(Failure("worker 0 was killed by SIGKILL", step=150), checkpoint_step=100)

killed, hung, out of memory               after 1, 2, 4, ... seconds, from the newest checkpoint
a mistake, before the first step          never: it would be made again
another process has taken over            never
the same words at the same step, twice    never: the third time would be no other
`max_restarts` without a new checkpoint   never
"""

from __future__ import annotations

import dataclasses

_FIRST_DELAY_SECS = 1.0
_LONGEST_DELAY_SECS = 60.0


@dataclasses.dataclass(frozen=True)
class Failure:
    """What has ended a group.

    Attributes:
        reason: In words, of which those that the last line has are compared.
        step: The last step that it has logged.
        is_told: Whether the program itself has said so; otherwise it was killed, or hung.
        is_mistake: Whether it has said what its user did wrong.
        is_superseded: Whether another process has taken its place.
    """

    reason: str
    step: int = 0
    is_told: bool = False
    is_mistake: bool = False
    is_superseded: bool = False


class Restarts:
    """The restarts of one group.

    Attributes:
        number: How many there were since the last progress.
    """

    def __init__(self, max_restarts: int, step: int = 0) -> None:
        """Begins with none.

        Args:
            max_restarts: How many are made without a new checkpoint in between, 0 for none.
            step: The last step that the group has logged before it starts.

        Raises:
            ValueError: `max_restarts` is below 0.
        """
        if max_restarts < 0:
            raise ValueError(f"max_restarts is {max_restarts}; expected 0, for none, or more")
        self._max_restarts, self._first_step = max_restarts, step
        self._last_words: tuple[int, str] | None = None
        self._checkpoint_step = 0
        self.number = 0

    def after(self, failure: Failure, checkpoint_step: int) -> float | None:
        """Decides what follows a failure.

        Args:
            failure: What has ended the group.
            checkpoint_step: The step of its newest checkpoint, 0 if there is none.

        Returns:
            After how many seconds it is to start again; None if it is not.
        """
        if checkpoint_step > self._checkpoint_step:
            self._checkpoint_step, self.number = checkpoint_step, 0
        words = (failure.step, failure.reason.splitlines()[-1])  # lines before it have times and numbers
        will_repeat = failure.is_told and words == self._last_words
        will_repeat |= failure.is_superseded or (failure.is_mistake and failure.step <= self._first_step)
        self._last_words = words if failure.is_told else None
        if will_repeat or self.number >= self._max_restarts:
            return None
        self.number += 1
        return float(min(_FIRST_DELAY_SECS * 2 ** (self.number - 1), _LONGEST_DELAY_SECS))
