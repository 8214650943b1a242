"""A tokenizer of one's own: a dataclass in any module, and the file by which corpora and models keep it.

    @gin.configurable
    @dataclasses.dataclass(frozen=True)
    class Letters(ParagraphTokenizer):
        alphabet: str

    tokenizer_class.json    {"class": "my_module:Letters", "fields": {"alphabet": "abc"}, "probe": "41d0..."}

Whoever opens the file imports the module. The probe is a checksum of the ids of a text, so that a class whose
code has changed is not taken for the one that a corpus was written with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import operator
from typing import Any

import numpy as np

from tf_codistill.tokenizer.base import Tokenizer

_CLASS, _FIELDS, _PROBE = "class", "fields", "probe"
_PROBE_TEXT = (
    "The quick brown fox jumps over the lazy dog.\n\n 0123456789 Größe, 日本 \U0001f600; <s>it's [a] {b}\t"
)


def content_of(tokenizer: Tokenizer) -> bytes:
    """The content of the file that describes a tokenizer; the same tokenizer gives the same.

    A `ValueError` if it is no dataclass, cannot be imported by its name, or has a field that is no JSON.
    """
    kind: Any = type(tokenizer)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"tokenizer {name} is no dataclass; make it one, whose fields are all that it needs")
    if kind.__module__ == "__main__" or "<locals>" in name:
        raise ValueError(f"tokenizer {name} cannot be imported; define its class in a module, at the top")
    fields = {field.name: getattr(tokenizer, field.name) for field in dataclasses.fields(kind) if field.init}
    for field, value in fields.items():
        try:
            is_json = json.loads(json.dumps(value)) == value
        except (TypeError, ValueError):
            is_json = False
        if not is_json:
            raise ValueError(f"{field} of tokenizer {name} is {value!r}; expected what a JSON file can hold")
    described = {_CLASS: name, _FIELDS: fields, _PROBE: _probe(tokenizer)}
    return json.dumps(described, indent=1, sort_keys=True).encode()


def recognizes(content: bytes) -> bool:
    """Whether a file is JSON with the keys that `content_of` writes."""
    try:
        return set(json.loads(content)) == {_CLASS, _FIELDS, _PROBE}
    except (ValueError, TypeError):
        return False


def make(path: str, content: bytes) -> Tokenizer:
    """Makes the tokenizer that the content of a file describes.

    A `ValueError`, with the path, if the class cannot be imported, does not take the fields, or gives other
    ids now.
    """
    described = json.loads(content)
    module, _, name = described[_CLASS].partition(":")
    try:
        tokenizer: Tokenizer = operator.attrgetter(name)(importlib.import_module(module))(
            **described[_FIELDS]
        )
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"tokenizer {path!r} is made by class {name} of module {module}, which fails ({error}); put the "
            "module where Python finds it, as by PYTHONPATH"
        ) from error
    if _probe(tokenizer) != described[_PROBE]:
        raise ValueError(
            f"tokenizer {path!r}: class {name} of module {module} gives other ids than when the file was "
            "written; use its code of then, or prepare the corpus again"
        )
    return tokenizer


def _probe(tokenizer: Tokenizer) -> str:
    (ids,) = tokenizer.encode_documents([_PROBE_TEXT])
    return hashlib.sha256(np.append(ids, tokenizer.vocabulary_size).astype("<i8").tobytes()).hexdigest()[:16]
