"""What a reader believes of the shared directory: nothing that it has not looked at.

    <exchange>/group_1/snapshot_.../manifest.json
        content   no link on the way, a regular file, of at most `MAX_BYTES`, before any of them is read
        read      JSON whose seal fits; each entry of its type, in its range, of this snapshot
        check     the files that it lists: regular, as long as the arrays, before memory is taken

Whatever does not hold is a `files.CorruptError` that names the file; nothing is unpickled or executed.
Between the look at a file and its opening somebody who may write in the directory could still put another
one in its place.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from tf_codistill import files, leases, weights
from tf_codistill.exchange import precision as precisions
from tf_codistill.exchange.snapshot import Ref
from tf_codistill.files import documents, storage

FORMAT_VERSION, ANNOUNCED = 3, 2  # of snapshots and of announcements
MAX_BYTES = 1 << 23
"""Size of a document from which on it is not read: one of about 50,000 weights."""

_RUN = "run.json"
_INDEX, _DATA = "weights.index", "weights.data-00000-of-00001"
_MOST = 1 << 53  # of anything that is counted
_MOST_INCARNATIONS = 10**18 - 2  # so that the next one still is a name of a snapshot
_MOST_AXES, _MOST_LETTERS = 32, 1000
_INDEX_BYTES, _INDEX_BYTES_PER_ARRAY = 4096, 512
_STATES_BYTES, _STATES_PER_WEIGHTS = 1 << 26, 16
_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "bool": 1}
_BYTES |= {f"{sign}int{8 * size}": size for sign in ("", "u") for size in (1, 2, 4, 8)}

_Check = Callable[[Any], bool]


def check_directory(root: str, *names: str) -> str:
    """The path of a directory below the exchange.

    Args:
        root: The exchange itself, which may lie behind a link.
        *names: Names of the directories on the way.

    Returns:
        The path, whether there is anything or not.

    Raises:
        CorruptError: One of them is a symbolic link or no directory.
    """
    path = root
    for name in names:
        path = files.join(path, name)
        if storage.kind(path) not in ("directory", "absent", "remote"):
            raise files.CorruptError(
                f"{path!r} is no plain directory; expected one, not even a symbolic link to one: remove it"
            )
    return path


def announcement(path: str) -> dict[str, Any]:
    """What a group has announced.

    Args:
        path: Its ``model.json``.

    Returns:
        Run, incarnation, weights that it publishes, and what its classes are, if it says so.

    Raises:
        FileNotFoundError: It has announced nothing.
        CorruptError: The file describes no model.
    """
    message = document(path)
    is_right = isinstance(message.get("run_id"), str) and is_description(message.get("weights"))
    is_right = is_right and is_count(message.get("incarnation"), _MOST_INCARNATIONS)
    is_right = is_right and isinstance(message.get("classes", ""), str)
    if message.get("format_version") != ANNOUNCED or not is_right:
        raise files.CorruptError(
            f"file {path!r} describes no model (expected format version {ANNOUNCED} and what it takes); "
            "delete it or write it again"
        )
    return message


def content(path: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a document.

    Args:
        path: A file in a directory that has been checked.
        max_bytes: How many it may have.

    Returns:
        All of them.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptError: It is a link, a pipe or a device, or larger than `max_bytes`.
        OSError: The storage fails.
    """
    _check_file(path)
    found = files.read(path, num_bytes=min(files.size_bytes(path), max_bytes + 1))
    if len(found) > max_bytes:
        raise files.CorruptError(
            f"file {path!r} has more than {max_bytes} bytes; delete it or write it again"
        )
    return found


def document(path: str) -> dict[str, Any]:
    """The content of a JSON file that holds an object, as `content` reads it."""
    found = documents.decode(path, content(path))
    if not isinstance(found, dict):
        raise files.CorruptError(f"file {path!r} holds no JSON object; delete it or write it again")
    return found


def check_own(model: weights.Description) -> None:
    """Checks before training that readers will believe what this group is going to publish.

    Args:
        model: What `weights.description` says of its model.

    Raises:
        ValueError: There are more weights than fit into a document, or one is of an unusual kind.
    """
    size = len(documents.encode(model))
    if size > MAX_BYTES // 2:
        raise ValueError(
            f"the description of {len(model)} weights takes {size} bytes; expected at most {MAX_BYTES // 2}: "
            "a model with so many weights cannot be exchanged"
        )
    for row in model:
        if not _is_row(row):
            raise ValueError(
                f"weight {row['name'][:80]!r} of shape {row['shape']} and dtype {row['dtype']} cannot be "
                f"exchanged; expected a name of at most {_MOST_LETTERS} letters, at most {_MOST_AXES} axes, "
                f"and a dtype of {', '.join(_BYTES)}"
            )


def run_id(directory: str) -> str | None:
    """The run that an exchange is of; None if it has no name yet, `CorruptError` if that is damaged."""
    path = files.join(directory, _RUN)
    try:
        name = document(path).get("run_id")
    except FileNotFoundError:
        return None
    if not isinstance(name, str):
        raise files.CorruptError(f"file {path!r} names no run; delete it or write it again")
    return name


def agree_run_id(directory: str, given: str | None) -> str:
    """The run of an exchange, which takes the given name; without one that of whoever comes first."""
    path = files.join(files.ensure_directory(directory), _RUN)
    if given is None and (found := run_id(directory)):
        return found
    name = given or uuid.uuid4().hex
    if given or files.is_remote(path):  # there of several that come at once the last one
        files.write_json(path, {"run_id": name})
    else:
        leases.create(path, {"run_id": name})
    return run_id(directory) or name


