"""What `evaluate --continuous` has found last, if it follows a run.

read("runs/two")             Evaluated(step=1350, ensemble_loss=3.611, disagreement=0.214, at=1.7e9)
read("runs/two").sentence(now)       evaluation: step 1350, ensemble 3.611, disagreement 0.214, 0m 12s ago
"""

from __future__ import annotations

import dataclasses

from tf_codistill import files, runs
from tf_codistill.health.progress import duration, finite

_MAX_BYTES = 1 << 18
_LOSSES = ("loss", "carried_state_loss")  # of models without a recurrent state, and with one


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Its last round; None where something is not known.

    Attributes:
        step: The step of the group that was farthest.
        ensemble_loss: The loss of all groups' ensemble on what is held out.
        disagreement: Mean absolute difference between the groups' probabilities.
        at: When it was, in seconds since the epoch.
    """

    step: int
    ensemble_loss: float | None
    disagreement: float | None
    at: float | None

    def sentence(self, now: float) -> str:
        """The same in words; empty if there was no ensemble."""
        if self.ensemble_loss is None or self.disagreement is None or self.at is None:
            return ""
        figures = f"ensemble {self.ensemble_loss:.3f}, disagreement {self.disagreement:.3f}"
        return f"evaluation: step {self.step}, {figures}, {duration(max(0.0, now - self.at))} ago"


def read(workdir: str) -> Evaluated | None:
    """Reads the last round.

    Args:
        workdir: Directory of the run.

    Returns:
        What came out; None if there was none, or it cannot be read.
    """
    path = files.join(runs.evaluation_dir(workdir), "metrics.jsonl")
    try:
        (*_, last) = runs.read_metrics(path, "validation", _MAX_BYTES)
    except (OSError, ValueError, RecursionError):
        return None
    losses = [finite(last, f"{runs.ENSEMBLE}/{name}") for name in _LOSSES]
    return Evaluated(
        step=last["step"],
        ensemble_loss=next((loss for loss in losses if loss is not None), None),
        disagreement=finite(last, f"{runs.ENSEMBLE}/disagreement"),
        at=finite(last, "time"),
    )
