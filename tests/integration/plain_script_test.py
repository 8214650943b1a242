"""Plain Keras scripts of two groups of two workers, killed whenever it pleases, and asked to stop.

A convolutional model with batch normalisation and dropout; two teachers, a peer that trains beside it and one
that has left a snapshot behind. The run that is compared with takes the same snapshots at the same steps.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import keras
import pytest

from tests.workers import run_workers
from tf_codistill import checkpoints, weights
from tf_codistill.exchange.snapshot import Swap
from tf_codistill.exchange.store import Store

STEPS = 8  # of an epoch

STUDENT = """
import keras
def model_fn():
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(4, 3, strides=2),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(4),
    ])
"""

SCRIPT = f"""
from tf_codistill import distribution, weights
strategy = distribution.create_strategy()
import hashlib, json, os, signal, sys, threading, time
import numpy as np, tensorflow as tf
import tf_codistill
from tf_codistill.exchange.snapshot import Swap
from tf_codistill.training.checkpoint import state
{STUDENT}
settings = json.loads(sys.argv[1])
directory, group, replay = settings["directory"], settings["group"], settings["replay"]
worker = distribution.worker_index(strategy)

def leave():
    while not os.path.exists(settings["leaves_at"]):
        time.sleep(0.1)
    os._exit(0)

class Watched(keras.callbacks.Callback):
    "Notes swaps, waits for what is on its way from the peers, once also for news, and dies."
    has_news = False
    def on_train_begin(self, logs=None):
        self.note(self.model.batches())
    def note(self, *lines):
        if worker == 0:
            with open(settings["notes"], "a") as file:
                file.writelines(json.dumps(line) + "\\n" for line in lines)
    def on_train_batch_end(self, batch, logs=None):
        step, swaps = self.model.batches(), self.model.teachers.swaps
        self.note(*swaps)
        self.has_news = self.has_news or any(swap.peer == 1 - group for swap in swaps)
        swaps.clear()
        if [worker, step] == settings["dies_at"]:
            os.kill(os.getpid(), signal.SIGKILL)
        def is_coming(seat):
            is_new = not (self.has_news if seat.peer == 1 - group else seat.held.incarnation)
            return (worker == 0 and is_new and not seat.requested) or (seat.requested and not seat.is_ready)
        seats = exchange._exchanging._courier.seats
        while replay is None and group == 0 and any(map(is_coming, seats)):
            time.sleep(0.01)
        time.sleep(settings["secs_per_step"])
    def on_test_begin(self, logs=None):
        print("validates", flush=True)

keras.utils.set_random_seed(1 + group)
rng = np.random.default_rng(0)
x, y = rng.normal(size=({STEPS} * 8, 8, 8, 1)).astype("float32"), rng.integers(0, 4, {STEPS} * 8)
images = tf.data.Dataset.from_tensor_slices((x, y))
with strategy.scope():
    exchange = tf_codistill.PeerExchange(
        settings["exchange"],
        group,
        num_groups=3,
        every_steps=2,
        topology={{0: [1, 2], 1: [0, 2], 2: []}},
        keep=1000,
        run_id="script",
        replay=replay and [Swap(*swap) for swap in replay],
    )
    model = tf_codistill.CodistillationModel(model_fn, exchange)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
callbacks = [Watched(), tf_codistill.Checkpointing(directory, every_steps=2)]
if distribution.is_chief(strategy):  # alone: saving must not wait for others
    callbacks.append(keras.callbacks.ModelCheckpoint(directory + ".keras"))
threading.Thread(target=leave, daemon=True).start()
model.fit(
    images.shuffle(64, seed=2).batch(8, drop_remainder=True),
    epochs=settings["epochs"],
    validation_data=images.take(16).batch(8, drop_remainder=True).repeat(settings["num_validation"]),
    verbose=0,
    callbacks=callbacks,
)
digest = hashlib.sha256()
for part in state.of(model):
    for name in sorted(part):
        for array in part[name]:
            digest.update(np.ascontiguousarray(array).tobytes())
