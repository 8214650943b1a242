"""Leases: who is refused, who has to wait, and whose path nobody reads any more."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tf_codistill import files, leases, runs

QUICK = {"beat_secs": 0.05, "lease_secs": 0.4, "settle_secs": 0.05}
OWNER = """
import sys, time
from tf_codistill import leases
lease = leases.Lease(sys.argv[1], beat_secs=0.05, lease_secs=0.4)
lease.acquire()
print("has it", flush=True)
sys.stdin.readline()
lease.release()
"""


@pytest.fixture(name="owner")
def fixture_owner(tmp_path):
    """Another process, which holds the lease of the directory until it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "has it\n"
        yield process
        process.kill()


def lease_of(path, **settings):
    return leases.Lease(str(path), **{**QUICK, **settings})


def move_elsewhere(path):
    """Makes the newest token one of a process of another machine, which cannot be seen from here."""
    newest = leases.newest_holder(str(path))
    token = path / "lease" / f"token_{newest.token:06d}.json"
    token.write_text(json.dumps({**dataclasses.asdict(newest), "machine": "another", "host": "far"}))


def test_the_first_has_token_and_generation_one(tmp_path):
    lease = lease_of(tmp_path)
    holder = lease.acquire()
    assert (holder.token, holder.generation) == (1, 1)
    lease.check()
    lease.release()


def test_a_living_process_is_named_at_once(tmp_path, owner):
    for act in (lease_of(tmp_path).refuse, lease_of(tmp_path, lease_secs=60.0).acquire):
        with pytest.raises(ValueError, match=rf"held by process {owner.pid} on .* for \d+ s, .*--take_over"):
            act()


@pytest.mark.skipif(sys.platform != "linux", reason="where Linux says when the machine was started")
def test_a_living_process_is_one_also_after_the_clock_was_set(tmp_path, owner, monkeypatch):
    """Linux takes the time since the start, which goes on, from the clock to say when the start was."""
    boot_time = psutil.boot_time() - 60.0
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time)
    with pytest.raises(ValueError, match=f"held by process {owner.pid} on"):
        lease_of(tmp_path).refuse()


def test_who_lets_go_and_who_is_killed_are_followed_at_once_in_the_same_generation(tmp_path, owner):
    owner.communicate("\n")
    lease = lease_of(tmp_path, lease_secs=60.0)
    lease.refuse()
    holder = lease.acquire()
    assert (holder.token, holder.generation) == (2, 1)
    lease.release()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killed:
        killed.stdout.readline()
        killed.kill()
    last = lease_of(tmp_path, lease_secs=60.0)
    holder = last.acquire()
    assert (holder.token, holder.generation) == (4, 1)
    last.release()


def test_who_is_killed_is_gone_before_the_system_has_taken_back_its_memory():
    large = "block = bytearray(1 << 29); block[::4096] = b'x' * (1 << 17); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", large], **pipes) as killed:
        killed.stdout.readline()
        began = leases._began(killed.pid)
        holder = leases.Holder(1, 1, "owner", "host", killed.pid, "machine", began, began)
        assert holder.runs()
        killed.kill()
        while pathlib.Path(f"/proc/{killed.pid}/cmdline").read_bytes():
            pass
        assert not holder.runs()


def test_taken_over_a_living_one_finds_out_and_is_fenced(tmp_path):
    zombie, other = lease_of(tmp_path), lease_of(tmp_path)
    zombie.acquire()
    holder = other.acquire(take_over=True)
    assert (holder.token, holder.generation) == (2, 2), "it may still write"
    zombie._thread.join()  # it has nothing to keep any more
    with pytest.raises(ValueError, match=r"was taken over by process .*; this process, .* ends"):
        zombie.check()
    other.check()
    zombie.release()
    assert leases.newest_holder(str(tmp_path)) == holder
    other.release()


