"""Groups whose storage can be made unreliable while they train, and whose guards can be taken out.

import tests.integration.unreliable_groups          in a gin file
UNRELIABLE=<directory>                              in the environment

    <directory>/flaky      as long as it is there every third call that is about the exchange fails
    <directory>/lossy      as long as it is there every third listing of the exchange is empty
    <directory>/without    names of `WITHOUT`: guards that are not there, read once, at the start
"""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from tf_codistill import files, weights
from tf_codistill.exchange import courier, manifests
from tf_codistill.exchange.store import Store
from tf_codistill.files import storage

DIRECTORY = pathlib.Path(os.environ["UNRELIABLE"])
_EVERY = 3


def _believe_sizes_and_checksums() -> None:
    def read_into(path: str, buffers: list[memoryview], sha256: str | None) -> None:
        content = pathlib.Path(path).read_bytes()
        for buffer in buffers:
            piece, content = content[: len(buffer)], content[len(buffer) :]
            buffer[:] = piece.ljust(len(buffer), b"\0")

    manifests.check = lambda *_: None  # type: ignore[assignment]
    files.verify = lambda *_, **__: None  # type: ignore[assignment]
    files.read_into = read_into  # type: ignore[assignment]


def _let_errors_through() -> None:
    def counting(self: Any, failures: str) -> Iterator[None]:
        yield

    courier.Courier._counting = courier.contextlib.contextmanager(counting)  # type: ignore[assignment]


def _look_so_often(times: int) -> Callable[[], None]:
    return lambda: setattr(courier, "_LOOKS", times)


WITHOUT: dict[str, Callable[[], None]] = {
    "sizes and checksums": _believe_sizes_and_checksums,
    "values that are finite": lambda: setattr(weights, "first_not_finite", lambda _: None),
    "one model": lambda: setattr(weights, "first_difference", lambda *_: None),
    "one run": lambda: setattr(Store, "_is_ours", lambda *_: True),
    "one life": lambda: setattr(Store, "_fence", lambda *_: lambda ref: True),
    "errors that are counted": _let_errors_through,
    "several looks": _look_so_often(1),
    "an end of looking": _look_so_often(10**9),
}
"""What takes out a guard."""


class _Unreliable:
    """A storage as `storage.of` returns it, for a path of the exchange."""

    def __init__(self, place: Any, path: str, calls: Iterator[int], listings: Iterator[int]) -> None:
        self._place, self._path, self._calls, self._listings = place, path, calls, listings

    def __getattr__(self, verb: str) -> Any:
        if (DIRECTORY / "flaky").exists() and next(self._calls) % _EVERY == 0:
            raise OSError(f"503 in a call of {verb}")
        is_of_all = verb == "listdir" and self._path.endswith("/exchange")
        if is_of_all and (DIRECTORY / "lossy").exists() and next(self._listings) % _EVERY == 0:
            return lambda _: []
        return getattr(self._place, verb)


def _make_unreliable() -> None:
    whole, calls, listings = storage.of, itertools.count(), itertools.count()

    def of(path: str) -> Any:
        place = whole(path)
        return _Unreliable(place, path, calls, listings) if "/exchange" in path else place

    storage.of = of


_make_unreliable()
for name in (DIRECTORY / "without").read_text().splitlines() if (DIRECTORY / "without").exists() else []:
    WITHOUT[name]()
