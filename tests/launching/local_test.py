"""Small children stand in for training: they say who they are and do as they are told."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest
from rich.console import Console

from tests import toy_runs
from tf_codistill import gpus, runs
from tf_codistill.health import display, logs
from tf_codistill.launching import local, supervision

CHILD = """
    import json, os, signal, sys, time
    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    index = config.get("task", {}).get("index", 0)
    group = int(sys.argv[1])
    def leave(name, text=""):
        path = os.path.join(sys.argv[2], f"{name}_{group}_{index}")
        partial = f"{path}.{os.getpid()}"  # the tasks of a group share their indices
        with open(partial, "w") as file:
            file.write(text)
        os.rename(partial, path)
    def on_interrupt(number, frame):
        leave("interrupted")
        sys.exit(0)
    signal.signal(signal.SIGINT, on_interrupt)
    print(f"hello from {group} {index}")
    leave("pid", str(os.getpid()))
"""


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "")


@pytest.fixture(name="launch")
def fixture_launch(tmp_path):
    """Launches children that run CHILD and then the given lines; returns what was printed."""
    output = io.StringIO()

    def launch(body="", num_groups=2, workers_per_group=1, **kwargs):
        script = textwrap.dedent(CHILD) + textwrap.dedent(body)

        def command(group):
            return [sys.executable, "-c", script, str(group), str(tmp_path)]

        kwargs = {"command": command, "grace_secs": 5.0, "stream": output, **kwargs}
        local.launch(
            str(tmp_path / "run"), num_groups=num_groups, workers_per_group=workers_per_group, **kwargs
        )
        return output.getvalue()

    return launch


def _wait_for(*paths):
    deadline = time.monotonic() + 20
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"waited in vain for {paths}"
        time.sleep(0.02)


def _assert_gone(*pid_files):
    for path in pid_files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_the_last_error_of_a_worker_that_is_no_more_is_forgotten(launch, tmp_path):
    launch("print('error: it is cold here')", num_groups=1, workers_per_group=3)
    paths = [runs.log_path(str(tmp_path / "run"), 0, worker) for worker in range(3)]
    assert [logs.read(path).last_error for path in paths] == ["it is cold here"] * 3
    launch(num_groups=1, workers_per_group=1)
    assert [logs.read(path).last_error for path in paths] == [None] * 3
    assert logs.last_lines(paths[2], 1) == ["$ none: worker 2 is one too many for a group of 1"]


def test_every_worker_runs_and_logs_to_its_file(launch, tmp_path):
    printed = launch(num_groups=2, workers_per_group=2)
    for group in range(2):
        for worker in range(2):
            with open(runs.log_path(str(tmp_path / "run"), group, worker), encoding="utf-8") as log:
                command, hello = log.read().strip().rsplit("\n", 1)
            assert hello == f"hello from {group} {worker}"
            assert command.startswith("$ ")
    assert "2 groups of 2 workers" in printed
    assert "done after" in printed


def test_workers_of_a_group_share_tf_config_and_groups_do_not(launch, tmp_path):
    launch("leave('config', os.environ['TF_CONFIG'])", num_groups=2, workers_per_group=2)
    configs = {
        (group, worker): json.loads((tmp_path / f"config_{group}_{worker}").read_text())
        for group in range(2)
        for worker in range(2)
    }
    addresses = [configs[group, 0]["cluster"]["worker"] for group in range(2)]
    assert all(configs[group, 1]["cluster"]["worker"] == addresses[group] for group in range(2))
    assert len({*addresses[0], *addresses[1]}) == 4
    assert [configs[key]["task"] for key in sorted(configs)] == 2 * [
        {"type": "worker", "index": 0},
        {"type": "worker", "index": 1},
    ]


def test_an_asynchronous_group_has_a_coordinator_and_parameter_servers(launch, tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    body = """
        text = os.environ["TF_CONFIG"] + "|" + os.environ["CUDA_VISIBLE_DEVICES"]
        leave(f"config_{config['task']['type']}", text)
    """
    launch(body, num_groups=1, workers_per_group=2, num_ps=1)
    names = {
        f"config_{job}_0_{task}" for job, task in (("chief", 0), ("worker", 0), ("worker", 1), ("ps", 0))
    }
    texts = {name: (tmp_path / name).read_text().split("|") for name in names}
    clusters = [json.loads(config)["cluster"] for config, _ in texts.values()]
    assert all(one == clusters[0] for one in clusters)
    assert {job: len(addresses) for job, addresses in clusters[0].items()} == {
        "chief": 1,
        "worker": 2,
        "ps": 1,
    }
    assert {name: visible for name, (_, visible) in texts.items()} == {
        "config_chief_0_0": "",
        "config_worker_0_0": "0",
        "config_worker_0_1": "1",
        "config_ps_0_0": "",
    }


def test_a_group_of_one_worker_has_no_tf_config_and_gets_all_cores(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"task": {"index": 7}}))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    launch("leave('env', json.dumps(dict(os.environ)))", num_groups=1)
    environment = json.loads((tmp_path / "env_0_0").read_text())
    assert "TF_CONFIG" not in environment
    cores = str(len(os.sched_getaffinity(0)))
    assert environment["OMP_NUM_THREADS"] == environment["TF_NUM_INTRAOP_THREADS"] == cores


def test_cores_are_shared_out_but_never_below_one(launch, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    launch("leave('threads', os.environ['OMP_NUM_THREADS'])", num_groups=2)
    assert (tmp_path / "threads_1_0").read_text() == "4"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    launch("leave('threads', os.environ['OMP_NUM_THREADS'])", num_groups=2)
    assert (tmp_path / "threads_1_0").read_text() == "1"


def test_threads_that_the_user_chose_are_kept(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    launch("leave('threads', os.environ['OMP_NUM_THREADS'])")
    assert (tmp_path / "threads_0_0").read_text() == "3"


@pytest.mark.parametrize(
    ("chosen", "num_gpus", "expected", "printed"),
    [
        (None, 8, ["0,1", "2,3", "4,5", "6,7"], "GPUs 0,1 | 2,3 | 4,5 | 6,7"),
        ("7,5,3,1", 8, ["7", "5", "3", "1"], "GPUs 7 | 5 | 3 | 1"),
        (None, 5, ["0", "1", "2", "3"], "GPUs 0 | 1 | 2 | 3"),
        (None, 2, ["0", "1", "0", "1"], "groups share GPUs 0, 1"),
        (None, 0, [None] * 4, "logs in"),
        ("", 8, [""] * 4, "logs in"),
    ],
)
def test_gpus_are_allocated(launch, tmp_path, monkeypatch, chosen, num_gpus, expected, printed):
    monkeypatch.delenv(gpus.VISIBLE)
    if chosen is not None:
        monkeypatch.setenv(gpus.VISIBLE, chosen)
    monkeypatch.setattr(gpus, "count", lambda: num_gpus)
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    names = ("CUDA_VISIBLE_DEVICES", "TF_FORCE_GPU_ALLOW_GROWTH")
    output = launch(
        f"leave('gpus', json.dumps([os.environ.get(name) for name in {names}]))", workers_per_group=2
    )
    seen = [
        json.loads((tmp_path / f"gpus_{group}_{index}").read_text()) for group in (0, 1) for index in (0, 1)
    ]
    assert [visible for visible, _ in seen] == expected
    assert {grows for _, grows in seen} == {"true" if "groups share" in printed else None}
    assert printed in output


def test_too_few_gpus_are_told_before_anything_starts(launch, tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0")
    with pytest.raises(ValueError, match="workers_per_group is 2, but the only GPUs are 0,"):
        launch(workers_per_group=2)
    assert not (tmp_path / "run").exists()


def test_ports_follow_base_port(launch, tmp_path):
    base_port = 20000 + os.getpid() % 10000  # below the ports that the system gives to anybody
    launch("leave('config', os.environ['TF_CONFIG'])", workers_per_group=2, base_port=base_port)
    config = json.loads((tmp_path / "config_1_0").read_text())
    assert config["cluster"]["worker"] == [f"127.0.0.1:{base_port + 2}", f"127.0.0.1:{base_port + 3}"]


def test_port_in_use_is_told_before_anything_starts(launch, tmp_path):
    with contextlib.closing(socket.socket()) as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is in use .*--base_port"):
            launch(num_groups=1, workers_per_group=2, base_port=port - 1)
    assert not list(tmp_path.glob("pid_*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_groups": 0}, "num_groups is 0; expected 1 or more"),
        ({"workers_per_group": -1}, "workers_per_group is -1"),
        ({"workers_per_group": 2, "base_port": 80}, "base_port is 80; expected 1024 to 65532"),
        ({"workers_per_group": 2, "base_port": 65535}, "base_port is 65535"),
    ],
)
def test_arguments_are_checked(launch, arguments, message):
    with pytest.raises(ValueError, match=message):
        launch(**arguments)


def test_workdir_that_cannot_be_written_to(launch, tmp_path):
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(
        ValueError,
        match=r"directory '.*run/group_0' cannot be written to \(.*[Nn]ot a directory.*permissions",
    ):
        launch()
    assert not list(tmp_path.glob("pid_*"))


def test_a_remote_workdir_has_its_logs_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    output = io.StringIO()
    command = [sys.executable, "-c", "print('hello')"]
    local.launch(
        "ram://launching_test/run",
        num_groups=2,
        workers_per_group=1,
        command=lambda _: command,
        stream=output,
    )
    (logs,) = tmp_path.iterdir()
    assert (
        f"ram://launching_test/run: 2 groups of 1 worker, logs in {logs}/group_*/worker_*.log"
        in output.getvalue()
    )
    for group in range(2):
        assert (logs / f"group_{group}" / "worker_0.log").read_text().endswith("hello\n")


def test_a_scheme_that_is_not_known_is_told_before_anything_starts(tmp_path):
    with pytest.raises(ValueError, match="'s3://bucket/run.*' is of scheme 's3'"):
        local.launch("s3://bucket/run", num_groups=1, workers_per_group=1, command=lambda _: ["false"])


def test_failing_worker_stops_the_others_and_shows_its_log(launch, tmp_path):
    body = """
        while group == 1 and not os.path.exists(os.path.join(sys.argv[2], "pid_0_0")):
            time.sleep(0.02)
        if group == 1:
            print("its last words")
            for step in range(50, 1500, 50):
                print(f"I1129 15:52:06.1 7 metrics_log.py:99] step {step} train: loss 4.1  total_loss 4.1")
                print(f"step {step} validation: loss 4.1")
            sys.exit(3)
        time.sleep(60)
    """
    started = time.monotonic()
    with pytest.raises(ChildProcessError) as failure:
        launch(body)
    assert time.monotonic() - started < 20
    lines = str(failure.value).splitlines()
    assert lines[0].startswith("worker 0 of group 1 failed with exit status 3; ")
    assert lines[-2].strip() == "its last words"
    assert lines[-1] == "stopped at step 0 (no checkpoint); the same command begins anew"
    assert (tmp_path / "interrupted_0_0").exists()
    _assert_gone(tmp_path / "pid_0_0", tmp_path / "pid_1_0")


def test_worker_that_tells_a_users_mistake_is_quoted(launch):
    body = """
        print("of no interest")
        print("error: the corpus is missing; prepare it")
        sys.exit(1)
    """
    with pytest.raises(ChildProcessError) as failure:
        launch(body, num_groups=1)
    assert str(failure.value).splitlines() == [
        "worker 0 of group 0: the corpus is missing; prepare it",
        "stopped at step 0 (no checkpoint); the same command begins anew",
    ]


def test_a_stopped_run_says_where_it_goes_on(launch, tmp_path):
    for group in range(2):
        toy_runs.log(tmp_path / "run", group, toy_runs.start(200), toy_runs.train(150))
        toy_runs.checkpoint(tmp_path / "run", group, 160)
    with pytest.raises(ChildProcessError) as failure:
        launch("sys.exit(1)")
    assert str(failure.value).endswith("\nstopped at step 160 (checkpoint 160); the same command goes on")


def test_warnings_reach_the_display(launch, tmp_path, monkeypatch):
    monkeypatch.setattr(display, "LINE_PERIOD_SECS", 0.0)
    place = tmp_path / "elsewhere"
    for group in range(2):
        toy_runs.log(tmp_path / "run", group, toy_runs.start(200), toy_runs.train(50, failed_publications=2))
        toy_runs.publish(tmp_path / "elsewhere", group, serial=1, step="nonsense")
    printed = launch("time.sleep(0.5)", exchange_dir=str(place / "exchange"))
    assert printed.count("warning: group 0: 2 publications of a snapshot failed; ") == 1
    assert "warnings: group 0: 2 publications of a snapshot failed; group 1: 2 pub" in printed


def test_killed_worker_is_named_with_its_signal(launch):
    body = """
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    """
    with pytest.raises(ChildProcessError, match="worker 1 of group 0 was killed by SIGKILL"):
        launch(body, num_groups=1, workers_per_group=2)


def test_stubborn_workers_are_killed_with_their_children(launch, tmp_path):
    body = """
        if group == 1:
            while not os.path.exists(os.path.join(sys.argv[2], "grandchild_0_0")):
                time.sleep(0.02)
            sys.exit(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        leave("grandchild", str(child.pid))
        time.sleep(60)
    """
    with pytest.raises(ChildProcessError):
        launch(body, grace_secs=0.3)
    _assert_gone(tmp_path / "pid_0_0")
    grandchild = int((tmp_path / "grandchild_0_0").read_text())
    deadline = time.monotonic() + 5
    while _is_alive(grandchild) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(grandchild)


def _is_alive(pid):
    """Whether a process runs; one that is dead but has no parent to collect it does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_ends_with_an_endless_line_fails_as_others_do(launch):
    body = f"print('x' * {2 * logs.MAX_LOG_BYTES}); sys.exit(3)"
    with pytest.raises(ChildProcessError, match="worker 0 of group 0 failed with exit status 3"):
        launch(body, num_groups=1)


LAUNCHER = """
    import signal, sys
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also under nohup
    from tf_codistill import program
    from tf_codistill.launching import local
    script, folder = sys.argv[1:3]
    command = lambda group: [sys.executable, "-c", script, str(group), folder]
    del sys.argv[1:]
    program.run(lambda: local.launch(folder + "/run", num_groups=2, workers_per_group=2, command=command))
"""


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 129)]
)
def test_signals_stop_every_worker(tmp_path, sent, status):
    script = textwrap.dedent(CHILD) + "time.sleep(60)\n"
    launcher = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LAUNCHER), script, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    names = [f"{group}_{worker}" for group in range(2) for worker in range(2)]
    _wait_for(*(tmp_path / f"pid_{name}" for name in names))
    launcher.send_signal(sent)
    output, _ = launcher.communicate(timeout=20)
    assert launcher.returncode == status
    assert "Traceback" not in output
    assert output.splitlines()[-1] == "stopped at step 0 (no checkpoint); the same command begins anew"
    assert all((tmp_path / f"interrupted_{name}").exists() for name in names)
    _assert_gone(*(tmp_path / f"pid_{name}" for name in names))


