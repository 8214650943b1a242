"""The manifest, held against the models of the JobSet's schema, and the Dockerfile, read."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml

from tf_codistill.launching import cluster, kubernetes, submitting

ROOT = pathlib.Path(__file__).parents[2]
TRAIN = ["python", "-m", "tf_codistill.train", "--cluster=jobset", "--gin_bindings=a = 'yes: no'"]
WHOLE = {
    "gpus_per_worker": 2,
    "node_selector": [("cloud.google.com/gke-accelerator", "nvidia-h100")],
    "queue": "research",
    "volume": [("runs", "/runs"), ("corpora", "/corpora")],
    "max_restarts": 3,
}


def jobset(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "workdir": "/runs/two",
        "image": "registry/train:1",
        "num_groups": 3,
        "workers_per_group": 2,
        "volume": [("runs", "/runs")],
    }
    found = yaml.safe_load(kubernetes.manifest(TRAIN, **{**settings, **changes}))
    assert isinstance(found, dict)
    return found


def job_of(found: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = found["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def worker_of(found: dict[str, Any]) -> dict[str, Any]:
    (worker,) = job_of(found)["template"]["spec"]["containers"]
    return worker


@pytest.mark.parametrize(
    "changes",
    [{}, WHOLE, {"workdir": "gs://bucket/two", "volume": [], "tpus_per_worker": 4, "workers_per_group": 1}],
)
def test_a_manifest_is_one_of_the_schema_and_nothing_in_it_is_unknown(changes: dict[str, Any]) -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="comes with the extra 'test'")
    found = jobset(**changes)
    # A model drops what it does not know, so that what comes back is less if a name is misspelt.
    assert models.JobsetV1alpha2JobSet.from_dict(found).to_dict() == found


def test_a_name_that_the_schema_does_not_have_would_be_found() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="comes with the extra 'test'")
    found = jobset()
    job_of(found)["backoffLimits"] = 0
    assert models.JobsetV1alpha2JobSet.from_dict(found).to_dict() != found


def test_each_group_is_a_job_that_is_started_again_by_itself() -> None:
    found = jobset(max_restarts=3)
    spec = found["spec"]
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = spec["replicatedJobs"]
    assert replicated["replicas"] == 3
    assert spec["failurePolicy"]["maxRestarts"] == 3
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["targetReplicatedJobs"]) == ("RestartJob", [replicated["name"]])
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    job = job_of(found)
    assert (job["completionMode"], job["parallelism"], job["completions"]) == ("Indexed", 2, 2)
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] == submitting.NOTICE_SECS
    assert spec["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


def test_workers_find_each_other_by_what_the_manifest_tells_them() -> None:
    """Labels as the JobSet's controller sets them, and the index that Kubernetes adds."""
    found = jobset()
    labels = {
        "jobset.sigs.k8s.io/jobset-name": found["metadata"]["name"],
        "jobset.sigs.k8s.io/replicatedjob-name": found["spec"]["replicatedJobs"][0]["name"],
        "jobset.sigs.k8s.io/job-index": "2",
    }
    told = {"JOB_COMPLETION_INDEX": "1"}
    for variable in worker_of(found)["env"]:
        if "valueFrom" in variable:
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            told[variable["name"]] = labels[re.fullmatch(r"metadata\.labels\['(.*)'\]", path)[1]]
        else:
            told[variable["name"]] = variable["value"]
    member = cluster.of_jobset(told)
    assert member == cluster.Membership(2, 1, ("two-group-2-0.two:2222", "two-group-2-1.two:2222"))
    assert worker_of(found)["command"] == TRAIN


def test_what_looks_like_a_variable_stays_as_it_is() -> None:
    settings: dict[str, Any] = {"workdir": "gs://bucket/two", "image": "i", "num_groups": 1}
    text = kubernetes.manifest(["train", "a = '$(HOME)'"], workers_per_group=1, **settings)
    assert worker_of(yaml.safe_load(text))["command"] == ["train", "a = '$$(HOME)'"]


def test_pods_keep_to_the_restricted_security_standard() -> None:
    pod = job_of(jobset())["template"]["spec"]
    worker = worker_of(jobset())
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert {"name": "tmp", "mountPath": "/tmp"} in worker["volumeMounts"]
    assert {"name": "tmp", "emptyDir": {}} in pod["volumes"]
    assert {"name": "HOME", "value": "/tmp"} in worker["env"]


def test_what_is_asked_for_is_in_the_manifest() -> None:
    found = jobset(**WHOLE)
    pod = job_of(found)["template"]["spec"]
    assert found["metadata"] == {"name": "two", "labels": {"kueue.x-k8s.io/queue-name": "research"}}
    assert worker_of(found)["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100"}
    assert {"name": "volume-1", "persistentVolumeClaim": {"claimName": "corpora"}} in pod["volumes"]
    assert {"name": "volume-1", "mountPath": "/corpora"} in worker_of(found)["volumeMounts"]
    on_tpu = worker_of(jobset(tpus_per_worker=4, workers_per_group=1))
    assert on_tpu["resources"] == {"limits": {"google.com/tpu": 4}}
    assert {"name": "TPU_NAME", "value": "local"} in on_tpu["env"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": None}, "--image is not set; name the container image"),
        ({"workdir": "/elsewhere/two"}, "on no volume that outlives a pod; name a bucket, or a place where"),
        ({"workdir": "/runs2/two"}, "on no volume that outlives a pod"),
        ({"workdir": "/runs/2"}, "begins with a letter"),
        ({"workdir": "/runs/" + "a" * 50}, "at most 57 characters in all"),
        ({"tpus_per_worker": 4}, "workers_per_group is 2; expected 1 with --tpus_per_worker"),
    ],
)
def test_what_a_cluster_would_refuse_or_lose_is_told(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        jobset(**changes)


@pytest.mark.parametrize(
    ("workdir", "name"), [("gs://bucket/My_Run.2/", "my-run-2"), ("/runs/two", "two"), ("_a_", "a")]
)
def test_the_name_follows_from_the_workdir(workdir: str, name: str) -> None:
    assert kubernetes.name_of(workdir) == name


def test_the_image_runs_train_without_privileges() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert f"USER {kubernetes.USER}:{kubernetes.USER}" in lines
    assert 'ENTRYPOINT ["python", "-m", "tf_codistill.train"]' in lines
    assert [
        line for line in lines if line.startswith("RUN") and "pip install" in line and "." in line.split()
    ]
    user = max(number for number, line in enumerate(lines) if line.startswith("USER"))
    assert not [line for line in lines[user:] if line.startswith(("RUN", "COPY", "ADD"))]
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert copied == {"setup.py", "pyproject.toml", "README.md", "LICENSE", "tf_codistill", "gin"}
    assert all((ROOT / name).exists() for name in copied)
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert kept[0] == "*"
    assert {line.removeprefix("!") for line in kept if line.startswith("!")} == copied
