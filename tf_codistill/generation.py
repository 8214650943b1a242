r"""Text that a trained model makes up, token by token.

    for text in generate(trained, "It was the", num_tokens=100, temperature=0.8, top_k=50, seed=1):
        print(text, end="", flush=True)

    token    <s> _best _of </s> </p> <p> <s> _The ...        what may follow which is fixed, see `_FOLLOWERS`
    text         " best" " of"       "\n\n"    "The"

The model reads each token once: its recurrent state remembers the text so far. Three things are never
sampled, because nobody could read them: OUT_OF_VOCABULARY, a special token where no training document has it
(the end of a sentence that has not begun), and a second end of document in a row. Word pieces are whole
characters, so every piece can be shown at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tf_codistill import tokens
from tf_codistill.terminal import visible
from tf_codistill.tokenizer.base import Ids
from tf_codistill.trained import Trained

PARAGRAPH_BREAK = "\n\n"
DOCUMENT_BREAK = "\n\n* * *\n\n"

_PROMPT_WINDOW = 256

# Which special tokens may follow one. Word pieces follow SENTENCE_START and pieces, SENTENCE_END pieces only.
_FOLLOWERS = {
    tokens.END_OF_DOCUMENT: (tokens.PARAGRAPH_START,),
    tokens.PARAGRAPH_START: (tokens.SENTENCE_START,),
    tokens.SENTENCE_START: (),
    tokens.SENTENCE_END: (tokens.SENTENCE_START, tokens.PARAGRAPH_END),
    tokens.PARAGRAPH_END: (tokens.PARAGRAPH_START, tokens.END_OF_DOCUMENT),
}


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
    size = trained.pieces.vocabulary_size
    for start in range(0, len(read) - 1, _PROMPT_WINDOW):
        trained.next_logits(read[start : min(start + _PROMPT_WINDOW, len(read) - 1)])
    last = int(read[-1])
    begins_paragraph = last in _FOLLOWERS
    for _ in range(num_tokens):
        logits = trained.next_logits(np.array([last], np.int32))
        index = sample(logits, candidates(last, size), temperature, top_k, rng)
        if index >= tokens.NUM_SPECIAL:
            text = visible(trained.pieces.surfaces[index - tokens.NUM_SPECIAL].decode("utf-8", "replace"))
            yield text.removeprefix(" ") if begins_paragraph else text
            begins_paragraph = False
        else:
            begins_paragraph |= index == tokens.PARAGRAPH_START
            if index == tokens.END_OF_DOCUMENT and not continue_after_end:
                return
            yield _between(last, index)
        last = index


def candidates(last: int, vocabulary_size: int) -> npt.NDArray[np.int64]:
    """The ids that may follow an id.

    Args:
        last: The id before.
        vocabulary_size: Number of ids.

    Returns:
        Ids in ascending order.
    """
    special = _FOLLOWERS.get(last, (tokens.SENTENCE_END,))
    in_sentence = last not in _FOLLOWERS or last == tokens.SENTENCE_START
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
    ids = trained.pieces.encode_document("\n".join(lines))[:-1] if lines else np.zeros(0, np.int32)
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