print(model.batches(), weights.checksum(model.student), digest.hexdigest())
"""


def settings(place: pathlib.Path, name: str, **others: object) -> str:
    """What a script is told: where it keeps what, and what becomes of it."""
    told = {
        "directory": str(place / name),
        "exchange": str(place / "exchange"),
        "notes": str(place / f"{name}.notes"),
        "leaves_at": str(place / "everybody_leaves"),
        "group": 0,
        "epochs": 2,
        "dies_at": None,
        "replay": None,
        "num_validation": 1,
        "secs_per_step": 0.0,
    }
    return json.dumps(told | others)


def run(told: str, num_workers: int = 2, timeout_secs: float = 120) -> list[str]:
    return run_workers(f"import sys\nsys.argv[1:] = [{told!r}]\n{SCRIPT}", num_workers, timeout_secs)


@contextlib.contextmanager
def peers(place: pathlib.Path, num_workers: int) -> Iterator[None]:
    """Group 1, which trains until the others have ended, and a snapshot of group 2."""
    made: dict[str, keras.Model] = {}
    exec(STUDENT + "model = model_fn()", made)
    model, exchange = made["model"], str(place / "exchange")
    old = Store(exchange, group=2, run_id="script")
    old.announce(weights.description(model), step=0)
    old.publish(0, weights.description(model), weights.values(model.weights))
    told = settings(place, "peer", group=1, epochs=10**6, secs_per_step=0.2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        peer = pool.submit(run, told, num_workers, timeout_secs=3000)
        while old.newest(1) is None and not peer.done():
            time.sleep(0.1)
        try:
            yield
        finally:
            (place / "everybody_leaves").touch()
            peer.result()
    (place / "everybody_leaves").unlink()


def swaps_that_count(notes: pathlib.Path) -> list[Swap]:
    """Those of a run that was killed and went on, without those that a later start has forgotten."""
    found: list[Swap] = []
    for line in map(json.loads, notes.read_text().splitlines()):
        if isinstance(line, int):
            found = [swap for swap in found if swap.step <= line]
        else:
            found.append(Swap(*line))
    return found


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("num_deaths", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_steps_it_ends_with_the_same_bits(tmp_path: pathlib.Path, num_deaths: int) -> None:
    rng, epochs = random.Random(num_deaths), 2 + num_deaths // 3
    with peers(tmp_path, num_workers=2 if num_deaths > 1 else 1):
        for step in sorted(rng.sample(range(5, STEPS * epochs), num_deaths)):
            who = rng.randrange(2)
            told = settings(tmp_path, "killed", epochs=epochs, dies_at=(who, step))
            with pytest.raises(RuntimeError, match=f"worker {who} exited with -9"):
                run(told)
        killed = run(settings(tmp_path, "killed", epochs=epochs))
    swaps = swaps_that_count(tmp_path / "killed.notes")
    assert {swap.peer for swap in swaps} == {1, 2}
    noted = [json.loads(line) for line in (tmp_path / "killed.notes").read_text().splitlines()]
    assert sum(line[2] == 1 for line in noted if isinstance(line, list)) > 1, "and again after a start"
    whole = run(settings(tmp_path, "whole", epochs=epochs, replay=swaps))
    assert swaps_that_count(tmp_path / "whole.notes") == swaps
    ends = [[output.split()[-3:] for output in outputs] for outputs in (killed, whole)]
    assert ends[0] == ends[1]
    for steps, checksum, _ in ends[0]:
        assert int(steps) == STEPS * epochs
        assert checksum == ends[0][0][1], "batch statistics, too, are those of the group"
    _, _, (one, other) = checkpoints.read_latest(str(tmp_path / "killed"))
    pairs = zip(one["replicas"], other["replicas"], strict=True)
    assert any((a != b).any() for a, b in pairs), "a checkpoint has each worker's own"


@pytest.mark.slow
def test_sigterm_in_a_long_validation_ends_within_seconds(tmp_path: pathlib.Path) -> None:
    told = settings(tmp_path, "asked", num_validation=10**6, replay=[])
    arguments = [sys.executable, "-c", SCRIPT, told]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "validates\n"
        time.sleep(2)
        asked_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - asked_at < 10
    assert f"KeyboardInterrupt: stopped and saved at step {STEPS}" in errors
    found = checkpoints.newest_complete(str(tmp_path / "asked"))
    assert found is not None
    assert (found[0], found[1]["metadata"]["position"]) == (STEPS, [0, 0, STEPS])
