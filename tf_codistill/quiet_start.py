"""Leaves out what TensorFlow prints when it starts; errors stay.

    leave_out()                 # in a program, before TensorFlow is imported by whatever needs it first
    import tensorflow           # nothing of oneDNN, of drivers that are not there, of instructions of the CPU

TensorFlow prints its first lines before it reads TF_CPP_MIN_LOG_LEVEL. So while it is imported, standard
error goes through a small process that drops such lines, and that outlives a crash. Who sets
TF_CPP_MIN_LOG_LEVEL=0 sees everything.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NoReturn

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_NVIDIA_DRIVER = "/proc/driver/nvidia"
_LEFT_OUT = re.compile(
    rb"[IW]\d{4} "
    rb"|\d{4}-\d\d-\d\d [\d:.]+: [IW] "
    rb"|WARNING: All log messages before absl::InitializeLog"
    rb"|To enable the following instructions:"
    rb"|E.*Unable to register cu\w+ (factory|plugin)"
)
_NO_DRIVER = re.compile(rb"E.*failed call to cuInit")


def leave_out() -> None:
    """Leaves out TensorFlow's lines when this process imports it, now or later; does nothing if it has."""
    if os.environ.setdefault(_LEVEL, "2") != "0" and "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _QuietImport())


class _QuietImport(importlib.abc.MetaPathFinder):
    """Finds TensorFlow, once, and lets it be imported with standard error filtered."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_quietly(module: ModuleType) -> None:
                has_driver = os.path.exists(_NVIDIA_DRIVER)
                with _filtered(hides_no_driver=not has_driver):
                    execute(module)
                    if not has_driver:  # looks for a GPU, and complains, now and not at the first operation
                        module.config.list_physical_devices()

            spec.loader.exec_module = execute_quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _filtered(hides_no_driver: bool) -> Iterator[None]:
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _forward(reading, writing, hides_no_driver)
    original = os.dup(2)
    os.dup2(writing, 2)
    os.close(reading)
    os.close(writing)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)
        os.waitpid(child, 0)


def _forward(reading: int, writing: int, hides_no_driver: bool) -> NoReturn:
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it ends with what it reads from
        os.close(writing)
        with open(reading, "rb") as lines:
            for line in lines:
                if not (_LEFT_OUT.match(line) or hides_no_driver and _NO_DRIVER.match(line)):
                    os.write(2, line)
    finally:
        os._exit(0)
