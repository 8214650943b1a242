"""The wheel, installed: programs find their gin files from any directory."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.integration.programs import REPOSITORY, metrics

BUILD_SECS = 300
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory that holds nothing but what `pip install .` would install."""
    place = tmp_path_factory.mktemp("installed")
    source = place / "source"  # building leaves files beside the source
    source.mkdir()
    for name in SOURCES:
        shutil.copy(REPOSITORY / name, source)
    for name in ("tf_codistill", "gin"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    _run([*pip, "wheel", "--no-deps", f"--wheel-dir={place}", str(source)], place, BUILD_SECS)
    (wheel,) = place.glob("*.whl")
    _run([*pip, "install", "--no-deps", f"--target={place / 'site'}", str(wheel)], place, BUILD_SECS)
    return place / "site"


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_gin_files(installed: pathlib.Path) -> None:
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    for path in REPOSITORY.glob("gin/**/*.gin"):
        assert f"tf_codistill/_files/{path.relative_to(REPOSITORY)}" in files
    for path in REPOSITORY.glob("tf_codistill/**/*.py"):
        assert str(path.relative_to(REPOSITORY)) in files
    assert not (installed / "gin").exists(), "that name belongs to gin-config"
    assert not (installed / "tests").exists()


@pytest.mark.slow
def test_launch_finds_gin_files_from_another_directory(
    installed: pathlib.Path, corpus: str, tmp_path: pathlib.Path
) -> None:
    bindings = [
        f"LanguageTask.corpus_dir = {corpus!r}",
        *("LanguageTask.num_lanes = 4", "LanguageTask.window_tokens = 4", "LanguageModel.num_units = 8"),
        *("Experiment.num_steps = 4", "PeerExchange.every_steps = 2", "PeerExchange.wait = True"),
        *(f"Experiment.{name}_every_steps = 2" for name in ("log", "validate", "checkpoint")),
    ]
    command = [
        *(sys.executable, "-m", "tf_codistill.launch", "--num_groups=1", "--workdir=run"),
        "--gin_file=gin/quickstart.gin",
        *(f"--gin_bindings={binding}" for binding in bindings),
    ]
    output = _run(command, tmp_path, 120, PYTHONPATH=str(installed))
    assert "done after" in output
    assert list(metrics(tmp_path / "run", 0, "train")) == [2, 4]
    where = _run(
        [sys.executable, "-c", "import tf_codistill; print(tf_codistill.__file__)"],
        *(tmp_path, 60),
        PYTHONPATH=str(installed),
    )
    assert where.strip() == str(installed / "tf_codistill" / "__init__.py")


def _run(command: list[str], directory: pathlib.Path, timeout_secs: float, **environment: str) -> str:
    ended = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_secs,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout
