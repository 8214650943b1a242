r"""Prepares a corpus: from web pages, text files, JSON lines, Parquet, Hugging Face or a source of your own.

    python -m tf_codistill.prepare_corpus --gin_file=gin/corpus/common_crawl.gin \
        --files='crawl/*.warc.wet.gz' --output_dir=/data/common_crawl
    python -m tf_codistill.prepare_corpus --gin_file=gin/corpus/common_crawl.gin \
        --source=Crawl --num_files=100 --download_dir=/data/wet --output_dir=/data/common_crawl

With --paragraph_ids=LIST filters have no say; --explain=5 only shows some pages. A stopped run goes on.
"""

from __future__ import annotations

import sys

from absl import flags

from tf_codistill import files, program

_SOURCE = flags.DEFINE_string("source", None, "Class of the source; else the one that a gin file names.")
_FILES = flags.DEFINE_multi_string("files", [], "Path, URL or pattern of files; may be repeated.")
_CRAWL = flags.DEFINE_string("crawl", "CC-MAIN-2017-26", "Crawl to take WET files from, or a list of them.")
_NUM_FILES = flags.DEFINE_integer("num_files", None, "How many files of the crawl, drawn from all of them.")
_BASE_URL = flags.DEFINE_string("base_url", "https://data.commoncrawl.org/", "Or a mirror, or a directory.")
_DOWNLOAD_DIR = flags.DEFINE_string("download_dir", None, "Directory to fetch them to; none keeps nothing.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory of the corpus.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "File of a tokenizer; else word pieces are learned.")
_QUARANTINE = flags.DEFINE_string("quarantine_dir", None, "Directory to keep what cannot be read in.")
_DROPPED = flags.DEFINE_string("dropped_dir", None, "Directory to keep dropped documents in, by reason.")
_PARAGRAPH_IDS = flags.DEFINE_string("paragraph_ids", None, "List of paragraphs that the corpus is made of.")
_EXPLAIN = flags.DEFINE_integer("explain", None, "How many kept and dropped pages to show.", lower_bound=1)
_EXPLAIN_SEED = flags.DEFINE_integer("explain_seed", 0, "Another seed shows other pages.")
_EXPLAIN_REASON = flags.DEFINE_string("explain_reason", None, "Show pages dropped for it alone, or `kept`.")
_RUNNER = flags.DEFINE_enum("runner", "local", ["local", "beam"], "Processes here, or Apache Beam.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "For --runner=local; else one per CPU core.")
_BEAM_OPTIONS = flags.DEFINE_multi_string("beam_options", [], "Option for --runner=beam; may be repeated.")


def main() -> None:
    """Prepares the corpus and says what became of its documents."""
    from tf_codistill.corpus import pipeline, settings
    from tf_codistill.corpus.paragraph_ids import selection
    from tf_codistill.corpus.report import counts, explain
    from tf_codistill.corpus.sources import choosing
    from tf_codistill.jobs import engines

    program.parse_gin()
    corpus_settings = settings.CorpusSettings()
    fields = (_FILES, _CRAWL, _NUM_FILES, _BASE_URL, _DOWNLOAD_DIR)
    source = choosing.make(_SOURCE.value, **{field.name: field.value for field in fields if field.present})
    program.check_bindings()
    output_dir = _OUTPUT_DIR.value
    program.settings_of(_RUNNER, {"beam": [_BEAM_OPTIONS], "local": [_NUM_PROCESSES]})
    program.require("with --explain", _EXPLAIN.value is not None, _EXPLAIN_SEED, _EXPLAIN_REASON)
    program.require_apart(_OUTPUT_DIR, _DOWNLOAD_DIR, _QUARANTINE, _DROPPED, _PARAGRAPH_IDS)
    list_source = source.list_source()
    listed = selection.Selection.open(_PARAGRAPH_IDS.value, list_source) if _PARAGRAPH_IDS.value else None
    if _EXPLAIN.value is not None:
        which = (_EXPLAIN.value, listed, _EXPLAIN_SEED.value, _EXPLAIN_REASON.value)
        explain.show(explain.draw(source, corpus_settings, *which))
        return
    if not output_dir:
        raise ValueError("--output_dir is not given; name the directory of the corpus")
    is_beam = _RUNNER.value == "beam"
    engine = engines.Beam(_BEAM_OPTIONS.value) if is_beam else engines.Local(_NUM_PROCESSES.value)
    more: dict = {"tokenizer": _TOKENIZER.value, "paragraph_ids": listed, "quarantine_dir": _QUARANTINE.value}
    more["dropped_dir"] = _DROPPED.value
    if files.read_manifest(output_dir) is not None:
        print(f"corpus {output_dir!r} is prepared already", file=sys.stderr)
    mark = pipeline.prepare(source, output_dir, corpus_settings, engine, **more)
    print(counts.summary(mark, output_dir, corpus_settings))


if __name__ == "__main__":
    program.run(main, *program.GIN)
