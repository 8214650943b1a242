from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import tensorflow as tf

from tests.workers import run_workers
from tf_codistill import distribution


def task(cluster: dict[str, list[str]], kind: str = "worker", index: int = 0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)


@pytest.mark.parametrize("name", ["auto", "none"])
def test_one_process_without_accelerators_needs_no_strategy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    assert distribution.create_strategy(name) is tf.distribute.get_strategy()


def test_several_gpus_are_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["0", "1"] if kind == "GPU" else [])
    monkeypatch.setattr(tf.config, "list_logical_devices", _logical_cpus())
    strategy = distribution.create_strategy("auto")
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == 2


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is connected to, in the place of a TPU."""
    connected: list[Any] = []
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", connected.append)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", connected.append)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", connected.append)
    return connected


def test_chips_of_this_host_have_no_servers(connected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow takes a name from its environment, but only from an argument that the chips are here."""
    monkeypatch.setenv("TPU_NAME", "local")
    distribution.create_strategy("tpu")
    assert len(connected) == 3
    assert connected[0].cluster_spec().as_dict() == {}


def test_hosts_of_a_slice_are_told_where_this_process_is(
    connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes their data sets, and what of these is Python runs here."""
    monkeypatch.setenv("TPU_NAME", "grpc://127.0.0.1:8470,grpc://127.0.0.2:8470")
    distribution.create_strategy("tpu")
    assert connected == 3 * connected[:1]
    cluster = connected[0].cluster_spec().as_dict()
    assert cluster["worker"] == ["127.0.0.1:8470", "127.0.0.2:8470"]
    (here,) = cluster["localhost"]
    host, port = here.split(":")
    assert host == "127.0.0.1"
    socket.create_server(("", int(port))).close()  # it is free
    assert connected[0].master() == "grpc://127.0.0.1:8470"


def _logical_cpus() -> object:
    cpus = tf.config.list_logical_devices("CPU")
    return lambda kind: cpus if kind == "CPU" else []


def test_one_worker_is_the_chief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_logical_devices", _logical_cpus())
    for strategy in (distribution.create_strategy("none"), distribution.create_strategy("mirrored")):
        assert distribution.num_workers(strategy) == 1
        assert distribution.worker_index(strategy) == 0
        assert distribution.is_chief(strategy)
        assert distribution.num_local_replicas(strategy) == strategy.num_replicas_in_sync


def test_unknown_strategy() -> None:
    with pytest.raises(ValueError, match="strategy is 'horovod'; expected one of auto, none, mirrored"):
        distribution.create_strategy("horovod")


def test_multi_worker_without_workers() -> None:
    with pytest.raises(ValueError, match="strategy 'multi_worker' needs TF_CONFIG"):
        distribution.create_strategy("multi_worker")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        (task({"worker": ["a:1"]}), 1),
        (task({"worker": ["a:1", "b:1"]}, index=1), 2),
        (task({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, index=1), 3),
        (task({"chief": ["a:1"]}, "chief"), 1),
    ],
)
def test_workers_are_counted(text: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    assert distribution.num_workers_in_tf_config() == expected


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"cluster": {"worker": ["a:1"]}}',
        task({"worker": ["a:1"]}, index=1),
        task({"ps": ["a:1"]}),
    ],
)
def test_a_tf_config_that_cannot_be_used_is_shown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG is .*expected a JSON object with cluster and task"):
        distribution.create_strategy("auto")


SERVERS = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}


def test_a_coordinator_has_parameter_servers_and_serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves is tested with the groups."""
    monkeypatch.setenv("TF_CONFIG", task(SERVERS, "chief"))
    monkeypatch.setattr(distribution, "_parameter_server_strategy", lambda: "parameter servers")
    assert not distribution.serve()
    assert distribution.create_strategy("auto") == "parameter servers"


@pytest.mark.parametrize("text", ["", task({"worker": ["a:1", "b:1"]})])
def test_other_workers_serve_nobody(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    assert not distribution.serve()
    with pytest.raises(
        ValueError, match="strategy 'parameter_server' needs TF_CONFIG with chief, worker and"
    ):
        distribution.create_strategy("parameter_server")


@pytest.mark.parametrize(("kind", "index", "expected"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_a_chief_by_name_comes_before_the_workers(
    kind: str, index: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", task({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, kind, index))

    class MultiWorker:
        cluster_resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", MultiWorker)
    assert distribution.num_workers(MultiWorker()) == 3
    assert distribution.worker_index(MultiWorker()) == expected
    assert distribution.is_chief(MultiWorker()) == (expected == 0)


def test_one_process_drives_all_hosts_of_a_tpu_slice() -> None:
    class Slice:
        num_replicas_in_sync = 8
        cluster_resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            "grpc://127.0.0.1:8470,grpc://127.0.0.2:8470"
        )

    assert distribution.num_workers(Slice()) == 1
    assert distribution.worker_index(Slice()) == 0
    assert distribution.is_chief(Slice())
    assert distribution.num_local_replicas(Slice()) == 8


_TWO_WORKERS = """
from tf_codistill import distribution
strategy = distribution.create_strategy("auto")

import json, tempfile
import keras
import numpy as np
from tf_codistill import weights

index = distribution.worker_index(strategy)
with strategy.scope():
    variable = keras.Variable(np.zeros(2, "float32"))
weights.assign([variable], [np.full(2, index + 1.0, "float32")])
with tempfile.TemporaryDirectory() as directory, strategy.scope():
    arrays = [np.full(3, index, "float32")]
    listing = weights.write(directory + "/own", own=arrays)
    own = weights.read(directory + "/own", listing, own=weights.describe_arrays(arrays))["own"][0].tolist()
print(json.dumps({
    "workers": distribution.num_workers(strategy),
    "index": index,
    "chief": distribution.is_chief(strategy),
    "replicas": distribution.num_local_replicas(strategy),
    "variable": weights.values([variable])[0].tolist(),
    "own": own,
}))
"""


def test_two_workers_know_who_they_are_and_hold_values_of_their_own() -> None:
    answers = [json.loads(output) for output in run_workers(_TWO_WORKERS, 2)]
    for index, answer in enumerate(answers):
        assert answer == {
            "workers": 2,
            "index": index,
            "chief": index == 0,
            "replicas": 1,
            "variable": [index + 1.0] * 2,
            "own": [index] * 3,
        }


def test_a_worker_that_fails_is_shown_and_the_others_end() -> None:
    fails = "if '\"index\": 1' in os.environ['TF_CONFIG']: raise SystemExit('it broke')"
    script = f"import os, time\n{fails}\ntime.sleep(99)"
    with pytest.raises(RuntimeError, match=r"(?s)worker 1 exited with 1.*it broke"):
        run_workers(script, 2)
    with pytest.raises(RuntimeError, match="time is up"):
        run_workers("import time; time.sleep(99)", 1, timeout_secs=0.2)
