"""Every gin file, expanded in full, is as it was last reviewed: tests/golden/<path below gin/>.txt.

    gin/baselines/two_phase.gin  ->  tests/golden/baselines/two_phase.txt

An expansion is what gin gave to all that was built, defaults included, so that a changed default shows in
review as a changed line, for each configuration that it reaches. If that is meant:

    REWRITE_GOLDEN=1 python -m pytest tests/golden_test.py
"""

from __future__ import annotations

import difflib
import os
import pathlib

import pytest
from absl import flags

from tests import toy_images
from tests.toy_experiments import write_language_corpus
from tf_codistill import experiment, program, retraining
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources import choosing
from tf_codistill.example_tables.synthetic_clicks import SyntheticClicks
from tf_codistill.sweeps.sweep import Sweep
from tf_codistill.tables import pipeline
from tf_codistill.tables.schema import TableSettings, criteo_schema
from tf_codistill.tasks.language import LanguageTask

pytestmark = pytest.mark.usefixtures("fresh_gin")

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
GIN, GOLDEN = REPOSITORY / "gin", REPOSITORY / "tests" / "golden"
NAMES = sorted(str(path.relative_to(GIN).with_suffix("")) for path in GIN.rglob("*.gin"))
REWRITE = "REWRITE_GOLDEN"
HOW = f"if that is meant: {REWRITE}=1 python -m pytest tests/golden_test.py"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Holds toy data where the gin files say that theirs are."""
    directory = tmp_path_factory.mktemp("golden")
    for name in ("quickstart/corpus/tokens", "evidence/corpus_125k"):
        write_language_corpus(str(directory / "runs" / name), num_documents=20)
    clicks = SyntheticClicks()
    (directory / "rows.txt").write_bytes(clicks.text(clicks.rows(0, 200)))
    for name in ("criteo", "synthetic", "flights"):
        table = str(directory / "runs" / name / "table")
        pipeline.prepare([str(directory / "rows.txt")], table, TableSettings(schema=criteo_schema()))
    for name in ("imagenet", "tiny_images", "digits/images", "cifar/images"):
        toy_images.write_folders(directory / "runs" / name)
    return directory


@pytest.fixture(autouse=True)
def _where_the_corpus_is(directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)


def expansion(name: str, *bindings: str) -> str:
    """What is in force once all has been built that a gin file configures."""
    flags.FLAGS.gin_file, flags.FLAGS.gin_bindings = [f"gin/{name}.gin"], list(bindings)
    program.parse_gin()
    if name.startswith("corpus/"):
        CorpusSettings()
        choosing.chosen()
    elif "churn" in name:
        retraining.Retraining()
    elif name.endswith("sweep"):
        Sweep()
    elif name.startswith("tables/"):
        TableSettings()
    elif name.startswith("models/"):
        LanguageTask(corpus_dir="runs/quickstart/corpus/tokens").make_model()
    else:
        built = experiment.configured()
        teaching = built.teachers("exchange", group=0, num_groups=1, rows=2)
        built.build(teaching, group=0, rows=2)
    return program.bindings_in_force()


def difference(name: str, found: str) -> list[str]:
    """The lines by which an expansion differs from the reviewed one, after ``-`` and ``+``."""
    golden = GOLDEN / f"{name}.txt"
    expected = golden.read_text(encoding="utf-8") if golden.exists() else ""
    lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_gin_file_expands_as_reviewed(name: str) -> None:
    found = expansion(name)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get(REWRITE):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(found, encoding="utf-8")
    changed = "\n".join(difference(name, found))
    assert not changed, f"gin/{name}.gin is no longer {golden.relative_to(REPOSITORY)}:\n{changed}\n{HOW}"


def test_each_reviewed_expansion_has_its_gin_file() -> None:
    reviewed = {str(path.relative_to(GOLDEN).with_suffix("")) for path in GOLDEN.rglob("*.txt")}
    assert sorted(reviewed) == NAMES, f"delete what has lost its gin file; {HOW}"


def test_a_change_shows_with_defaults_too() -> None:
    changed = difference("quickstart", expansion("quickstart", "PeerExchange.every_steps = 51"))
    assert changed == ["-PeerExchange.every_steps = 50", "+PeerExchange.every_steps = 51"]
    assert "\nPeerExchange." not in (GIN / "quickstart.gin").read_text(), "it shall be a default"
