r"""Text that a trained model makes up, token by token.

    for text in generate(trained, "It was the", num_tokens=100, temperature=0.8, top_k=50, seed=1):
        print(text, end="", flush=True)

    token    <s> _best _of </s> </p> <p> <s> _The ...        what may follow which is fixed, see `candidates`
    text         " best" " of"       "\n\n"    "The"

The model reads each token once: its recurrent state remembers the text so far. Three things are never
sampled, because nobody could read them: OUT_OF_VOCABULARY, a special token where no training document has it
(the end of a sentence that has not begun), and a second end of document in a row. A piece that is a part of
a character only is shown with the rest of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from tf_codistill import tokens
from tf_codistill.terminal import visible
from tf_codistill.tokenizer.base import Ids, Tokenizer, by_paragraph
from tf_codistill.trained import Trained

PARAGRAPH_BREAK = "\n\n"
DOCUMENT_BREAK = "\n\n* * *\n\n"

_PROMPT_WINDOW = 256
_MAX_CHARACTER_IDS = 4  # bytes
_CONTEXT = 8  # ids of a prompt, before the first that is shown

# Which special tokens may follow one. Pieces follow the one that opens a sentence, or a paragraph where
# sentences are not marked, and other pieces.
_PARAGRAPHS = {
    tokens.END_OF_DOCUMENT: (tokens.PARAGRAPH_START,),
    tokens.PARAGRAPH_START: (),
    tokens.PARAGRAPH_END: (tokens.PARAGRAPH_START, tokens.END_OF_DOCUMENT),
}
_SENTENCES = {
    **_PARAGRAPHS,
    tokens.PARAGRAPH_START: (tokens.SENTENCE_START,),
    tokens.SENTENCE_START: (),
    tokens.SENTENCE_END: (tokens.SENTENCE_START, tokens.PARAGRAPH_END),
}


class _Shown:
    """What each id adds to the text of a paragraph, with as few of those before as tell it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.begin()

    def begin(self, ids: Iterable[int] = ()) -> None:
        """Begins a paragraph, of which something may have been shown."""
        self._ids = list(ids)
        self._num_shown = len(self._ids)

    def add(self, index: int) -> str:
        """What may be shown after another id."""
        self._ids.append(index)
        before = self._tokenizer.decode(self._ids[: self._num_shown])
        text = self._tokenizer.decode(self._ids)
        if text.endswith("\ufffd") and len(self._ids) - self._num_shown < _MAX_CHARACTER_IDS:
            return ""  # a part of a character, perhaps
        self._ids = self._ids[self._num_shown :]
        self._num_shown = len(self._ids)
        return visible(text[len(before) :])


def generate(
    trained: Trained,
    prompt: str = "",
    *,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    continue_after_end: bool = False,
) -> Iterator[str]:
    """Continues a text.

    Args:
        trained: The model; the text begins in the state that it is in.
        prompt: How the text begins, a paragraph per line; one that ends with a line end is followed by a new
            paragraph. White space at its very end is left out: it belongs to the word that comes.
        num_tokens: How many tokens to sample at most, special ones included.
        temperature: Divides the logits; at 0 the likeliest token is taken.
        top_k: How many of the likeliest tokens to sample from; 0 for all.
        seed: Together with the model and the other arguments it fixes the text.
        continue_after_end: Whether another document follows when one has ended.

    Yields:
        The prompt as it was understood, then what each token adds to the text, often nothing.

    Raises:
        ValueError: A number is out of range.
    """
    for name, value, least in (
        ("num_tokens", num_tokens, 0),
        ("temperature", temperature, 0),
        ("top_k", top_k, 0),
        ("seed", seed, 0),
    ):
        if not (value >= least and np.isfinite(value)):
            raise ValueError(f"{name} is {value}; expected at least {least}")
    read, shown = _understood(trained, prompt)
    yield shown
    rng = np.random.Generator(np.random.PCG64(seed))
    size, marks_sentences = trained.tokenizer.vocabulary_size, trained.tokenizer.marks_sentences
    for start in range(0, len(read) - 1, _PROMPT_WINDOW):
        trained.next_logits(read[start : min(start + _PROMPT_WINDOW, len(read) - 1)])
    last, text = int(read[-1]), _Shown(trained.tokenizer)
    if last not in (tokens.END_OF_DOCUMENT, tokens.PARAGRAPH_START):
        text.begin(by_paragraph(read[-_CONTEXT:])[-1])
    for _ in range(num_tokens):
        logits = trained.next_logits(np.array([last], np.int32))
        index = sample(logits, candidates(last, size, marks_sentences), temperature, top_k, rng)
        if index >= tokens.NUM_SPECIAL:
            yield text.add(index)
        else:
            if index == tokens.PARAGRAPH_START:
                text.begin()
            if index == tokens.END_OF_DOCUMENT and not continue_after_end:
                return
            yield _between(last, index)
        last = index


