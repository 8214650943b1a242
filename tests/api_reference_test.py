"""The API reference has a page for every module, and on it every public name with its docstring."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

import tf_codistill
from tests.architecture_test import HOUSE, PROGRAMS, ROOT, public_definitions, undocumented


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pytest.importorskip("pdoc", reason="pdoc comes with the extra 'docs'")
    directory = tmp_path_factory.mktemp("api")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, ROOT / "docs" / "api_reference.py", directory]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Warn" not in ended.stderr, "pdoc could not show something"
    return {
        str(path.relative_to(directory).with_suffix("")).replace(os.sep, "."): path.read_text("utf-8")
        for path in pathlib.Path(directory).rglob("*.html")
    }


def anchors(page: str) -> set[str]:
    return set(re.findall(r'<section id="([^"]+)"', page)) | set(
        re.findall(r'<div id="([^"]+)" class=', page)
    )


def test_every_public_name_has_a_docstring() -> None:
    assert undocumented(HOUSE) == []


def test_every_public_name_appears(pages: dict[str, str]) -> None:
    for module, source in HOUSE.items():
        if module in PROGRAMS:
            continue
        found = anchors(pages[f"tf_codistill.{module}"])
        names = {name for name, _ in public_definitions(source)} - {"module"}
        assert names <= found, f"{module}: {sorted(names - found)} are missing"


def test_what_the_package_offers_is_on_its_page(pages: dict[str, str]) -> None:
    for name in tf_codistill.__all__:
        assert name in anchors(pages["tf_codistill"]) or f"tf_codistill.{name}" in pages, name
