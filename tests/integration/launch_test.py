"""What `launch` says before it starts a worker, and what it gives to each."""

import os

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
