"""The score is the sum over the model's softmax, however the text is cut, and nothing of a file is lost."""

from __future__ import annotations

import io
import math
import pathlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import toy_texts
from tf_codistill import scoring, tokens
from tf_codistill.scoring import Paragraph, Score, paragraphs, score_text
from tf_codistill.trained import Trained

TEXT = "Anna went to the river. It was 日 quiet.\nNobody knew Ben, though.\nAnna 日本 went."


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> toy_texts.GroupDir:
    return toy_texts.write_group(tmp_path_factory.mktemp("scoring"))


@pytest.fixture
def model(group: toy_texts.GroupDir) -> Trained:
    return group.trained()


def score(model: Trained, text: str, window_tokens: int = 128) -> Score:
    return score_text(model, paragraphs(io.BytesIO(text.encode())), window_tokens)


def test_the_score_is_numpys_sum_over_the_softmax(model: Trained, group: toy_texts.GroupDir) -> None:
    ids = model.tokenizer.encode_document(TEXT)
    inputs = np.concatenate([[tokens.END_OF_DOCUMENT], ids[:-1]])
    stateless = toy_texts.small_model(group.pieces.vocabulary_size, batch_size=None)
    logits_TV = np.asarray(stateless(inputs[None], training=False))[0].astype(np.float64)
    probabilities_TV = np.exp(logits_TV) / np.exp(logits_TV).sum(axis=1, keepdims=True)
    expected = np.log(probabilities_TV[np.arange(len(ids)), ids]).sum()
    found = score(model, TEXT)
    assert found.log_likelihood == pytest.approx(expected, rel=1e-5)
    assert found.num_tokens == len(ids)
    assert found.num_words == len(TEXT.split()) == 16
    assert found.num_out_of_vocabulary == 2
    assert found.num_pieces == np.count_nonzero((ids > 5) | (ids == 4))


@pytest.mark.parametrize("window_tokens", [1, 2, 7, 64, 1000])
def test_the_score_does_not_depend_on_the_window(
    model: Trained, group: toy_texts.GroupDir, window_tokens: int
) -> None:
    found = score(model, TEXT, window_tokens)
    expected = score(group.trained(), TEXT)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-5)
    found.log_likelihood = expected.log_likelihood
    assert found == expected


def test_the_state_is_carried_through_the_text_and_from_what_was_read_before(model: Trained) -> None:
    twice = score(model, TEXT)
    again = score(model, TEXT)
    assert again.log_likelihood != pytest.approx(twice.log_likelihood, rel=1e-4)
    model.reset()
    assert score(model, TEXT).log_likelihood == pytest.approx(twice.log_likelihood, rel=1e-6)


def test_figures_are_per_word_in_nats_and_in_bits() -> None:
    row = Score(40, 30, 3, 10, 1, -80.0).row()
    assert row["log_likelihood_per_word"] == -8
    assert row["log2_likelihood_per_word"] == pytest.approx(-8 / math.log(2))
    assert row["perplexity_per_word"] == pytest.approx(math.exp(8))
    assert (row["loss"], row["out_of_vocabulary_fraction"], row["num_invalid"]) == (2, 0.1, 1)
    total = Score(40, 30, 3, 10, 1, -80.0) + Score(10, 10, 0, 10, 0, -20.0)
    assert total == Score(50, 40, 3, 20, 1, -100.0)
    assert Score(1, 0, 0, 0, 0, -2.0).row()["perplexity_per_word"] is None
    assert Score(1, 1, 0, 1, 0, -9e9).row()["perplexity_per_word"] < math.inf


def texts(content: bytes, **arguments: bool) -> list[str]:
    return [paragraph.text for paragraph in paragraphs(io.BytesIO(content), **arguments)]


def test_lines_are_paragraphs_and_blank_ones_are_none() -> None:
    assert texts(b"\xef\xbb\xbfOne.\r\n\n  Two.\t\n \nThree") == ["One.", "Two.", "Three"]
    assert texts(b"") == texts(b"\n \n") == []


def test_wrapped_paragraphs_continue_until_a_blank_line() -> None:
    content = b"One\r\n  goes on.\n\n\n \nTwo.\nIt\ntoo.\n"
    assert texts(content, are_wrapped=True) == ["One goes on.", "Two. It too."]


@pytest.mark.parametrize(
    ("content", "num_invalid"),
    [(b"gr\xfcn \xff\xfe", 3), ("gr\ufffdn".encode(), 0), (b"\xed\xa0\x80", 3), (b"ok \xe2\x82", 1)],
)
def test_bytes_that_are_no_utf8_are_counted(content: bytes, num_invalid: int) -> None:
    (found,) = paragraphs(io.BytesIO(content))
    assert found.num_invalid == num_invalid
    assert found.text == content.decode("utf-8", "replace")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 9), st.integers(4, 12))
@example(b"a bcdefghijkl mn", 3, 4)
@example("日本語日本語".encode(), 5, 4)
def test_a_file_read_in_any_blocks_is_the_same_file(content: bytes, block_bytes: int, max_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "MAX_PARAGRAPH_BYTES", max_bytes)
        at_once = list(scoring._lines(io.BytesIO(content)))
        patch.setattr(scoring, "_BLOCK_BYTES", block_bytes)
        assert list(scoring._lines(io.BytesIO(content))) == at_once
    assert b"".join(at_once) == content.replace(b"\n", b"")
    assert max(map(len, at_once)) <= max_bytes
    try:
        content.decode()
    except UnicodeDecodeError:
        return
    assert all(
        "\ufffd" not in line.decode("utf-8", "replace") or b"\xef\xbf\xbd" in content for line in at_once
    )


def test_a_paragraph_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_PARAGRAPH_BYTES", 40)
    wrapped = texts(b"five words are in here\n" * 20, are_wrapped=True)
    assert len(wrapped) == 20
    assert " ".join(wrapped).split() == b"five words are in here ".decode().split() * 20


def test_memory_is_bounded_however_large_the_file_is(model: Trained) -> None:
    num_read = 0

    def endless() -> list[Paragraph]:
        nonlocal num_read
        for num_read in range(1, 10**9):  # noqa: B007
            yield Paragraph("Anna went to the river.")

    windows = scoring._windows(scoring._ids(model, endless(), Score()), 64)
    for _ in range(5):
        assert len(next(windows)) == 64
    assert num_read < 64


def test_files_standard_input_and_what_is_missing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"text")
    with scoring.opened(str(tmp_path / "a")) as file:
        assert file.read() == b"text"
    with scoring.opened(f"file://{tmp_path / 'a'}") as file:
        assert file.read(2) == b"te"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with scoring.opened("-") as file:
        assert file.read() == b"\xff"
    for name in (str(tmp_path / "b"), f"file://{tmp_path / 'b'}", str(tmp_path)):
        with pytest.raises(OSError, match=str(tmp_path)), scoring.opened(name):
            pass


def test_a_window_of_nothing_is_refused(model: Trained) -> None:
    with pytest.raises(ValueError, match="window_tokens is 0; expected at least 1"):
        score(model, "x", 0)
