"""Small children in place of a launcher and its workers, which sleep until something is done to them.

job = StubJob(workdir=..., table_dir="", num_groups=2, num_steps=10)
Victim(job)           a worker leaves signal_15 behind when it gets SIGTERM, ready_<pid> when it listens
"""

import dataclasses
import sys

from tf_codistill.torturing.job import Job

WORKER = """
import os, signal, sys, time
def leave(number, frame):
    open(os.path.join(sys.argv[1], f"signal_{number}"), "w").close()
    sys.exit(0)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, leave)
open(os.path.join(sys.argv[1], f"ready_{os.getpid()}"), "w").close()
while True:
    time.sleep(0.02)
"""
LAUNCHER = """
import os, signal, sys, time
from tf_codistill import children
workers = []
def leave(number, frame):
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    for worker in workers:
        worker.wait()
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
for group in range(2):
    command = [sys.executable, "-c", sys.argv[1], sys.argv[2], f"--group={group}", f"--workdir={sys.argv[2]}"]
    workers.append(children.start(command, sys.stdout.buffer))
while not os.path.exists(os.path.join(sys.argv[2], "end")):
    ended = [worker for worker in workers if worker.poll() is not None]
    if ended and sys.argv[3] == "any":
        break
    time.sleep(0.02)
leave(0, None)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StubJob(Job):
    """Runs the scripts above.

    Attributes:
        ends_with: "any" if it ends with any of its workers; a file of the name "end" ends it, too.
    """

    ends_with: str = "all"

    def command(self, *flags: str) -> list[str]:
        return [sys.executable, "-c", LAUNCHER, WORKER, self.workdir, self.ends_with, *flags]
