"""The Python blocks of two pages run, and links between documents lead somewhere."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import keras
import numpy as np
import pytest

from tests.architecture_test import PROGRAMS
from tf_codistill.reproducibility import measures

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_PAGES = sorted([*_REPOSITORY.glob("*.md"), *_REPOSITORY.glob("docs/*.md")])
_TRACKED = ("benchmarks", "data", "docs", "examples", "gin", "tests", "tf_codistill")


def model_fn() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


def two_outputs_fn() -> keras.Model:
    features = keras.Input((4,))
    return keras.Model(
        features, {"kind": keras.layers.Dense(3)(features), "size": keras.layers.Dense(1)(features)}
    )


def test_blocks_of_the_how_to_run(tmp_path: pathlib.Path) -> None:
    text = (_REPOSITORY / "docs" / "codistillation.md").read_text(encoding="utf-8")
    names = {
        "model_fn": model_fn,
        "two_outputs_fn": two_outputs_fn,
        "features": np.zeros((32, 4), "float32"),
        "targets": np.zeros(32, "int32"),
        "keys": np.stack([np.arange(32), np.zeros(32, int)], axis=1),
        "exchange": str(tmp_path / "exchange"),
        "checkpoints": str(tmp_path / "checkpoints"),
        "student_path": str(tmp_path / "student.keras"),
    }
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        exec(compile(block, "docs/codistillation.md", "exec"), names)
    assert keras.saving.load_model(names["student_path"]).count_params() == 15
    assert names["num_teachers"] == 1


def test_blocks_of_the_page_about_churn_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (_REPOSITORY / "docs" / "churn.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/churn.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    for number in re.findall(r"# (0\.\d+)$", text, re.MULTILINE):
        assert any(line.startswith(number) for line in printed), number
    fields = set(re.findall(r"^\| `(.*)` \|", text, re.MULTILINE))
    told = {name for field in fields for name in field.split("`, `")}
    assert told == {*measures.RATIOS, "auc"}


def test_the_readme_says_of_each_program_what_it_does() -> None:
    text = (_REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = text.split("| Program | What it does |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(PROGRAMS)


def test_no_command_that_is_shown_writes_into_the_repository() -> None:
    shown = [*_PAGES, *_REPOSITORY.glob("data/*/*.md"), *_REPOSITORY.glob("gin/**/*.gin")]
    shown += [path for name in ("examples", "tf_codistill") for path in _REPOSITORY.glob(f"{name}/**/*.py")]
    places = {
        (path.name, place)
        for path in shown
        for place in re.findall(
            r"--(?:output_dir|workdir|download_dir)=([^\s`'\")]+)", path.read_text(encoding="utf-8")
        )
    }
    assert len(places) > 40
    assert {(name, place) for name, place in places if place.split("/")[0] in _TRACKED} == set()


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    targets = [(page.parent / name if name else page, anchor) for name, anchor in links]
    assert [target for target, _ in targets if not target.exists()] == []
    assert [link for link in targets if link[1] and link[1] not in _anchors(link[0])] == []


def _anchors(page: pathlib.Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
