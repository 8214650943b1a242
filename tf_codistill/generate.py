r"""Continues a text with a trained model, word piece by word piece.

    python -m tf_codistill.generate --workdir=runs/two --prompt="The file is" --temperature=0.8 --top_k=50

The same seed gives the same text. It ends with the document that the model makes up, or after as many tokens
as are requested.
"""

from __future__ import annotations

import sys
import time

from absl import flags

from tf_codistill import program

_GROUP = flags.DEFINE_integer("group", 0, "Which group's model.")
_MODEL = flags.DEFINE_string("model", None, "A saved model, in place of --workdir and --group.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Its tokenizer; by default what travels with it.")
_CONTEXT_FILE = flags.DEFINE_string("context_file", None, "Document to read before the text begins.")
_PROMPT = flags.DEFINE_string("prompt", "", "How the text begins.")
_NUM_TOKENS = flags.DEFINE_integer("num_tokens", 200, "Tokens to sample at most.")
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Divides the logits; 0 takes the likeliest token.")
_TOP_K = flags.DEFINE_integer("top_k", 0, "How many of the likeliest tokens to sample from; 0 for all.")
_SEED = flags.DEFINE_integer("seed", 0, "Equal seeds give equal text.")
_CONTINUE = flags.DEFINE_bool("continue_after_end", False, "Whether another document follows the first.")


def main() -> None:
    """Prints the text as it comes, and to standard error how fast it came."""
    from tf_codistill import generation, scoring, trained

    program.require("without --model", not _MODEL.value, program.WORKDIR, _GROUP)
    model = trained.open_trained(program.WORKDIR.value, _GROUP.value, _MODEL.value, _TOKENIZER.value)
    model.reset()
    if _CONTEXT_FILE.value:
        model.check_crosses_documents()
        scoring.score_file(model, _CONTEXT_FILE.value)
    stream = generation.generate(
        model,
        _PROMPT.value,
        num_tokens=_NUM_TOKENS.value,
        temperature=_TEMPERATURE.value,
        top_k=_TOP_K.value,
        seed=_SEED.value,
        continue_after_end=_CONTINUE.value,
    )
    print(next(stream), end="", flush=True)
    num_tokens, start = 0, None
    try:
        for text in stream:
            print(text, end="", flush=True)
            num_tokens += 1
            start = start or time.monotonic()  # the first token waits for TensorFlow to compile
    except BrokenPipeError:  # its reader has seen enough
        sys.stdout = None
    finally:
        print(flush=True)
        if start and num_tokens > 1:
            rate = (num_tokens - 1) / (time.monotonic() - start)
            print(f"{num_tokens} tokens, {rate:.0f} per second", file=sys.stderr)


if __name__ == "__main__":
    program.run(main, program.WORKDIR)
