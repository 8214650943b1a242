"""Generated text can be read, is fixed by the seed, and is what the model's probabilities say."""

from __future__ import annotations

import itertools
import pathlib
import types

import numpy as np
import pytest

from tests import toy_texts, toy_tokenizers
from tf_codistill import generation, tokens
from tf_codistill.generation import candidates, generate, sample
from tf_codistill.tokenizer.opening import open_tokenizer
from tf_codistill.trained import Trained

S, END_S, P, END_P, UNKNOWN, END = (
    tokens.SENTENCE_START,
    tokens.SENTENCE_END,
    tokens.PARAGRAPH_START,
    tokens.PARAGRAPH_END,
    tokens.OUT_OF_VOCABULARY,
    tokens.END_OF_DOCUMENT,
)
SIZE = 111


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> toy_texts.GroupDir:
    return toy_texts.write_group(tmp_path_factory.mktemp("generation"))


@pytest.fixture
def model(group: toy_texts.GroupDir) -> Trained:
    return group.trained()


class Spoken:
    """A model that says what it is told to, and remembers what it has read."""

    def __init__(self, model: Trained, ids: list[int]) -> None:
        self.tokenizer = model.tokenizer
        self.read: list[int] = []
        self._ids = iter(ids)

    def next_logits(self, ids: np.ndarray) -> np.ndarray:
        self.read += ids.tolist()
        logits = np.zeros(self.tokenizer.vocabulary_size, np.float32)
        if len(ids) == 1:
            logits[next(self._ids, END)] = 9
        return logits


def say(model: Trained, ids: list[int], prompt: str = "", **arguments: object) -> str:
    spoken = Spoken(model, ids)
    text = "".join(generate(spoken, prompt, num_tokens=len(ids), temperature=0, **arguments))
    assert spoken.read[0] == END
    return text


def test_what_is_shown_is_what_the_tokens_decode_to(model: Trained) -> None:
    text = toy_texts.DOCUMENTS[0] + "\nAnd so on. It goes (on)."
    ids = model.tokenizer.encode_document(text).tolist()
    assert say(model, ids) == text.replace("\n", "\n\n")
    twice = say(model, ids + ids, continue_after_end=True)
    assert twice == (text.replace("\n", "\n\n") + "\n\n* * *\n\n") * 2
    assert say(model, ids + ids) == text.replace("\n", "\n\n")


@pytest.mark.parametrize("kind", toy_tokenizers.KINDS)
def test_any_tokenizer_is_shown_as_it_decodes(kind: str, tmp_path: pathlib.Path) -> None:
    toy_tokenizers.KINDS[kind](str(tmp_path / "tokenizer"))
    tokenizer = open_tokenizer(str(tmp_path / "tokenizer"))
    text = "Anna said: the market wasn't cold!\nBen went."
    if kind in toy_tokenizers.LOSSLESS:
        text += "  Größe 日本 \U0001f600."  # whose characters are several pieces each
    (row,) = tokenizer.encode_documents([text])
    model = types.SimpleNamespace(tokenizer=tokenizer)
    assert say(model, row.tolist()) == text.replace("\n", "\n\n")
    (begun,) = tokenizer.encode_documents(["Anna said: the"])
    num_begun = next(n for n in range(len(begun)) if begun[n] != row[n] or begun[n] in (END_P, END_S))
    assert say(model, row[num_begun:].tolist(), "Anna said: the") == text.replace("\n", "\n\n")


@pytest.mark.parametrize(
    ("prompt", "shown", "open_ids"),
    [
        ("", "", 0),
        ("Anna went", "Anna went", None),
        ("Anna went ", "Anna went", None),
        ("Anna went.", "Anna went.", None),
        (" Anna went.\n\nBen, ", "Anna went.\n\nBen,", None),
        ("Anna went.\n", "Anna went.\n\n", P),
        ("Anna 日本", "Anna 日本", UNKNOWN),
    ],
)
def test_a_prompt_is_read_once_and_left_open(
    model: Trained, prompt: str, shown: str, open_ids: int | None
) -> None:
    spoken = Spoken(model, [])
    stream = generate(spoken, prompt, num_tokens=1, temperature=0)
    assert next(stream) == shown
    list(stream)
    whole = model.tokenizer.encode_document(prompt.strip()).tolist() if prompt else [END]
    assert spoken.read[0] == END
    assert spoken.read[-1] not in (END_S, END_P)
    if open_ids == P:
        assert spoken.read[-1] == P
    elif prompt and "\n" not in prompt:
        assert spoken.read == [END, *whole[: len(spoken.read) - 1]]
        assert set(whole[len(spoken.read) - 1 :]) == {END_S, END_P, END}


