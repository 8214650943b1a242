"""An exchange costs training next to nothing: how long it stands still, and wall time with and without it.

    python -m benchmarks.exchange                   the paper's model, 44.4 million weights, on two cores
    python -m benchmarks.exchange --num_units=128 --vocabulary_size=1000 --num_steps=100       a small one

A group publishes and takes a peer's newest snapshot every so many steps. The peer is played by links to one
snapshot, so that nothing but this group's own work is measured. Runs without exchange, with it, and with it
on slow storage train in turns, a hundred steps each, so that whatever else runs on the machine falls on all.
What is wanted: for an exchange training stands still at most 1.3 times as long as one plain copy of the
weights on the host takes, and less than half a step; and neither kind of storage makes a run slower.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import files, program, recurrent_state, weights
from tf_codistill.exchange import manifests
from tf_codistill.exchange.precision import PRECISIONS
from tf_codistill.exchange.snapshot import Ref
from tf_codistill.exchange.store import Store
from tf_codistill.files import documents
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

NUM_LANES = flags.DEFINE_integer("num_lanes", 8, "Rows of a batch.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 8, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer("num_units", 1024, "Units of each of two layers.")
EMBEDDING_DIM = flags.DEFINE_integer("embedding_dim", 256, "Width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 24006, "Number of ids.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 300, "Steps of each run.")
EVERY_STEPS = flags.DEFINE_integer("every_steps", 50, "Steps between two exchanges.")
PRECISION = flags.DEFINE_enum("precision", "float32", PRECISIONS, "How snapshots and teacher hold weights.")
BYTES_PER_SEC = flags.DEFINE_float("bytes_per_sec", 20e6, "Speed of the slow storage.")
CHUNK_STEPS = flags.DEFINE_integer("chunk_steps", 100, "Steps of each run, one after another.")
CORES = flags.DEFINE_list("cores", ["0", "1"], "Cores that all runs are pinned to.")


def language_model() -> keras.Model:
    """Makes the student and the teacher."""
    units = NUM_UNITS.value
    return LanguageModel(VOCABULARY_SIZE.value, EMBEDDING_DIM.value, 2, units, batch_size=NUM_LANES.value)


def data() -> tf.data.Dataset:
    """Random ids, the same batch at every step."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE.value, (NUM_LANES.value, WINDOW_TOKENS.value))
    return tf.data.Dataset.from_tensors((ids.astype("int32"), ids.astype("int32"))).repeat()


