"""The documentation crawl: prose stays, code goes, nothing is imported, nothing comes twice."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from tf_codistill import files
from tf_codistill.corpus.sources import local_docs
from tf_codistill.corpus.wet import read_wet

MODULE = '''
"""Opens boxes
of any kind.

This sentence is repeated elsewhere.
"""
raise RuntimeError("imported")

class Box:
    """A box."""

    if True:
        def open(self):
            """Opens it.

            Args:
                key: The key,
                    if there is one.
                force: Whether to use force.

            >>> Box().open()
            'doctest'
            """
            def inner():
                """Nobody reads this."""

async def carry(box: Box):
    "A short string is no docstring of triple quotes, yet one."
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "boxes_for_a_test"
    root = tmp_path / "installed" / name
    for path, source in {
        "__init__.py": MODULE,
        "sub/repeats.py": '"""This sentence is repeated elsewhere.\n\nThis one is new."""',
        "sub/only_repeats.py": '"""This sentence is repeated elsewhere."""',
        "sub/broken.py": '"""Not Python.""" ) (',
        "sub/surrogate.py": '"""Half a pair \\ud800 here."""',
        "sub/some_test.py": '"""A test."""',
        "tests/helper.py": '"""A helper of tests."""',
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    return name


def collect(directory: Path, package: str) -> dict[str, str]:
    local_docs.collect(str(directory), [package])
    paths = files.glob(str(directory / "*.warc.wet.gz"))
    return {record.url: record.text for path in paths for record in read_wet(path)}


def test_each_module_becomes_a_page_of_prose(tmp_path: Path, package: str) -> None:
    pages = collect(tmp_path / "wet", package)
    site = f"https://docs.local/{package}/{package}"
    assert pages == {
        site: "Opens boxes of any kind.\nThis sentence is repeated elsewhere.\nA box.\nOpens it.\nArgs:\n"
        "key: The key, if there is one.\nforce: Whether to use force.\n"
        "A short string is no docstring of triple quotes, yet one.",
        f"{site}.sub.repeats": "This one is new.",
        f"{site}.sub.surrogate": "Half a pair ? here.",
    }
    assert package not in sys.modules


def test_pages_say_that_they_are_english_and_are_counted(tmp_path: Path, package: str) -> None:
    mark = local_docs.collect(str(tmp_path / "wet"), [package], modules_per_file=2)
    paths = files.glob(str(tmp_path / "wet" / "*.warc.wet.gz"))
    assert len(paths) == 2
    records = [record for path in paths for record in read_wet(path)]
    assert {record.language for record in records} == {"eng"}
    assert (mark["modules"], mark["paragraphs"], mark["duplicates"]) == (3, 10, 2)


def test_second_run_changes_nothing_and_a_stopped_one_is_done_again(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    first = local_docs.collect(str(tmp_path / "wet"), [package])
    assert local_docs.collect(str(tmp_path / "wet"), ["not_installed_at_all"]) == first
    with monkeypatch.context() as patch:
        patch.setattr(files, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            local_docs.collect(str(tmp_path / "stopped"), [package], modules_per_file=1)
    assert len(files.names(str(tmp_path / "stopped"))) == 3
    assert local_docs.collect(str(tmp_path / "stopped"), [package]) == first
    assert files.names(str(tmp_path / "stopped")) == ["docs-00000.warc.wet.gz", files.MANIFEST]
    assert not list(tmp_path.glob("*.work"))


def test_a_download_is_not_taken_for_documentation(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after ``--source=Crawl --download_dir=wet``, with ``--source=LocalDocs --download_dir=wet``."""
    download = tmp_path / "wet" / "CC-MAIN-00000.warc.wet.gz"
    download.parent.mkdir()
    download.write_bytes(b"hours of fetching")
    with pytest.raises(ValueError, match=r"wet' holds 'CC-MAIN-00000.warc.wet.gz', which nobody is recorded"):
        local_docs.collect(str(download.parent), [package])
    assert download.read_bytes() == b"hours of fetching"
    # Nor is one that begins later.
    later, pages = tmp_path / "later" / download.name, local_docs._pages
    monkeypatch.setattr(
        local_docs, "_pages", lambda *given: [later.write_bytes(b"hours of fetching"), *pages(*given)][1:]
    )
    mark = local_docs.collect(str(later.parent), [package])
    assert list(mark["files"]) == ["docs-00000.warc.wet.gz"]
    assert later.read_bytes() == b"hours of fetching"


def test_damaged_file_of_an_earlier_run_is_told(tmp_path: Path, package: str) -> None:
    wet_dir = tmp_path / "wet"
    local_docs.collect(str(wet_dir), [package])
    (wet_dir / "docs-00000.warc.wet.gz").write_bytes(b"short")
    with pytest.raises(files.CorruptError, match=r"docs-00000.*damaged"):
        local_docs.collect(str(wet_dir), [package])


@pytest.mark.parametrize("name", ["not_installed_at_all", "no-name", "this", "sys", ""])
def test_package_without_files_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"package '{name}' is not installed"):
        local_docs.collect(str(tmp_path / "wet"), [name])
    assert not (tmp_path / "wet").exists()


def test_standard_library_has_its_module_names() -> None:
    found = local_docs.source_files(local_docs.PYTHON)
    assert any(path.endswith("json/decoder.py") for path in found)
    assert not [path for path in found if "site-packages" in path or "/test/" in path]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One line\nand its end.\n\nAnother.", ["One line and its end.", "Another."]),
        ("Items:\n\n- first,\n  long\n- second\n* third", ["Items:", "- first, long", "- second", "* third"]),
        ("Text::\n\n    code()\n\n    more()\n\nProse again.", ["Text:", "Prose again."]),
        (".. code-block:: python\n\n    code()\n\nProse.", ["Prose."]),
        ("Before.\n\n```python\ncode()\n\nmore()\n```\nAfter.", ["Before.", "After."]),
        ("Before.\n\n>>> code()\n1\n\nAfter.", ["Before.", "After."]),
        ("Notes\n-----\nThe text\nof it.", ["Notes", "The text of it."]),
        ("Args:\n  a: One.\n  b (int): Two\n    lines.", ["Args:", "a: One.", "b (int): Two lines."]),
        (":param a: One.\n:returns: Two.", [":param a: One.", ":returns: Two."]),
        ("| a | b |\n| 1 | 2 |", []),
        ("", []),
    ],
)
def test_paragraphs(docstring: str, expected: list[str]) -> None:
    assert local_docs.paragraphs(docstring) == expected


def test_docstrings_keep_the_order_of_the_source() -> None:
    source = textwrap.dedent(
        '''
        """Module."""
        def first():
            """First."""
        class Second:
            """Second."""
            def third(self):
                """Third."""
        def fourth():
            """Fourth."""
        '''
    )
    assert local_docs.docstrings(source.encode()) == ["Module.", "First.", "Second.", "Third.", "Fourth."]