def test_what_nohup_keeps_away_stays_away():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with local._running([], 0.0, Console()):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


def _finish(workdir, num_groups, num_steps):
    for group in range(num_groups):
        os.makedirs(runs.group_dir(workdir, group), exist_ok=True)
        path = runs.metrics_path(workdir, group)
        runs.append_metrics(path, "start", 0, num_steps=num_steps)
        runs.append_metrics(path, "end", num_steps, elapsed_secs=1.0)


def test_finished_run_is_not_started_again(launch, tmp_path):
    _finish(str(tmp_path / "run"), 2, 20)
    assert "finished, 2 x 20 steps" in launch("sys.exit(1)")
    assert not list(tmp_path.glob("pid_*"))


def test_finished_run_goes_on_when_more_steps_are_asked_for(launch, tmp_path):
    _finish(str(tmp_path / "run"), 2, 20)
    launch(num_steps=30)
    assert (tmp_path / "pid_1_0").exists()


STEPS = """
    from tf_codistill import runs
    path = runs.metrics_path(os.path.join(sys.argv[2], "run"), group)
    is_first = not os.path.exists(os.path.join(sys.argv[2], f"started_{group}_{index}"))
    leave("started")
    def step(number):
        if index == 0:
            runs.append_metrics(path, "train", number, elapsed_secs=0.1 * number)
    if index == 0:
        runs.append_metrics(path, "start", 0, num_steps=30)
    step(5 if is_first else 15)
"""


