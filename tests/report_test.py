import json
import os
import pathlib
import subprocess
import sys

from tf_codistill import runs

ROOT = pathlib.Path(__file__).parents[1]


def _report(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tf_codistill.report", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def _write_run(workdir, *groups_losses):
    for group, losses in enumerate(groups_losses):
        os.makedirs(runs.group_dir(str(workdir), group))
        path = runs.metrics_path(str(workdir), group)
        for index, loss in enumerate(losses, 1):
            runs.append_metrics(path, "validation", 100 * index, loss=loss, elapsed_secs=60.0 * index)
    return workdir


def test_report_of_two_runs(tmp_path):
    alone = _write_run(tmp_path / "alone", [5.0, 4.0, 3.5, 3.0, 3.1])
    two = _write_run(tmp_path / "two", [5.0, 3.0, 2.9], [4.0, 3.0, 2.8])
    row = {"zero_state_loss": 3.25, "carried_state_loss": 3.125, "perplexity": 22.76}
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text(json.dumps({"models": {"ensemble": row}, "num_units": 10, "units": "tokens"}))
    output_dir = tmp_path / "report"
    ended = _report(
        f"--runs=alone={alone}",
        f"--runs=codistillation={two}",
        f"--evaluation={evaluation}",
        f"--output_dir={output_dir}",
    )
    assert ended.returncode == 0, ended.stderr
    sentence = (
        "codistillation reached the best loss of the model trained alone after 50 % of its steps; in the "
        "mean its groups ended 0.150 below it"
    )
    assert ended.stdout.splitlines() == [f"report: {output_dir}/report.md", sentence]
    assert "| ensemble | 3.125 | 3.250 | 22.76 |" in (output_dir / "report.md").read_text()


def test_run_that_is_not_understood(tmp_path):
    ended = _report("--runs=alone", f"--output_dir={tmp_path / 'report'}")
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("error: --runs")
    assert "alone" in last
    assert not (tmp_path / "report").exists()
