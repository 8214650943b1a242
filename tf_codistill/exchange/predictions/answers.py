"""What somebody else predicts for a group's batches before it is trained on them.

answers = Answers(channel, message_format, description, "group_1_for_0", learner="group_0")
answers.begin(100)
answers.position()               97: the learner is at step 97; None before its first one
answers.put(Predicted(step=100, weights_step=50, keys=keys, parts=parts))
"""

from __future__ import annotations

from typing import Any

from tf_codistill.exchange.predictions.channel import Channel
from tf_codistill.exchange.predictions.message import MessageFormat, Predicted


def source_of(peer: int, group: int) -> str:
    """Under which name the answers of a peer for a group are left."""
    return f"group_{peer}_for_{group}"


class Answers:
    """The end of the channel at which they are left."""

    def __init__(
        self,
        channel: Channel,
        message_format: MessageFormat,
        description: dict[str, Any],
        source: str,
        learner: str,
        keep_steps: int,
        max_bytes: float,
    ) -> None:
        """Takes note of the arguments.

        Args:
            channel: What carries them.
            message_format: How messages are laid out.
            description: Of what is predicted, with one part.
            source: Under which name they are left.
            learner: Whose batches they are for.
            keep_steps: How many steps are kept.
            max_bytes: Size of what is kept, at most.
        """
        self._channel, self._format = channel, message_format
        self._description, self._source, self._learner = description, source, learner
        self._keep_steps, self._max_bytes = keep_steps, max_bytes

    def most_ahead(self, rows: int) -> int:
        """How many steps ahead of the learner none of such batches goes before the learner comes to it."""
        return max(1, int(min(self._keep_steps, self._max_bytes // self._format.num_bytes(rows))) - 1)

    def begin(self, step: int) -> None:
        """Forgets what had been left for this step or later ones; an `OSError` if that fails."""
        self._channel.begin(self._source, self._description, step)

    def position(self) -> int | None:
        """The step at which the learner is, None before its first; an `OSError` if that is out of reach."""
        return self._channel.newest(self._learner)

    def put(self, predicted: Predicted) -> None:
        """Leaves what is predicted for a whole batch; an `OSError` if that fails."""
        content = self._format.encode(predicted)
        self._channel.put(self._source, predicted.step, 0, content)