def candidates(last: int, vocabulary_size: int, marks_sentences: bool = True) -> npt.NDArray[np.int64]:
    """The ids that may follow an id.

    Args:
        last: The id before.
        vocabulary_size: Number of ids.
        marks_sentences: See `Tokenizer.marks_sentences`.

    Returns:
        Ids in ascending order.
    """
    followers, begin, end = _PARAGRAPHS, tokens.PARAGRAPH_START, tokens.PARAGRAPH_END
    if marks_sentences:
        followers, begin, end = _SENTENCES, tokens.SENTENCE_START, tokens.SENTENCE_END
    special = followers.get(last, (end,))
    in_sentence = last not in followers or last == begin
    pieces = np.arange(tokens.NUM_SPECIAL, vocabulary_size if in_sentence else tokens.NUM_SPECIAL)
    return np.concatenate([np.array(sorted(special), np.int64), pieces])


def sample(
    logits: npt.NDArray[np.float32],
    among: npt.NDArray[np.int64],
    temperature: float,
    top_k: int,
    rng: np.random.Generator,
) -> int:
    """Samples an id.

    Args:
        logits: A number for each id, [V].
        among: Ids to sample from.
        temperature: Divides the logits; at 0 the likeliest id is taken, the first of several.
        top_k: How many of the likeliest to sample from; 0 for all.
        rng: Random number generator; gives one number, unless the temperature is 0.

    Returns:
        The id.
    """
    scores = logits[among].astype(np.float64)
    if temperature == 0:
        return int(among[np.argmax(scores)])
    if 0 < top_k < len(among):
        likeliest = np.sort(np.argsort(-scores, kind="stable")[:top_k])
        among, scores = among[likeliest], scores[likeliest]
    cumulative = np.cumsum(np.exp((scores - scores.max()) / temperature))
    index = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return int(among[min(index, len(among) - 1)])


def _understood(trained: Trained, prompt: str) -> tuple[Ids, str]:
    """The ids that a prompt leaves to be continued, and how it is shown."""
    lines = [line.strip() for line in prompt.split("\n") if line.strip()]
    shown = PARAGRAPH_BREAK.join(lines)
    ids = trained.tokenizer.encode_documents(["\n".join(lines)])[0][:-1] if lines else np.zeros(0, np.int32)
    if lines and prompt.rstrip(" \t\r").endswith("\n"):
        ids, shown = np.append(ids, np.int32(tokens.PARAGRAPH_START)), shown + PARAGRAPH_BREAK
    while ids.size and ids[-1] in (tokens.PARAGRAPH_END, tokens.SENTENCE_END):
        ids = ids[:-1]
    return np.concatenate([np.array([tokens.END_OF_DOCUMENT], np.int32), ids]), shown


def _between(last: int, special: int) -> str:
    """What a special token adds to the text."""
    if special == tokens.END_OF_DOCUMENT:
        return DOCUMENT_BREAK
    return PARAGRAPH_BREAK if (last, special) == (tokens.PARAGRAPH_END, tokens.PARAGRAPH_START) else ""
