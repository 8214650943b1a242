"""What is said of a corpus is true, a sample is called one, and text of the web stays text."""

from __future__ import annotations

import html
import pathlib

import numpy as np
import pytest

from tests import toy_texts
from tf_codistill import files, tokens
from tf_codistill.corpus.report import inspection, inspection_page
from tf_codistill.corpus.report.inspection import inspect
from tf_codistill.tokenizer.word_pieces import WordPieces


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tokens.Corpus:
    return tokens.open_corpus(toy_texts.write_text_corpus(str(tmp_path_factory.mktemp("a") / "corpus")))


def section(found: inspection.Inspection, title: str) -> dict[str, str]:
    return dict(dict(found.sections)[title])


def test_the_facts_are_those_of_the_text(corpus: tokens.Corpus) -> None:
    found = inspect(corpus)
    pieces = WordPieces(corpus.tokenizer_path)
    documents = toy_texts.DOCUMENTS[:45]
    ids = np.concatenate([pieces.encode_document(document) for document in documents])
    num_pieces = int(np.count_nonzero(ids >= tokens.NUM_SPECIAL))
    num_words = sum(len(document.split()) for document in documents)
    text = section(found, "Text of train")
    assert text["words"] == f"{num_words:,}"
    assert text["pieces per word (fertility)"] == f"{num_pieces / num_words:.3f}"
    assert text["sentences per paragraph"] == "1.5"
    assert text["out of vocabulary"].startswith("0 of ")
    top = section(found, "Commonest pieces of train")
    first, count = next(iter(top.items()))
    shown = [
        pieces.surfaces[index - tokens.NUM_SPECIAL].decode().replace(" ", "␣") for index in ids if index > 5
    ]
    assert count.split()[0] == str(max(map(shown.count, set(shown)))) == str(shown.count(first))
    assert found.lengths["train"].tolist() == [len(pieces.encode_document(text)) for text in documents]
    assert section(found, "Train documents")["documents"] == "45"
    assert section(found, "Corpus")["fingerprint"] == corpus.fingerprint


def test_every_document_that_was_read_is_accounted_for(corpus: tokens.Corpus) -> None:
    found = inspect(corpus)
    expected = {"kept": 60, "<b>link_list</b>": 7, "short": 2, "unreadable: gzip": 1}
    assert list(found.outcomes.items()) == list(expected.items())
    rows = section(found, "What became of the documents")
    assert rows["read"] == "70"
    assert rows["kept"].split() == ["60", "85.71%"]


def test_stretches_are_of_the_corpus_and_fixed_by_the_seed(corpus: tokens.Corpus) -> None:
    found = inspect(corpus, seed=1)
    assert found.windows == inspect(corpus, seed=1).windows != inspect(corpus, seed=2).windows
    whole = "\n".join(toy_texts.DOCUMENTS[:45])
    for window in found.windows["train"]:
        parts = window.split("\n")
        assert all(part in whole for part in parts)
        assert len(window) > 100


def test_a_sample_is_bounded_and_called_a_sample(
    corpus: tokens.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "_STRETCH_TOKENS", 64)
    num_tokens = corpus.split("train").num_tokens
    titles = [title for title, _ in inspect(corpus, max_sampled_tokens=300).sections]
    assert f"Text of train, from a sample of 256 of {num_tokens:,} tokens" in titles
    assert "Text of train" in [title for title, _ in inspect(corpus, max_sampled_tokens=num_tokens).sections]


def test_an_empty_split_is_told(tmp_path: pathlib.Path) -> None:
    directory = toy_texts.write_text_corpus(str(tmp_path))
    with tokens.ShardWriter(directory, "train", 0, 1, 111) as writer:
        pass
    facts = {"train": [writer.close()]}
    tokens.commit_corpus(directory, vocabulary_size=111, splits=facts, counts={"read": 0, "dropped": {}})
    found = inspect(tokens.open_corpus(directory))
    assert section(found, "Train documents") == {"documents": "0"}
    assert "kept" in inspection_page.as_text(found)
    assert inspection_page.draw(found).startswith(b"\x89PNG")


def test_a_number_that_makes_no_sense_is_named(corpus: tokens.Corpus) -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        inspect(corpus, seed=-1)


def evil(found: inspection.Inspection) -> inspection.Inspection:
    script = "</blockquote><script>alert('x')</script> $\\frac$"
    rows = (("<img src=x onerror=y>", "</td>&amp;"),)
    return inspection.Inspection(
        "<dir>", {"kept": 1, script: 1}, found.lengths, (("<title>", rows),), {"<split>": (script,)}
    )


def test_the_page_shows_text_of_the_web_as_text(corpus: tokens.Corpus, tmp_path: pathlib.Path) -> None:
    path = inspection_page.write_page(evil(inspect(corpus)), str(tmp_path / "page"))
    page = pathlib.Path(path).read_text(encoding="utf-8")
    for bad in ("<script", "<img src=x", "<title>&", "<dir>", "<split>"):
        assert bad not in page
    assert html.escape("</blockquote><script>alert('x')</script> $\\frac$") in page
    assert "</td>&amp;".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page
    assert files.read(str(tmp_path / "page" / inspection_page.PICTURE)).startswith(b"\x89PNG")
    assert 'src="corpus.png"' in page


def test_the_terminal_shows_the_same(corpus: tokens.Corpus) -> None:
    found = inspect(corpus)
    text = inspection_page.as_text(found)
    for title, rows in found.sections:
        assert f"\n{title}\n" in text
        for label, value in rows:
            assert label in text
            assert value in text
    for windows in found.windows.values():
        for window in windows:
            assert set(window.split()) <= set(text.split())
    assert max(map(len, text.splitlines())) < 140
