"""A Slurm of its own on this machine: a controller and two nodes, all in one folder.

    with running(folder) as slurm:
        slurm.run("sbatch", ...), slurm.environment

Nodes are called 127.0.0.2 and 127.0.0.3, names under which this machine finds itself without being told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

DAEMONS = ("munged", "slurmctld", "slurmd")
NODES = "127.0.0.[2-3]"

_CONFIG = """
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmctldTimeout=300
SlurmdTimeout=300
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=60
MinJobAge=3600
NodeName=127.0.0.2 NodeAddr=127.0.0.2 Port={ports[1]} CPUs=4 RealMemory=1000
NodeName=127.0.0.3 NodeAddr=127.0.0.3 Port={ports[2]} CPUs=4 RealMemory=1000
PartitionName=toy Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclasses.dataclass(frozen=True)
class Slurm:
    """A Slurm that is running.

    Attributes:
        folder: Where everything of it is.
        environment: Variables by which its programs find it.
    """

    folder: pathlib.Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """What one of its programs says."""
        ended = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, (command, ended, self.logs())
        return ended.stdout.strip()

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        paths = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in paths)

    def wait_until(self, condition: Callable[[], bool], timeout_secs: float = 300) -> None:
        """Waits for something that happens in it."""
        deadline = time.monotonic() + timeout_secs
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[Slurm]:
    """Starts a Slurm, and stops it at the end."""
    slurm = Slurm(folder, {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")})
    (folder / "state").mkdir()
    config = _CONFIG.format(host=socket.gethostname().split(".")[0], folder=folder, ports=_free_ports(3))
    (folder / "slurm.conf").write_text(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_daemon(slurm, "munged", "--foreground", "--force", *_munge_files(folder)))
        slurm.wait_until((folder / "munge.socket").exists, timeout_secs=30)
        stack.enter_context(_daemon(slurm, "slurmctld", "-D", "-i"))
        for node in ("127.0.0.2", "127.0.0.3"):
            stack.enter_context(_daemon(slurm, "slurmd", "-D", "-N", node))
        slurm.wait_until(lambda: _num_idle(slurm) == 2, timeout_secs=90)
        try:
            yield slurm
        finally:  # what daemons have started outlives them
            jobs = slurm.run("squeue", "--noheader", "--format=%A").split()
            if jobs:
                slurm.run("scancel", "--signal=KILL", "--full", *jobs)
                slurm.run("scancel", *jobs)
                slurm.wait_until(lambda: not slurm.run("squeue", "--noheader"), timeout_secs=90)


def _num_idle(slurm: Slurm) -> int:
    command = ["sinfo", "--noheader", "--Node", "--format=%T"]
    said = subprocess.run(command, env=slurm.environment, capture_output=True, text=True)
    return said.stdout.split().count("idle")


@contextlib.contextmanager
def _daemon(slurm: Slurm, *command: str) -> Iterator[None]:
    with open(slurm.folder / f"{command[0]}.output.log", "ab") as log:
        process = subprocess.Popen(command, env=slurm.environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _munge_files(folder: pathlib.Path) -> list[str]:
    """What the daemon by which Slurm's parts know each other reads and writes."""
    own = folder / "munge"
    own.mkdir(mode=0o700)
    (own / "key").write_bytes(os.urandom(128))
    (own / "key").chmod(0o400)
    files = [f"--{name}-file={own / name}" for name in ("key", "log", "pid", "seed")]
    return [f"--socket={folder}/munge.socket", *files]


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]
