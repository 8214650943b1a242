"""Hugging Face data sets, streamed: a part is a shard of the data set, a row is a document.

    HuggingFace("allenai/c4", name="en")                of the Hub
    HuggingFace("wikimedia/wikipedia", name="20231101.en", revision="b04c8d1")
    HuggingFace("stories")                              a local folder: JSON lines, Parquet, ...
    HuggingFace("saved")                                what Dataset.save_to_disk has written

Rows are read as they come; nothing is kept of them. Which version it is stands in the names of the parts, so
that a corpus says it: the commit of the Hub, or a hash of the names, sizes and times of the files of a local
folder. A revision that is no commit is looked up once, and all workers read that commit. With one the Hub is
not asked for a corpus that is there. Where a file of a shard is damaged, the rest of the shard is lost:
`JsonLines` and `Parquet` read on behind it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import gin
import pyarrow

from tf_codistill.corpus.document import Record
from tf_codistill.corpus.sources.base import (
    MAX_DOCUMENT_BYTES,
    OutOfReachError,
    Reading,
    Source,
    record,
    with_documents,
)
from tf_codistill.corpus.sources.json_lines import address, value
from tf_codistill.jobs.quarantine import Damage

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
_SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk leaves
_MAX_SAVED_SHARDS = 64
_ROWS_PER_SHARD = 10_000


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HuggingFace(Source):
    """A split of a data set.

    Attributes:
        path: Its name on the Hub, or a local folder.
        name: Name of its configuration; None for the only one.
        split: Name of the split.
        revision: Commit, tag or branch of the Hub; None for its main branch.
        text: Field of a document's text; with points between the names where it is inside others.
        url: Field of its address or id; documents without one are named by shard and row.
        language: Field of its language; None where the detector shall say it.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    text: str = "text"
    url: str = "url"
    language: str | None = None

    noun: ClassVar[str] = "shard"

    def resolved(self, fetch: bool = True) -> HuggingFace:
        """With the commit that its revision is."""
        if os.path.isdir(self.path) or self._is_commit:
            return self
        import huggingface_hub

        try:
            commit = huggingface_hub.HfApi().dataset_info(self.path, revision=self.revision).sha
        except Exception as error:  # of whatever speaks to the server
            raise OSError(
                f"data set {self.path!r} (revision {self.revision or 'main'!r}) is not to be had: {error}; "
                "check its name, or name a local folder"
            ) from error
        return dataclasses.replace(self, revision=str(commit))

    def parts(self) -> Mapping[str, int]:
        """Its shards; how large they are nobody knows."""
        number = self._load().num_shards
        version = self.revision if self._is_commit else _version_of(self.path)
        said = (os.path.basename(self.path.rstrip("/")), self.name, self.split, str(version)[:12])
        stem = _NOT_IN_NAMES.sub("_", "-".join(filter(None, said)))
        return {f"{stem}-{index:05d}-of-{number:05d}": 0 for index in range(number)}

    def read(self, part: str, reading: Reading) -> Iterator[Record | Damage]:
        """Streams a shard."""
        return with_documents(self._stream(part, reading), self.told(part))

    def _stream(self, part: str, reading: Reading) -> Iterator[Record | Damage]:
        index, num_shards = map(int, part.rsplit("-", 3)[1::2])
        number = 0
        try:
            for number, row in enumerate(self._load().shard(num_shards, index), 1):
                yield self._document(row, f"{part}:{number}", number, reading)
        except (pyarrow.ArrowException, ValueError) as error:
            yield Damage("bad_shard", number, 1, str(error).encode("utf-8", "replace"), part)
        except OSError:
            raise
        except Exception as error:  # of whatever speaks to the server
            raise OutOfReachError(f"shard {part!r} cannot be read: {error}") from error

    def _document(self, row: Mapping[str, Any], url: str, number: int, reading: Reading) -> Record | Damage:
        text = value(row, self.text)
        url = address(value(row, self.url), url)
        if not isinstance(text, str):
            content = json.dumps(row, default=str).encode("utf-8", "replace")
            return Damage(f"no_{self.text}", number, len(content), content, url)
        if len(text) > MAX_DOCUMENT_BYTES:
            return Damage("giant_document", number, len(text), b"", url)
        reading.advance(len(text))
        return record(text, url, value(row, self.language))

    def _load(self) -> Any:
        """The split, as a data set that can be streamed in shards."""
        try:
            import datasets
        except ImportError as error:
            raise ValueError(
                f"the source HuggingFace needs datasets ({error}); run: pip install 'datasets>=5,<6'"
            ) from error
        if any(os.path.exists(os.path.join(self.path, name)) for name in _SAVED):
            found = datasets.load_from_disk(self.path)
            if isinstance(found, dict) and self.split not in found:
                raise ValueError(
                    f"data set {self.path!r} has no split {self.split!r}, but {', '.join(found)}"
                )
            saved = found[self.split] if isinstance(found, dict) else found
            return saved.to_iterable_dataset(
                num_shards=min(_MAX_SAVED_SHARDS, 1 + len(saved) // _ROWS_PER_SHARD)
            )
        where = {"name": self.name, "split": self.split, "revision": self.revision}
        return datasets.load_dataset(self.path, streaming=True, **where)

    def describe(self) -> str | None:
        """Its fields; which data set it is, parts and identity tell."""
        return super(HuggingFace, dataclasses.replace(self, path="", revision=None)).describe()

    def identity(self) -> Mapping[str, Any] | None:
        """The commit with its data set, if it is known; of a local folder nothing."""
        if not self._is_commit:
            return None
        return {"dataset": self.path, "name": self.name, "split": self.split, "revision": self.revision}

    @property
    def _is_commit(self) -> bool:
        return bool(_COMMIT.fullmatch(self.revision or ""))


def _version_of(folder: str) -> str:
    """A hash of the names, sizes and times of the files below a local folder."""
    found = []
    for directory, _, names in os.walk(folder):
        for path in (os.path.join(directory, name) for name in names):
            state = os.stat(path)
            found.append(f"{os.path.relpath(path, folder)} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(found)).encode("utf-8", "surrogateescape")).hexdigest()
