r"""Prepares a corpus from WET files of Common Crawl.

    python -m tf_codistill.prepare_common_crawl --gin_file=gin/corpus/common_crawl.gin \
        --wet_files='crawl/*.warc.wet.gz' --output_dir=/data/common_crawl
    python -m tf_codistill.prepare_common_crawl --gin_file=gin/corpus/common_crawl.gin \
        --crawl=CC-MAIN-2017-26 --num_files=100 --download_dir=/data/wet --output_dir=/data/common_crawl

With --paragraph_ids=LIST the corpus is made of the listed paragraphs, without filters. --explain=5 shows five
pages that would be kept and five that would not, with the reasons, and prepares nothing.

A run that was stopped goes on where it was; a second run finds the finished corpus and changes nothing.
"""

from __future__ import annotations

import sys

from absl import flags

from tf_codistill import files, program
from tf_codistill.corpus import crawl, engines, explain, pipeline
from tf_codistill.corpus.selection import Selection
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources import matching

_WET_FILES = flags.DEFINE_multi_string("wet_files", [], "Path, URL or pattern of WET files; may be repeated.")
_CRAWL = flags.DEFINE_string("crawl", None, f"Crawl to take WET files from; {crawl.PAPER_CRAWL} by default.")
_NUM_FILES = flags.DEFINE_integer("num_files", None, "How many files of the crawl, drawn from all of them.")
_DOWNLOAD_DIR = flags.DEFINE_string("download_dir", None, "Directory to fetch them to; none keeps nothing.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory of the corpus.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "A word_pieces.model to use; else one is learned.")
_QUARANTINE_DIR = flags.DEFINE_string("quarantine_dir", None, "Directory to keep what cannot be read in.")
_PARAGRAPH_IDS = flags.DEFINE_string("paragraph_ids", None, "List of paragraphs that the corpus is made of.")
_EXPLAIN = flags.DEFINE_integer("explain", None, "How many kept and dropped pages to show, and no more.")
_EXPLAIN_SEED = flags.DEFINE_integer("explain_seed", 0, "Another seed shows other pages.")
_RUNNER = flags.DEFINE_enum("runner", "local", ["local", "beam"], "Processes here, or Apache Beam.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "For --runner=local; else one per CPU core.")
_BEAM_OPTIONS = flags.DEFINE_multi_string("beam_options", [], "Option for --runner=beam; may be repeated.")


def main() -> None:
    """Prepares the corpus and says what became of its documents."""
    program.parse_gin()
    settings = CorpusSettings()
    program.check_bindings()
    output_dir, paragraph_ids, sources = _OUTPUT_DIR.value, _selection(), _sources()
    if _EXPLAIN.value is not None:
        explain.show(explain.draw(sources, settings, _EXPLAIN.value, paragraph_ids, _EXPLAIN_SEED.value))
        return
    if not output_dir:
        raise ValueError("--output_dir is not given; name the directory of the corpus")
    engine = (
        engines.Beam(_BEAM_OPTIONS.value) if _RUNNER.value == "beam" else engines.Local(_NUM_PROCESSES.value)
    )
    if files.read_mark(output_dir) is not None:
        print(f"corpus {output_dir!r} is prepared already", file=sys.stderr)
    extra = {"tokenizer": _TOKENIZER.value, "quarantine_dir": _QUARANTINE_DIR.value}
    mark = pipeline.prepare(sources, output_dir, settings, engine, paragraph_ids=paragraph_ids, **extra)
    print(pipeline.summary(mark, output_dir))


def _sources() -> list[str]:
    of_crawl = (_CRAWL.value, _NUM_FILES.value, _DOWNLOAD_DIR.value)
    if bool(_WET_FILES.value) == any(value is not None for value in of_crawl):
        raise ValueError("the WET files are not clear; give either --wet_files, or --num_files and --crawl")
    if not _WET_FILES.value:
        fetched = crawl.fetch_crawl(_CRAWL.value or crawl.PAPER_CRAWL, _NUM_FILES.value, _DOWNLOAD_DIR.value)
        print(fetched.summary(), file=sys.stderr)
        return [*fetched.sources, *fetched.failures]  # what could not be fetched is asked for once more
    return matching(_WET_FILES.value)


def _selection() -> Selection | None:
    of_crawl = None if _WET_FILES.value else _CRAWL.value or crawl.PAPER_CRAWL
    return Selection.open(_PARAGRAPH_IDS.value, of_crawl) if _PARAGRAPH_IDS.value else None


if __name__ == "__main__":
    program.run(main)
