"""Where teaching comes from: the seam between the method and whatever can teach.

    Teaching             nobody: a model that is trained alone
    PeerExchange         snapshots of other groups, through a shared directory    snapshots
    PredictionExchange   what other groups predict for the same batch             predictions
    SavedTeachers        models that have been trained                            saved
    FellowStudents       the other students of this process                       fellows

    batches = teachers.deal(batch)                               each student's rows
    with weight > 0 and teachers.any_present(step):
        taught = teachers.teach(features, keys, step, predictions)       one `Taught` for each student
    otherwise:
        taught = teachers.wait(features, predictions)            nobody is asked
    teachers.teach_next(features, step + 1, is_due)              beside the update, where it is known

`Teaching` is the protocol and its simplest kind: whoever asks it asks any other kind by the same names. In
names P is the teachers of one student, B the rows that it learns from.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import recurrent_state
from tf_codistill.batches import Batch
from tf_codistill.exchange.predictions.answers import Answers
from tf_codistill.exchange.predictions.forms import LOGITS
from tf_codistill.redealing import Redealing

SCRATCH, PEER = STARTS = ("scratch", "peer")
"""What a group without a checkpoint starts from: its own initialisation, or a peer's snapshot."""

ModelFn: TypeAlias = Callable[[], keras.Model]
Arrays: TypeAlias = list[np.ndarray]
Compress: TypeAlias = Callable[[Any, tf.Tensor], list[tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a run a group stands.

    Attributes:
        exchange_dir: The directory that all groups of the run share.
        group: This group, from 0.
        num_groups: Number of groups.
        model_fn_of: Gives what makes the model of a group, so that groups may train different ones.
        run_id: Names the run, if it has a name.
        start_from: What it starts from if it has no checkpoint, one of `STARTS`.
        augments: Whether an example has other features at each visit.
        classes: Says what the classes of a prediction are, see `tasks.base.Task.classes`.
    """

    exchange_dir: str
    group: int
    num_groups: int
    model_fn_of: Callable[[int], ModelFn]
    run_id: str | None = None
    start_from: str = SCRATCH
    augments: bool = False
    classes: Callable[[], str] = str


class Taught(NamedTuple):
    """What one student is taught of its rows, cut off from gradients.

    Attributes:
        predictions: What each of P teachers predicts for them, structured like the student's prediction.
        present_PB: How much each teacher has to say of each row, float32 [P, B] from 0 to 1: 0 for a row that
            it has not been asked about.
    """

    predictions: list[Any]
    present_PB: tf.Tensor

    def in_types_of(self, prediction: Any) -> Taught:
        """The same with predictions in the types of a student's, as those of `Teaching.wait` are."""
        cast = [
            keras.tree.map_structure(lambda theirs, own: tf.cast(theirs, own.dtype), one, prediction)
            for one in self.predictions
        ]
        return self._replace(predictions=cast)


class Teaching:
    """Who teaches the students of one process, and with what; this kind: one student, and nobody.

    A `step` is the number of steps done, an integer scalar.

    Attributes:
        taught_by: For each student those who may teach it, as positions in `names`.
        fidelity: What arrives of a teacher's prediction, one of `forms.FIDELITIES`.
        on_host: Whether `teach` leaves the graph, so that XLA cannot compile it.
        overlap: Whether batches are predicted a step ahead, for which data have to say what follows.
        refreshed: How often the weights of `models` have been replaced, for whoever keeps copies of them;
            None if they change in any step.
    """

    taught_by: Sequence[Sequence[int]] = ((),)
    fidelity: str = LOGITS
    on_host: bool = False
    overlap: bool = False
    refreshed: int | None = None

    @property
    def num_students(self) -> int:
        """How many students learn side by side."""
        return len(self.taught_by)

    def learners(self) -> list[str]:
        """What each student is called in warnings."""
        return ["student"]

    def names(self) -> list[str]:
        """What each teacher is called in warnings."""
        return []

    def join(self, place: Place) -> None:
        """Learns where in a run it is; called before everything else, and not at all in a plain script.

        A place that this kind of teaching does not fit is a `ValueError`.
        """
        if not 0 <= place.group < place.num_groups:
            raise ValueError(
                f"group is {place.group}; expected 0 <= group < num_groups, which is {place.num_groups}"
            )
        if place.start_from != SCRATCH:
            raise ValueError(
                f"start_from is {place.start_from!r}, but nobody exchanges snapshots here; leave it out"
            )

    def first_step(self, model: Any) -> int:
        """Gives a model that has no checkpoint its start; how many steps that is worth."""
        return 0

    def parts(self, group: int, num_groups: int) -> list[tuple[int, int]]:
        """Index and number of each part of the data that is read by a group: its own, or one per student."""
        return [(group, num_groups)]

    def make(self, students: Sequence[keras.Model], model_fns: Sequence[ModelFn]) -> None:
        """Makes the models that teach students, with what made each; called in the strategy's scope."""

    def models(self) -> dict[str, keras.Model]:
        """Models beside the students that have to be built like them, by what they are called in errors."""
        return {}

    def learn_outputs(self, outputs: Any) -> None:
        """Learns what a student's prediction looks like, before `prepare`.

        Args:
            outputs: A structure of specifications, with shapes [B, ...] and dtypes.
        """

    def prepare(self) -> None:
        """Called in the scope of the strategy when all models have been built, maybe more than once."""

    def feed(self, data: Any, turns: int = 1, parts: int = 1) -> Any:
        """What `fit` is to read in place of training data.

        Args:
            data: A ``tf.data.Dataset``, or whatever else `fit` was given.
            turns: How many replicas take its elements in turn.
            parts: How many replicas share each of its elements.

        Returns:
            The data, maybe with more in each element.

        Raises:
            ValueError: These data do not suit this kind of teaching.
        """
        return data

    def hold(self, features: Any) -> bool:
        """Makes room for `teach_next`; called in the strategy's scope, before each `fit` that needs it.

        Args:
            features: Specification of a batch's features on one replica.

        Returns:
            Whether the room is another one than before, which steps that have been traced do not know.
        """
        return False

    def teaches_rows(self) -> bool:
        """Whether what is taught of a row depends on it alone, so that `teach` may be asked about some.

        Called when all models have been built. It is not so where models carry a recurrent state.
        """
        return not any(recurrent_state.variables(model) for model in self.models().values())

    def deal(self, batch: Batch) -> list[Batch]:
        """Deals one replica's batch out: what each student learns from."""
        return [batch]

    def before_step(self, step: tf.Tensor) -> None:
        """Called before each training step, once for all replicas, eagerly or in a graph."""

    def any_present(self, step: tf.Tensor) -> tf.Tensor:
        """Whether there is anybody to ask, a boolean scalar; called on a replica.

        Where it is false nobody is asked, and nothing of distillation is computed.
        """
        return tf.constant(False)

    def teach(
        self, features: Sequence[Any], keys: Sequence[Any], step: tf.Tensor, predictions: Sequence[Any]
    ) -> list[Taught]:
        """Asks the teachers; called on a replica, in steps in which what they say has weight.

        Args:
            features: Each student's features.
            keys: Each student's keys, or None for each.
            step: Number of steps done.
            predictions: What each student predicts.

        Returns:
            What each student is taught.
        """
        return self.wait(features, predictions)

    def wait(self, features: Sequence[Any], predictions: Sequence[Any]) -> list[Taught]:
        """Takes the place of `teach` in a step in which nobody is asked.

        Args:
            features: Each student's features.
            predictions: What each student predicts; for its shapes alone, so that teachers can be computed
                beside the students.

        Returns:
            Predictions of zeros, and nobody present.
        """
        taught = []
        for teachers, read, own in zip(self.taught_by, features, predictions, strict=True):
            zeros = keras.tree.map_structure(functools.partial(equal_logits, rows=rows_of(read)), own)
            taught.append(Taught([zeros for _ in teachers], tf.zeros([len(teachers), rows_of(read)])))
        return taught

    def teach_next(self, features: Any, step: tf.Tensor, is_due: tf.Tensor) -> None:
        """May predict already what is to be taught in the next step; called on a replica, behind `teach`.

        Nothing in it depends on a gradient, so that it is computed while those are.

        Args:
            features: Those of the next batch.
            step: Number of steps done by then.
            is_due: Whether anything will be taught then, as far as that can be known, a boolean scalar.
        """

    def staleness_steps(self, step: tf.Tensor) -> tf.Tensor:
        """How many steps old the teachers are on average, a float32 scalar; called on a replica."""
        return tf.constant(0.0)

    def state(self) -> tuple[Arrays, Arrays]:
        """What a checkpoint keeps: arrays that are shared by the group's workers, and this worker's own."""
        return [], []

    def restore(self, shared: Arrays, own: Arrays) -> None:
        """Takes back what `state` returned; a `ValueError` if it comes from other models or other groups."""

    def redeal(self, owns: Sequence[Arrays], redealing: Redealing) -> Arrays:
        """This worker's own part of `state`, where another number of workers or replicas has written it.

        Args:
            owns: The own part of each old worker, in order.
            redealing: Deals out what belongs to lanes, to replicas, or is a sum over all of them.

        Returns:
            What `restore` is to be given. As long as nothing else is said, arrays belong to lanes.
        """
        return [redealing.lanes(parts) for parts in zip(*owns, strict=True)]

    def answers(self, peer: int, outputs: Any) -> tuple[Answers, Compress]:
        """Where and in which form somebody who follows a peer leaves what it predicts for this group.

        Args:
            peer: Whose snapshots are followed.
            outputs: What the peer's model predicts, a structure of tensors.

        Returns:
            Where; and what makes of a prediction and the step the parts that travel.

        Raises:
            ValueError: Nobody is asked ahead of time here.
        """
        raise ValueError(
            "nobody's predictions are awaited in this run; let its gin file have "
            "Experiment.teaching = @PredictionExchange and PredictionExchange.ahead = True"
        )

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What has to happen around the steps; `fit` calls them before those of the user."""
        return []

    def end(self) -> None:
        """Called when `fit` ends, however it does."""


def equal_logits(like: tf.Tensor, rows: tf.Tensor | int) -> tf.Tensor:
    """What stands for the prediction of a teacher that is not asked: zeros like the student's prediction.

    They depend on it only if more than the number of rows is unknown.
    """
    if like.shape[1:].is_fully_defined():
        return tf.zeros([rows, *like.shape[1:]], like.dtype)
    return tf.zeros_like(like)


def rows_of(structure: Any) -> tf.Tensor | int:
    """How many rows an array or a structure of arrays [B, ...] has."""
    first = keras.tree.flatten(structure)[0]
    return tf.shape(first)[0] if first.shape[0] is None else first.shape[0]
