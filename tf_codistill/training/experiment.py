"""The experiment: one group's training, put together from its parts. The single root of every gin file.

    corpus -> lanes -> tf.data --------------------------+
    model_fn -> CodistillationModel(student, teachers) --+--> model.fit(dataset, callbacks)
    PeerExchange, MetricsLog, Saver ---------------------+

    Experiment(corpus_dir=..., model_fn=..., num_steps=2000, ...).train(workdir, group=0, num_groups=2)
    Experiment(corpus_dir=..., num_students=2, ...).train(workdir)        all copies in one process

Called again with the same workdir it goes on from the last checkpoint, exactly: weights, optimizer, step, the
recurrent state of each worker's lanes and the teachers are restored, and the batches are a function of the
step.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import keras
import tensorflow as tf
from absl import logging

from tf_codistill import (
    checkpoints,
    distribution,
    files,
    losses,
    runs,
    schedules,
    trained,
    weights,
)
from tf_codistill.inputs import frequencies, language, mixture
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.peers.topology import RandomPeers, Topology, candidates_of
from tf_codistill.training.callbacks import MetricsLog, Saver
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.fixed_teachers import FixedTeachers
from tf_codistill.training.one_process import CodistillingStudents
from tf_codistill.training.peer_exchange import PeerExchange
from tf_codistill.training.resume import Resume

_OPTIMIZERS = ("Adagrad", "Adam", "AdamW", "Lamb", "Lion", "RMSprop", "SGD")
_LEARNING_RATES = ("CosineDecay", "ExponentialDecay", "PiecewiseConstantDecay", "PolynomialDecay")

for _name in _OPTIMIZERS:
    gin.external_configurable(getattr(keras.optimizers, _name), module="keras.optimizers")
for _name in _LEARNING_RATES:
    gin.external_configurable(getattr(keras.optimizers.schedules, _name), module="keras.optimizers.schedules")
for _name in (
    "SoftCrossEntropy",
    "KLDivergence",
    "SquaredProbabilities",
    "SquaredLogits",
    "UniformSmoothing",
    "UnigramSmoothing",
):
    gin.external_configurable(getattr(losses, _name), module="tf_codistill.losses")
gin.external_configurable(RandomPeers, module="tf_codistill.peers")
gin.external_configurable(frequencies.unigram_frequencies, module="tf_codistill.inputs")
for _name in ("Constant", "BurnIn", "LinearRamp", "Cosine", "Piecewise", "ExponentialDecay", "WeightDecay"):
    gin.external_configurable(getattr(schedules, _name), module="tf_codistill.schedules")


@gin.configurable
@dataclasses.dataclass(kw_only=True)
class Experiment:
    """What is trained, on what, and how; the same for every group of a run.

    Attributes:
        corpus_dir: Directory with token shards and their manifest, or a weight for each of several, see
            `inputs.mixture`.
        num_steps: Optimizer steps of each group.
        optimizer: Makes a Keras optimizer.
        model_fn: Makes the model from ``vocabulary_size`` and ``batch_size``, the lanes of one replica (None
            for a model that is served).
        peer_model_fns: Makes the models of groups that train another architecture than `model_fn`, by group,
            or by student if there are several; with outputs of the same shapes.
        num_students: How many copies one group trains in one process, see `CodistillingStudents`. With more
            than one there is a single group, and students teach each other as groups would.
        num_lanes: Lanes of a group, that is its batch size over all workers and replicas; of each student if
            there are several.
        window_tokens: Tokens that a lane moves on in a step.
        data: ``same`` if all groups read all documents, each in its own order, or ``disjoint`` if each reads
            its own part (section 3.3.2 of Anil et al. 2018); in one process it is the students that do so,
            or all of them learn from the ``same_batch``, so that each forward pass serves twice.
        distillation_loss: psi; soft-target cross-entropy if not given.
        distillation_weight: Factor of psi, a number or a function of the step.
        weight_decay: L2 penalty that follows a schedule; none if not given.
        topology: Who teaches whom.
        fixed_teachers: Saved models or directories of trained groups that teach in place of peers, see
            `FixedTeachers`; none for codistillation.
        teacher_precision: How snapshots and teachers hold weights: ``float32``, ``bfloat16``, ``float16`` or
            ``int8`` (section 2.1 of Anil et al. 2018). Groups may differ in it.
        exchange_every_steps: Steps between two exchanges of snapshots; in one process from copy to copy of
            the students, 1 for teachers that are up to date.
        measure_every_steps: Steps between two comparisons of teachers and students, see
            `training.comparison`; more often costs time.
        log_every_steps: Steps of which a line of the metrics file is the average.
        validate_every_steps: Steps between two validations, a multiple of `log_every_steps`.
        checkpoint_every_steps: Steps between two checkpoints, a multiple of `log_every_steps`.
        seed: With the group it fixes the initialisation and the order of documents.
        jit_compile: Whether the training step is compiled by XLA.
    """

    corpus_dir: str | Mapping[str, float]
    num_steps: int
    optimizer: Callable[[], keras.optimizers.Optimizer]
    model_fn: Callable[..., keras.Model] = LanguageModel
    peer_model_fns: Mapping[int, Callable[..., keras.Model]] = dataclasses.field(default_factory=dict)
    num_students: int = 1
    num_lanes: int = 64
    window_tokens: int = 32
    data: str = "disjoint"
    distillation_loss: losses.DistillationLoss | None = None
    distillation_weight: schedules.Schedule | float = 1.0
    weight_decay: schedules.WeightDecay | None = None
    topology: Topology = "fully_connected"
    fixed_teachers: Sequence[str] = ()
    teacher_precision: str = "float32"
    exchange_every_steps: int = 50
    measure_every_steps: int = 10
    log_every_steps: int = 50
    validate_every_steps: int = 100
    checkpoint_every_steps: int = 500
    seed: int = 0
    jit_compile: bool = False

    def __post_init__(self) -> None:
        for name in ("log_every_steps", "num_steps", "validate_every_steps", "checkpoint_every_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1 or value % self.log_every_steps:
                raise ValueError(
                    f"{name} is {value!r}; expected a positive multiple of log_every_steps, which is "
                    f"{self.log_every_steps}"
                )
        if self.num_students < 1 or self.num_students != int(self.num_students):
            raise ValueError(f"num_students is {self.num_students!r}; expected an integer >= 1")
        if self.num_students > 1 and (self.fixed_teachers or self.teacher_precision != "float32"):
            raise ValueError(
                f"num_students is {self.num_students}, but students of one process learn from each other, in "
                "their own precision; leave out fixed_teachers and teacher_precision, or use groups"
            )

    def train(
        self,
        workdir: str,
        group: int = 0,
        num_groups: int = 1,
        strategy: tf.distribute.Strategy | None = None,
        when_built: Callable[[], None] = lambda: None,
        exchange_dir: str | None = None,
    ) -> CodistillationModel | CodistillingStudents:
        """Trains one group to its last step, from the last checkpoint if there is one.

        Args:
            workdir: Directory of the run, shared by its groups.
            group: This group, from 0.
            num_groups: Number of groups; 1 trains a model alone, or several students in one process.
            strategy: The group's strategy; the default strategy if not given.
            when_built: Called when everything has been built, before the first step.
            exchange_dir: Where groups exchange snapshots; in the workdir if not given.

        Returns:
            The trained model.

        Raises:
            ValueError: Something in the configuration, the corpus, the workdir or a peer does not fit.
        """
        strategy = strategy or tf.distribute.get_strategy()
        self._check_groups(group, num_groups)
        corpus = mixture.open_corpora(self.corpus_dir)
        training = self._training_streams(corpus, group, num_groups)
        _, validation = self.streams(corpus, group, num_groups)
        files.make_directory(runs.group_dir(workdir, group))
        tokenizer_dir = runs.tokenizer_dir(workdir, group)
        trained.keep_tokenizer(tokenizer_dir, corpus.corpora, is_writer=distribution.is_chief(strategy))
        keras.utils.set_random_seed(1000 * self.seed + group)
        with strategy.scope():
            model = self.build(corpus.vocabulary_size, group, num_groups)
        model.build_for_data(self._feed(training, strategy).element_spec)
        resume = Resume(model, checkpoints.Checkpoints(runs.checkpoints_dir(workdir, group), strategy))
        resume.restore()
        when_built()
        first_step = model.step()
        model.fit(
            self._feed(training, strategy, first_step),
            initial_epoch=first_step // self.log_every_steps,
            epochs=self.num_steps // self.log_every_steps,
            steps_per_epoch=self.log_every_steps,
            validation_data=self._feed([validation], strategy),
            validation_steps=validation.steps_per_epoch,
            validation_freq=self.validate_every_steps // self.log_every_steps,
            callbacks=self._source_of_teachers(exchange_dir or runs.exchange_dir(workdir), group, num_groups)
            + self._callbacks(workdir, group, resume, strategy),
            shuffle=False,
            verbose=0,
        )
        logging.info("trained to step %d, weights %s", model.step(), weights.checksum(model))
        if distribution.is_chief(strategy):
            self._save_students(model.students, corpus.vocabulary_size, workdir, group)
        return model

    def streams(
        self, corpus: mixture.Corpora, group: int, num_groups: int
    ) -> tuple[language.Stream, language.Stream]:
        """The group's training lanes and the validation lanes, which are the same for every group.

        Args:
            corpus: The corpora.
            group: The group, or of several students in one process the student.
            num_groups: How many there are.

        Returns:
            The two streams of batches.
        """
        lanes = functools.partial(
            corpus.stream, seed=self.seed, num_lanes=self.num_lanes, window_tokens=self.window_tokens
        )
        data = "same" if self._shares_batch() else self.data
        training = lanes("train", group=group, num_groups=num_groups, data=data)
        return training, lanes("validation", shuffle=False)

    def build(
        self, vocabulary_size: int, group: int = 0, num_groups: int = 1
    ) -> CodistillationModel | CodistillingStudents:
        """The compiled model; call it in the scope of the strategy.

        Args:
            vocabulary_size: Number of word pieces of the corpus.
            group: The group.
            num_groups: Number of groups.

        Returns:
            Student and teachers, or all students, with a part of the lanes for each replica.

        Raises:
            ValueError: The lanes cannot be shared out evenly, or the topology does not fit.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        optimizer = self.optimizer()
        if optimizer.gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps is {optimizer.gradient_accumulation_steps}, but an experiment "
                "finds its place in the data by the optimizer's steps; leave it out and use more lanes"
            )
        if self.num_lanes % replicas:
            raise ValueError(f"num_lanes is {self.num_lanes}; expected a multiple of the {replicas} replicas")
        make = functools.partial(self.make_model, vocabulary_size, self.num_lanes // replicas)
        model = self._students(make) if self.num_students > 1 else self._student(make, group, num_groups)
        model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=self.jit_compile,
        )
        return model

    def model_fn_of(self, group: int | None) -> Callable[..., keras.Model]:
        """Makes the model that a group trains; `model_fn` for None."""
        return self.model_fn if group is None else self.peer_model_fns.get(group, self.model_fn)

    def make_model(
        self, vocabulary_size: int, num_lanes: int | None = None, group: int | None = None
    ) -> keras.Model:
        """The stateful model of a group, with all lanes of the group unless another number is given."""
        make = self.model_fn_of(group)
        return make(vocabulary_size=vocabulary_size, batch_size=num_lanes or self.num_lanes)

    def _student(
        self, make: Callable[[int], keras.Model], group: int, num_groups: int
    ) -> CodistillationModel:
        taught_by = self._teacher_groups(group, num_groups)
        return CodistillationModel(
            functools.partial(make, group),
            len(taught_by),
            teacher_fns=[functools.partial(make, peer) for peer in taught_by],
            teacher_precision=self.teacher_precision,
            **self._teaching(),
        )

    def _students(self, make: Callable[[int], keras.Model]) -> CodistillingStudents:
        return CodistillingStudents(
            [functools.partial(make, student) for student in range(self.num_students)],
            self.num_students,
            batches="same" if self._shares_batch() else "different",
            topology=self.topology,
            refresh_every_steps=self.exchange_every_steps,
            **self._teaching(),
        )

    def _teaching(self) -> dict[str, Any]:
        """How students learn from their teachers, wherever these are."""
        names = ("distillation_loss", "distillation_weight", "weight_decay", "measure_every_steps")
        return {name: getattr(self, name) for name in names}

    def _shares_batch(self) -> bool:
        return self.num_students > 1 and self.data == "same_batch"

    def _check_groups(self, group: int, num_groups: int) -> None:
        if self.num_students > 1 and num_groups > 1:
            raise ValueError(
                f"num_groups is {num_groups}, but the {self.num_students} students of one process have no "
                "peers; start one group"
            )
        number = max(self.num_students, num_groups)
        if unknown := sorted(set(self.peer_model_fns) - set(range(number))):
            raise ValueError(f"peer_model_fns names groups {unknown}; expected some of 0 to {number - 1}")
        if self.num_students == 1:
            self._teacher_groups(group, num_groups)

    def _teacher_groups(self, group: int, num_groups: int) -> list[int]:
        """For each teacher a group whose architecture it has."""
        candidates = candidates_of(group, num_groups, self.topology)
        if self.fixed_teachers:
            return [group for _ in self.fixed_teachers]
        for peers in candidates:
            if len({self.model_fn_of(peer) for peer in peers}) > 1:
                raise ValueError(
                    f"topology lets a teacher stand for any of groups {peers}, but peer_model_fns gives them "
                    "different models; use a topology with fixed peers"
                )
        return [peers[0] for peers in candidates]

    def _training_streams(
        self, corpus: mixture.Corpora, group: int, num_groups: int
    ) -> list[language.Stream]:
        """What is read side by side: the lanes of the group, or of each student that has its own."""
        if self.num_students == 1 or self._shares_batch():
            return [self.streams(corpus, group, num_groups)[0]]
        return [self.streams(corpus, i, self.num_students)[0] for i in range(self.num_students)]

    def _callbacks(
        self, workdir: str, group: int, resume: Resume, strategy: tf.distribute.Strategy
    ) -> list[keras.callbacks.Callback]:
        callbacks: list[keras.callbacks.Callback] = []
        if distribution.is_chief(strategy):
            readers = 1 if self._shares_batch() else self.num_students
            tokens_per_step = readers * self.num_lanes * self.window_tokens
            callbacks.append(MetricsLog(workdir, group, self.num_steps, tokens_per_step))
        every_epochs = self.checkpoint_every_steps // self.log_every_steps
        any_worker = functools.partial(distribution.any_worker, strategy)
        return [*callbacks, Saver(resume.save, every_epochs, any_worker)]

    def _source_of_teachers(
        self, exchange_dir: str, group: int, num_groups: int
    ) -> list[keras.callbacks.Callback]:
        if self.num_students > 1:
            return []
        if self.fixed_teachers:
            return [FixedTeachers(self.fixed_teachers)]
        exchange = PeerExchange(
            exchange_dir,
            group,
            num_groups,
            self.exchange_every_steps,
            self.topology,
            precision=self.teacher_precision,
        )
        return [exchange]

    def _feed(
        self, streams: Sequence[language.Stream], strategy: tf.distribute.Strategy, first_step: int = 0
    ) -> Any:
        """The streams, side by side, as what `fit` reads; each worker makes its own part."""

        def part(context: tf.distribute.InputContext) -> tf.data.Dataset:
            own = {
                "worker": context.input_pipeline_id,
                "num_workers": context.num_input_pipelines,
                "num_replicas": distribution.num_local_replicas(strategy),
            }
            return language.by_turns(
                [language.dataset(stream, first_step=first_step, **own) for stream in streams]
            )

        return strategy.distribute_datasets_from_function(part)

    def _save_students(
        self, students: Sequence[keras.Model], vocabulary_size: int, workdir: str, group: int
    ) -> None:
        for number, student in enumerate(students):
            served = self.model_fn_of(group + number)(vocabulary_size=vocabulary_size, batch_size=None)
            served.set_weights(weights.values(student.weights))
            path = runs.student_path(workdir, group, number if len(students) > 1 else None)
            aside = path.removesuffix(".keras") + ".partial.keras"
            served.save(aside)
            os.replace(aside, path)


def configured() -> Experiment:
    """The experiment whose settings gin binds."""
    return Experiment()  # type: ignore[call-arg]
