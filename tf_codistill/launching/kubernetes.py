"""A run as a JobSet of Kubernetes: each job of it is a group, which is started again by itself.

    print(manifest(command, workdir="/runs/two", volume=[("runs", "/runs")], image="...", ...))

    JobSet two
      job two-group-0                    group 0: all its pods are replaced when one fails
        pod two-group-0-0.two            worker 0, under a name that the others find
        pod two-group-0-1.two            worker 1
      job two-group-1                    group 1: it goes on meanwhile

A pod that fails is not repeated (``restartPolicy: Never``, ``backoffLimit: 0``) but fails its job, since
workers of a group stop and start together. The failure policy then starts this job again, and no other, which
takes JobSet 0.12 with its feature gate RestartJob. Pods run under the restricted security standard: without
root, without privileges, on a root file system that they cannot write to. The workdir is on a volume that all
pods mount, or in a bucket.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import yaml

from tf_codistill import files
from tf_codistill.launching import submitting

USER = 1000
"""Who the workers are, also in the Dockerfile."""

_JOB = "group"
_LONGEST_NAME = 63 - len("-abcde")  # a pod's name is that of its host and a suffix
_LABEL = "metadata.labels['jobset.sigs.k8s.io/{}']"
_LABELS = {
    "JOBSET_NAME": "jobset-name",
    "REPLICATED_JOB_NAME": "replicatedjob-name",
    "JOB_INDEX": "job-index",
}


def name_of(workdir: str) -> str:
    """The name that a run has as a JobSet: the last part of its workdir, as Kubernetes writes names.

    Args:
        workdir: Directory of the run.

    Returns:
        The name.
    """
    return re.sub("[^a-z0-9]+", "-", os.path.basename(workdir.rstrip("/")).lower()).strip("-")


def manifest(
    command: Sequence[str],
    *,
    workdir: str,
    image: str | None,
    num_groups: int,
    workers_per_group: int,
    first_group: int = 0,
    volume: Sequence[tuple[str, str]] = (),
    gpus_per_worker: int = 0,
    tpus_per_worker: int = 0,
    node_selector: Sequence[tuple[str, str]] = (),
    queue: str | None = None,
    max_restarts: int = 20,
) -> str:
    """Writes the manifest that ``kubectl apply`` takes.

    Args:
        command: The command line of every worker.
        workdir: Directory of the run as the pods see it: on one of the volumes, or in a bucket.
        image: The container image, with the package in it.
        num_groups: Groups, each a job of the set.
        workers_per_group: Workers of a group, each a pod.
        first_group: The first of them; the set's name has its number, if it is not 0.
        volume: Persistent volume claims with the places where they are mounted.
        gpus_per_worker: GPUs of a worker.
        tpus_per_worker: TPU chips of a worker, all those of its host.
        node_selector: Labels of the nodes that it may run on, with their values.
        queue: Local queue of Kueue; None where there is no Kueue.
        max_restarts: How often a group may be started again; with its next failure the whole run ends.

    Returns:
        The manifest as YAML.

    Raises:
        ValueError: There is no image, the workdir would go with its pod, its name cannot be that of a
            JobSet, or a group has several workers with TPUs.
    """
    name = name_of(workdir) + (f"-from-{first_group}" if first_group else "")
    _check_name(name, workdir, num_groups, workers_per_group)
    _check_outlives(workdir, volume)
    place = _environment(workers_per_group, first_group)
    worker = _worker(command, image, place, workers_per_group, volume, gpus_per_worker, tpus_per_worker)
    job = {
        "completionMode": "Indexed",
        "parallelism": workers_per_group,
        "completions": workers_per_group,
        "backoffLimit": 0,
        "template": {"spec": _pod(worker, volume, node_selector)},
    }
    labels = {"labels": {"kueue.x-k8s.io/queue-name": queue}} if queue else {}
    jobset = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, **labels},
        "spec": _of_groups(job, num_groups, max_restarts),
    }
    return yaml.safe_dump(jobset, sort_keys=False, allow_unicode=True, width=110)


def apply(text: str) -> str:
    """Gives a manifest to the cluster of ``kubectl``'s current context.

    Args:
        text: What `manifest` has written.

    Returns:
        What ``kubectl`` answers.

    Raises:
        ValueError: There is no ``kubectl``.
        ChildProcessError: The cluster refuses the manifest.
    """
    return submitting.submit(["kubectl", "apply", "--filename=-"], text)


def _check_name(name: str, workdir: str, num_groups: int, workers_per_group: int) -> None:
    longest = f"{name}-{_JOB}-{num_groups - 1}-{workers_per_group - 1}"
    if not re.match("[a-z]", name) or len(longest) > _LONGEST_NAME:
        raise ValueError(
            f"workdir is {workdir!r}, so that pods would be called {longest!r}; expected a last part that "
            f"begins with a letter, and at most {_LONGEST_NAME} characters in all"
        )


def _check_outlives(workdir: str, volume: Sequence[tuple[str, str]]) -> None:
    mounts = [os.path.join(os.path.normpath(path), "") for _, path in volume]
    if not files.is_remote(workdir) and not os.path.join(os.path.normpath(workdir), "").startswith(
        tuple(mounts)
    ):
        raise ValueError(
            f"workdir is {workdir!r}, which is on no volume that outlives a pod; name a bucket, or a place "
            "where --volume=claim=path mounts a claim"
        )


def _worker(
    command: Sequence[str],
    image: str | None,
    environment: Sequence[dict[str, Any]],
    workers_per_group: int,
    volume: Sequence[tuple[str, str]],
    gpus: int,
    tpus: int,
) -> dict[str, Any]:
    if not image:
        raise ValueError("--image is not set; name the container image that workers run, see the Dockerfile")
    if tpus and workers_per_group > 1:
        raise ValueError(
            f"workers_per_group is {workers_per_group}; expected 1 with --tpus_per_worker, since one process "
            "drives a slice"
        )
    devices = {"nvidia.com/gpu": gpus, "google.com/tpu": tpus}
    limits = {name: number for name, number in devices.items() if number}
    return {
        "name": "worker",
        "image": image,
        "command": [word.replace("$(", "$$(") for word in command],  # else Kubernetes puts in a variable
        "env": [*environment, *([{"name": "TPU_NAME", "value": "local"}] if tpus else [])],
        **({"resources": {"limits": limits}} if limits else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            *({"name": f"volume-{index}", "mountPath": path} for index, (_, path) in enumerate(volume)),
        ],
    }


def _of_groups(job: dict[str, Any], num_groups: int, max_restarts: int) -> dict[str, Any]:
    rule = {"name": "restartGroup", "action": "RestartJob", "targetReplicatedJobs": [_JOB]}
    return {
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "failurePolicy": {"maxRestarts": max_restarts, "rules": [rule]},
        "replicatedJobs": [{"name": _JOB, "replicas": num_groups, "template": {"spec": job}}],
    }


def _environment(workers_per_group: int, first_group: int) -> list[dict[str, Any]]:
    """What `cluster.of_jobset` reads, and a home that can be written to."""
    fields = {name: {"fieldRef": {"fieldPath": _LABEL.format(label)}} for name, label in _LABELS.items()}
    numbers = {"WORKERS_PER_GROUP": str(workers_per_group), "FIRST_GROUP": str(first_group)}
    values = {**numbers, "HOME": "/tmp", "PYTHONUNBUFFERED": "1"}
    return [
        *({"name": name, "valueFrom": field} for name, field in fields.items()),
        *({"name": name, "value": value} for name, value in values.items()),
    ]


def _pod(
    worker: dict[str, Any], volume: Sequence[tuple[str, str]], node_selector: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": submitting.NOTICE_SECS,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"nodeSelector": dict(node_selector)} if node_selector else {}),
        "containers": [worker],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            *(
                {"name": f"volume-{index}", "persistentVolumeClaim": {"claimName": claim}}
                for index, (claim, _) in enumerate(volume)
            ),
        ],
    }
