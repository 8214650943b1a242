r"""Prepares a corpus from the English documentation on this machine; nothing is downloaded.

    python -m tf_codistill.prepare_local_docs --gin_file=gin/corpus/local_docs_tiny.gin \
        --output_dir=runs/local_docs

        runs/local_docs/wet/       the documentation as WET files
        runs/local_docs/tokens/    the corpus that training reads

A second run finds what is finished and changes nothing.
"""

from __future__ import annotations

import sys

from absl import flags

from tf_codistill import files, program

_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory for WET files and corpus.", required=True)


def main() -> None:
    """Collects the documentation, prepares the corpus and says what became of its documents."""
    from tf_codistill.corpus import pipeline
    from tf_codistill.corpus.report import counts
    from tf_codistill.corpus.settings import CorpusSettings
    from tf_codistill.corpus.sources import local_docs

    program.parse_gin()
    settings = CorpusSettings()
    program.check_bindings()
    wet_dir = files.join(_OUTPUT_DIR.value, "wet")
    corpus_dir = files.join(_OUTPUT_DIR.value, "tokens")
    if files.read_manifest(corpus_dir) is not None:
        print(f"corpus {corpus_dir!r} is prepared already", file=sys.stderr)
    wet_files = [files.join(wet_dir, name) for name in local_docs.collect(wet_dir)["files"]]
    mark = pipeline.prepare(wet_files, corpus_dir, settings)
    print(counts.summary(mark, corpus_dir, settings))


if __name__ == "__main__":
    program.run(main, *program.GIN)
