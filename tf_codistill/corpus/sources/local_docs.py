"""The documentation crawl: English prose that is already on this machine, as WET files.

    /usr/lib/python3.12/json/__init__.py  --ast-->  docstrings  --blocks-->  paragraphs  -->  one document

    docs-00000.warc.wet.gz
        https://docs.local/python/json               a page per module: its docstrings, one paragraph per line
        https://docs.local/tensorflow/tensorflow.python.ops.array_ops
    manifest.json                                     commit mark; counts

Sources are parsed, never imported. Of a docstring, paragraphs and list items stay, each on one line;
doctests, fenced and literal blocks, tables and underlines go. A paragraph that was seen before, in whatever
package, is dropped, so licences and inherited docstrings appear once.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import gin

from tf_codistill import files
from tf_codistill.corpus.sources.wet_files import LeadsToWetFiles, WetFiles
from tf_codistill.corpus.wet import WetWriter
from tf_codistill.jobs.progress import Progress
from tf_codistill.jobs.written import Written

PYTHON = "python"
"""Stands for the standard library in a list of packages."""

PACKAGES = (PYTHON, "absl", "gin", "keras", "matplotlib", "numpy", "rich", "tensorboard", "tensorflow")
"""The standard library and what the project itself depends on: every machine that runs it has these."""

_SKIPPED_DIRS = frozenset(
    ("__pycache__", "_vendor", "dist-packages", "idlelib", "lib2to3", "site-packages")
    + ("test", "testdata", "testing", "tests")
)
_SKIPPED_FILE = re.compile(r"(_test|_pb2(_grpc)?|^test_.*|^conftest)\.py$")
_LIST_MARK = re.compile(r"(?:[-*+•]|\d{1,2}[.)]|:\w[^:]*:|@\w+|\*{0,2}`?\w[\w.]*`?(?: \([^)]*\))?:)\s")
_UNDERLINE = re.compile(r"^([=\-~^*#+|_`]|\s)+$")
_FENCE = re.compile(r"^\s*(```|~~~)")
_LITERAL = re.compile(r"(::|\.\. (?:code|code-block|sourcecode|testcode|math|plot|image).*)$")

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
"""What can have a docstring."""

Block = list[tuple[int, str]]
"""Lines of a docstring between blank lines: indentation and text of each."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LocalDocs(LeadsToWetFiles):
    """The documentation of installed packages, collected as WET files.

    Attributes:
        download_dir: Directory of those files.
        packages: Names of packages as they are imported; ``python`` is the standard library.

    Raises:
        ValueError: No directory is named.
    """

    download_dir: str | None = None
    packages: Sequence[str] = PACKAGES

    def __post_init__(self) -> None:
        if not self.download_dir:
            raise ValueError(
                "LocalDocs has no download_dir; name a directory for WET files, as runs/docs/wet"
            )

    def resolved(self, fetch: bool = True) -> WetFiles:
        """Its WET files, collected unless that is done; raises the errors of `collect`."""
        directory = str(self.download_dir)
        return WetFiles([files.join(directory, name) for name in collect(directory, self.packages)["files"]])


def collect(
    output_dir: str, packages: Sequence[str] = PACKAGES, modules_per_file: int = 2000
) -> dict[str, Any]:
    """Writes the documentation of installed packages as WET files, unless that is done already.

    Args:
        output_dir: Directory for the WET files, committed at the end.
        packages: Names of packages as they are imported; ``python`` is the standard library.
        modules_per_file: Most pages per WET file.

    Returns:
        The mark of the directory: ``modules``, ``paragraphs``, ``duplicates`` and the files.

    Raises:
        ValueError: A package is not installed, or the directory cannot be written to or holds something else.
    """
    mark, output = files.read_manifest(output_dir), Written.beside(output_dir)
    if mark is not None:
        files.verify(output_dir, mark, contents=False)
        output.forget()
        return mark
    sources = [(package, path) for package in packages for path in source_files(package)]
    output.open()
    counts = {"packages": list(packages), "modules": 0, "paragraphs": 0, "duplicates": 0}
    with Progress("reading docstrings", len(sources), "modules") as progress:
        pages = list(_pages(sources, counts, progress))
    names = []
    for index, start in enumerate(range(0, len(pages), modules_per_file)):
        names.append(f"docs-{index:05d}.warc.wet.gz")
        path = output.claim(names[-1])
        with WetWriter(path, description="English documentation of installed Python packages") as writer:
            for url, text in pages[start : start + modules_per_file]:
                writer.write(url, text, language="eng")
    output.claim(files.MANIFEST)
    output.remove_others(names)
    mark = files.commit(output_dir, counts, only=names)
    output.forget()
    return mark


