"""Every gin file and every command that is written down somewhere does what it says."""

from __future__ import annotations

import functools
import pathlib
import re
import shlex
import subprocess
from collections.abc import Callable

import gin
import pytest
from absl import flags

from tests import toy_images
from tests.integration.programs import REPOSITORY, TIMEOUT_SECS, Programs
from tf_codistill import program, retraining
from tf_codistill.corpus import filters, pipeline
from tf_codistill.corpus.sources import choosing
from tf_codistill.example_tables.synthetic_clicks import SyntheticClicks
from tf_codistill.experiment import configured
from tf_codistill.sweeps import results
from tf_codistill.sweeps.sweep import Sweep
from tf_codistill.tables import pipeline as tables_pipeline
from tf_codistill.tables.schema import TableSettings, criteo_schema
from tf_codistill.tasks.base import Part
from tf_codistill.tasks.language import LanguageTask

pytestmark = pytest.mark.usefixtures("fresh_gin")

GIN_FILES = sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("gin/**/*.gin"))
NUM_GROUPS = dict.fromkeys(
    ["gin/one_process.gin", "gin/baselines/two_phase.gin", "gin/images/digits_saved.gin"], 1
)
TEXTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "data/*/*.md", "gin/**/*.gin", "tf_codistill/*.py")
    for path in REPOSITORY.glob(pattern)
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table of made clicks."""
    directory = tmp_path_factory.mktemp("clicks")
    clicks, output_dir = SyntheticClicks(), str(directory / "table")
    (directory / "rows.txt").write_bytes(clicks.text(clicks.rows(0, 1500)))
    settings = TableSettings(schema=criteo_schema(), min_count=3)
    tables_pipeline.prepare([str(directory / "rows.txt")], output_dir, settings)
    return output_dir


def with_included(name: str) -> str:
    """The text of a gin file and of all that it includes."""
    text = (REPOSITORY / name).read_text()
    return "".join([text, *map(with_included, re.findall(r"^include '(.*)'", text, re.MULTILINE))])


@pytest.fixture(scope="module")
def data(corpus: str, table: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Bindings of toy data for the task that a gin file has; none if it has no task."""
    images = toy_images.write_folders(tmp_path_factory.mktemp("images"))

    def bindings(name: str) -> list[str]:
        text = with_included(name)
        readers = {"LanguageTask.corpus_dir": corpus, "unigram_frequencies.corpus_dir": corpus}
        readers |= {"ClickTask.data_dir": table, "ImageTask.data_dir": images}
        return [
            f"{reader} = {data!r}" for reader, data in readers.items() if f"\n{reader.split('.')[0]}." in text
        ]

    return bindings


@pytest.mark.parametrize("name", GIN_FILES)
def test_a_gin_file_binds_all_that_is_required_and_nothing_unused(data, name: str) -> None:
    text = (REPOSITORY / name).read_text()
    flags.FLAGS.gin_file = [name]
    flags.FLAGS.gin_bindings = [] if name.startswith("gin/models/") else data(name)
    program.parse_gin()
    if name.startswith("gin/models/"):
        stated = re.search(r"([\d,]+) (?:word.pieces|tokens).*?([\d.]+) M weights", text, re.DOTALL)
        task, vocabulary_size = LanguageTask(corpus_dir="nowhere"), int(stated[1].replace(",", ""))
        model = task.model_fn(vocabulary_size=vocabulary_size, batch_size=None)
        assert model.count_params() / 1e6 == pytest.approx(float(stated[2]), rel=0.005)
    elif flags.FLAGS.gin_bindings:
        num_groups = NUM_GROUPS.get(name, 2)
        experiment = configured()
        assert (
            experiment.task.training(Part(0, num_groups, seed=0)).units_per_step >= experiment.task.batch_size
        )
        teachers = experiment.teachers("/nowhere", 0, num_groups, rows=experiment.task.batch_size)
        model = experiment.build(teachers, 0, rows=experiment.task.batch_size)
        is_alone = re.search(r"^Experiment.teaching = @Teaching\b", with_included(name), re.MULTILINE)
        expected = 0 if is_alone else 2 if num_groups == 1 else 1
        assert len(model.teachers.names()) == expected
    elif "churn" in name or name.endswith("_sweep.gin"):
        what = retraining.Retraining() if "churn" in name else Sweep()
        assert all(set(one.gin_files) <= set(GIN_FILES) for one in what.settings.values())
    elif "\nTableSettings." in text:
        assert {"label", "late"} & {TableSettings().schema.label}
    elif "\nCorpusSettings." in text:
        assert isinstance(pipeline.CorpusSettings().filters[0], filters.English)
        choosing.chosen()
    else:
        raise AssertionError(f"nobody knows what {name} is for")
    program.check_bindings()


