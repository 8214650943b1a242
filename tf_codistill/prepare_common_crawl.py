r"""Prepares a corpus from WET files of Common Crawl.

    python -m tf_codistill.prepare_common_crawl --gin_file=gin/corpus/common_crawl.gin \
        --wet_files='crawl/*.warc.wet.gz' --output_dir=/data/common_crawl

A second run finds the finished corpus and changes nothing.
"""

from __future__ import annotations

import sys

from absl import flags

from tf_codistill import files, program
from tf_codistill.corpus import pipeline

_WET_FILES = flags.DEFINE_multi_string(
    "wet_files", None, "Path, URL or pattern of WET files; may be repeated.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory of the corpus.", required=True)


def main() -> None:
    """Prepares the corpus and says what became of its documents."""
    program.parse_gin()
    settings = pipeline.CorpusSettings()
    program.check_bindings()
    paths = []
    for pattern in _WET_FILES.value:
        found = files.glob(pattern)
        if not found:
            raise ValueError(f"--wet_files={pattern} matches no file; check the path and quote the pattern")
        paths += found
    output_dir = _OUTPUT_DIR.value
    if files.read_mark(output_dir) is not None:
        print(f"corpus {output_dir!r} is prepared already", file=sys.stderr)
    mark = pipeline.prepare(paths, output_dir, settings)
    print(pipeline.summary(mark, output_dir))


if __name__ == "__main__":
    program.run(main)
