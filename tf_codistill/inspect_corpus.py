r"""Shows what is in a corpus: counts, reasons, lengths, word pieces, and windows of its text.

    python -m tf_codistill.inspect_corpus --corpus_dir=corpus --output_dir=runs/inspection

Prints it, and with ``--output_dir`` also writes a page, ``index.html``. A corpus of any size takes seconds:
pieces and words are counted on a sample of it, which is called one.
"""

from __future__ import annotations

from absl import flags

from tf_codistill import program, tokens
from tf_codistill.corpus.report import inspection, inspection_page

_CORPUS_DIR = flags.DEFINE_string("corpus_dir", None, "Directory of the corpus.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory for the page; none is written by default.")
_SEED = flags.DEFINE_integer("seed", 0, "What to draw.")


def main() -> None:
    """Inspects the corpus."""
    program.require_apart(_CORPUS_DIR, _OUTPUT_DIR)
    found = inspection.inspect(tokens.open_corpus(_CORPUS_DIR.value), _SEED.value)
    print(inspection_page.as_text(found))
    if _OUTPUT_DIR.value:
        print(f"\npage: {inspection_page.write_page(found, _OUTPUT_DIR.value)}")


if __name__ == "__main__":
    program.run(main)