def run_of(directory: str) -> str | None:
    """The run that a snapshot says it is of; None if it is not committed.

    Args:
        directory: The snapshot's, checked.

    Returns:
        The name of the run, which need not be true.

    Raises:
        CorruptError: The manifest cannot be read.
        OSError: The storage fails.
    """
    try:
        run = document(files.join(directory, files.MANIFEST)).get("run_id")
    except FileNotFoundError:
        return None
    return run if isinstance(run, str) else ""


def read(directory: str, ref: Ref) -> dict[str, Any] | None:
    """The manifest of a snapshot.

    Args:
        directory: The snapshot's, checked.
        ref: Which snapshot lies there.

    Returns:
        What it says, of the right types; None if it is not committed.

    Raises:
        CorruptError: It is damaged, or that of another snapshot.
        ValueError: It is of another format version.
        OSError: The storage fails.
    """
    path = files.join(directory, files.MANIFEST)
    try:
        whole = content(path)
    except FileNotFoundError:
        return None
    found = documents.decode(path, whole)
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION:
        raise files.CorruptError(
            f"file {path!r}: the snapshot has format version {version!r}; expected {FORMAT_VERSION}"
        )
    manifest = documents.unsealed(path, whole)
    for name, (is_right, expected) in _entries(ref).items():
        if not is_right(manifest.get(name)):
            value = repr(manifest.get(name))[:80]
            raise files.CorruptError(f"file {path!r} is damaged: {name} is {value}; expected {expected}")
    return manifest


def check(directory: str, manifest: dict[str, Any], described: Mapping[str, weights.Description]) -> None:
    """Checks the files of a snapshot, their contents excepted, before memory is taken for them.

    Args:
        directory: The snapshot's, checked.
        manifest: What `read` returned.
        described: Its arrays as they lie there: ``weights``, which have been compared, and ``states``.

    Raises:
        CorruptError: A file is missing or not regular, has another size, or is larger than arrays can be.
        OSError: The storage fails.
    """
    sizes = {name: sum(map(num_bytes, rows)) for name, rows in described.items()}
    most = _STATES_BYTES + _STATES_PER_WEIGHTS * sizes["weights"]
    if sizes["states"] > most:
        raise files.CorruptError(
            f"snapshot {directory!r} describes {sizes['states']} bytes of recurrent state beside "
            f"{sizes['weights']} of weights; expected at most {most}"
        )
    number, listing = sum(map(len, described.values())), manifest["files"]
    limits = {_INDEX: _INDEX_BYTES + _INDEX_BYTES_PER_ARRAY * number, _DATA: sum(sizes.values())}
    if set(listing) != (set(limits) if number else set()):
        raise files.CorruptError(
            f"manifest of snapshot {directory!r} lists other files than {sorted(limits)}"
        )
    for name, entry in listing.items():
        if entry["bytes"] > limits[name] or (name == _DATA and entry["bytes"] != limits[name]):
            raise files.CorruptError(
                f"manifest of snapshot {directory!r} promises {entry['bytes']} bytes of {name}; its arrays "
                f"take {limits[name]}" + " at most" * (name == _INDEX)
            )
        _check_file(files.join(directory, name))
    files.verify(directory, manifest, contents=False)


def num_bytes(row: Mapping[str, Any]) -> int:
    """Size of the array that a row of a description describes."""
    return math.prod(row["shape"]) * _BYTES[row["dtype"]]


def is_count(value: Any, most: int = _MOST) -> bool:
    """Whether a value of a document is an integer from 0 to so many."""
    return type(value) is int and 0 <= value <= most


def is_description(value: Any) -> bool:
    """Whether a value of a document describes arrays, as `weights.description` does."""
    return isinstance(value, list) and all(isinstance(row, dict) and _is_row(row) for row in value)


def _is_row(row: dict[str, Any]) -> bool:
    name, shape, dtype = row.get("name"), row.get("shape"), row.get("dtype")
    if not (isinstance(name, str) and isinstance(shape, list) and isinstance(dtype, str) and dtype in _BYTES):
        return False
    return len(name) <= _MOST_LETTERS and len(shape) <= _MOST_AXES and all(map(is_count, shape))


def _entries(ref: Ref) -> dict[str, tuple[_Check, str]]:
    """What each entry of a manifest has to be: a test of its value, and the same in words."""
    return {
        "group": _is(ref.peer),
        "incarnation": _is(ref.incarnation),
        "serial": _is(ref.serial),
        "run_id": (lambda value: isinstance(value, str), "a text"),
        "step": (is_count, "a number of steps"),
        "published_at": (_is_time, "seconds since the epoch"),
        "precision": (lambda value: value in precisions.PRECISIONS, f"one of {precisions.PRECISIONS}"),
        "weights": (is_description, "descriptions of arrays"),
        "states": (is_description, "descriptions of arrays"),
        "files": (_is_listing, "size and SHA-256 of files by name"),
    }


def _is(number: int) -> tuple[_Check, str]:
    return lambda value: is_count(value, number) and value == number, f"{number}, as its directory says"


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_listing(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, dict) and is_count(entry.get("bytes")) and isinstance(entry.get("sha256"), str)
        for entry in value.values()
    )


def _check_file(path: str) -> None:
    found = storage.kind(path)
    if found not in ("file", "absent", "remote"):
        raise files.CorruptError(f"file {path!r} is no regular file but of kind {found!r}; remove it")