def test_a_group_that_is_killed_is_started_again_and_the_other_never_notices(launch, tmp_path):
    body = (
        STEPS
        + """
    if group == 1 and is_first:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    while group == 0 and not os.path.exists(os.path.join(sys.argv[2], "again")):
        time.sleep(0.02)
    leave("again") if group == 0 else open(os.path.join(sys.argv[2], "again"), "w").close()
    """
    )
    printed = launch(body, workers_per_group=2, max_restarts=1, take_over=["--at_first"])
    assert "worker 1 of group 1 was killed by SIGKILL" in printed
    assert "group 1 starts again in 1 s from the beginning, restart 1 of at most 1 without" in printed
    records = [runs.read_metrics(runs.metrics_path(str(tmp_path / "run"), group)) for group in range(2)]
    (restart,) = [record for record in records[1] if record["kind"] == "restart"]
    assert restart["reason"].startswith("worker 1 of group 1 was killed by SIGKILL; ")
    assert restart["attempt"] == 1
    assert [record["kind"] for record in records[0]].count("start") == 1
    assert not list(tmp_path.glob("interrupted_0_*"))
    log = (tmp_path / "run" / "group_1" / "worker_0.log").read_text()
    assert log.count("--at_first") == 1, "a group that starts again takes nothing over"