def test_a_new_paragraph_after_the_prompt_begins_without_a_space(model: Trained) -> None:
    ids = model.tokenizer.encode_document("Ben went.").tolist()[1:]
    assert say(model, ids, "Anna.\n") == "Anna.\n\nBen went."
    num_open = len(model.tokenizer.encode("Anna")) - 2
    assert say(model, model.tokenizer.encode("Anna went")[num_open:-2], "Anna") == "Anna went"


def test_only_what_training_documents_have_can_follow() -> None:
    ids = [*range(tokens.NUM_SPECIAL, SIZE)]
    allowed = {last: candidates(last, SIZE).tolist() for last in (S, END_S, P, END_P, UNKNOWN, END, 77)}
    assert allowed == {
        END: [P],
        P: [S],
        S: ids,
        77: [END_S, *ids],
        UNKNOWN: [END_S, *ids],
        END_S: [S, END_P],
        END_P: [P, END],
    }


def test_documents_of_the_corpus_follow_the_rule(model: Trained) -> None:
    for text in toy_texts.DOCUMENTS[:5]:
        ids = [END, *model.tokenizer.encode_document(text).tolist()]
        for last, index in itertools.pairwise(ids):
            assert index in candidates(last, SIZE)


def test_generated_text_is_well_formed_and_fixed_by_the_seed(model: Trained) -> None:
    def text(**arguments: object) -> str:
        settings = {"num_tokens": 80, "seed": 3, "continue_after_end": True, **arguments}
        model.reset()
        return "".join(generate(model, "Anna", **settings))

    assert text() == text()
    assert text() != text(seed=4)
    assert text(temperature=0) == text(temperature=0, seed=4) == text(top_k=1)
    assert text().startswith("Anna")
    assert "\ufffd" not in text()
    assert text().startswith(text(num_tokens=30))


def test_one_token_is_read_at_a_time_and_the_state_does_the_rest(group: toy_texts.GroupDir) -> None:
    """The likeliest text is that which the whole model, reading all of it, finds likeliest, too."""
    ids: list[int] = []
    pieces = group.pieces
    read = [END, *pieces.encode_document("Anna went")[:-3].tolist()]
    stateless = toy_texts.small_model(pieces.vocabulary_size, batch_size=None)
    for _ in range(25):
        logits = np.asarray(stateless(np.array([read + ids]), training=False))[0, -1]
        allowed = candidates((read + ids)[-1], SIZE)
        ids.append(int(allowed[np.argmax(logits[allowed])]))
        if ids[-1] == END:
            break
    found = "".join(generate(group.trained(), "Anna went", num_tokens=25, temperature=0))
    expected = pieces.decode(read + ids).replace("\n", "\n\n")
    assert found == expected


def test_samples_have_the_models_probabilities() -> None:
    logits = np.log(np.array([1, 2, 3, 4, 90], np.float32))
    among = np.array([0, 1, 2, 3])
    rng = np.random.default_rng(0)

    def frequencies(temperature: float = 1.0, top_k: int = 0) -> np.ndarray:
        sampled = [sample(logits, among, temperature, top_k, rng) for _ in range(4000)]
        return np.bincount(sampled, minlength=5) / 4000

    np.testing.assert_allclose(frequencies(), [0.1, 0.2, 0.3, 0.4, 0], atol=0.03)
    np.testing.assert_allclose(frequencies(temperature=0.5), np.array([1, 4, 9, 16, 0]) / 30, atol=0.03)
    np.testing.assert_allclose(frequencies(top_k=2), [0, 0, 3 / 7, 4 / 7, 0], atol=0.03)
    np.testing.assert_allclose(frequencies(top_k=99), [0.1, 0.2, 0.3, 0.4, 0], atol=0.03)
    assert sample(logits, among, 0, 0, rng) == 3
    assert sample(logits, among, 1e-6, 0, rng) == 3
    assert sample(np.zeros(5, np.float32), among, 0, 0, rng) == 0


def test_control_characters_do_not_reach_the_terminal(model: Trained) -> None:
    model.tokenizer.surfaces[90] = b"\x1b[31m"
    ids = [P, S, 90 + tokens.NUM_SPECIAL]
    assert say(model, ids) == "\ufffd[31m"


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_tokens", -1), ("temperature", -0.1), ("temperature", float("nan")), ("top_k", -1)],
)
def test_a_number_that_makes_no_sense_is_named(model: Trained, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; expected at least 0"):
        next(generate(model, **{"num_tokens": 1, name: value}))


def test_a_long_prompt_is_read_in_parts(model: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = " ".join(toy_texts.DOCUMENTS[0].split()[:12])
    whole = Spoken(model, [])
    list(generate(whole, prompt, num_tokens=1))
    monkeypatch.setattr(generation, "_PROMPT_WINDOW", 5)
    parts = Spoken(model, [])
    list(generate(parts, prompt, num_tokens=1))
    assert parts.read == whole.read
