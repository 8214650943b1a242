"""Corpora of any tokenizer that a user brings, and a model that reads and writes with one."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from tests.integration.prepare_flags_test import needs_beam
from tests.integration.programs import Programs, experiment
from tests.toy_crawls import contents, page_text, write_crawl
from tests.toy_tokenizers import KINDS, Letters
from tf_codistill import tokens
from tf_codistill.tokenizer.opening import open_tokenizer

BINDINGS = ["CorpusSettings.num_shards = 2", "CorpusSettings.validation_share = 0.2"]
OWN = "import tests.toy_tokenizers\nCorpusSettings.tokenizer = @Letters()\n"


@pytest.fixture(scope="module")
def wet_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_crawl(tmp_path_factory.mktemp("crawl") / "crawl")


def prepare(programs: Programs, wet_files: list[str], directory: pathlib.Path, *flags: str) -> tokens.Corpus:
    wet = ["--source=WetFiles", *(f"--files={path}" for path in wet_files)]
    bound = [f"--gin_bindings={binding}" for binding in BINDINGS]
    programs.succeed("prepare_corpus", *wet, *bound, f"--output_dir={directory}", *flags)
    return tokens.open_corpus(str(directory), verify_contents=True)


def first_document(corpus: tokens.Corpus) -> str:
    split = corpus.split("train")
    return open_tokenizer(corpus.tokenizer_path).decode(split.gather(np.arange(split.starts[1])))


@pytest.mark.parametrize(
    "kind", ["sentencepiece.model", "sentencepiece.model unigram", "tokenizer.json words"]
)
def test_a_corpus_of_any_tokenizer(
    programs: Programs, wet_files: list[str], tmp_path: pathlib.Path, kind: str
) -> None:
    given = tmp_path / "brought"
    KINDS[kind](str(given))
    by_gin = f"--gin_bindings=CorpusSettings.tokenizer = '{given}'"
    flag = by_gin if "unigram" in kind else f"--tokenizer={given}"
    corpus = prepare(programs, wet_files, tmp_path / "corpus", flag, "--num_processes=1")
    name = kind.partition(" ")[0]
    assert pathlib.Path(corpus.tokenizer_path) == tmp_path / "corpus" / name
    assert (tmp_path / "corpus" / name).read_bytes() == given.read_bytes()
    assert not (tmp_path / "corpus" / tokens.TOKENIZER).exists()
    assert corpus.vocabulary_size == open_tokenizer(str(given)).vocabulary_size
    if kind == "sentencepiece.model":  # which loses nothing
        pages = [page_text(number).split("\n", 1)[1] for number in range(60)]
        assert first_document(corpus) in pages


def test_a_class_of_ones_own_in_several_processes(
    programs: Programs, wet_files: list[str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "own.gin").write_text(OWN)
    gin = f"--gin_file={tmp_path / 'own.gin'}"
    corpus = prepare(programs, wet_files, tmp_path / "corpus", gin, "--num_processes=2")
    assert open_tokenizer(corpus.tokenizer_path) == Letters()
    assert pathlib.Path(corpus.tokenizer_path).name == "tokenizer_class.json"
    pages = [page_text(number).split("\n", 1)[1] for number in range(60)]
    assert first_document(corpus) in pages
    flags = ["--source=WetFiles", *(f"--files={path}" for path in wet_files)]
    flags += [f"--gin_bindings={one}" for one in BINDINGS]
    other = [gin, "--gin_bindings=Letters.alphabet = 'abc'", f"--output_dir={tmp_path / 'corpus'}"]
    refused = programs.run("prepare_corpus", *flags, *other).sentence()
    assert "holds a corpus prepared with tokenizer = " in refused


@needs_beam
def test_a_class_of_ones_own_on_beam(
    programs: Programs, wet_files: list[str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "own.gin").write_text(OWN)
    gin = f"--gin_file={tmp_path / 'own.gin'}"
    prepare(programs, wet_files, tmp_path / "here", gin, "--num_processes=1")
    beam = ["--runner=beam", "--beam_options=--direct_num_workers=1"]
    prepare(programs, wet_files, tmp_path / "beam", gin, *beam)
    assert contents(tmp_path / "beam") == contents(tmp_path / "here")


def test_a_model_reads_and_writes_with_a_tokenizers_file(
    programs: Programs, wet_files: list[str], tmp_path: pathlib.Path
) -> None:
    given, run = tmp_path / "gpt.json", tmp_path / "run"
    KINDS["tokenizer.json"](str(given))
    corpus = prepare(programs, wet_files, tmp_path / "corpus", f"--tokenizer={given}", "--num_processes=2")
    flags = experiment(tmp_path, corpus.directory, "LanguageTask.num_lanes = 4", "Experiment.num_steps = 10")
    programs.succeed("train", f"--workdir={run}", *flags)
    kept = run / "group_0" / "tokenizer"
    assert (kept / "tokenizer.json").read_bytes() == given.read_bytes()
    page = tmp_path / "page"
    programs.succeed("inspect_corpus", f"--corpus_dir={corpus.directory}", f"--output_dir={page}")
    assert "words per paragraph" in (page / "index.html").read_text()
    sentence = ["--prompt=The <s> Größe", "--num_tokens=60", "--seed=1"]
    written = programs.succeed("generate", f"--workdir={run}", *sentence)
    assert written.output.startswith("The <s> Größe")
    assert written.output == programs.succeed("generate", f"--workdir={run}", *sentence).output
    assert len(written.output) > 30
    (tmp_path / "a.txt").write_text("The quick brown fox.\nIt jumps.\n")
    scored = programs.succeed("score", f"--workdir={run}", "--json", str(tmp_path / "a.txt"))
    total = json.loads(scored.output)["total"]
    assert (total["num_words"], total["num_out_of_vocabulary"]) == (6, 0)
