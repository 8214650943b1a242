"""What `launch` says before it starts a worker, and what it gives to each."""

import os
import shlex

import yaml

from tf_codistill import runs

EXPERIMENT = (
    "--gin_bindings=Experiment.num_steps = 100",
    "--gin_bindings=Experiment.checkpoint_every_steps = 100",
    "--gin_bindings=Experiment.task = @LanguageTask()",
    "--gin_bindings=LanguageTask.corpus_dir = '/nowhere'",
    "--gin_bindings=Experiment.optimizer = @keras.optimizers.Adam",
)


def _finish(workdir, num_steps):
    os.makedirs(runs.group_dir(workdir, 0))
    runs.append_metrics(runs.metrics_path(workdir, 0), "start", 0, num_steps=num_steps)
    runs.append_metrics(runs.metrics_path(workdir, 0), "end", num_steps)


def test_unknown_binding_is_told_before_a_worker_starts(programs, tmp_path):
    ended = programs.run("launch", f"--workdir={tmp_path / 'run'}", "--gin_bindings=Experiment.num_stepz = 1")
    assert ended.status == 1
    last = ended.error.strip().splitlines()[-1]
    assert last.startswith("error: gin: ")
    assert "num_stepz" in last
    assert not (tmp_path / "run").exists()


def test_a_missing_or_wrong_setting_is_told_before_a_worker_starts(programs, tmp_path):
    for bindings, sentence in (
        ((), "error: Experiment has no task, num_steps, optimizer; bind what is missing"),
        (
            (*EXPERIMENT, "--gin_bindings=LanguageTask.num_lanes = 'many'"),
            "num_lanes is 'many'; expected an integer",
        ),
    ):
        ended = programs.run("launch", f"--workdir={tmp_path / 'run'}", *bindings)
        assert ended.status == 1
        assert sentence in ended.error
        assert not (tmp_path / "run").exists()


def test_a_fault_that_is_none_is_told_before_a_worker_starts(programs, tmp_path):
    ended = programs.run("launch", f"--workdir={tmp_path / 'run'}", "--inject=kill@0", *EXPERIMENT)
    assert "--inject=kill@0 is not understood" in ended.sentence()
    assert not (tmp_path / "run").exists()


def test_launch_builds_nothing_that_gin_configures(programs, tmp_path):
    """The corpus is not there, and whoever looks for it says so."""
    _finish(str(tmp_path), 100)
    baseline = "--gin_file=gin/baselines/unigram_smoothing.gin"
    ended = programs.run("launch", f"--workdir={tmp_path}", "--num_groups=1", baseline, *EXPERIMENT)
    assert ended.status == 0, ended.error
    assert "finished, 1 x 100 steps" in ended.output


def test_finished_run_is_left_alone(programs, tmp_path):
    _finish(str(tmp_path), 100)
    ended = programs.run("launch", f"--workdir={tmp_path}", "--num_groups=1", *EXPERIMENT)
    assert ended.status == 0, ended.error
    assert "finished, 1 x 100 steps" in ended.output


def test_places_of_unknown_schemes_are_told_before_a_worker_starts(programs, tmp_path):
    for flags in (
        ["--workdir=s3://bucket/run"],
        [f"--workdir={tmp_path}/run", "--exchange_dir=s3://bucket/x"],
    ):
        ended = programs.run("launch", "--num_groups=1", *EXPERIMENT, *flags)
        assert "is of scheme 's3', which TensorFlow cannot use" in ended.sentence()
        assert not (tmp_path / "run").exists()


def test_workers_get_the_flags_and_their_failure_is_told(programs, tmp_path):
    _finish(str(tmp_path), 50)
    ended = programs.run(
        "launch", f"--workdir={tmp_path}", "--num_groups=1", f"--exchange_dir={tmp_path}/x", *EXPERIMENT
    )
    assert ended.status == 1
    assert "error: worker 0 of group 0: " in ended.error
    assert "/nowhere" in ended.error
    command = (tmp_path / "group_0" / "worker_0.log").read_text().splitlines()[0]
    assert f"-m tf_codistill.train --workdir={tmp_path} --group=0 --num_groups=1" in command
    assert f" --exchange_dir={tmp_path}/x " in command
    assert f"--run_id={runs.run_id(str(tmp_path))}" in command
    assert command.count("--gin_bindings") == len(EXPERIMENT)


def _submission(programs, *flags):
    ended = programs.run("launch", "--num_groups=2", "--dry_run", *flags, *EXPERIMENT)
    assert ended.status == 0, ended.error
    return ended.output


