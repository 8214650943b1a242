"""What it costs to be ready for faults: checkpoints, a dead peer, a lease with its heartbeat, and `status`.

    python -m benchmarks.fault_tolerance            a language model of the quickstart's size, on two cores

Runs train in turns, twenty steps each, so that whatever else runs on the machine falls on all of them; a
ratio is the median of those of such turns. What is rare is made five times as frequent as anybody has it, and
a fifth of what it then costs is told, since a machine that is shared does not show a hundredth:

    nothing                          what the next two are measured by; at most 1.03 and 1.01 of it are wanted
    checkpoints                      one in the middle of every twenty steps; told as for one in a hundred
    lease, heartbeat and status      a page of `status`, which is looked at every 0.4 seconds; told as for 2
    a living peer                    publishes whenever this group does
    a dead peer                      has left one snapshot; 1.00 of the living one is wanted, or less
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf
from absl import flags

from benchmarks import exchange
from tf_codistill import program, runs
from tf_codistill.training.checkpoint.checkpointing import Checkpointing
from tf_codistill.training.checkpoint.ownership import Ownership
from tf_codistill.training.codistillation import CodistillationModel

flags.FLAGS.set_default("num_units", 192)
flags.FLAGS.set_default("embedding_dim", 96)
flags.FLAGS.set_default("vocabulary_size", 2000)
flags.FLAGS.set_default("num_lanes", 32)
flags.FLAGS.set_default("window_tokens", 32)
flags.FLAGS.set_default("num_steps", 400)
flags.FLAGS.set_default("chunk_steps", 20)
flags.FLAGS.set_default("every_steps", 20)

_LOOK_SECS, _START_SECS, _TIMES = 0.4, 10.0, 5


class Alone:
    """A group that learns from nobody, some steps at a time."""

    def __init__(self, *callbacks: keras.callbacks.Callback) -> None:
        """Trains half a chunk, so that what is due at whole ones falls in the middle of what is measured."""
        self.clock = exchange.Clock()
        self._model, self._data = CodistillationModel(exchange.language_model), exchange.data()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._model.compile(keras.optimizers.Adam(0.001), loss, jit_compile=False)
        self._model.fit(
            self._data, steps_per_epoch=exchange.CHUNK_STEPS.value // 2, verbose=0, callbacks=list(callbacks)
        )
        self._callbacks = [self.clock, *callbacks]

    def train(self) -> None:
        """Some steps more."""
        self._model.fit(
            self._data, steps_per_epoch=exchange.CHUNK_STEPS.value, verbose=0, callbacks=self._callbacks
        )


def with_peer(directory: str, lives: bool) -> exchange.Run:
    """A group with a peer."""
    run = exchange.Run(directory, exchanges=True)
    if not lives:
        run._callbacks = [run.clock]
    return run


@contextlib.contextmanager
def watched(workdir: str) -> Iterator[subprocess.Popen[bytes]]:
    """Within it a run of a thousand lines of metrics is on a page that somebody looks at; who serves it."""
    path = runs.metrics_path(workdir, 0)
    os.makedirs(os.path.dirname(path))
    runs.append_metrics(path, "start", 0, num_steps=50_000, units="tokens")
    for step in range(50, 50_001, 50):
        runs.append_metrics(path, "train", step, elapsed_secs=0.1 * step, loss=4.0, staleness_steps=25.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tf_codistill.status", f"--workdir={workdir}", f"--serve={port}"]
    page, done = subprocess.Popen(command, stdout=subprocess.DEVNULL), threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_SECS):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()

    threading.Thread(target=look, daemon=True).start()
    try:
        yield page
    finally:
        done.set()
        page.kill()
        page.wait()


def in_turns(measured: Sequence[exchange.Run | Alone]) -> None:
    """Trains all runs, a chunk of each at a time."""
    for _ in range(exchange.NUM_STEPS.value // exchange.CHUNK_STEPS.value):
        for run in measured:
            run.train()


def main() -> None:
    """Prints the ratios."""
    os.sched_setaffinity(0, {int(core) for core in exchange.CORES.value})
    tf.config.threading.set_intra_op_parallelism_threads(len(exchange.CORES.value))
    with contextlib.ExitStack() as stack:
        place = lambda: stack.enter_context(tempfile.TemporaryDirectory())  # noqa: E731
        nothing = Alone()
        saved = Alone(Checkpointing(place(), every_steps=exchange.CHUNK_STEPS.value))
        living, dead = with_peer(place(), lives=True), with_peer(place(), lives=False)
        in_turns([nothing, saved, living, dead])
        quiet, own = Alone(), Ownership(place(), 0, tf.distribute.get_strategy())
        owned = Alone(stack.enter_context(own))
        page = stack.enter_context(watched(place()))
        time.sleep(_START_SECS)
        for _ in range(exchange.NUM_STEPS.value // exchange.CHUNK_STEPS.value):
            page.send_signal(signal.SIGSTOP)
            quiet.train()
            page.send_signal(signal.SIGCONT)
            owned.train()
    step = statistics.median(nothing.clock.steps)
    print(f"{exchange.NUM_STEPS.value} steps, a usual one {1000 * step:.0f} ms")
    for name, run, other, times in (
        ("checkpoints, of nothing", saved, nothing, _TIMES),
        ("lease, heartbeat and status, of nothing", owned, quiet, _TIMES),
        ("a dead peer, of a living one", dead, living, 1),
    ):
        pairs = zip(run.clock.chunks, other.clock.chunks, strict=True)
        ratios = [[one / two for one, two in zip(*pair, strict=True)] for pair in pairs]
        wall, cpu = (1 + (statistics.median(of) - 1) / times for of in zip(*ratios, strict=True))
        spread = sorted(wall for wall, _ in ratios)
        quarters = spread[len(spread) // 4], spread[-1 - len(spread) // 4]
        print(
            f"{name}: {wall:.3f}, {cpu:.3f} of the time of processors; {times} times as frequent, half of "
            f"{len(ratios)} turns had {quarters[0]:.2f} to {quarters[1]:.2f}"
        )


if __name__ == "__main__":
    program.run(main)