def test_a_group_that_fails_for_good_lets_others_finish(launch, tmp_path):
    body = (
        STEPS
        + """
    if group == 1:
        print("error: the disk is full; make room")
        sys.exit(1)
    step(15)
    while not os.path.exists(os.path.join(sys.argv[2], "run", "group_1", "worker_0.log")):
        time.sleep(0.02)
    time.sleep(3)
    leave("finished")
    """
    )
    with pytest.raises(ChildProcessError) as failure:
        launch(body, max_restarts=1)
    assert str(failure.value).startswith(
        "worker 0 of group 1: the disk is full; make room\nstopped at step 15"
    )
    assert (tmp_path / "finished_0_0").exists()
    assert not (tmp_path / "interrupted_0_0").exists()


def test_a_group_that_logs_nothing_any_more_is_started_again(launch, monkeypatch):
    monkeypatch.setattr(supervision, "LOOK_SECS", 0.1)
    body = (
        STEPS
        + """
    if is_first:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(60)
    """
    )
    printed = launch(body, num_groups=1, max_restarts=5, hang_secs=3.0)
    assert "group 0 has logged nothing for 0m " in printed
    assert "restart 1 of at most 5" in printed


def test_workers_do_not_outlive_a_launcher_that_is_killed(tmp_path):
    script = textwrap.dedent(CHILD) + "time.sleep(60)\n"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LAUNCHER), script, str(tmp_path)], stdout=subprocess.DEVNULL
    ) as launcher:
        pids = [tmp_path / f"pid_{group}_{worker}" for group in range(2) for worker in range(2)]
        _wait_for(*pids)
        launcher.kill()
    deadline = time.monotonic() + 10
    while any(_is_alive(int(path.read_text())) for path in pids):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_restarts": -1}, "max_restarts is -1; expected 0"),
        ({"hang_secs": -1.0}, "hang_secs is -1.0; expected seconds, or 0"),
    ],
)
def test_supervision_is_checked(launch, arguments, message):
    with pytest.raises(ValueError, match=message):
        launch(**arguments)
