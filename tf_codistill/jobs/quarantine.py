"""What could not be read of a file, and the directory where it is kept for people to look at.

    <quarantine_dir>/
        records-00017.gz-0000-byte-52133     the first damaged stretch, as it stands in the file
        records-00017.gz-0001-byte-900211    the second; at most 1 MiB of each, 64 MiB of a file
        records-00017.gz.jsonl               {"kind": "bad_data", "offset": 52133, ...}

    with Quarantine("gs://bucket/quarantine", "records-00017.gz") as quarantine:
        for item in read(path):
            if isinstance(item, Damage):
                quarantine.keep(item)

A second pass over the same file writes the same names again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from types import TracebackType
from typing import Self

from tf_codistill import files

MAX_STRETCH_BYTES = 1 << 20
"""Of a damaged stretch no more than this is held in memory and kept."""

_LIST = ".jsonl"
MAX_FILE_BYTES = 1 << 26
"""Of all damaged stretches of a file no more than this is kept."""


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a file that holds nothing whole.

    Attributes:
        kind: What is wrong, in a word of whoever reads the file.
        offset: Where it begins, in bytes from the start of the file. For a record of a packed file that is
            where the gzip member begins in which the record does.
        num_bytes: How long it is: packed, if a gzip member is damaged, otherwise unpacked.
        content: Its first `MAX_STRETCH_BYTES` bytes; what is longer is cut.
        url: Address of what was lost, empty where none could be read.
    """

    kind: str
    offset: int
    num_bytes: int
    content: bytes
    url: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", self.content[:MAX_STRETCH_BYTES])


class OpenDamage:
    """Damage while its end is not known.

    Args:
        kind: What is wrong.
        offset: Where it begins.
        url: Address of what is lost, if known.
    """

    def __init__(self, kind: str, offset: int, url: str = "") -> None:
        self.kind = kind
        self.offset = offset
        self.url = url
        self._num_bytes = 0
        self._content = bytearray()

    def add(self, content: bytes) -> None:
        """Makes the stretch longer by some bytes."""
        self._num_bytes += len(content)
        self._content += content[: MAX_STRETCH_BYTES - len(self._content)]

    def close(self) -> Damage:
        """The damage, now that it is over."""
        return Damage(self.kind, self.offset, self._num_bytes, bytes(self._content), self.url)


class Quarantine:
    """Keeps the damaged stretches of one file; a context manager.

    Args:
        directory: Where to keep them; made if it is not there.
        name: Name of the file; directories before it do not count.

    Raises:
        ValueError: The directory cannot be written to.
    """

    def __init__(self, directory: str, name: str) -> None:
        self._path = files.join(files.make_directory(directory), os.path.basename(name))
        self._rows: list[str] = []
        self._num_bytes = 0

    def keep(self, damage: Damage) -> None:
        """Keeps a stretch.

        Args:
            damage: What was found, in the order of the file.
        """
        path = None
        if damage.content and self._num_bytes + len(damage.content) <= MAX_FILE_BYTES:
            path = f"{self._path}-{len(self._rows):04d}-byte-{damage.offset}"
            files.write(path, damage.content)
            self._num_bytes += len(damage.content)
        row = {
            "kind": damage.kind,
            "offset": damage.offset,
            "num_bytes": damage.num_bytes,
            "url": damage.url,
            "kept": os.path.basename(path) if path else None,
        }
        self._rows.append(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Writes the list of what was kept; none if there was no damage."""
        if self._rows:
            files.write(self._path + _LIST, "".join(self._rows).encode("utf-8", "replace"))

    def __enter__(self) -> Self:
        """Returns the quarantine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes the list, after an exception too: a file of which nothing can be read ends with one."""
        self.close()


def has(directory: str, name: str) -> bool:
    """Whether a quarantine has the list of the damaged stretches of a file."""
    return files.exists(files.join(directory, os.path.basename(name) + _LIST))
