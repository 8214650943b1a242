"""Writes the API reference: HTML pages made of the docstrings.

    python docs/api_reference.py build/api          or: make docs

Programs are left out: they cannot be imported together, because each has flags of its own, and ``--help``
says what there is to know.
"""

from __future__ import annotations

import pathlib
import sys
import warnings

import pdoc

import tf_codistill

PACKAGE = pathlib.Path(tf_codistill.__file__).parent


def modules() -> list[str]:
    """Names of all modules of the package but the programs."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if not is_program(path)]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def is_program(path: pathlib.Path) -> bool:
    """Whether a module is run with ``python -m``."""
    return "\nif __name__ ==" in path.read_text(encoding="utf-8")


def write(directory: pathlib.Path) -> None:
    """Writes a page for each module.

    Args:
        directory: Where to.
    """
    for name in tf_codistill.__all__:  # they are loaded when they are first used, and pdoc does not use them
        setattr(tf_codistill, name, getattr(tf_codistill, name))
    pdoc.render.configure(docformat="google", show_source=False)
    # It finds modules below a package by itself, but only those in its __all__ where there is one.
    warnings.filterwarnings("ignore", "The module specification .* has already been added")
    # It looks for the types of a named tuple's fields where Python makes it; then it shows them as written.
    warnings.filterwarnings("ignore", r"Error parsing type annotation ForwardRef\(.*__init__\. Import of")
    pdoc.pdoc(*modules(), output_directory=directory)


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