def test_a_dry_run_prints_the_batch_script_and_touches_nothing(programs, tmp_path):
    flags = ("--scheduler=slurm", "--workers_per_group=2", f"--workdir={tmp_path / 'run'}", "--partition=gpu")
    flags += ("--account=lab", "--time_limit=1:00:00", "--gpus_per_worker=1", "--sbatch=--mem=4G")
    script = _submission(programs, *flags, "--max_restarts=7", f"--exchange_dir={tmp_path}/x")
    assert script.startswith("#!/bin/bash\n#SBATCH --job-name=run\n#SBATCH --array=0-1\n#SBATCH --ntasks=2\n")
    asked = ("--gpus-per-task=1", "--partition=gpu", "--account=lab", "--time=1:00:00", "--mem=4G")
    assert all(f"\n#SBATCH {option}\n" in script for option in asked)
    assert "SLURM_RESTART_COUNT:-0} < 7" in script
    srun = script[script.index("srun") : script.index("status=$?")].replace("\\\n", " ")
    words = shlex.split(srun)
    train = words[words.index("tf_codistill.train") + 1 :]
    expected = [f"--workdir={tmp_path / 'run'}", "--cluster=slurm", "--num_groups=2"]
    assert train == [*expected, f"--exchange_dir={tmp_path}/x", *EXPERIMENT]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_the_manifest(programs):
    flags = (
        "--scheduler=kubernetes",
        "--workdir=/runs/two",
        "--volume=claim=/runs",
        "--image=registry/train:1",
    )
    asked = ("--queue=research", "--node_selector=zone=a", "--max_restarts=7", "--workers_per_group=1")
    devices = ("--gpus_per_worker=1", "--tpus_per_worker=4")
    jobset = yaml.safe_load(_submission(programs, *flags, *asked, *devices))
    assert jobset["metadata"] == {"name": "two", "labels": {"kueue.x-k8s.io/queue-name": "research"}}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 7
    (job,) = jobset["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"zone": "a"}
    (worker,) = pod["containers"]
    assert worker["image"] == "registry/train:1"
    assert worker["resources"]["limits"] == {"nvidia.com/gpu": 1, "google.com/tpu": 4}
    command = ["python", "-m", "tf_codistill.train", "--workdir=/runs/two", "--cluster=jobset"]
    assert worker["command"] == [*command, "--num_groups=2", *EXPERIMENT]


def test_a_dry_run_prints_a_command_for_each_slice(programs):
    flags = ("--scheduler=tpu", "--workdir=gs://bucket/two", "--slices=codistill", "--zone=here-b")
    lines = _submission(programs, *flags).splitlines()
    assert len(lines) == 2
    for group, line in enumerate(lines):
        *ssh, there = shlex.split(line)
        assert ssh[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", f"codistill-{group}"]
        assert ssh[6:] == ["--zone=here-b", "--worker=0"]
        words = shlex.split(there.removeprefix("--command="))
        assert words[:2] == [f"TPU_NAME=codistill-{group}", "TPU_LOAD_LIBRARY=0"]
        assert words[2:5] == ["python3", "-m", "tf_codistill.train"]
        named = ["--workdir=gs://bucket/two", "--strategy=tpu", f"--group={group}", "--num_groups=2"]
        assert words[5:] == [*named, *EXPERIMENT]


def test_what_a_scheduler_cannot_do_is_told(programs, tmp_path):
    for flags, sentence in (
        (["--dry_run"], "--dry_run has an effect only with another --scheduler than local"),
        (["--partition=gpu"], "--partition has an effect only with --scheduler=slurm; see to that"),
        (
            ["--gpus_per_worker=1"],
            "--gpus_per_worker has an effect only with --scheduler=slurm or kubernetes",
        ),
        (["--scheduler=slurm", "--base_port=2000"], "--base_port has an effect only with --scheduler=local"),
        (["--scheduler=kubernetes", "--dry_run"], "which is on no volume that outlives a pod"),
        (["--scheduler=kubernetes", "--volume=claim"], "--volume=claim is not understood"),
        (["--scheduler=tpu", "--dry_run"], "--slices is None and --zone is None; expected what the names"),
        (
            ["--scheduler=tpu", "--workers_per_group=2"],
            "workers_per_group is 2; expected 1 with --scheduler=tpu",
        ),
    ):
        ended = programs.run("launch", f"--workdir={tmp_path / 'run'}", *flags, *EXPERIMENT)
        assert sentence in ended.sentence()
    ended = programs.run(
        "launch", "--scheduler=slurm", f"--workdir={tmp_path}/run", *EXPERIMENT, environment={"PATH": ""}
    )
    assert "sbatch is not found; install it, or take what --dry_run prints" in ended.sentence()
    assert not (tmp_path / "run").exists()


def test_schedulers_get_the_run_and_slices_are_watched_from_here(programs, tmp_path):
    """Small programs stand in for theirs."""
    for name in ("sbatch", "kubectl", "gcloud"):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho {name} "$@"; [ {name} = gcloud ] || cat > {tmp_path}/submitted\n')
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    workdir = f"--workdir={tmp_path}/run"
    for answer, first, flags in (
        ("sbatch", "#!/bin/bash", ["--scheduler=slurm"]),
        (
            "kubectl apply --filename=-",
            "apiVersion: jobset",
            ["--scheduler=kubernetes", "--image=a", f"--volume=claim={tmp_path}"],
        ),
    ):
        ended = programs.run("launch", workdir, *flags, *EXPERIMENT, environment=environment)
        assert (ended.status, ended.output) == (0, f"{answer}\n"), ended.error
        assert (tmp_path / "submitted").read_text().startswith(first)
    flags = ("--scheduler=tpu", "--slices=s", "--zone=z")
    ended = programs.run("launch", workdir, *flags, *EXPERIMENT, environment=environment)
    assert ended.status == 0, ended.error
    assert "done after" in ended.output
    for group in (0, 1):
        log = (tmp_path / "run" / f"group_{group}" / "worker_0.log").read_text()
        assert (
            f"\ngcloud compute tpus tpu-vm ssh s-{group} --zone=z --worker=0 --command=TPU_NAME=s-{group} "
            in log
        )
