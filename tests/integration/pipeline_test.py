"""From WET files to the report, by the programs alone, the way `make quickstart` goes."""

from __future__ import annotations

import json
import pathlib
import random
import re

import pytest

from tests.integration.programs import Programs, experiment, metrics
from tf_codistill import runs

WORDS = re.findall(r"\w+", "the quick brown fox jumps over lazy dogs while many small birds sing old songs")
WET_FILES = 2
PAGES = 80


def write_wet_files(directory: pathlib.Path) -> str:
    """Pages of which some are to be dropped; returns the pattern of the files."""
    # Not at the top: it loads FastWARC, which tests of other programs need not wait for.
    from tf_codistill.corpus.wet import WetWriter

    rng = random.Random(0)
    for index in range(WET_FILES):
        with WetWriter(
            str(directory / f"pages-{index}.warc.wet.gz"), description="pages of a test"
        ) as writer:
            for number in range(index, PAGES, WET_FILES):
                sentences = [" ".join(rng.choices(WORDS, k=8)).capitalize() + "." for _ in range(24)]
                writer.write(f"https://example.org/{number}", " ".join(sentences), "eng")
            writer.write(f"https://example.org/links/{index}", "Home\nNext\nContact 3\n" * 20, "eng")
    return str(directory / "*.warc.wet.gz")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def stages(place: pathlib.Path) -> dict[str, list[str]]:
    """Every stage by its name: the program and its flags."""
    bindings = ("Experiment.num_steps = 40", "Experiment.distillation_weight = 0.5")
    flags = experiment(place, str(place / "tokens"), *bindings)
    both = [f"--runs=alone={place / 'alone'}", f"--runs=codistillation={place / 'two'}"]
    result = place / "evaluation.json"
    return {
        "prepare": [
            *(
                "prepare_corpus",
                "--source=WetFiles",
                f"--files={write_wet_files(place)}",
                f"--output_dir={place / 'tokens'}",
            ),
            *(f"--gin_bindings=CorpusSettings.{b}" for b in ("num_pieces = 120", "validation_share = 0.2")),
        ],
        "alone": ["launch", "--num_groups=1", f"--workdir={place / 'alone'}", *flags],
        "two": [
            *("launch", "--num_groups=2", f"--workdir={place / 'two'}"),
            *(f"--exchange_dir={place / 'exchange'}", *flags),
        ],
        "evaluate": [
            *("evaluate", *both, f"--model=served={place / 'two' / 'group_1' / 'student.keras'}"),
            *(f"--output={result}", *flags),
        ],
        "follow": [
            *("evaluate", "--continuous", f"--workdir={place / 'two'}"),
            f"--exchange_dir={place / 'exchange'}",
        ],
        "report": ["report", *both, f"--evaluation={result}", f"--output_dir={place / 'report'}"],
    }


@pytest.fixture(scope="module")
def outputs(programs: Programs, stages: dict[str, list[str]]) -> dict[str, str]:
    """What every stage printed, after all of them have run."""
    return {name: programs.succeed(*command).output for name, command in stages.items()}


def test_the_corpus_is_counted(outputs: dict[str, str], place: pathlib.Path) -> None:
    counts = json.loads((place / "tokens" / "manifest.json").read_text())["counts"]
    assert (counts["read"], counts["kept"]) == (PAGES + WET_FILES, PAGES)
    assert counts["dropped"] == {"link_list": WET_FILES}
    assert not any(counts[what] for what in ("unreadable", "unreadable_files", "dirt", "repeated_paragraphs"))
    assert re.search(r"dropped: link_list +2\b", outputs["prepare"])


