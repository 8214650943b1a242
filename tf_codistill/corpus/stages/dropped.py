r"""The documents that stage 1 drops, kept for people to look at.

    <dropped_dir>/
        link_list/CC-MAIN-00000.warc.wet.gz.jsonl.gz      for each reason a file for each WET file
            {"reason": "link_list", "url": "https://example.org/links", "language": "eng",
             "text": "Home\nNext\nContact", "numbers": [7, 8, 9], "wet_file": "CC-MAIN-00000.warc.wet.gz"}
        no_long_paragraphs/...

Text and numbers are those of all paragraphs, as the filters saw them. A second pass over the same WET file
writes the same files again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import urllib.parse
from collections.abc import Collection
from typing import IO, Any, Self, cast

from isal import igzip

from tf_codistill import files
from tf_codistill.corpus.document import Document

_TO_JSON = json.JSONEncoder(ensure_ascii=False)


class DroppedDocuments:
    """Gathers the documents of a WET file that are dropped; a context manager.

    Args:
        directory: Where they are kept; None keeps nothing.
        wet_file: Name of the WET file.
        work_dir: Where they take up room until `write` is called.
    """

    def __init__(self, directory: str | None, wet_file: str, work_dir: str) -> None:
        self._directory = directory
        self._wet_file = wet_file
        self._work_dir = work_dir
        self._scratch = contextlib.ExitStack()
        self._files: dict[str, tuple[IO[bytes], Any]] = {}

    def add(self, document: Document, reason: str) -> None:
        """Adds a document.

        Args:
            document: As the filters saw it.
            reason: Why it is dropped.
        """
        if self._directory is None:
            return
        if reason not in self._files:
            file = self._scratch.enter_context(files.scratch(self._work_dir))
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
            path = _path(cast(str, self._directory), reason, self._wet_file)
            files.ensure_directory(os.path.dirname(path))
            with files.writing(path) as kept:
                shutil.copyfileobj(file, kept)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Forgets what was not written."""
        self._scratch.close()


def has_all(directory: str, wet_file: str, reasons: Collection[str]) -> bool:
    """Whether a directory has the documents of a WET file that were dropped for some reasons."""
    return all(files.exists(_path(directory, reason, wet_file)) for reason in reasons)


def _path(directory: str, reason: str, wet_file: str) -> str:
    """Whatever a user's own filter gives as a reason, the file is below the directory."""
    folder = urllib.parse.quote(reason, safe=" ").replace(".", "%2E")
    return files.join(directory, folder, f"{wet_file}.jsonl.gz")
