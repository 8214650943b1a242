"""Whether settings are of the type that their annotation says; errors give name, value and expectation.

    @dataclasses.dataclass
    class Example:
        num_lanes: int = 64
        sources: Sequence[str] = ()

        def __post_init__(self) -> None:
            settings.check_types(self)

    Example(num_lanes="many")         ValueError: num_lanes is 'many'; expected an integer
    Example(sources="runs")           ValueError: sources is 'runs'; expected a list of strings

Of an annotation that it does not know, such as a protocol, it says nothing.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

ANYTHING = object()
"""Stands for a value that is not known yet; it fits every annotation."""

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    bool: ("True or False", "truth values"),
    type(None): ("None", "None"),
    collections.abc.Callable: ("a function, such as @name without ()", "functions"),
}
_LISTS = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection, list, tuple)
_DICTIONARIES = (collections.abc.Mapping, dict)
_UNIONS = (typing.Union, types.UnionType)


def check_types(instance: Any) -> None:
    """Checks every field of a dataclass; for ``__post_init__``.

    Args:
        instance: The dataclass's instance.

    Raises:
        ValueError: A field holds a value of another type than its annotation says.
    """
    values = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    for sentence in mismatches(typing.get_type_hints(type(instance)), values):
        raise ValueError(sentence)


def mismatches(annotations: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the types of some values.

    Args:
        annotations: Types by name, as `typing.get_type_hints` returns them.
        values: Values by name; one without an annotation fits.

    Returns:
        A sentence for each that does not fit: name, value, what was expected.
    """
    return [
        f"{name} is {value!r}; expected {_words(annotations[name])}"
        for name, value in values.items()
        if name in annotations and not _fits(value, annotations[name])
    ]


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the arguments of a function or class; none if some of their names cannot be found."""
    try:
        return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError):
        return {}


def _fits(value: Any, annotation: Any) -> bool:
    kind, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if value is ANYTHING or kind is Any:
        return True
    if kind in _UNIONS:
        return any(_fits(value, one) for one in arguments)
    if kind is typing.Literal:
        return value in arguments
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    if kind in _LISTS:  # a string is a sequence of strings, but never meant as one
        is_list = isinstance(value, kind) and not isinstance(value, str)
        return is_list and (kind is tuple or not arguments or all(_fits(one, arguments[0]) for one in value))
    if kind in _DICTIONARIES:
        if not isinstance(value, kind):
            return False
        parts = zip((value.keys(), value.values()), arguments, strict=bool(arguments))
        return all(_fits(one, annotation) for part, annotation in parts for one in part)
    is_known = inspect.isclass(kind) and not getattr(kind, "_is_protocol", False)
    return isinstance(value, kind) if is_known else True


def _words(annotation: Any, form: int = 0) -> str:
    """An annotation in words, in the singular (form 0) or plural (form 1)."""
    kind, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind in _WORDS:
        return _WORDS[kind][form]
    if kind in _UNIONS:
        return " or ".join(dict.fromkeys(_words(one, form) for one in arguments))
    if kind is typing.Literal:
        return " or ".join(map(repr, arguments))
    if kind in _LISTS:
        contents = f" of {_words(arguments[0], 1)}" if arguments else ""
        return f"{('a list', 'lists')[form]}{contents}"
    if kind in _DICTIONARIES:
        contents = f" from {_words(arguments[0], 1)} to {_words(arguments[1], 1)}" if arguments else ""
        return f"{('a dictionary', 'dictionaries')[form]}{contents}"
    name = getattr(kind, "__name__", str(kind))
    return name if form else f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