def test_groups_learn_from_each_other_and_a_lone_one_does_not(
    outputs: dict[str, str], place: pathlib.Path
) -> None:
    alone = metrics(place / "alone", 0, "train")
    assert list(alone) == list(range(5, 41, 5))
    assert alone[40]["loss"] < alone[5]["loss"] - 0.1
    assert alone[40]["distillation_loss"] == 0
    for group in (0, 1):
        train = metrics(place / "two", group, "train")
        assert list(train) == list(alone)
        assert train[40]["total_loss"] == pytest.approx(
            train[40]["loss"] + 0.5 * train[40]["distillation_loss"], abs=1e-3
        )
        assert re.search(rf"group {group}  step 40/40", outputs["two"])
        for name in ("config.gin", "student.keras", "tensorboard", "checkpoints"):
            assert (place / "two" / f"group_{group}" / name).exists()
    # Whichever group was started later has had something to learn from.
    taught = [metrics(place / "two", group, "train")[40]["distillation_loss"] for group in (0, 1)]
    assert max(taught) > 1
    assert {path.name for path in (place / "exchange").iterdir()} == {"group_0", "group_1", "run.json"}
    assert not (place / "two" / "exchange").exists()
    assert "done after" in outputs["alone"]


def test_everything_is_evaluated(outputs: dict[str, str], place: pathlib.Path) -> None:
    result = json.loads((place / "evaluation.json").read_text())
    names = ["group 0", "group 1", "ensemble"]
    expected = {"alone, group 0", *(f"codistillation, {name}" for name in names), "served"}
    assert expected <= set(result["models"])
    assert result["num_units"] > 100
    served, trained = (result["models"][name] for name in ("served", "codistillation, group 1"))
    assert served["zero_state_loss"] == pytest.approx(trained["zero_state_loss"], abs=1e-5)
    last = metrics(place / "two", 1, "validation")[40]["loss"]
    assert trained["carried_state_loss"] == pytest.approx(last, abs=1e-3)
    assert "codistillation, group 1" in outputs["evaluate"]


def test_what_follows_a_run_finds_what_evaluate_does(outputs: dict[str, str], place: pathlib.Path) -> None:
    (line,) = runs.read_metrics(str(place / "two" / "evaluation" / "metrics.jsonl"))
    rows = json.loads((place / "evaluation.json").read_text())["models"]
    for name in ("group 0", "group 1", "ensemble"):
        for figure in ("zero_state_loss", "carried_state_loss", "perplexity"):
            found = line[f"{name.replace(' ', '_')}/{figure}"]
            assert found == pytest.approx(rows[f"codistillation, {name}"][figure], rel=1e-5)
    shown = rf"group 0, step 40: \d.*  ensemble: {line['ensemble/carried_state_loss']:.4g}  disagreement: \d"
    assert re.search(shown, outputs["follow"])
    assert "all groups have finished, faults: 0" in outputs["follow"]


def test_the_report_draws_a_conclusion(outputs: dict[str, str], place: pathlib.Path) -> None:
    report = (place / "report" / "report.md").read_text()
    sentence = re.search(
        r".*codistillation .*the best loss of the model trained alone.*", report, re.IGNORECASE
    )
    assert sentence is not None, report
    assert sentence.group(0).strip("*.").lower() in outputs["report"].lower()
    assert "learning_curves.png" in report
    assert (place / "report" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "ensemble" in report


def test_a_second_run_reuses_what_is_done(
    programs: Programs, outputs: dict[str, str], stages: dict[str, list[str]], place: pathlib.Path
) -> None:
    def contents() -> dict[str, bytes]:
        kept = [path for name in ("tokens", "alone", "two", "report") for path in (place / name).rglob("*")]
        return {str(path): path.read_bytes() for path in kept if path.is_file()}

    before = contents()
    prepared = programs.succeed(*stages["prepare"])
    assert "prepared already" in prepared.error
    assert prepared.output == outputs["prepare"]
    for name, groups in (("alone", 1), ("two", 2)):
        assert f"finished, {groups} x 40 steps" in programs.succeed(*stages[name]).output
    assert programs.succeed(*stages["report"]).output == outputs["report"]
    assert programs.succeed(*stages["follow"]).output.startswith("all groups have finished")
    assert contents() == before
