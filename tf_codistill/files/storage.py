"""The two kinds of storage behind `files`, with the same few verbs: this machine's disk, and TensorFlow's.

    of("runs/two").exists("runs/two")           # `Disk`: no TensorFlow, which takes seconds to start
    of("gs://bucket/two").exists(...)           # `tf.io.gfile`
    of("s3://bucket/two")                       # ValueError: TensorFlow has no such scheme

Where TensorFlow has been imported anyway, it also serves the disk, so that a process has one storage.
"""

from __future__ import annotations

import glob
import importlib
import os
import shutil
import stat
import sys
import tempfile
import types
from typing import IO, Any


class Disk:
    """The verbs of ``tf.io.gfile`` that are in use, for paths of this machine."""

    GFile = staticmethod(open)
    exists = staticmethod(os.path.exists)
    glob = staticmethod(glob.glob)
    isdir = staticmethod(os.path.isdir)
    listdir = staticmethod(os.listdir)
    remove = staticmethod(os.remove)
    rmtree = staticmethod(shutil.rmtree)

    @staticmethod
    def makedirs(path: str) -> None:
        """Creates a directory with its parents, or finds that it is there."""
        os.makedirs(path, exist_ok=True)

    @staticmethod
    def rename(path: str, target: str, overwrite: bool) -> None:
        """Renames a file, in place of another one of that name."""
        del overwrite
        os.replace(path, target)

    @staticmethod
    def stat(path: str) -> types.SimpleNamespace:
        """The ``length`` of a file in bytes, and when it was last written, ``mtime_nsec``."""
        found = os.stat(path)
        return types.SimpleNamespace(length=found.st_size, mtime_nsec=found.st_mtime_ns)


def of(path: str) -> Any:
    """The storage that holds a path.

    Args:
        path: Local, or of a scheme such as ``gs://bucket/folder``.

    Returns:
        `Disk`, or ``tf.io.gfile``.

    Raises:
        ValueError: TensorFlow has no such scheme.
    """
    if not is_remote(path):
        return local()
    gfile = importlib.import_module("tensorflow").io.gfile
    scheme, known = path.partition("://")[0], set(gfile.get_registered_schemes()) - {""}
    if scheme not in known:
        places = " or ".join(f"{name}://" for name in sorted(known))
        raise ValueError(
            f"{path!r} is of scheme {scheme!r}, which TensorFlow cannot use; name a local path, "
            f"such as one below a mounted bucket, or one of {places}"
        )
    return gfile


def local() -> Any:
    """What serves paths of this machine."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow.io.gfile if tensorflow else Disk


def is_remote(path: str) -> bool:
    """Whether a path names a place that cannot be mapped into memory, such as ``gs://bucket/file``."""
    return "://" in path


def kind(path: str) -> str:
    """What lies at a path, without following it.

    Args:
        path: Any path.

    Returns:
        ``file``, ``directory``, ``link`` or ``other``; ``absent`` if there is nothing, and ``remote`` for
        storage that has files and directories alone.
    """
    if is_remote(path):
        return "remote"
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "absent"
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode), "other")


def remove_tree(path: str) -> None:
    """Removes a directory; of symbolic links within it the links alone, which TensorFlow would follow."""
    (of(path) if is_remote(path) else Disk).rmtree(path)


def scratch(directory: str) -> IO[bytes]:
    """A file without a name, to be written and read again. It is gone when it is closed, or with its process.

    Args:
        directory: Where it takes up room; if it is not on this machine, the directory named by ``TMPDIR`` is.

    Returns:
        The open file.
    """
    return tempfile.TemporaryFile(dir=None if is_remote(directory) else directory)


def not_found() -> tuple[type[Exception], ...]:
    """What is raised where there is no such file."""
    return FileNotFoundError, *_errors_of_tensorflow("NotFoundError")


def refusals() -> tuple[type[Exception], ...]:
    """What is raised where it is of no use to try again: a file for a directory, or no permission."""
    of_tensorflow = [
        *_errors_of_tensorflow("PermissionDeniedError"),
        *_errors_of_tensorflow("FailedPreconditionError"),
    ]
    return PermissionError, NotADirectoryError, FileExistsError, *of_tensorflow


def failures() -> tuple[type[Exception], ...]:
    """What is raised by anything that storage cannot do; TensorFlow's errors are none of the system."""
    return OSError, *_errors_of_tensorflow("OpError")


def _errors_of_tensorflow(name: str) -> list[type[Exception]]:
    tensorflow = sys.modules.get("tensorflow")
    return [getattr(tensorflow.errors, name)] if tensorflow else []
