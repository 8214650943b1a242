r"""The documents that are dropped, kept for people to look at.

    <dropped_dir>/
        link_list/CC-MAIN-00000.warc.wet.gz.jsonl.gz      for each reason of stage 1 a file for each WET file
            {"reason": "link_list", "url": "https://example.org/links", "language": "eng",
             "text": "Home\nNext\nContact", "numbers": [7, 8, 9], "wet_file": "CC-MAIN-00000.warc.wet.gz"}
        near_duplicate/train-00000-of-00004.jsonl.gz      for each later one a file for each token shard

Text and numbers are those that whoever drops the document saw: all paragraphs, as the filters do, or what
stage 1 has left of them; of what is over a limit, what would be written. A second pass writes the same files.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import shutil
import urllib.parse
from collections.abc import Iterable
from typing import IO, Any, cast

from isal import igzip

from tf_codistill import files
from tf_codistill.corpus.document import Document

_TO_JSON = json.JSONEncoder(ensure_ascii=False)


class DroppedDocuments(contextlib.ExitStack):
    """Gathers the documents of a WET file or token shard that are dropped; a context manager.

    Args:
        directory: Where they are kept; None keeps nothing.
        name: Name of the WET file or token shard.
        work_dir: Where they take up room until `write` is called.

    Attributes:
        counts: How many there are, by reason.
    """

    def __init__(self, directory: str | None, name: str, work_dir: str) -> None:
        super().__init__()  # of the files, which are gone at the end
        self.counts: collections.Counter[str] = collections.Counter()
        self._directory = directory
        self._name = name
        self._work_dir = work_dir
        self._files: dict[str, tuple[IO[bytes], Any]] = {}

    def add(self, document: Document, reason: str) -> None:
        """Adds a document.

        Args:
            document: As whoever drops it saw it.
            reason: Why it is dropped.
        """
        self.counts[reason] += 1
        if self._directory is None:
            return
        if reason not in self._files:
            file = self.enter_context(files.scratch(self._work_dir))
            # Without a name and a time, so that the same documents give the same bytes.
            self._files[reason] = file, igzip.IGzipFile("", "wb", fileobj=file, mtime=0)
        fields = {field.name: getattr(document, field.name) for field in dataclasses.fields(document)}
        fields["text"] = "\n".join(fields.pop("paragraphs"))
        line = _TO_JSON.encode({"reason": reason, **fields}) + "\n"
        self._files[reason][1].write(line.encode("utf-8", "replace"))

    def write(self) -> None:
        """Puts the files in place."""
        for reason, (file, compressed) in self._files.items():
            compressed.close()
            file.seek(0)
            path = _path(cast(str, self._directory), reason, self._name)
            files.ensure_directory(os.path.dirname(path))
            with files.writing(path) as kept:
                shutil.copyfileobj(file, kept)


def has_all(directory: str | None, name: str, reasons: Iterable[str]) -> bool:
    """Whether a directory, if any, has what of a WET file or token shard was dropped for some reasons."""
    return directory is None or all(files.exists(_path(directory, reason, name)) for reason in reasons)


def _path(directory: str, reason: str, name: str) -> str:
    """Whatever a user's own filter gives as a reason, the file is below the directory."""
    folder = urllib.parse.quote(reason, safe=" ").replace(".", "%2E")
    return files.join(directory, folder, f"{name}.jsonl.gz")
