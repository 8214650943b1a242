"""A plain Keras script of two worker processes that is killed whenever it pleases, and asked to stop.

A convolutional model with batch normalisation and dropout, and two teachers.
"""

from __future__ import annotations

import pathlib
import random
import signal
import subprocess
import sys
import time

import keras
import pytest

from tests.workers import run_workers
from tf_codistill import checkpoints

STEPS = 8  # of an epoch

SCRIPT = """
from tf_codistill import distribution, weights
strategy = distribution.create_strategy()
import hashlib, os, signal, sys
import keras, numpy as np, tensorflow as tf
import tf_codistill
from tf_codistill.training import state

directory, dies_at, num_validation = {directory!r}, {dies_at}, {num_validation}

class Dies(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.batches() == dies_at[1] and distribution.worker_index(strategy) == dies_at[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_test_begin(self, logs=None):
        print("validates", flush=True)

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

def teacher_fn():
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])

keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
x, y = rng.normal(size=({steps} * 8, 8, 8, 1)).astype("float32"), rng.integers(0, 4, {steps} * 8)
images = tf.data.Dataset.from_tensor_slices((x, y))
with strategy.scope():
    teachers = tf_codistill.SavedTeachers({teachers!r}, model_fns=2 * [teacher_fn])
    model = tf_codistill.CodistillationModel(model_fn, teachers)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
callbacks = [tf_codistill.Checkpointing(directory, every_steps=2), Dies()]
if distribution.is_chief(strategy):  # alone: saving must not wait for others
    callbacks.append(keras.callbacks.ModelCheckpoint(directory + ".keras"))
model.fit(
    images.shuffle(64, seed=2).batch(8, drop_remainder=True),
    epochs={epochs},
    validation_data=images.take(16).batch(8, drop_remainder=True).repeat(num_validation),
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


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models of another architecture than the student."""
    directory, paths = tmp_path_factory.mktemp("teachers"), []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        layers = keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)
        paths.append(str(directory / f"{seed}.keras"))
        keras.Sequential(list(layers)).save(paths[-1])
    return paths


def script(
    directory: pathlib.Path,
    teachers: list[str],
    dies_at: tuple[int, int] = (0, -1),
    num_validation: int = 1,
    epochs: int = 2,
) -> str:
    settings = {"teachers": teachers, "dies_at": dies_at, "num_validation": num_validation, "epochs": epochs}
    return SCRIPT.format(directory=str(directory), steps=STEPS, **settings)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("num_deaths", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_steps_it_ends_with_the_same_bits(
    tmp_path: pathlib.Path, teachers: list[str], num_deaths: int
) -> None:
    rng, epochs = random.Random(num_deaths), 2 + num_deaths // 3
    for step in sorted(rng.sample(range(3, STEPS * epochs), num_deaths)):
        who = rng.randrange(2)
        with pytest.raises(RuntimeError, match=f"worker {who} exited with -9"):
            run_workers(script(tmp_path / "killed", teachers, (who, step), epochs=epochs), 2)
    killed, whole = (
        run_workers(script(tmp_path / name, teachers, epochs=epochs), 2) for name in ("killed", "whole")
    )
    ends = [[output.split()[-3:] for output in outputs] for outputs in (killed, whole)]
    assert ends[0] == ends[1]
    for steps, checksum, _ in ends[0]:
        assert int(steps) == STEPS * epochs
        assert checksum == ends[0][0][1], "batch statistics, too, are those of the group"
    _, _, (one, other) = checkpoints.read_latest(str(tmp_path / "killed"))
    pairs = zip(one["replicas"], other["replicas"], strict=True)
    assert any((a != b).any() for a, b in pairs), "a checkpoint has each worker's own"


@pytest.mark.slow
def test_sigterm_in_a_long_validation_ends_within_seconds(
    tmp_path: pathlib.Path, teachers: list[str]
) -> None:
    arguments = [sys.executable, "-c", script(tmp_path / "asked", teachers, num_validation=10**6)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "validates\n"
        time.sleep(2)
        asked_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - asked_at < 10
    assert f"KeyboardInterrupt: stopped and saved at step {STEPS}" in errors
    found = checkpoints.newest_whole(str(tmp_path / "asked"))
    assert found is not None
    assert (found[0], found[1]["metadata"]["position"]) == (STEPS, [0, 0, STEPS])
