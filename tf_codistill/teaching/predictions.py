"""PredictionExchange: groups on the same batch exchange what they predict, and no weights.

    group 0   student predicts ---> compress ---> left for group 1, taken by it ---> expand ---> its teaching
    group 1   student predicts ---> compress ---> left for group 0, taken by it ---> expand ---> its teaching

Nobody computes a teacher: a step costs a pass of the student, what travels, and the wait for the slowest one.
All groups read the same batches (``data = 'same_batches'``: coordinated sampling, Sodhani et al. 2020), and
teaching is that of the current students, as `FellowStudents` have it in one process. Rows find each other by
their keys. Who is not there in time is absent for that batch, see `exchange.predictions.rendezvous`.

With ``ahead=True`` nobody meets and nobody waits: groups publish snapshots, as `PeerExchange` does, and
workers of their own (`tf_codistill.teach`) follow them and predict each group's batches before it comes to
them. Then groups may read what they like, and teachers are as stale as the snapshots.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import gin
import keras
import numpy as np
import tensorflow as tf

from tf_codistill import distribution, files
from tf_codistill.exchange import manifests
from tf_codistill.exchange.predictions.answers import Answers, source_of
from tf_codistill.exchange.predictions.channel import Channel, FileChannel
from tf_codistill.exchange.predictions.client import ServerChannel
from tf_codistill.exchange.predictions.forms import Form, Logits, Spec
from tf_codistill.exchange.predictions.message import MessageFormat
from tf_codistill.exchange.predictions.rendezvous import PredictionCosts, Rendezvous
from tf_codistill.exchange.topology import RandomPeers, Topology, teachers_of
from tf_codistill.groups import decisions
from tf_codistill.teaching.base import Compress, ModelFn, Place, Taught, Teaching
from tf_codistill.teaching.snapshots import PeerExchange


@gin.configurable(module="tf_codistill")
class PredictionExchange(Teaching):
    """What this group and its peers predict for a batch that they all read, exchanged inside the step.

    `fit` adds to the logs of each epoch what it has cost all workers of the group together, see
    `rendezvous.PredictionCosts`, and ``taught_share``, the share of rows and peers for which there was a
    prediction.

    Attributes:
        costs: What exchanging has cost this worker.
    """

    on_host = True

    def __init__(
        self,
        directory: str | None = None,
        group: int = 0,
        num_groups: int = 1,
        form: Form | None = None,
        topology: Topology = "fully_connected",
        ahead: bool = False,
        every_steps: int = 50,
        wait_secs: float = 30.0,
        keep_steps: int = 1000,
        max_bytes: float = 1e9,
        server: str | None = None,
        token_file: str | None = None,
        tls_certificate: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            directory: The exchange, of any scheme of ``tf.io.gfile``; an `Experiment` says the first three.
            group: This group, from 0.
            num_groups: Number of groups.
            form: What travels of a prediction, see `exchange.predictions.forms`; float16 logits if not given.
            topology: Who teaches whom, see `exchange.topology.teachers_of`; not `RandomPeers`.
            ahead: Whether predictions are made ahead of time by `tf_codistill.teach`; then no step waits.
            every_steps: Optimizer steps between two snapshots of this group, where they are.
            wait_secs: How long a step waits for a peer, at most.
            keep_steps: For how many steps what this group has predicted is kept, for peers that are behind.
            max_bytes: Size of it from which on older steps go, whatever `keep_steps` says.
            server: Host and port of `tf_codistill.serve_predictions`; without it predictions are files.
            token_file: File with the token that the server wants.
            tls_certificate: PEM file with the certificate of who vouches for a server that encrypts.
            run_id: Names the run: others' predictions are never taken. If not given, the first group does.

        Raises:
            ValueError: An argument is out of range, or the topology does not fit.
        """
        files.check_scheme(directory)
        if wait_secs < 0:
            raise ValueError(f"wait_secs is {wait_secs}; expected at least 0")
        if isinstance(topology, RandomPeers):
            raise ValueError("topology is RandomPeers, but groups on one batch all meet; name fixed peers")
        FileChannel("", keep_steps, max_bytes)
        self._directory, self._run_id, self._topology = directory or "", run_id, topology
        self._form, self._wait_secs = form or Logits(), 0.0 if ahead else wait_secs
        self._ahead, self._every_steps = ahead, every_steps
        if server is None and (token_file or tls_certificate):
            raise ValueError("token_file and tls_certificate are for a server; give PredictionExchange one")
        self._keeping = keep_steps, max_bytes
        self._server, self._token_file, self._tls_certificate = server, token_file, tls_certificate
        self._classes: Callable[[], str] = str
        self._take_seats(group, num_groups)

    def _take_seats(self, group: int, num_groups: int) -> None:
        self._group = group
        self._peers = teachers_of(group, num_groups, self._topology)
        self.taught_by = (tuple(range(len(self._peers))),)
        self.fidelity = self._form.fidelity
        self.costs = PredictionCosts()
        self._specs: list[list[Spec]] = []
        self._rendezvous: Rendezvous | None = None
        self._publishing = self._snapshots(num_groups) if self._ahead else Teaching()

    def _snapshots(self, num_groups: int) -> PeerExchange:
        """What publishes the snapshots that others follow, and has no teachers of its own."""
        return PeerExchange(
            self._directory,
            self._group,
            num_groups,
            self._every_steps,
            topology={group: [] for group in range(num_groups)},
            publish="always",
            run_id=self._run_id,
        )

    def join(self, place: Place) -> None:
        """Takes directory and name of the run, unless it has been given others, and this group's number."""
        super().join(place)
        self._run_id = self._run_id or place.run_id
        self._directory = self._directory or place.exchange_dir
        self._classes = place.classes
        self._take_seats(place.group, place.num_groups)

    def learners(self) -> list[str]:
        """This group."""
        return [f"group {self._group}"]

    def names(self) -> list[str]:
        """The groups on the same batch."""
        return [f"group {peer}" for peer in self._peers]

    def learn_outputs(self, outputs: Any) -> None:
        """Lays out what is to travel; a `ValueError` if its form does not suit it."""
        flat = keras.tree.flatten(outputs)
        self._specs = [self._form.parts(tuple(output.shape[1:])) for output in flat]
        self._outputs = [
            [list(output.shape[1:]), keras.backend.standardize_dtype(output.dtype)] for output in flat
        ]

    def make(self, students: Sequence[keras.Model], model_fns: Sequence[ModelFn]) -> None:
        """Makes what notes how stale teaching is; called in the strategy's scope."""
        self._publishing.make(students, model_fns)
        settings = {"dtype": "float32", "trainable": False, "synchronization": "on_read"}
        self._behind = keras.Variable(0.0, name="predictions_staleness_steps", **settings)

    def staleness_steps(self, step: tf.Tensor) -> tf.Tensor:
        """How many steps older the weights were with which the last predictions were made, on average."""
        return tf.convert_to_tensor(self._behind.value)

    def any_present(self, step: tf.Tensor) -> tf.Tensor:
        """Whether there is anybody else; who is there shows when a batch's predictions are exchanged."""
        return tf.constant(bool(self._peers))

    def teaches_rows(self) -> bool:
        """No: all groups have to draw the same, which whole steps are, however many replicas they have."""
        return False

    def teach(
        self, features: Sequence[Any], keys: Sequence[Any], step: tf.Tensor, predictions: Sequence[Any]
    ) -> list[Taught]:
        """Sends off what the student predicts, and takes what its peers do."""
        if not self._peers:
            return self.wait(features, predictions)
        (own,), (keys_B2,) = predictions, keys
        if keys_B2 is None:
            raise ValueError(
                "PredictionExchange needs the key of each example, to tell whether peers have predicted the "
                "same ones; plain Keras data has none: use an Experiment, or yield batches.Keyed"
            )
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        outputs = keras.tree.flatten(own)
        rows = outputs[0].shape[0]
        sent = [] if self._ahead else self._compress(own, step, self._group, replica)
        specs = [spec for specs in self._specs for spec in specs] * len(self._peers)
        arguments = [tf.cast(step, tf.int64), tf.cast(replica, tf.int64), keys_B2, *sent]
        types = [tf.float32, tf.float32, *(dtype for _, dtype in specs)]
        present_PB, behind, *arrived = tf.numpy_function(self._exchange, arguments, types)
        self._behind.assign(tf.ensure_shape(behind, []))
        pairs = zip(arrived, specs, strict=True)
        parts = iter([tf.ensure_shape(one, [rows, *shape]) for one, (shape, _) in pairs])
        taught = [
            [
                self._form.expand([next(parts) for _ in specs], output)
                for specs, output in zip(self._specs, outputs, strict=True)
            ]
            for _ in self._peers
        ]
        return [
            Taught(
                [keras.tree.pack_sequence_as(own, one) for one in taught],
                tf.ensure_shape(present_PB, [len(self._peers), rows]),
            )
        ]

    def _compress(self, prediction: Any, step: tf.Tensor, group: int, replica: Any = 0) -> list[tf.Tensor]:
        """What travels of a prediction; draws differ by step, group, replica and output."""
        sent = list[tf.Tensor]()
        for number, output in enumerate(keras.tree.flatten(prediction)):
            source = (group << 40) + (number << 20) + tf.cast(replica, tf.int64)
            seed = tf.stack([tf.cast(step, tf.int64), source])
            sent += self._form.compress(tf.stop_gradient(output), seed)
        return sent

    def answers(self, peer: int, outputs: Any) -> tuple[Answers, Compress]:
        """Where somebody who follows a peer leaves what it predicts for this group, and in which form."""
        if not self._ahead:
            return super().answers(peer, outputs)
        if peer not in self._peers:
            raise ValueError(f"peer is {peer}; expected one that teaches group {self._group}: {self._peers}")
        self.learn_outputs(outputs)
        self._run_id = manifests.agree_run_id(self._directory, self._run_id)
        source, learner = source_of(peer, self._group), f"group_{self._group}"
        channel, predicted = self._channel(self._run_id), self._predicted()
        description = {**predicted, "num_parts": 1}
        answers = Answers(channel, self._format(predicted), description, source, learner, *self._keeping)
        return answers, lambda prediction, step: self._compress(prediction, step, peer)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What begins and ends the exchange."""
        if not self._directory:
            raise ValueError(
                "PredictionExchange has no directory; name the one through which groups exchange"
            )
        return [*self._publishing.callbacks(), _Exchanging(self)]

    def end(self) -> None:
        """Nobody is waited for any more."""
        self._publishing.end()
        if self._rendezvous is not None:
            self._rendezvous.close()
            self._rendezvous = None

    def begin(self, strategy: tf.distribute.Strategy, step: int) -> None:
        """Meets the peers; all workers of the group call it before their first step.

        Args:
            strategy: The group's.
            step: Number of steps done.

        Raises:
            ValueError: A peer predicts something else, the exchange cannot be written to, or TensorFlow has
                fewer threads than there are replicas, which wait for peers in one each.
        """
        _check_threads(distribution.num_local_replicas(strategy))
        is_chief = distribution.is_chief(strategy)
        if is_chief:
            self._run_id = manifests.agree_run_id(self._directory, self._run_id)
        decisions.total(strategy, [1])  # the others look only after the chief has written
        self._run_id = self._run_id or manifests.run_id(self._directory) or ""
        own, peers = f"group_{self._group}", [f"group_{peer}" for peer in self._peers]
        if self._ahead:
            peers = [source_of(peer, self._group) for peer in self._peers]
        predicted = self._predicted()
        self._rendezvous = Rendezvous(
            self._channel(self._run_id),
            self._format(predicted),
            {**predicted, "num_parts": strategy.num_replicas_in_sync},
            own,
            peers,
            self._wait_secs,
            self.costs,
        )
        self._rendezvous.begin(step, is_chief)
        decisions.total(strategy, [1])  # nobody leaves anything before the chief has cleared up

    def _predicted(self) -> dict[str, Any]:
        """What has to be equal in all groups, as JSON takes it."""
        return {
            "run_id": self._run_id,
            "classes": self._classes(),
            "form": str(self._form),
            "outputs": self._outputs,
        }

    def _format(self, predicted: dict[str, Any]) -> MessageFormat:
        origin = json.dumps(predicted, sort_keys=True)
        return MessageFormat(origin, [spec for specs in self._specs for spec in specs])

    def _channel(self, run_id: str) -> Channel:
        if self._server is None:
            return FileChannel(self._directory, *self._keeping)
        token = files.read(self._token_file).decode().strip() if self._token_file else None
        certificate = files.read(self._tls_certificate) if self._tls_certificate else None
        return ServerChannel(self._server, run_id, token, certificate)

    def _exchange(
        self, step: np.ndarray, replica: np.ndarray, keys: np.ndarray, *sent: np.ndarray
    ) -> list[np.ndarray]:
        """On the host: which rows each peer has predicted, [P, B], how stale that is, and what it is."""
        if self._rendezvous is None:
            raise ValueError("there has been no first step in which groups could have met")
        found = self._rendezvous.exchange(int(step), int(replica), keys, None if self._ahead else list(sent))
        behind = [int(step) - one.weights_step for one in found if one.present_B.any()]
        arrived = [part for one in found for part in one.parts]
        return [np.stack([one.present_B for one in found]), np.array(np.mean(behind or [0]), "f"), *arrived]


class _Exchanging(keras.callbacks.Callback):
    """Begins with the first step, when everything has been restored, and tells what it costs the group."""

    def __init__(self, teachers: PredictionExchange) -> None:
        super().__init__()
        self._teachers = teachers
        self._before = dataclasses.astuple(teachers.costs)
        self._spent = self._logged = dict.fromkeys(dataclasses.asdict(teachers.costs), 0.0)
        self._has_begun = self._has_met = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Takes part in the meetings of the group's workers."""
        self.model.meeting.join(len(self._before), self._propose, self._decide)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Meets the peers before the first one."""
        if not self._has_begun:
            self._teachers.begin(self.model.distribute_strategy, self.model.step())
            self._has_begun = True

    def _propose(self) -> list[int]:
        """What this `fit` has cost this worker, in thousandths."""
        costs = dataclasses.astuple(self._teachers.costs)
        return [round(1000 * (cost - before)) for cost, before in zip(costs, self._before, strict=True)]

    def _decide(self, sums: list[int]) -> None:
        """Looks at what came first."""
        self._spent = {name: number / 1000 for name, number in zip(self._spent, sums, strict=True)}
        if self._spent["received_bytes"] and not self._has_met:
            self._has_met = True
            if not self._spent["present_rows"]:
                raise ValueError(
                    "peers predict other examples than this group; give all groups the same data and seed, "
                    "and their task data = 'same_batches'"
                )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds to the logs what exchanging has cost in this epoch."""
        if logs is not None:
            more = {name: spent - self._logged[name] for name, spent in self._spent.items()}
            asked, present = more.pop("asked_rows"), more.pop("present_rows")
            logs.update(more, taught_share=present / asked if asked else 0.0)
            self._logged = self._spent


def _check_threads(num_replicas: int) -> None:
    # If some replicas wait in all threads for parts of the batch that peers' replicas could only predict in
    # threads in which others wait for parts that are to be predicted here, nobody gets on.
    threads = tf.config.threading.get_inter_op_parallelism_threads() or len(os.sched_getaffinity(0))
    if num_replicas > threads:
        raise ValueError(
            f"{num_replicas} replicas of this process wait for peers inside a step, in a thread each, but "
            f"TensorFlow has {threads}; call tf.config.threading.set_inter_op_parallelism_threads"
            f"({num_replicas}) when the program begins"
        )
