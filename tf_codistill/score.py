r"""Tells how likely a trained model finds text files: log-likelihood per word.

    python -m tf_codistill.score --workdir=runs/two novel.txt letters.txt
    cat novel.txt | python -m tf_codistill.score --model=runs/two/group_1/student.keras --json -

Nothing but the directory of the group is needed. Each file is a document with a paragraph on each line, as in
a corpus, or, if it is ``--wrapped``, up to each blank line.
"""

from __future__ import annotations

import json

from absl import flags
from rich import box
from rich.markup import escape
from rich.table import Table

from tf_codistill import program, terminal

_GROUP = flags.DEFINE_integer("group", 0, "Which group's model.")
_MODEL = flags.DEFINE_string("model", None, "A saved model, in place of --workdir and --group.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Its tokenizer; default: what travels with it.")
_CONTEXT_FILE = flags.DEFINE_string("context_file", None, "Text to read before each file, not scored.")
_WRAPPED = flags.DEFINE_bool("wrapped", False, "Whether a paragraph continues until a blank line.")
_JSON = flags.DEFINE_bool("json", False, "Whether to print JSON in place of a table.")

_COLUMNS = {
    "tokens": ("num_tokens", ","),
    "words": ("num_words", ","),
    "unknown": ("out_of_vocabulary_fraction", ".2%"),
    "nats\n/word": ("log_likelihood_per_word", ".2f"),
    "bits\n/word": ("log2_likelihood_per_word", ".2f"),
    "loss\n/token": ("loss", ".3f"),
    "perplexity\n/word": ("perplexity_per_word", ".4g"),
}


def main(*names: str) -> None:
    """Scores every file that was named."""
    from tf_codistill import scoring, trained

    if not names:
        raise ValueError("there is nothing to score; name text files, or - for standard input")
    program.require("without --model", not _MODEL.value, program.WORKDIR, _GROUP)
    model = trained.open_trained(program.WORKDIR.value, _GROUP.value, _MODEL.value, _TOKENIZER.value)
    model.reset()
    if _CONTEXT_FILE.value:
        model.check_crosses_documents()
        scoring.score_file(model, _CONTEXT_FILE.value, _WRAPPED.value)
    state = model.state()
    scores = {}
    for name in names:
        model.reset(state)
        scores[name] = scoring.score_file(model, name, _WRAPPED.value)
    rows = {name: score.row() for name, score in scores.items()}
    total = sum(scores.values(), scoring.Score()).row()
    if _JSON.value:
        fingerprint = model.tokenizer.fingerprint
        print(json.dumps({"vocabulary_fingerprint": fingerprint, "files": rows, "total": total}, indent=1))
    else:
        _print([*rows.items(), ("total", total)])


def _print(rows: list[tuple[str, dict[str, float | int | None]]]) -> None:
    title = "Log-likelihood per word; unknown: fraction out of vocabulary"
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("file", overflow="fold")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows:
        cells = ((row[key], form) for key, form in _COLUMNS.values())
        table.add_row(escape(name), *("-" if value is None else format(value, form) for value, form in cells))
    terminal.console().print(table)


if __name__ == "__main__":
    program.run(main, program.WORKDIR, takes_arguments=True)
