"""Filters are described alike in every process; a fingerprint changes with the code and with nothing else."""

from __future__ import annotations

import functools
import importlib.util
import linecache
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tf_codistill.corpus.filters import English, Length
from tf_codistill.corpus.filters.fingerprints import code_of, describe
from tf_codistill.corpus.settings import CorpusSettings

ROOT = Path(__file__).parents[2]
SOURCE = '''
"""Filters."""
import functools
import re

# How much is enough.
LEAST = 3
UNRELATED = 4
WORDS = {"the", "a", "of"}
_PATTERN = re.compile("|".join(WORDS))


def count(text):
    return len(_PATTERN.findall(text))


def unrelated(text):
    return UNRELATED


def logged(function):
    @functools.wraps(function)
    def call(document):
        return function(document)

    return call


@logged
def is_english(document, least=LEAST):
    """Has enough words."""
    return document if count(document.paragraphs[0]) >= least else "no_words"


class Base:
    def judge(self, document):
        return document


class Filter(Base):
    """A filter."""

    def __init__(self, least, words):
        self._least = least
        self.words = words

    def __call__(self, document):
        return self.judge(document) if count(document.paragraphs[0]) >= self._least else "no_words"


class Either:
    def __init__(self, *filters):
        self.filters = filters

    def __call__(self, document):
        return document


def at_least(least):
    def inner(document):
        return document if count(document.paragraphs[0]) >= least else "no_words"

    return inner


made = Filter(3, {"the", "a", "of"})
either = Either(made, is_english)
closed = at_least(3)
short = lambda document: document
'''
STEPS = ("is_english", "made", "either", "closed", "short")

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    def load(source: str) -> ModuleType:
        """The module of a source, as another process would have it."""
        path = tmp_path / "toy_steps.py"
        path.write_text(source)
        linecache.clearcache()  # which knows files by size and time
        spec = importlib.util.spec_from_file_location("toy_steps", path)
        assert spec is not None
        module = sys.modules["toy_steps"] = importlib.util.module_from_spec(spec)
        exec(compile(source, path, "exec"), vars(module))  # not from a cache of the file of before
        return module

    yield load
    sys.modules.pop("toy_steps", None)


def all_of(module: ModuleType, what: Callable[[Any], str]) -> dict[str, str]:
    return {name: what(getattr(module, name)) for name in STEPS}


def test_filters_are_described_for_people(load: Load) -> None:
    filters = CorpusSettings().filters
    assert [describe(step) for step in filters] == [repr(step) for step in filters]
    assert all_of(load(SOURCE), describe) == {
        "is_english": "toy_steps.is_english(least=3)",
        "made": "toy_steps.Filter(least=3, words=set('a', 'of', 'the'))",
        "either": "toy_steps.Either(filters=tuple(toy_steps.Filter(least=3, words=set('a', 'of', 'the')), "
        "toy_steps.is_english(least=3)))",
        "closed": "toy_steps.at_least.<locals>.inner(least=3)",
        "short": "toy_steps.<lambda>",
    }


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("# How much is enough.", "# Not the same remark.", ()),
        ('"""A filter."""', '"""The same filter,\n\n    told otherwise."""', ()),
        ("LEAST = 3", "LEAST   =   3", ()),
        ("UNRELATED = 4", "UNRELATED = 5", ()),
        ("LEAST = 3", "LEAST = 2", ("is_english", "either")),
        ('"the", "a", "of"}\n_', '"the", "a"}\n_', ("is_english", "made", "either", "closed")),
        ("return len(_P", "return 1 + len(_P", ("is_english", "made", "either", "closed")),
        ("return document\n\n\nclass Filter", "return 1\n\n\nclass Filter", ("made", "either")),
        ("return self.judge(document) if", "return document if", ("made", "either")),
        ('"no_words"\n\n    return inner', '"few_words"\n\n    return inner', ("closed",)),
        ("lambda document: document", "lambda document: 'no_words'", ("short",)),
    ],
)
def test_a_fingerprint_changes_with_the_code(
    load: Load, before: str, after: str, changed: tuple[str, ...]
) -> None:
    assert SOURCE.count(before) == 1
    first = all_of(load(SOURCE), code_of)
    assert all_of(load(SOURCE), code_of) == first
    second = all_of(load(SOURCE.replace(before, after)), code_of)
    assert tuple(name for name in STEPS if first[name] != second[name]) == changed


def test_every_process_gives_the_same(load: Load, tmp_path: Path) -> None:
    here = load(SOURCE)
    code = f"""
import toy_steps
from tf_codistill.corpus.filters.fingerprints import code_of, describe
for step in [getattr(toy_steps, name) for name in {STEPS}]:
    print(describe(step), code_of(step))
"""
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        steps = [getattr(here, name) for name in STEPS]
        assert found.stdout.splitlines() == [f"{describe(step)} {code_of(step)}" for step in steps]


def test_parameters_are_no_code(load: Load) -> None:
    assert code_of(English(min_percent=1)) == code_of(English())
    assert code_of(English()) != code_of(Length())
    module = load(SOURCE)
    other = module.Filter(4, ())
    assert code_of(other) == code_of(module.made)
    assert describe(other) == "toy_steps.Filter(least=4, words=tuple())"
    assert code_of(module.at_least(4)) == code_of(module.closed)
    few = functools.partial(module.at_least, 1)
    assert describe(few) == "toy_steps.at_least(0=1)"
    assert code_of(few) == code_of(module.at_least)
    assert describe(module.made.judge) == f"toy_steps.Base.judge(self={describe(module.made)})"
    assert code_of(other.judge) == code_of(module.made.judge)


def test_large_parameters_are_cut_off_and_yet_told_apart(load: Load) -> None:
    module = load(SOURCE)
    words = {f"word{number}" for number in range(10_000)}
    patterns = [re.compile("x" * 300 + end) for end in "ab"]
    found = [describe(module.Filter(1, value)) for value in (words, words - {"word777"}, *patterns)]
    assert len(set(found)) == 4
    assert max(map(len, found)) < 250
    bare = module.Filter(1, object())
    assert describe(bare) == "toy_steps.Filter(least=1, words=builtins.object())"
    bare.words = [bare]
    assert describe(bare) == "toy_steps.Filter(least=1, words=list(...))"
    assert code_of(bare) == code_of(module.made)


def test_without_source_the_version_counts_or_else_the_bytecode() -> None:
    def made(version: str, result: str) -> Any:
        scope: dict[str, Any] = {"__name__": "typed_into_a_console"}
        exec(f"class Typed:\n    {version}\n    def __call__(self, document): return {result!r}", scope)
        return scope["Typed"]()

    assert describe(made("", "dull")) == "typed_into_a_console.Typed()"
    assert code_of(made("", "dull")) == code_of(made("", "dull")) != code_of(made("", "odd"))
    assert code_of(made("version = 1", "dull")) == code_of(made("version = 1", "odd"))
    assert code_of(made("version = 1", "dull")) != code_of(made("version = 2", "dull"))


def test_a_version_counts_beside_the_source(load: Load) -> None:
    before = load(SOURCE.replace("class Either:", "class Either:\n    version = '2026-01'\n"))
    after = load(SOURCE.replace("class Either:", "class Either:\n    version = '2026-02'\n"))
    assert code_of(before.either) != code_of(after.either)
