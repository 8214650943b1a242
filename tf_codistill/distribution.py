"""The strategy of one group, and who this process is in it.

    strategy = create_strategy("auto")      # from TF_CONFIG, a TPU, or the local devices
    if is_chief(strategy): ...              # the chief alone writes what the group shares

A group is one ``tf.distribute`` strategy; peers are other groups and never appear here.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import tensorflow as tf
from absl import logging

STRATEGIES = ("auto", "none", "mirrored", "multi_worker", "parameter_server", "tpu")

_PROTOCOL = "grpc"
_POLL_SECS, _TIMEOUT_SECS = 1.0, 10.0


def create_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Creates the strategy that trains one group; call it before any other TensorFlow operation.

    Args:
        name: ``auto`` takes ``parameter_server`` where TF_CONFIG names parameter servers, ``multi_worker``
            where it names several workers, else ``tpu`` or ``mirrored`` where there are TPU cores or several
            GPUs, else ``none``. ``mirrored`` takes every GPU, or every logical CPU where there is no GPU.

    Returns:
        The strategy; the default strategy for ``none``.

    Raises:
        ValueError: An unknown name, or a TF_CONFIG that cannot be used, such as one with a port in use.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy is {name!r}; expected one of {', '.join(STRATEGIES)}")
    if name == "auto":
        name = _best_strategy()
    if name == "multi_worker":
        if num_workers_in_tf_config() < 1:
            raise ValueError(
                "strategy 'multi_worker' needs TF_CONFIG with a list of workers; `launch` sets it"
            )
        return _multi_worker_strategy()
    if name == "parameter_server":
        return _parameter_server_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "tpu":
        return _tpu_strategy()
    return tf.distribute.get_strategy()


def num_workers_in_tf_config() -> int:
    """How many workers the environment variable TF_CONFIG names for this group, a chief among them.

    Returns:
        Their number; 0 if the variable is not set.

    Raises:
        ValueError: TF_CONFIG is not what TensorFlow expects.
    """
    cluster = _tf_config().get("cluster", {})
    return _num_chiefs(cluster) + len(cluster.get("worker", []))


def serve() -> bool:
    """Serves the coordinator of an asynchronous group for as long as it lives, if TF_CONFIG says so.

    Returns:
        Whether this process is a worker or a parameter server of such a group, and its coordinator has ended.
    """
    config = _tf_config()
    if "ps" not in config.get("cluster", {}) or config["task"]["type"] == "chief":
        return False
    cluster, task = config["cluster"], config["task"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator needs its servers to save what they have
    tf.distribute.Server(cluster, job_name=task["type"], task_index=int(task["index"]), protocol=_PROTOCOL)
    while not _answers(cluster["chief"][0]):
        time.sleep(_POLL_SECS)
    while _answers(cluster["chief"][0]):
        time.sleep(_POLL_SECS)
    return True


def leave(strategy: tf.distribute.Strategy, status: int = 0) -> NoReturn:
    """Ends this process; a coordinator at once, since TensorFlow would wait for workers that are gone.

    Args:
        strategy: That of its group.
        status: The exit status.
    """
    if not isinstance(strategy, tf.distribute.ParameterServerStrategy):
        sys.exit(status)
    logging.flush()
    sys.stdout.flush()
    os._exit(status)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Number of processes that share the strategy; one drives all hosts of a TPU slice."""
    resolver = strategy.cluster_resolver
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and resolver is not None:
        cluster = resolver.cluster_spec().as_dict()
        return max(1, _num_chiefs(cluster) + len(cluster.get("worker", [])))
    return 1


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """Which of the group's workers this process is, from 0."""
    if num_workers(strategy) == 1:
        return 0
    resolver = strategy.cluster_resolver
    before = _num_chiefs(resolver.cluster_spec().as_dict()) if resolver.task_type == "worker" else 0
    return before + int(resolver.task_id)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what the group shares."""
    return worker_index(strategy) == 0


def num_local_replicas(strategy: tf.distribute.Strategy) -> int:
    """Number of replicas that this worker drives."""
    return int(strategy.num_replicas_in_sync // num_workers(strategy))


def is_on_tpus() -> bool:
    """Whether the strategy in whose scope, or on whose replica, this is called computes on TPUs."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)


def _tpu_strategy() -> tf.distribute.Strategy:
    slice_of, name = tf.distribute.cluster_resolver.TPUClusterResolver, os.environ.get("TPU_NAME")
    resolver = slice_of(name)
    hosts = resolver.cluster_spec().as_dict().get(resolver.task_type, [])
    if hosts:
        # Data sets call Python, which is here alone. TensorFlow tells all hosts that here is "localhost".
        resolver = slice_of(name, coordinator_name="localhost", coordinator_address=_own_address(hosts[0]))
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def _own_address(peer: str) -> str:
    """An address with a free port at which a peer reaches this machine."""
    host, port = peer.rsplit(":", 1)
    with socket.socket(type=socket.SOCK_DGRAM) as way, socket.socket() as free:
        way.connect((host, int(port)))  # sends nothing, but finds the way
        free.bind(("", 0))
        return f"{way.getsockname()[0]}:{free.getsockname()[1]}"


def _parameter_server_strategy() -> tf.distribute.Strategy:
    cluster = _tf_config().get("cluster", {})
    if "ps" not in cluster or "chief" not in cluster:
        raise ValueError(
            "strategy 'parameter_server' needs TF_CONFIG with chief, worker and ps; `launch` sets it with "
            "--group_kind=asynchronous"
        )
    servers = [*cluster.get("worker", []), *cluster.get("ps", [])]
    # TensorFlow, once refused, would ask again after ever longer times.
    while not all(map(_answers, servers)):
        time.sleep(_POLL_SECS / 4)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver(rpc_layer=_PROTOCOL)
    return tf.distribute.ParameterServerStrategy(resolver)


def _answers(address: str) -> bool:
    """Whether anybody serves at an address; a network that is slow is no sign that nobody does."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=_TIMEOUT_SECS).close()
    except (ConnectionRefusedError, socket.gaierror):
        return False
    except OSError:
        return True
    return True


def _multi_worker_strategy() -> tf.distribute.Strategy:
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        config = json.loads(os.environ["TF_CONFIG"])
        task = config["task"]
        address = config["cluster"][task["type"]][int(task["index"])]
        raise ValueError(
            f"this worker cannot serve at {address}, its address in TF_CONFIG: {error.message}; is the port "
            "in use? Choose another one for all workers"
        ) from error


def _tf_config() -> dict[str, Any]:
    """The environment variable TF_CONFIG; empty if it is not set."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return {}
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        if not 0 <= int(task["index"]) < len(cluster[task["type"]]):
            raise ValueError(f"task index {task['index']} is not below {len(cluster[task['type']])}")
        return {"cluster": dict(cluster), "task": dict(task)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"TF_CONFIG is {text!r}: {error!r}; expected a JSON object with cluster and task"
        ) from error


def _num_chiefs(cluster: Mapping[str, Sequence[str]]) -> int:
    """TensorFlow counts a task of type chief, where there is one, as the worker before all others."""
    return len(cluster.get("chief", []))


def _best_strategy() -> str:
    if "ps" in _tf_config().get("cluster", {}):
        return "parameter_server"
    if num_workers_in_tf_config() > 1:
        return "multi_worker"
    if os.environ.get("TPU_NAME") or tf.config.list_physical_devices("TPU"):
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "none"
