"""Which source a corpus is prepared from: by name, or as a gin file says.

    import my_sources                               # a source of your own, in any module that Python finds

    prepare_corpus.source = @my_sources.Blog        # or --source=my_sources.Blog
    Blog.path = 'posts.txt'

A source is a class that gin knows; its fields are bound by gin, or given here.
"""

from __future__ import annotations

import inspect
from typing import Any

import gin

from tf_codistill.corpus.sources.base import Source
from tf_codistill.corpus.sources.crawl import Crawl
from tf_codistill.corpus.sources.hugging_face import HuggingFace
from tf_codistill.corpus.sources.json_lines import JsonLines
from tf_codistill.corpus.sources.local_docs import LocalDocs
from tf_codistill.corpus.sources.parquet import Parquet
from tf_codistill.corpus.sources.text_files import TextFiles
from tf_codistill.corpus.sources.wet_files import WetFiles

OURS = (Crawl, HuggingFace, JsonLines, LocalDocs, Parquet, TextFiles, WetFiles)
"""The sources that come with the package."""

_KNOWN = ", ".join(one.__name__ for one in OURS)


@gin.configurable("prepare_corpus")
def chosen(source: type[Source] | None = None) -> type[Source] | None:
    """The class of a source that a gin file names; None where none does."""
    return source


def make(name: str | None, **fields: Any) -> Source:
    """Makes a source by the name of its class, as gin knows it; None is for the one that a gin file names.

    Fields that are given go before what gin binds. A `ValueError` if there is no such class, it is no source,
    or has not got one of the fields.
    """
    made = chosen()
    if name:
        try:
            made = gin.get_configurable(name)
        except ValueError as error:
            raise ValueError(
                f"--source={name} is not known: {str(error).splitlines()[0]}; name one of {_KNOWN}, or one "
                "that a gin file imports"
            ) from error
    if made is None:
        raise ValueError(
            f"no source is named; name one by --source, of {_KNOWN}, or by a gin file, as in "
            "'prepare_corpus.source = @WetFiles'"
        )
    if not (isinstance(made, type) and issubclass(made, Source)):
        raise ValueError(f"{made!r} is no source; expected a class derived from corpus.sources.base.Source")
    known = list(inspect.signature(made).parameters)
    for field in fields:
        if field not in known:
            raise ValueError(
                f"--{field} has no effect with the source {made.__name__}, which has {', '.join(known)}; "
                "leave it out, or name another --source"
            )
    return made(**fields)