@pytest.mark.parametrize("name", GIN_FILES)
def test_a_gin_file_opens_with_a_comment_that_says_what_it_is(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    header = text.split("\n\n")[0].splitlines() + text.split("\n\n")[1].splitlines()
    assert re.fullmatch(r"# [A-Z].{20,}[.:]?", header[0]), "the first line is a title"
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert len(comments) >= 3
    if "Experiment." in text or "CorpusSettings." in text or "TableSettings." in text:
        assert any(line.startswith("# Command") for line in comments)


def bindings_written_down() -> list[tuple[str, str, list[str]]]:
    """Where each example of --gin_bindings stands, the gin file that it is given with, and the bindings."""
    found = []
    for where, command in [*commands(), *makefile_commands()]:
        arguments = [argument.partition("=") for argument in shlex.split(command)[1:]]
        bound = [value for name, _, value in arguments if name == "--gin_bindings"]
        gin_files = [value for name, _, value in arguments if name == "--gin_file"]
        if bound and gin_files:
            found.append((where, gin_files[0], bound))
    example = re.search(r"such as '(.+?)';", flags.FLAGS["gin_bindings"].help)
    return [*found, ("--help", "gin/quickstart.gin", [example.group(1)])]


def test_a_binding_that_is_written_down_can_be_used(data) -> None:
    found = bindings_written_down()
    assert {"--help", "README.md", "Makefile", "tf_codistill/launch.py"} <= {where for where, _, _ in found}
    for where, gin_file, bound in found:
        gin.clear_config()
        flags.FLAGS.gin_file = [gin_file]
        flags.FLAGS.gin_bindings = bound
        flags.FLAGS.gin_bindings = [*bound, *data(gin_file)]
        program.parse_gin()
        if "/corpus/" in gin_file:
            pipeline.CorpusSettings()
            choosing.chosen()
        elif "/tables/" in gin_file:
            TableSettings()
        elif gin_file.endswith("_sweep.gin"):
            Sweep()
        else:
            experiment = configured()
            teachers = experiment.teachers("/nowhere", 0, NUM_GROUPS.get(gin_file, 2), rows=32)
            experiment.build(teachers, 0, rows=32)
        try:
            program.check_bindings()
        except ValueError as error:
            pytest.fail(f"{where}: {error}")


def commands() -> list[tuple[str, str]]:
    """Every command line of a program in a document, a gin file or a docstring, with where it stands."""
    found = []
    for path in TEXTS:
        text = re.sub(r"\\\n\s*(#\s*)?", "", path.read_text())
        for match in re.finditer(r"^[ #$>`*]*python -m (tf_codistill\.\w+.*)$", text, re.MULTILINE):
            found.append((str(path.relative_to(REPOSITORY)), match.group(1).rstrip("`")))
    return found


@functools.cache
def makefile_commands() -> list[tuple[str, str]]:
    """What the showcases and the evidence would run."""
    targets = ["quickstart", "quickstart-images", "quickstart-churn"]
    targets += ["evidence-corpora", "evidence", "evidence-short"]
    shown = subprocess.run(
        ["make", "--dry-run", "--always-make", *targets],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECS,
        check=True,
    )
    lines = shown.stdout.replace("\\\n", " ").splitlines()
    return [("Makefile", line.split(" -m ", 1)[1]) for line in lines if " -m tf_codistill." in line]


def test_results_that_are_kept_are_those_that_sweeps_ask_for() -> None:
    kept = 0
    for _, command in makefile_commands():
        given = dict(argument.lstrip("-").partition("=")[::2] for argument in shlex.split(command)[1:])
        known = {(one.setting, one.seed): one for one in results.read(given.get("results", "absent"))}
        if not known:
            continue
        gin.clear_config()
        flags.FLAGS.gin_file, flags.FLAGS.gin_bindings = [given["gin_file"]], []
        program.parse_gin()
        asked = [one for one in Sweep().expected() if (one.setting, one.seed) in known]
        assert [one.setting for one in asked if not one.is_of(known[one.setting, one.seed])] == []
        assert asked, given["results"]
        kept += len(asked)
    assert kept >= 50


def test_there_are_commands_to_try() -> None:
    assert len([where for where, _ in commands() if where == "README.md"]) >= 2
    programs = [command.split()[0] for _, command in makefile_commands()]
    assert programs.count("tf_codistill.launch") == 4
    assert programs.count("tf_codistill.prepare_corpus") == 5
    assert programs.count("tf_codistill.sweep") == 4 * 2 + 6 + 1


@pytest.mark.parametrize(("where", "command"), [*commands(), *makefile_commands()])
def test_a_command_that_is_written_down_has_only_flags_that_exist(
    programs: Programs, where: str, command: str
) -> None:
    module, *arguments = shlex.split(command)
    assert pathlib.Path(REPOSITORY, *module.split(".")).with_suffix(".py").exists(), where
    ended = programs.run(module.removeprefix("tf_codistill."), *arguments, "--only_check_args")
    assert ended.status == 0, ended.error
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "--gin_file" and not value.startswith("my_"):  # which the reader writes
            assert value in GIN_FILES, where