def test_elsewhere_a_heartbeat_counts_and_silence_is_fenced(tmp_path, owner):
    move_elsewhere(tmp_path)
    owner.kill()
    owner.wait()  # its heartbeats have ended, but that cannot be seen from here
    lease = lease_of(tmp_path)
    lease.refuse()
    began = time.monotonic()
    holder = lease.acquire()
    assert time.monotonic() - began >= QUICK["lease_secs"]
    assert (holder.token, holder.generation) == (2, 2)
    move_elsewhere(tmp_path)
    with pytest.raises(ValueError, match="held by process .* on far for"):
        lease_of(tmp_path, lease_secs=20.0).acquire()
    lease.release()


@pytest.mark.parametrize("place", ["", "ram://leases_test"])
def test_of_many_at_once_one_gets_it(tmp_path, place):
    path = f"{place}{tmp_path}"
    before = lease_of(path)
    before.acquire()
    before.release()
    candidates, got, refused = [lease_of(path, settle_secs=0.3) for _ in range(8)], [], []

    def run(one):
        try:
            got.append(one.acquire())
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=run, args=[one]) for one in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1, "a lease has one owner"
    assert len(refused) == 7
    assert leases.newest_holder(path) == got[0]
    for one in candidates:
        one.release()


@pytest.fixture(name="store")
def fixture_store(tmp_path, monkeypatch):
    """A directory that takes itself for an object store."""
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    (tmp_path / "lease").mkdir()
    return tmp_path


def test_the_claim_of_a_candidate_who_was_killed_is_in_nobodys_way_for_long(store):
    left = store / "lease" / "token_000001.json.0.claim"
    left.write_text("{}")
    with pytest.raises(ValueError, match="held by"):
        lease_of(store, lease_secs=60.0).acquire()
    old = time.time() - 10  # TensorFlow tells whole seconds
    os.utime(left, (old, old))
    lease = lease_of(store)
    assert lease.acquire().token == 1
    lease.release()


def test_a_candidate_who_is_interrupted_leaves_no_claim(store, monkeypatch):
    def interrupt(secs):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lease_of(store).acquire()
    assert files.names(str(store / "lease")) == []


def test_a_heartbeat_says_how_far_its_owner_is(tmp_path):
    lease = lease_of(tmp_path)
    holder = lease.acquire()
    lease.step = 50
    deadline = time.monotonic() + 10
    while leases.beat_of(str(tmp_path), holder).step != 50:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lease.release()
    assert leases.beat_of(str(tmp_path), holder).is_released


def test_old_tokens_go(tmp_path):
    for _ in range(5):
        lease = lease_of(tmp_path)
        lease.acquire()
        lease.release()
    tokens = [name for name in files.names(str(tmp_path / "lease")) if name.endswith(".json")]
    assert tokens == [f"token_{token:06d}.json" for token in (3, 4, 5)]


def test_what_is_no_lease_is_told(tmp_path):
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "token_000001.json").write_text('{"token": 1}')
    with pytest.raises(ValueError, match="token_000001.json' is of no lease"):
        lease_of(tmp_path).acquire()
    with pytest.raises(
        ValueError, match="lease_secs is 1.0; expected at least twice beat_secs, which is 5.0"
    ):
        leases.Lease(str(tmp_path), lease_secs=1.0)


def test_readers_look_at_the_newest_generation_that_has_begun(tmp_path):
    workdir = str(tmp_path)
    base = tmp_path / "group_0"
    assert runs.group_dir(workdir, 0) == str(base)
    (base / "generation_2").mkdir(parents=True)
    assert runs.group_dir(workdir, 0) == str(base), "it has not begun"
    runs.begin(workdir, 0, 2)
    (base / "generation_10").mkdir()
    assert runs.metrics_path(workdir, 0) == str(base / "generation_2" / "metrics.jsonl")
    runs.begin(workdir, 0, 10)
    assert runs.group_dir(workdir, 0) == str(base / "generation_10")
    assert runs.group_dir(workdir, 0, 1) == str(base), "an owner writes nowhere else"
    assert runs.log_path(workdir, 0, 1) == str(base / "worker_1.log")
