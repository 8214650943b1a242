"""From WET files to token shards, nearly as fast as the tokenizer alone.

    python -m benchmarks.common_crawl --files='crawl/*.warc.wet.gz' --tokenizer=word_pieces.model

In one run: SentencePiece encodes the text that is kept; one process prepares the corpus with the same
tokenizer; two processes do. At least 0.75 of the tokenizer's speed and 1.8 times the speed of one process are
wanted, and less than 1 GiB in each process.

SentencePiece gets the paragraphs, as the corpus has them, and once more whole documents, line ends and all,
which gives other ids in fewer calls. These ratios are of CPU seconds, each the least of three turns.

That of two processes is of seconds that pass, the least of two turns each, on `--copies` of each file under
other names. Duplicates are not looked for there: next to nothing would be left to write. What workers take to
start, once in a program, is told by itself; that each meets all words for the first time is in the ratio, and
weighs less the more there is to do. Both cores must be free for it.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pathlib
import re
import resource
import tempfile
import threading
import time
from collections.abc import Callable

import sentencepiece
from absl import flags

from tf_codistill import files, program
from tf_codistill.corpus import pipeline
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages.reading import read_documents
from tf_codistill.jobs import engines

FILES = flags.DEFINE_string("files", None, "Pattern of WET files.", required=True)
TOKENIZER = flags.DEFINE_string("tokenizer", None, "A word_pieces.model.", required=True)
COPIES = flags.DEFINE_integer("copies", 24, "Copies of each file that one process and two are timed on.")
_NUM_TURNS = 3


def kept_paragraphs(sources: list[str]) -> list[list[str]]:
    """The paragraphs of each document that the filters keep."""
    judged = (verdict for _, verdict in read_documents(WetFiles(sources), CorpusSettings()))
    return [list(verdict.paragraphs) for verdict in judged if isinstance(verdict, Document)]


def encode_secs(documents: list[list[str]]) -> float:
    """CPU seconds in which SentencePiece encodes documents, each a list of texts."""
    processor = sentencepiece.SentencePieceProcessor(model_file=TOKENIZER.value)
    start = time.process_time()
    for texts in documents:
        for text in texts:
            processor.encode(text)
    return time.process_time() - start


def prepare_secs(sources: list[str], num_processes: int, settings: CorpusSettings) -> tuple[float, float]:
    """CPU seconds of this process, and seconds, in which a corpus is prepared."""
    with tempfile.TemporaryDirectory() as directory:
        wall, cpu = time.monotonic(), time.process_time()
        engine = engines.Local(num_processes)
        pipeline.prepare(
            WetFiles(sources), f"{directory}/corpus", settings, engine, tokenizer=TOKENIZER.value
        )
        return time.process_time() - cpu, time.monotonic() - wall


def copied(sources: list[str], directory: str) -> list[str]:
    """Copies of files, each under a name of its own."""
    paths = []
    for index in range(COPIES.value):
        for source in sources:
            paths.append(f"{directory}/{index}-{os.path.basename(source)}")
            files.write(paths[-1], files.read(source))
    return paths


def peak_mib(work: Callable[[], None]) -> float:
    """Largest memory of any worker process while something is done, in MiB."""
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            for process in multiprocessing.active_children():
                status = pathlib.Path(f"/proc/{process.pid}/status")
                found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text() if status.exists() else "")
                peak = max(peak, int(found[1]) if found else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    ended.set()
    watcher.join()
    return peak / 1024


def main() -> None:
    """Prints both ratios and the memory."""
    sources = files.glob(FILES.value)
    documents = kept_paragraphs(sources)
    whole = [["\n".join(paragraphs)] for paragraphs in documents]
    megabytes = sum(len(text.encode()) for [text] in whole) / 1e6
    alone = {
        title: min(encode_secs(texts) for _ in range(_NUM_TURNS))
        for title, texts in (("paragraphs", documents), ("documents", whole))
    }
    del documents, whole
    cpu_secs = min(prepare_secs(sources, 1, CorpusSettings())[0] for _ in range(_NUM_TURNS))
    own_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    settings = dataclasses.replace(CorpusSettings(), duplicates="none")
    turns: dict[int, list[float]] = {1: [], 2: []}

    def take_turns() -> None:
        for number in (1, 2) * 2:
            turns[number].append(prepare_secs(copies, number, settings)[1])

    with tempfile.TemporaryDirectory() as directory:
        copies = copied(sources, directory)
        first, second = (prepare_secs(sources, 2, settings)[1] for _ in range(2))
        worker_mib = peak_mib(take_turns)
    one_secs, two_secs = min(turns[1]), min(turns[2])
    print(f"whole pipeline        {megabytes / cpu_secs:8.2f} MB/s per core, {megabytes:.1f} MB of kept text")
    for title, secs in alone.items():
        print(f"SentencePiece alone   {megabytes / secs:8.2f} MB/s, {title}")
        print(f"ratio                 {secs / cpu_secs:8.2f} (at least 0.75 wanted)")
    print(f"two processes         {one_secs / two_secs:8.2f} times one, {os.cpu_count()} cores (1.8 wanted)")
    print(f"start of workers      {first - second:8.2f} s, once")
    print(f"memory per process    {own_mib:8.0f} MiB in one, {worker_mib:.0f} MiB in a worker (1024 allowed)")


if __name__ == "__main__":
    program.run(main)
