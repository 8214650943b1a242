"""Two logical CPU devices for every test, so that MirroredStrategy has two replicas on any machine."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def _own_collective_keys() -> None:
    # Every MirroredStrategy of a process numbers its all-reduces from the same start, so that those of one
    # test would be taken for those of another.
    tf.distribute.MirroredStrategy._collective_key_base += 1000
