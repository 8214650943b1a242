"""The job that is tortured: a small network on made rows of clicks, which needs nothing from elsewhere.

    table = make_table("runs/torture/table")
    job = Job("runs/torture/control_1", table, num_groups=3, num_steps=6000, seed=1)
    job.command()                   python -m tf_codistill.launch --num_groups=3 ... --gin_bindings=...

A step takes some milliseconds, so that there are thousands of them between two faults, checkpoints every few
seconds and an exchange every second: as often as a large job has them in an hour. Rows are read twice, so
that they are not learned by heart: a model that overfits is the better the staler its teachers are, and the
final loss would tell of faults where nothing is wrong.
"""

from __future__ import annotations

import dataclasses
import os
import sys

from tf_codistill import files
from tf_codistill.example_tables import synthetic_clicks, writing
from tf_codistill.jobs import engines
from tf_codistill.tables import pipeline, sources
from tf_codistill.tables.schema import TableSettings, criteo_schema

NUM_ROWS = 200_000
_VISITS = 2
LOG_EVERY = 50
"""Steps between two lines of metrics, and between two exchanges."""
CHECKPOINT_EVERY = 250
"""Steps between two checkpoints, if no others are given."""
VALIDATE_EVERY = 500
"""Steps between two validations."""

_GIN = """
Experiment.task = @ClickTask()
ClickTask.model_fn = @click_network
ClickTask.data = 'same'
click_network.hidden_units = (64, 32)
click_network.embedding_dim = 4
Experiment.optimizer = @SparseAdagrad
SparseAdagrad.learning_rate = @keras.optimizers.schedules.CosineDecay()
CosineDecay.initial_learning_rate = 0.05
SparseAdagrad.initial_accumulator_value = 0.01
Experiment.distillation_loss = @BinarySoftCrossEntropy()
Experiment.distillation_weight = 1.0
"""
_PLAIN = """
Experiment.teaching = @PeerExchange
PeerExchange.every_steps = {every}
"""
_AUDITED = """
import tf_codistill.torturing.audit
Experiment.teaching = @AuditedExchange
AuditedExchange.every_steps = {every}
AuditedExchange.trail_dir = {trail_dir!r}
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A run of `launch`.

    Attributes:
        workdir: Its directory.
        table_dir: What it learns from.
        num_groups: Its groups.
        num_steps: Steps of each.
        seed: Fixes initialisations and the order of the rows.
        batch_size: Rows of a group in a step.
        workers_per_group: Processes of each group.
        checkpoint_every: Steps between two checkpoints.
        is_audited: Whether groups leave an audit trail.
    """

    workdir: str
    table_dir: str
    num_groups: int
    num_steps: int
    seed: int = 0
    batch_size: int = 16
    workers_per_group: int = 1
    checkpoint_every: int = CHECKPOINT_EVERY
    is_audited: bool = True

    @property
    def trail_dir(self) -> str:
        """Where the audit trail is."""
        return os.path.join(os.path.abspath(self.workdir), "trail")

    def command(self, *flags: str) -> list[str]:
        """The command that starts it, or goes on with it.

        Args:
            *flags: Further flags of `launch`.

        Returns:
            The arguments, the interpreter first.
        """
        size = (f"--num_groups={self.num_groups}", f"--workers_per_group={self.workers_per_group}")
        gin_file = os.path.join(self.workdir, "job.gin")
        files.ensure_directory(self.workdir)
        files.write(gin_file, self.gin().encode())
        launch = [sys.executable, "-m", "tf_codistill.launch", f"--workdir={self.workdir}", *size]
        return [*launch, f"--gin_file={os.path.abspath(gin_file)}", *flags]

    def gin(self) -> str:
        """Its gin file."""
        audited = _AUDITED.format(trail_dir=self.trail_dir, every=LOG_EVERY)
        lines = [
            audited if self.is_audited else _PLAIN.format(every=LOG_EVERY),
            _GIN,
            f"ClickTask.data_dir = {os.path.abspath(self.table_dir)!r}",
            f"ClickTask.batch_size = {self.batch_size}",
            f"Experiment.num_steps = {self.num_steps}",
            f"CosineDecay.decay_steps = {self.num_steps}",
            f"Experiment.seed = {self.seed}",
            f"Experiment.log_every_steps = {LOG_EVERY}",
            f"Experiment.validate_every_steps = {VALIDATE_EVERY}",
            f"Experiment.checkpoint_every_steps = {self.checkpoint_every}",
        ]
        return "\n".join(lines) + "\n"


def make_table(directory: str, num_steps: int = 0) -> str:
    """Makes the rows and the table that training reads, unless they are there.

    Args:
        directory: Where to.
        num_steps: Steps for which it has rows enough; there are `NUM_ROWS` at least.

    Returns:
        The directory of the table.

    Raises:
        ValueError: The directory holds something else.
    """
    rows, table = files.join(directory, "rows"), files.join(directory, "table")
    clicks = synthetic_clicks.SyntheticClicks()
    num_rows = max(NUM_ROWS, num_steps * Job.batch_size // _VISITS)
    writing.write(rows, num_rows, clicks, engines.Local(1), num_files=1)
    settings = TableSettings(schema=criteo_schema(), validation_share=0.05, test_share=0.0, min_count=5)
    pipeline.prepare(sources.matching([files.join(rows, "*.txt")]), table, settings)
    return table