class Peer(keras.callbacks.Callback):
    """Another group, whose snapshots cost nothing: the files of the first one, under new names."""

    def __init__(self, directory: str, student: keras.Model) -> None:
        """Publishes the first one."""
        super().__init__()
        self._store = Store(directory, 1, run_id="benchmark", precision=PRECISION.value)
        described = weights.description(student)
        self._store.announce(described, 0)
        states = recurrent_state.values(recurrent_state.variables(student))
        self._store.publish(0, described, weights.values(student.weights), states)
        self._number = 1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Has a new snapshot in the middle between two exchanges."""
        del logs
        if batch % EVERY_STEPS.value == 0:
            first, last = (
                self._store._path(Ref(1, self._store.incarnation, number)) for number in (1, self._number + 1)
            )
            shutil.copytree(first, last + ".partial", copy_function=os.link)
            manifest = manifests.read(first, Ref(1, self._store.incarnation, 1)) or {}
            named = documents.sealed(manifest | {"serial": self._number + 1})
            files.write_json(os.path.join(last + ".partial", files.MANIFEST), named)
            os.rename(last + ".partial", last)
            self._number += 1


class Clock(keras.callbacks.Callback):
    """The time of each chunk, from its first step's beginning to its last one's end, and of a usual step."""

    def __init__(self) -> None:
        """Has seen nothing."""
        super().__init__()
        self.stood = 0.0
        self.steps: list[float] = []
        self.chunks: list[tuple[float, float]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Starts the clocks at the first step, and looks at every meeting."""
        del logs
        self._step_began = time.perf_counter()
        if batch == 0:
            self.model.meeting.on_train_batch_end = self._timed(self.model.meeting.on_train_batch_end)
            self._began = self._step_began, time.process_time()

    def _timed(self, meet: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any, **named: Any) -> None:
            self.model.batches()  # whoever first looks at what a step has done pays for its end
            began = time.perf_counter()
            meet(*arguments, **named)
            self.stood += time.perf_counter() - began

        return timed

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Adds up."""
        del logs
        self.steps.append(time.perf_counter() - self._step_began)
        if batch == CHUNK_STEPS.value - 1:
            self.chunks.append((time.perf_counter() - self._began[0], time.process_time() - self._began[1]))

    @property
    def wall(self) -> float:
        """Seconds of all chunks."""
        return sum(wall for wall, _ in self.chunks)

    @property
    def cpu(self) -> float:
        """Seconds of processors in all chunks."""
        return sum(cpu for _, cpu in self.chunks)


@contextlib.contextmanager
def storage_of(bytes_per_sec: float | None) -> Iterator[None]:
    """Within it what the courier reads and writes takes as long as it would on slower storage."""
    write, read_into = weights.write, files.read_into

    def slow_write(prefix: str, **arrays: Any) -> files.Listing:
        began = time.perf_counter()
        listing = write(prefix, **arrays)
        num_bytes = sum(entry["bytes"] for entry in listing.values())
        time.sleep(max(0.0, num_bytes / (bytes_per_sec or 1) - (time.perf_counter() - began)))
        return listing

    def slow_read(path: str, buffers: Any, sha256: str | None) -> None:
        began = time.perf_counter()
        read_into(path, buffers, sha256)
        num_bytes = sum(len(buffer) for buffer in buffers)
        time.sleep(max(0.0, num_bytes / (bytes_per_sec or 1) - (time.perf_counter() - began)))

    if bytes_per_sec:
        weights.write, files.read_into = slow_write, slow_read
    try:
        yield
    finally:
        weights.write, files.read_into = write, read_into


def resident_bytes() -> int:
    """Memory of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Memory:
    """The most memory of this process within a ``with`` block, above what it had before."""

    def __enter__(self) -> Memory:
        """Starts to look."""
        self._done, self._before, self.most = threading.Event(), resident_bytes(), 0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops."""
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, resident_bytes() - self._before)


class Run:
    """A group that trains with a teacher in place, some steps at a time."""

    def __init__(self, directory: str, exchanges: bool, bytes_per_sec: float | None = None) -> None:
        """Trains until everything is traced and the first snapshot has been taken.

        Args:
            directory: The exchange.
            exchanges: Whether anything is published or taken later.
            bytes_per_sec: Speed of the storage; None for that of this machine.
        """
        self._bytes_per_sec = bytes_per_sec
        self.teachers = PeerExchange(
            directory,
            *(0, 2, EVERY_STEPS.value if exchanges else 10**9),
            precision=PRECISION.value,
            run_id="benchmark",
            keep=1,
            min_age_secs=0.0,
        )
        self.model = CodistillationModel(language_model, self.teachers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
        self._data = data()
        self.model.build_for_data(self._data.element_spec)
        peer = Peer(directory, self.model.student)
        # Exchanges shall fall in the middle of what is measured, not on its end.
        self.model.fit(self._data, steps_per_epoch=EVERY_STEPS.value // 2, verbose=0)
        while not self.teachers.swaps:
            self.model.fit(self._data, steps_per_epoch=EVERY_STEPS.value, verbose=0)
        self.clock, self.memory = Clock(), 0
        self._callbacks = [self.clock, peer] if exchanges else [self.clock]

    def train(self) -> None:
        """Some steps more."""
        with storage_of(self._bytes_per_sec), Memory() as memory:
            self.model.fit(
                self._data, steps_per_epoch=CHUNK_STEPS.value, verbose=0, callbacks=self._callbacks
            )
        self.memory = max(self.memory, memory.most)


def copy_secs(model: keras.Model) -> float:
    """The time of one plain copy of a model's weights on the host."""
    secs = []
    for _ in range(5):
        began = time.perf_counter()
        copies = [
            np.array(np.asarray(weights.local_copies(variable)[0].read_value())) for variable in model.weights
        ]
        secs.append(time.perf_counter() - began)
        del copies
    return statistics.median(secs)


def main() -> None:
    """Prints a line for each run, and what is to be judged."""
    os.sched_setaffinity(0, {int(core) for core in CORES.value})
    tf.config.threading.set_intra_op_parallelism_threads(len(CORES.value))
    slow = f"on {BYTES_PER_SEC.value / 1e6:.0f} MB/s"
    with contextlib.ExitStack() as stack:
        place = lambda: stack.enter_context(tempfile.TemporaryDirectory())  # noqa: E731
        runs = {
            "without exchange": Run(place(), False),
            "with exchange": Run(place(), True),
            f"with exchange {slow}": Run(place(), True, BYTES_PER_SEC.value),
        }
        copies = []
        for _ in range(NUM_STEPS.value // CHUNK_STEPS.value):
            for run in runs.values():
                run.train()
            copies.append(copy_secs(runs["without exchange"].model.student))
    plain, copy = runs["without exchange"], statistics.median(copies)
    num_bytes = sum(array.nbytes for array in weights.values(plain.model.student.weights))
    num_exchanges = NUM_STEPS.value // EVERY_STEPS.value
    print(f"{num_bytes / 1e6:.0f} MB of weights, {NUM_STEPS.value} steps, {num_exchanges} exchanges")
    print(f"one plain copy on the host: {1000 * copy:.0f} ms")
    for name, run in runs.items():
        step, costs = statistics.median(run.clock.steps), run.teachers.costs
        print(
            f"{name}: {run.clock.wall:.1f} s ({run.clock.wall / plain.clock.wall:.3f}), "
            f"{run.clock.cpu:.1f} s of processors ({run.clock.cpu / plain.clock.cpu:.3f}), "
            f"a step {1000 * step:.0f} ms, at most {run.memory / 1e6:.0f} MB more memory"
        )
        if run is not plain:
            stood = run.clock.stood / num_exchanges
            print(
                f"    stood still {1000 * stood:.0f} ms for each exchange: {stood / copy:.2f} of a copy, "
                f"{stood / step:.2f} of a step; {len(run.teachers.swaps) - 1} swaps, "
                f"{costs.skipped_publications} skipped"
            )


if __name__ == "__main__":
    program.run(main)
