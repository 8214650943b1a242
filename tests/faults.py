"""Faults for tests: a process that dies at any operation on files, storage that fails, damaged files.

for operation in itertools.count():
    if not dies_at(operation, lambda: exchange.publish(...)):
        break                       # it ran to its end: every operation has been tried
    ...                             # what did the dead process leave behind?

with failing_storage(lambda call: call == 7) as calls:
    ...                             # the seventh call, of any thread, finds that the storage is not there
"""

from __future__ import annotations

import contextlib
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tensorflow as tf

from tf_codistill.files import storage

_OPERATIONS = ("makedirs", "remove", "rename", "rmtree")


class _Killed(BaseException):
    pass


def dies_at(operation: int, act: Callable[[], Any]) -> bool:
    """Calls `act`, and lets it do nothing to any file from its `operation`-th change of one on.

    The change at which it dies is half done, where it can be: half of a file is written.

    Returns:
        Whether it died.
    """
    count = 0

    def alive() -> bool:
        nonlocal count
        count += 1
        return count <= operation

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not alive():
                raise _Killed
            return function(*args, **kwargs)

        return call

    def mortal_file(make: Callable[..., Any]) -> Callable[..., Any]:
        class MortalFile:
            def __init__(self, path: str, mode: str) -> None:
                self._file = make(path, mode)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._file, name)

            def __enter__(self) -> MortalFile:
                return self

            def __exit__(self, *_: object) -> None:
                self._file.close()

            def write(self, content: bytes) -> None:
                if alive():
                    self._file.write(content)
                elif count == operation + 1:
                    self._file.write(content[: len(content) // 2])
                    raise _Killed
                else:
                    raise _Killed

        return MortalFile

    save = tf.raw_ops.SaveV2

    def mortal_save(**arguments: Any) -> None:
        whole = alive()
        if not whole and count > operation + 1:
            raise _Killed
        save(**arguments)
        if not whole:
            halve(pathlib.Path(arguments["prefix"] + ".data-00000-of-00001"))
            raise _Killed

    with pytest.MonkeyPatch.context() as patch:
        for place in (tf.io.gfile, storage.Disk):
            for name in _OPERATIONS:
                patch.setattr(place, name, mortal(getattr(place, name)))
            patch.setattr(place, "GFile", mortal_file(place.GFile))
        patch.setattr(tf.raw_ops, "SaveV2", mortal_save)
        try:
            act()
        except _Killed:
            return True
    return False


_here = threading.local()


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """Within it `failing_storage` lets the calls of this thread alone, and does not count them."""
    _here.is_spared = True
    try:
        yield
    finally:
        _here.is_spared = False


_EVERY_CALL = ("exists", "glob", "isdir", "listdir", "makedirs", "remove", "rename", "rmtree", "stat")


@contextlib.contextmanager
def failing_storage(fails: Callable[[int], bool]) -> Iterator[list[str]]:
    """Lets calls of ``tf.io.gfile``, and of what writes checkpoints, fail as a storage that is not there.

    Args:
        fails: Whether a call fails, by its number from 1.

    Yields:
        The names of all calls that have been made.
    """
    calls: list[str] = []
    lock = threading.Lock()

    def flaky(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(_here, "is_spared", False):
                return function(*args, **kwargs)
            with lock:
                calls.append(name)
                number = len(calls)
            if fails(number):
                raise tf.errors.UnavailableError(None, None, f"503 in call {number}, {name}")
            return function(*args, **kwargs)

        return call

    make = tf.io.gfile.GFile

    class FlakyFile:
        def __init__(self, path: str, mode: str) -> None:
            self._file = make(path, mode)
            for name in ("read", "write", "seek", "close"):
                setattr(self, name, flaky(name, getattr(self._file, name)))

        def __enter__(self) -> FlakyFile:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    with pytest.MonkeyPatch.context() as patch:
        for name in _EVERY_CALL:
            patch.setattr(tf.io.gfile, name, flaky(name, getattr(tf.io.gfile, name)))
        patch.setattr(tf.io.gfile, "GFile", FlakyFile)
        patch.setattr(tf.raw_ops, "SaveV2", flaky("SaveV2", tf.raw_ops.SaveV2))
        yield calls


def halve(path: pathlib.Path) -> None:
    """Cuts a file in the middle."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: pathlib.Path, position: int, bits: int = 1) -> None:
    """Flips bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= bits
    path.write_bytes(bytes(content))
