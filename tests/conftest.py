"""Two logical CPU devices for every test, so that MirroredStrategy has two replicas; gin and flags as new."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from collections.abc import Iterator

import gin
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from tensorflow.python.framework import ops

# What a script starts in the background ignores it, and so would all that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Replicas and groups of one process that wait for each other occupy a thread each.
tf.config.threading.set_inter_op_parallelism_threads(4)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


_apply_debug_options = tf.data.Dataset._apply_debug_options


def _untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.autotune.enabled = False
    return _apply_debug_options(dataset.with_options(options))


# An iterator that goes waits for its tuning thread, up to half a minute, and tests have thousands of them.
tf.data.Dataset._apply_debug_options = _untuned


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, as many a test waits for processes that it has started."""
    return min((os.cpu_count() or 1) + 1, 4)


@pytest.fixture(autouse=True)
def _own_collective_keys() -> None:
    # Every MirroredStrategy of a process numbers its all-reduces from the same start, so that those of one
    # test would be taken for those of another.
    tf.distribute.MirroredStrategy._collective_key_base += 1000


@pytest.fixture(autouse=True)
def _own_custom_gradients() -> Iterator[None]:
    # TensorFlow keeps the gradient of every custom gradient in a graph for ever, and with it the whole graph:
    # 15 MB for each model that is trained, 6 GB in the end.
    registry = ops.gradient_registry._registry
    before = set(registry)
    yield
    for name in registry.keys() - before:
        del registry[name]


@pytest.fixture
def fresh_gin() -> Iterator[None]:
    """A test that parses gin files and sets flags, and leaves neither behind."""
    flags.FLAGS.mark_as_parsed()
    with gin.unlock_config(), flagsaver.flagsaver():
        gin.clear_config(clear_constants=True)
        yield
        gin.clear_config(clear_constants=True)
    flags.FLAGS.unparse_flags()
