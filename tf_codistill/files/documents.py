"""JSON as it stands in files: written in one way, read with suspicion, sealed where others may write.

    encode({"step": 50})                      the same bytes for the same content
    decode(path, content)                     {"step": 50}, or a `CorruptError` that names the file
    encode(sealed({"step": 50}))              with "seal", a checksum of all the rest
    unsealed(path, content)                   {"step": 50}, if every byte is as it was written

A seal finds damage, and files of which one has taken another's place. It is no signature: whoever may write
in a directory can also write a seal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

_SEAL = "seal"


class CorruptError(ValueError):
    """A committed file or directory does not hold what its manifest promises."""


def encode(content: Any) -> bytes:
    """The bytes that stand for a content: indented, with sorted keys and a final newline."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def decode(path: str, content: bytes) -> Any:
    """The content of a JSON file, as Python objects.

    Args:
        path: The file, for the error.
        content: Its bytes, whoever wrote them.

    Returns:
        What it holds.

    Raises:
        CorruptError: It is not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"file {path!r} is not JSON ({error}); delete it or write it again") from error


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A document with a checksum of all that it says."""
    return {**document, _SEAL: hashlib.sha256(encode(document)).hexdigest()}


def unsealed(path: str, content: bytes) -> dict[str, Any]:
    """What `sealed` was given, if the file holds that to the byte.

    Args:
        path: The file, for the error.
        content: Its bytes, whoever wrote them.

    Returns:
        The document without its seal.

    Raises:
        CorruptError: It is not JSON, has no seal or one that does not fit, or is written in another way.
    """
    document = decode(path, content)
    if isinstance(document, dict):
        rest = {name: value for name, value in document.items() if name != _SEAL}
        with contextlib.suppress(ValueError, RecursionError):  # what is read cannot always be written
            if encode(sealed(rest)) == content:
                return rest
    raise CorruptError(f"file {path!r} is damaged: its seal does not fit; delete it or write it again")