def source_files(package: str) -> list[str]:
    """The Python files of a package, sorted, without tests, generated code and vendored copies.

    A `ValueError` tells that it is not installed as Python files in a directory.
    """
    found = []
    for directory, subdirectories, names in os.walk(_root(package)):
        subdirectories[:] = [name for name in subdirectories if name not in _SKIPPED_DIRS]
        found += [
            os.path.join(directory, name)
            for name in names
            if name.endswith(".py") and not _SKIPPED_FILE.search(name)
        ]
    return sorted(found)


def docstrings(source: bytes) -> list[str]:
    """The docstrings of a module, its classes and functions, in order, without their common indentation.

    What does not parse as Python has none.
    """
    if b'"""' not in source and b"'''" not in source:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escape sequences
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    return [text for node in _definitions(tree) if (text := ast.get_docstring(node))]


def paragraphs(docstring: str) -> list[str]:
    """The prose of a docstring: paragraphs and list items in order, each on one line."""
    found: list[str] = []
    for block in _prose_blocks(docstring):
        start = 0
        for end in range(1, len(block) + 1):
            if end == len(block) or _begins_paragraph(block, start, end):
                found.append(" ".join(" ".join(text for _, text in block[start:end]).split()))
                start = end
    return found


def _pages(
    sources: Sequence[tuple[str, str]], counts: dict[str, Any], progress: Progress
) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for package, path in sources:
        with open(path, "rb") as file:
            found = [paragraph for text in docstrings(file.read()) for paragraph in paragraphs(text)]
        kept = [paragraph for paragraph in dict.fromkeys(found) if paragraph not in seen]
        seen.update(kept)
        counts["duplicates"] += len(found) - len(kept)
        if kept:
            counts["modules"] += 1
            counts["paragraphs"] += len(kept)
            # Half surrogate pairs are legal in a Python literal but not in a file.
            text = "\n".join(kept).encode("utf-8", "replace").decode("utf-8")
            yield f"https://docs.local/{package}/{_module(package, path)}", text
        progress.advance()


def _root(package: str) -> str:
    if package == PYTHON:
        return sysconfig.get_paths()["stdlib"]
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"package {package!r} is not installed as a package of Python files; install it or leave it out"
        )
    return os.path.realpath(next(iter(spec.submodule_search_locations)))


def _module(package: str, path: str) -> str:
    parts = os.path.relpath(path, _root(package)).removesuffix(".py").split(os.sep)
    if parts[-1] == "__init__":
        parts.pop()
    if package != PYTHON:
        parts.insert(0, package)
    return ".".join(parts) or package


def _definitions(node: ast.AST) -> Iterator[Definition]:
    """Yields modules, classes and functions in order; the bodies of functions are not entered."""
    if isinstance(node, Definition):
        yield node
    if isinstance(node, ast.Module | ast.ClassDef | ast.If | ast.Try):
        for inner in node.body:
            yield from _definitions(inner)


def _prose_blocks(docstring: str) -> Iterator[Block]:
    """Yields the blocks that are not code, tables or underlines."""
    literal_indent: int | None = None  # what is indented more than this belongs to a literal block
    in_fence = False
    block: Block = []
    for line in [*docstring.expandtabs().split("\n"), ""]:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if _FENCE.match(line):
            in_fence = not in_fence
        is_literal = literal_indent is not None and indent > literal_indent
        if text and not is_literal and not in_fence:
            literal_indent = indent if _LITERAL.search(text) else None
            if _UNDERLINE.match(text):  # what is above it is a heading
                yield block
                block = []
            elif not text.startswith(".. "):
                block.append((indent, text.replace("::", ":") if text.endswith("::") else text))
        elif not text and block:
            if not any(entry.startswith((">>>", "```", "~~~", "|", "+-", "$ ")) for _, entry in block):
                yield block
            block = []


def _begins_paragraph(block: Block, start: int, line: int) -> bool:
    """Whether a line of a block begins another paragraph than the one that began at `start`."""
    indent, text = block[line]
    first_indent = block[start][0]
    previous_indent, previous = block[line - 1]
    ends_list_item = previous_indent > first_indent and indent <= first_indent
    opens_list = previous.endswith(":") and indent > previous_indent
    return bool(_LIST_MARK.match(text)) or ends_list_item or opens_list
