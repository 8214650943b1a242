from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import gin
import pytest
from absl import flags

from tf_codistill import program

pytestmark = pytest.mark.usefixtures("fresh_gin")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@gin.configurable(module="program_test")
def brew(kind: str, minutes: int = 3) -> tuple[str, int]:
    if minutes < 0:
        raise ValueError(f"minutes is {minutes}; expected at least 0")
    return kind, minutes


# Apart from those of programs that other tests import, some of which have to be given.
_FLAGS = flags.FlagValues()
_SUGAR = flags.DEFINE_integer("program_test_sugar", 0, "Lumps.", flag_values=_FLAGS)
_MILK = flags.DEFINE_multi_string("program_test_milk", [], "Kinds.", flag_values=_FLAGS)


def parse(*bindings: str, gin_files: tuple[str, ...] = ()) -> None:
    flags.FLAGS.gin_bindings = list(bindings)
    flags.FLAGS.gin_file = list(gin_files)
    program.parse_gin()


def test_later_files_and_then_bindings_win(tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / "first.gin", tmp_path / "second.gin"
    first.write_text("brew.kind = 'black'\nbrew.minutes = 1\n")
    second.write_text("brew.minutes = 2\n")
    parse(gin_files=(str(first), str(second)))
    assert brew() == ("black", 2)
    gin.clear_config()
    parse("brew.minutes = 5", gin_files=(str(first), str(second)))
    assert brew() == ("black", 5)
    program.check_bindings()


def test_gin_files_are_found_beside_the_package_from_any_directory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(REPOSITORY) in program.GIN_SEARCH_PATH
    found = [path for path in program.GIN_SEARCH_PATH if os.path.exists(os.path.join(path, "gin"))]
    assert found


def test_gin_files_are_searched_for_in_order(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, minutes in (("here", 7), ("there", 8)):
        (tmp_path / name / "gin").mkdir(parents=True)
        (tmp_path / name / "gin" / "tea.gin").write_text(f"brew.kind = 'green'\nbrew.minutes = {minutes}\n")
    (tmp_path / "there" / "gin" / "more.gin").write_text("include 'gin/tea.gin'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "GIN_SEARCH_PATH", (str(tmp_path / "here"), str(tmp_path / "there")))
    parse(gin_files=("gin/more.gin",))
    assert brew() == ("green", 7)


def test_a_missing_gin_file_says_where_it_was_looked_for(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        ValueError, match=r"gin file not found in --gin_file=gin/absent\.gin; looked below .*, "
    ):
        parse(gin_files=("gin/absent.gin",))
    file = tmp_path / "file.gin"
    file.write_text("\ninclude 'gin/absent.gin'\n")
    with pytest.raises(ValueError, match=r"gin/absent\.gin.*\(in file \".*file\.gin\", line 2\)") as caught:
        parse(gin_files=(str(file),))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("stew.kind = 1", "gin: No configurable matching 'stew' .*line 2"),
        ("brew.colour = 1", "gin: Configurable 'brew' doesn't have a parameter named 'colour' .*line 2"),
        ("brew.minuts = 1", r"gin: .*; correct the name .*; did you mean minutes\?"),
        ("bruw.minutes = 1", r"gin: No configurable matching 'bruw' .*; did you mean brew\?"),
        ("brew.kind = @stew()", "gin: No configurable matching reference '@stew.*line 2"),
        ("brew.kind = ", "gin: .*line 2"),
        ("brew.kind = = 1", "gin: .*line 2"),
        ("brew", "gin: .*line 2"),
        ("import absent_module", "gin: No module named 'absent_module' .*line 2"),
    ],
)
def test_a_mistake_in_a_gin_file_is_one_sentence_with_its_line(
    line: str, sentence: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "file.gin"
    path.write_text(f"minutes = 3\n{line}\n")
    with pytest.raises(ValueError, match=sentence) as caught:
        parse(gin_files=(str(path),))
    assert "\n" not in str(caught.value)
    with pytest.raises(
        ValueError, match="gin: .*; correct the name or value in the gin file or --gin_bindings"
    ):
        parse(line)


def test_what_is_bound_and_never_used_is_named() -> None:
    parse(
        "brew.kind = 'black'", "minuts = 3", "oven/brew.minutes = 9", "brew.minutes = %minutes", "minutes = 4"
    )
    with pytest.raises(ValueError, match=r"gin binds minutes, minuts, .*brew\.kind, .*, but nothing uses it"):
        program.check_bindings()
    assert brew() == ("black", 4)
    with pytest.raises(
        ValueError,
        match=r"gin binds minuts, oven/program_test\.brew\.minutes, but nothing .*; did you mean minutes\?",
    ):
        program.check_bindings()


def test_an_unused_name_may_be_meant_for_a_parameter_or_another_scope() -> None:
    parse("brew.kind = 'black'", "minute = 3", "ovn/brew.minutes = 9")
    with gin.config_scope("oven"):
        assert brew() == ("black", 3)
    with pytest.raises(
        ValueError, match=r"; did you mean brew\.minutes, oven/program_test\.brew\.minutes\?$"
    ):
        program.check_bindings()


def test_a_value_of_another_type_is_one_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"^gin: brew\.minutes is 'many'; expected an integer; correct the name"
    ):
        parse("brew.minutes = 'many'")


def test_bindings_of_outer_scopes_count_as_used() -> None:
    parse("brew.kind = 'black'", "oven/brew.minutes = 9")
    with gin.config_scope("oven"), gin.config_scope("hot"):
        assert brew() == ("black", 9)
    program.check_bindings()


def test_a_binding_that_the_caller_overrides_is_unused() -> None:
    parse("brew.kind = 'black'", "brew.minutes = 9")
    assert brew(minutes=1) == ("black", 1)
    with pytest.raises(
        ValueError, match="brew.minutes, but nothing uses it; remove the binding or correct its name"
    ):
        program.check_bindings()


def test_the_bindings_in_force_can_be_read_again(tmp_path: pathlib.Path) -> None:
    parse("brew.kind = 'black'")
    brew()
    path = tmp_path / "config.gin"
    path.write_text(program.bindings_in_force())
    gin.clear_config()
    parse(gin_files=(str(path),))
    assert gin.query_parameter("brew.minutes") == 3, "defaults are among them"
    assert brew() == ("black", 3)


def test_gin_flags_go_on_to_another_program() -> None:
    flags.FLAGS.gin_file, flags.FLAGS.gin_bindings = ["a.gin", "b.gin"], ["c = 'd e'"]
    assert program.gin_flags() == ["--gin_file=a.gin", "--gin_file=b.gin", "--gin_bindings=c = 'd e'"]


def test_flags_that_go_with_what_another_has_chosen() -> None:
    class Choice:
        name, value = "drink", "tea"

    holders = {"tea": (_SUGAR, _MILK), "coffee": (_SUGAR,), "water": ()}
    _FLAGS(["", "--program_test_sugar=2"])
    try:
        assert program.settings_of(Choice, holders) == {"program_test_sugar": 2, "program_test_milk": []}
        Choice.value = "water"
        with pytest.raises(
            ValueError, match="--program_test_sugar has an effect only with --drink=tea or coffee"
        ):
            program.settings_of(Choice, holders)
    finally:
        _FLAGS.unparse_flags()


def test_named_flags() -> None:
    class Flag:
        name = "runs"
        value = ["one=a/b", "two=c=d"]

    assert program.named(Flag) == [("one", "a/b"), ("two", "c=d")]
    Flag.value = ["one=a", "two=b", "one=c"]
    with pytest.raises(ValueError, match="--runs has the name 'one' 2 times; give each another one"):
        program.named(Flag)
    for wrong in ("one", "=a", "one="):
        Flag.value = ["ok=1", wrong]
        with pytest.raises(ValueError, match=f"--runs={wrong} is not understood; expected --runs=name=value"):
            program.named(Flag)


_PROGRAM = """
import gin
from absl import flags
from tf_codistill import program

_WAY = flags.DEFINE_string("way", "", "How to end.")

@gin.configurable(module="tea")
def brew(kind, minutes=3):
    if minutes < 0:
        raise ValueError(f"minutes is {minutes}; expected at least 0")
    return kind

@gin.configurable(module="tea")
def pick(*, leaves):
    return leaves

def main():
    program.parse_gin()
    if _WAY.value == "keywords":
        pick()
    if _WAY.value == "interrupt":
        raise KeyboardInterrupt
    if _WAY.value == "missing":
        open("/absent/file")
    if _WAY.value == "bug":
        None + 1
    print(brew())
    program.check_bindings()

if __name__ == "__main__":
    program.run(main, program.WORKDIR, *program.GIN)
"""


@pytest.mark.parametrize(
    ("arguments", "status", "out", "error"),
    [
        (["--gin_bindings=brew.kind = 'black'"], 0, "black", ""),
        ([], 1, "", r"missing 1 required positional argument: 'kind'; bind what is missing in a --gin_file"),
        (
            ["--way=keywords"],
            1,
            "",
            "missing 1 required keyword-only argument: 'leaves'; bind what is missing in a --gin_file",
        ),
        (["extra"], 1, "", "argument 'extra' was not expected; values are given as --flag=value, see --help"),
        (["--gin_bindings=stew.kind = 1"], 1, "", "gin: No configurable matching 'stew' "),
        (
            ["--gin_file=gin/absent.gin"],
            1,
            "",
            "gin file not found in --gin_file=gin/absent.gin; looked below",
        ),
        (
            ["--gin_bindings=brew.kind = 'black'", "--gin_bindings=brew.minutes = -1"],
            1,
            "",
            "minutes is -1; expected at least 0",
        ),
        (["--gin_bindings=brew.kind = %kind"], 1, "", "No bindings specified for 'kind/gin.macro'"),
        (
            ["--gin_bindings=brew.kind = 1", "--gin_bindings=x = 2"],
            1,
            "1",
            "gin binds x, but nothing uses it",
        ),
        (["--way=missing"], 1, "", "No such file or directory: '/absent/file'"),
        (["--way=interrupt"], 130, "", None),
        (["--way=bug"], 1, "", None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_program_ends_with_a_status_and_one_sentence(
    tmp_path: pathlib.Path, arguments: list[str], status: int, out: str, error: str | None
) -> None:
    done = _run(tmp_path, *arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout.strip() == out
    if error is None:
        assert "error: " not in done.stderr
        assert ("Traceback" in done.stderr) == (status == 1), "a fault of the program is not hidden"
    elif error:
        assert done.stderr.startswith("error: ")
        assert error in done.stderr
        assert done.stderr.count("\n") == 1
    else:
        assert done.stderr == ""


def test_the_traceback_is_there_for_those_who_ask(tmp_path: pathlib.Path) -> None:
    done = _run(tmp_path, "--way=missing", "--verbosity=1")
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_an_unknown_flag(tmp_path: pathlib.Path) -> None:
    done = _run(tmp_path, "--wrokdir=x")
    assert done.returncode == 1
    assert "Unknown command line flag 'wrokdir'. Did you mean: workdir" in done.stderr


def _run(directory: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = directory / "program.py"
    path.write_text(_PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60)


def test_a_flag_that_would_have_no_effect_is_told() -> None:
    program.require("with tea", False, _SUGAR, _MILK)
    _FLAGS(["test", "--program_test_milk=oat", "--program_test_sugar=0"])
    program.require("with tea", True, _SUGAR, _MILK)
    with pytest.raises(ValueError, match="--program_test_sugar has an effect only with tea; see to that"):
        program.require("with tea", False, _SUGAR, _MILK)
    with pytest.raises(ValueError, match="--program_test_milk has an effect only with coffee"):
        program.require("with coffee", False, _MILK)
