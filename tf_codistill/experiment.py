r"""The experiment: one group's training, put together from its parts. The single root of every gin file.

    task ------> streams of batches ----------------+
         \----> models, losses, metrics --+         |
    teaching ----------------------------+--> model --> group.fit(model, streams, callbacks)
    psi, weight, steps ------------------+              MetricsLog, Checkpointing

    Experiment(task=LanguageTask(...), num_steps=2000, optimizer=...).train(workdir, group=0, num_groups=2)

What is learned, where teaching comes from and how a group trains are three things that know nothing of each
other, and nothing here asks which ones they are. Called again with the same workdir it goes on from the last
checkpoint, exactly: weights, optimizer, step, the recurrent state of each worker's lanes and the teachers are
restored, and the batches are a function of the step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import gin
import keras
import tensorflow as tf
from absl import logging

from tf_codistill import (
    configurables,  # noqa: F401 - so that gin files may name them
    files,
    losses,
    runs,
    schedules,
    settings,
    weights,
)
from tf_codistill.groups.synchronous import SynchronousGroup
from tf_codistill.tasks.base import Part, Task
from tf_codistill.teaching.base import SCRATCH, Place, Teaching
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.checkpoint.checkpointing import Checkpointing
from tf_codistill.training.checkpoint.ownership import Ownership
from tf_codistill.training.checkpoint.progress import Position
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.metrics_log import MetricsLog


@gin.configurable
@dataclasses.dataclass(kw_only=True)
class Experiment:
    """What is trained, by whom it is taught, and how; the same for every group of a run.

    Attributes:
        task: What is learned.
        num_steps: Optimizer steps of each group.
        optimizer: Makes a Keras optimizer.
        teaching: Makes that where teaching comes from: `PeerExchange`, `SavedTeachers`, `FellowStudents`;
            `Teaching` for groups that never learn of each other.
        group: Makes a group, which does the SGD, of its strategy: `SynchronousGroup`, `AsynchronousGroup`.
        distillation_loss: psi; soft-target cross-entropy if not given.
        distillation_weight: Factor of psi, a number or a function of the step.
        weight_decay: L2 penalty that follows a schedule; none if not given.
        measure_every_steps: Steps between two comparisons of teachers and students, see `training.measures`;
            more often costs time.
        teaching_share: Which share of the rows is taught in each step, or of a recurrent model which share of
            the steps, above 0 and at most 1: less costs less, and psi is the same in expectation.
        log_every_steps: Steps of which a line of the metrics file is the average.
        validate_every_steps: Steps between two validations, a multiple of `log_every_steps`.
        checkpoint_every_steps: Steps between two checkpoints, a multiple of `log_every_steps`.
        seed: With the group it fixes the initialisation, the order of what is read, and what is drawn.
        steps_per_execution: Steps that are made at a time, a divisor of `log_every_steps`; in an asynchronous
            group those of a round, and 1 stands for `log_every_steps`.
        jit_compile: Whether the training step is compiled by XLA.
    """

    task: Task
    num_steps: int
    optimizer: Callable[[], keras.optimizers.Optimizer]
    teaching: Callable[[], Teaching] = PeerExchange
    group: Callable[[tf.distribute.Strategy | None], SynchronousGroup] = SynchronousGroup
    distillation_loss: losses.DistillationLoss | None = None
    distillation_weight: schedules.Schedule | float = 1.0
    weight_decay: schedules.WeightDecay | None = None
    measure_every_steps: int = 10
    teaching_share: float = 1.0
    log_every_steps: int = 50
    validate_every_steps: int = 100
    checkpoint_every_steps: int = 500
    seed: int = 0
    steps_per_execution: int = 1
    jit_compile: bool = False

    def __post_init__(self) -> None:
        settings.check_types(self)
        for name in ("log_every_steps", "num_steps", "validate_every_steps", "checkpoint_every_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1 or value % self.log_every_steps:
                raise ValueError(
                    f"{name} is {value!r}; expected a positive multiple of log_every_steps, which is "
                    f"{self.log_every_steps}"
                )
        if self.steps_per_execution < 1 or self.log_every_steps % self.steps_per_execution:
            raise ValueError(
                f"steps_per_execution is {self.steps_per_execution}; expected a divisor of log_every_steps, "
                f"which is {self.log_every_steps}"
            )

    def train(
        self,
        workdir: str,
        group: int = 0,
        num_groups: int = 1,
        strategy: tf.distribute.Strategy | None = None,
        when_built: Callable[[], None] = lambda: None,
        exchange_dir: str | None = None,
        run_id: str | None = None,
        take_over: bool = False,
        start_from: str = SCRATCH,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> CodistillationModel:
        """Trains one group to its last step, from the last checkpoint if there is one.

        Args:
            workdir: Directory of the run, shared by its groups.
            group: This group, from 0.
            num_groups: Number of groups; 1 trains a model alone, or several students in one process.
            strategy: The group's strategy; the default strategy if not given.
            when_built: Called when everything has been built, before a checkpoint is restored.
            exchange_dir: Directory through which the groups exchange; in the workdir if not given.
            run_id: Names the run; without it the first group that exchanges does.
            take_over: Whether to take the group's part of the workdir from a process that is alive.
            start_from: What it starts from if it has no checkpoint, ``"scratch"`` or a ``"peer"``'s snapshot.
            callbacks: Further ones of Keras; every worker needs the same number of them.

        Returns:
            The trained model.

        Raises:
            ValueError: Something in the configuration, the data, the workdir or a peer does not fit, or
                another process trains the group, or has taken over from this one.
        """
        workers = self.group(strategy)
        with Ownership(workdir, group, workers.strategy, exchange_dir, take_over) as own:
            place = (workdir, group, num_groups, exchange_dir, run_id, start_from)
            return self._train(own, workers, *place, when_built=when_built, callbacks=callbacks)

    def _train(
        self,
        own: Ownership,
        workers: SynchronousGroup,
        workdir: str,
        group: int,
        num_groups: int,
        exchange_dir: str | None,
        run_id: str | None,
        start_from: str,
        when_built: Callable[[], None],
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> CodistillationModel:
        rows = workers.rows(self.task.batch_size)
        place = (exchange_dir or runs.exchange_dir(workdir), group, num_groups, rows, run_id, start_from)
        teaching = self.teachers(*place)
        parts = [Part(*part, self.seed) for part in teaching.parts(group, num_groups)]
        training = [self.task.training(part) for part in parts]
        validation = self.task.validation()
        directory = files.make_directory(runs.group_dir(workdir, group, own.generation))
        self.task.keep_beside_model(directory, is_writer=workers.is_chief)
        keras.utils.set_random_seed(1000 * self.seed + group)
        with workers.scope():
            model = self.build(teaching, group, rows)
        model.build_for_data(workers.feed(training, teachers=teaching).element_spec)
        saved = runs.checkpoints_dir(workdir, group, own.generation)
        checkpointing = Checkpointing(saved, self.checkpoint_every_steps)
        per_step = sum(stream.units_per_step for stream in training)
        units, derived = self.task.units, self.task.derived
        log = MetricsLog(workdir, group, self.num_steps, per_step, units, own.generation, derived)
        when_built()
        position = checkpointing.restore(model) or self._first_position(model)
        workers.fit(
            model,
            training,
            validation,
            first_epoch=position.epoch,
            num_steps=self.num_steps,
            log_every_steps=self.log_every_steps,
            validate_every_steps=self.validate_every_steps,
            callbacks=[*([own, log] if workers.is_chief else []), checkpointing, *callbacks],
        )
        logging.info("trained to step %d, weights %s", model.step(), weights.checksum(model))
        if workers.is_chief:
            for number, student in enumerate(model.students):
                index = number if len(model.students) > 1 else None
                path = runs.student_path(workdir, group, index, own.generation)
                self.task.save(student, path, group + number)
            log.end()
        return model

    def _first_position(self, model: CodistillationModel) -> Position:
        """Where a group without a checkpoint begins: at step 0, or where its teaching lets it."""
        epoch = model.teachers.first_step(model) // self.log_every_steps
        model.count_from(epoch * self.log_every_steps)
        return Position(epoch=epoch)

    def teachers(
        self,
        exchange_dir: str,
        group: int,
        num_groups: int,
        rows: int | None,
        run_id: str | None = None,
        start_from: str = SCRATCH,
    ) -> Teaching:
        """Where the teaching of a group comes from, with no models yet; refuses groups that do not fit it."""
        teaching = self.teaching()
        model_fn_of = functools.partial(self.task.maker, rows)
        place = (exchange_dir, group, num_groups, model_fn_of, run_id, start_from)
        teaching.join(Place(*place, augments=self.task.augments, classes=self.task.classes))
        number = max(teaching.num_students, num_groups, group + 1)
        if unknown := sorted(self.task.groups_of_their_own() - set(range(number))):
            raise ValueError(f"the task has models for groups {unknown}; expected some of 0 to {number - 1}")
        return teaching

    def build(self, teaching: Teaching, group: int, rows: int | None) -> CodistillationModel:
        """The compiled model of a group; call it in the scope of the strategy."""
        optimizer = self.optimizer()
        if number := optimizer.gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps is {number}, but every step of an experiment takes one batch; "
                "leave it out and use larger batches"
            )
        model = CodistillationModel(
            [self.task.maker(rows, group + student) for student in range(teaching.num_students)],
            teaching,
            self.distillation_loss,
            self.distillation_weight,
            self.weight_decay,
            self.measure_every_steps,
            self.teaching_share,
            seed=self.seed,  # not the group: who exchanges predictions draws the same steps
        )
        model.compile(
            optimizer,
            self.task.loss(),
            weighted_metrics=self.task.metrics(),
            steps_per_execution=self.steps_per_execution,
            jit_compile=self.jit_compile,
        )
        return model


def configured() -> Experiment:
    """The experiment whose settings gin binds."""
    return Experiment()  # type: ignore[call-arg]


def of_run(workdir: str, bindings: Sequence[str] = ()) -> Experiment:
    """The experiment of a run; from here on its bindings are in force and no others.

    Args:
        workdir: Directory of the run.
        bindings: Further bindings, such as which part is held out.

    Returns:
        The experiment.

    Raises:
        ValueError: A binding names something unknown.
    """
    gin.clear_config()
    gin.parse_config([runs.bindings(workdir), *bindings])
    return configured()
