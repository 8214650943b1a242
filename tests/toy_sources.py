"""The same documents as sources of every form."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping

import datasets
import gin
import pyarrow
import zstandard
from pyarrow import parquet

from tests.toy_crawls import page_text
from tf_codistill.corpus.document import Record
from tf_codistill.corpus.sources.base import Reading, Source, record
from tf_codistill.corpus.sources.hugging_face import HuggingFace
from tf_codistill.corpus.sources.json_lines import JsonLines
from tf_codistill.corpus.sources.parquet import Parquet
from tf_codistill.corpus.sources.text_files import TextFiles
from tf_codistill.jobs.quarantine import Damage

PAGES = {f"shelf_{number % 3}/page_{number:02d}.txt": page_text(number) for number in range(60)}
"""Text by address."""

PACKING: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Blog(Source):
    """A source of one's own: a file of posts with a line of dashes between them, read in two halves."""

    path: str

    def parts(self) -> Mapping[str, int]:
        return {"even posts": 0, "odd posts": 0}

    def read(self, part: str, reading: Reading) -> Iterator[Record | Damage]:
        posts = pathlib.Path(self.path).read_text().split("\n---\n")
        for post in posts[part.startswith("odd") :: 2]:
            url, _, text = post.partition("\n")
            reading.advance(len(post))
            yield record(text, url, "en")


def json_lines(pages: Mapping[str, str]) -> bytes:
    rows = ({"text": text, "url": url, "lang": "en"} for url, text in pages.items())
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_text_files(directory: pathlib.Path) -> Source:
    for number, (url, text) in enumerate(PAGES.items()):
        ending, pack = list(PACKING.items())[number % 3]
        path = directory / (url + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(text.encode()))
    return TextFiles([str(directory)], num_parts=4)


def shared(number: int = 3) -> list[dict[str, str]]:
    """The pages in so many parts."""
    return [dict(list(PAGES.items())[index::number]) for index in range(number)]


def write_json_lines(directory: pathlib.Path) -> Source:
    directory.mkdir(parents=True)
    for index, ((ending, pack), pages) in enumerate(zip(PACKING.items(), shared(), strict=True)):
        (directory / f"pages_{index}.jsonl{ending}").write_bytes(pack(json_lines(pages)))
    return JsonLines([str(directory)], language="lang")


def table(pages: Mapping[str, str]) -> pyarrow.Table:
    columns = {"url": list(pages), "text": list(pages.values()), "lang": ["en"] * len(pages)}
    return pyarrow.table({**columns, "more": [0] * len(pages)})


def write_parquet(directory: pathlib.Path) -> Source:
    directory.mkdir(parents=True)
    for index, pages in enumerate(shared()):
        path = directory / f"pages_{index}.parquet"
        parquet.write_table(table(pages), path, row_group_size=7, write_page_checksum=True)
    return Parquet([str(directory)], language="lang")


def write_folder_of_hugging_face(directory: pathlib.Path) -> Source:
    directory.mkdir(parents=True)
    for index, pages in enumerate(shared()):
        (directory / f"train_{index}.jsonl").write_bytes(json_lines(pages))
    return HuggingFace(str(directory), language="lang")


def write_saved_data_set(directory: pathlib.Path) -> Source:
    rows = {"text": list(PAGES.values()), "url": list(PAGES), "lang": ["en"] * len(PAGES)}
    datasets.DatasetDict({"all": datasets.Dataset.from_dict(rows)}).save_to_disk(str(directory))
    return HuggingFace(str(directory), split="all", language="lang")


def write_blog(directory: pathlib.Path) -> Source:
    directory.mkdir(parents=True)
    (directory / "posts.txt").write_text("\n---\n".join(f"{url}\n{text}" for url, text in PAGES.items()))
    return Blog(str(directory / "posts.txt"))


WRITERS: Mapping[str, Callable[[pathlib.Path], Source]] = {
    "text files": write_text_files,
    "JSON lines": write_json_lines,
    "Parquet": write_parquet,
    "Hugging Face, folder": write_folder_of_hugging_face,
    "Hugging Face, saved": write_saved_data_set,
    "one's own": write_blog,
}


def read(source: Source) -> tuple[list[Record], list[Damage]]:
    """All that a source has."""
    source = source.resolved()
    items: list[Record | Damage] = []
    for part in source.parts():
        with Reading() as reading:
            items += reading.of(source, part)
    return [item for item in items if isinstance(item, Record)], [
        item for item in items if isinstance(item, Damage)
    ]
