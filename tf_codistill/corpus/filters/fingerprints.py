"""What a filter is: a line for people, and a fingerprint of its code.

    describe(English(min_percent=90))     "English(min_percent=90, max_bytes=2048)"
    describe(my_filters.has_verbs)        "my_filters.has_verbs(least=3)"
    code_of(my_filters.has_verbs)         "3f0c9a1277e02b51"

Two filters with the same line and fingerprint do the same. The line has the parameters: fields of a
dataclass, attributes of another object, defaults and enclosed variables of a function. The fingerprint is of
the source of the filter and of all that it names in its own module, functions, classes and constants, and
that those name in turn; comments and docstrings do not count. A filter that depends on more, such as another
module or a file, has an attribute `version`, which counts as well. Where there is no source, it counts alone;
where there is no version either, the bytecode does. Our own code is named without its module: it may move.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import functools
import hashlib
import inspect
import re
import reprlib
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tf_codistill.jobs.stages import fingerprint

_PACKAGE = __name__.partition(".")[0]
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_MAX_CHARACTERS = 200  # of a parameter; of longer ones the beginning and a checksum are shown

Source = tuple[str, str]
"""A name, and the code behind it."""


@reprlib.recursive_repr("...")
def describe(step: Any) -> str:
    """A filter, a function or what can be called as one, in a line: its qualified name and its parameters."""
    (thing, *_), parameters = _parts(step)
    given = ", ".join(f"{name.lstrip('_')}={_shown(value)}" for name, value in parameters.items())
    is_ours = str(thing.__module__).partition(".")[0] == _PACKAGE
    name = thing.__qualname__ if is_ours else f"{thing.__module__}.{thing.__qualname__}"
    return f"{name}({given})" if given or isinstance(thing, type) else name


def code_of(step: Any) -> str:
    """A fingerprint of the code of a filter and of filters that are its parameters: 16 hexadecimal digits."""
    sources: set[Source] = set()
    waiting, seen = [step], dict[int, Any]()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen[id(one)] = one  # held, so that its number stays its own
            things, parameters = _parts(one)
            waiting += filter(callable, _flat(parameters.values()))
            sources.update(source for thing in things for source in _sources(thing))
    return fingerprint(sorted(sources))


def _parts(step: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The functions or classes of a filter, the one that names it first, and its parameters."""
    match step:
        case type():
            roots = ((base, base.__module__.partition(".")[0]) for base in step.__mro__[1:])
            return [step, *(base for base, root in roots if root not in sys.stdlib_module_names)], {}
        case types.FunctionType():
            function: Any = inspect.unwrap(step)
            found = {name: one.default for name, one in inspect.signature(function).parameters.items()}
            defaults = {name: value for name, value in found.items() if value is not inspect.Parameter.empty}
            return [function], {**defaults, **inspect.getclosurevars(function).nonlocals}
        case types.BuiltinFunctionType():
            return [step], {}
        case types.MethodType():
            return [step.__func__, *_parts(step.__self__)[0]], {"self": step.__self__}
        case functools.partial():
            things, parameters = _parts(step.func)
            positional = {str(position): value for position, value in enumerate(step.args)}
            return things, {**parameters, **positional, **step.keywords}
    return _parts(type(step))[0], _state(step)


def _state(step: Any) -> dict[str, Any]:
    """What an object has in it."""
    if dataclasses.is_dataclass(step):
        return {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    # What would be sent to another process; of a class with __slots__ it comes in two parts.
    state = step.__getstate__()
    parameters: dict[str, Any] = {}
    for part in filter(None, state if isinstance(state, tuple) else (state,)):
        parameters.update(part if isinstance(part, dict) else {"state": part})
    return parameters


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """Values, and those in lists and the like."""
    for value in values:
        yield value
        if isinstance(value, list | tuple | set | frozenset | dict):
            yield from _flat(value.values() if isinstance(value, dict) else value)


def _shown(value: Any) -> str:
    text = _text(value)
    if len(text) <= _MAX_CHARACTERS:
        return text
    checksum = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: _MAX_CHARACTERS // 2]}... (SHA-256 {checksum[:16]})"


def _text(value: Any) -> str:
    """A parameter as text that is the same in every process."""
    match value:
        case list() | tuple():
            return f"{type(value).__name__}({', '.join(map(_text, value))})"
        case set() | frozenset():
            return f"{type(value).__name__}({', '.join(sorted(map(_text, value)))})"
        case dict():
            return f"{{{', '.join(f'{_text(key)}: {_text(one)}' for key, one in value.items())}}}"
        case re.Pattern():
            return f"re.compile({value.pattern!r}, {value.flags})"  # its own text is cut off
    own_text: Any = type(value).__repr__
    if callable(value) or dataclasses.is_dataclass(value) or own_text is object.__repr__:
        return str(describe(value))
    return _ADDRESS.sub("", repr(value))


def _sources(thing: Any) -> Iterator[Source]:
    """The code of a function or class, and of what it names in its module."""
    name, version = thing.__qualname__, getattr(thing, "version", None)
    if isinstance(version, str | int | float):
        yield name, f"version = {version!r}"
    definitions = _definitions(_source_of(str(thing.__module__)))
    waiting = {name.partition(".")[0]}
    # Functions inside of others, and those without a name, share the source of what is around them.
    if version is None and ("<" in name or not waiting & definitions.keys()):
        for code in _codes(thing):
            yield name, _bytecode(code)
            waiting.update(code.co_names)
    seen: set[str] = set()
    while waiting := (waiting & definitions.keys()) - seen:
        seen |= waiting
        yield from ((one, definitions[one][0]) for one in waiting)
        waiting = {other for one in waiting for other in definitions[one][1]}


def _source_of(module: str) -> str:
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError, KeyError):
        return ""


@functools.lru_cache(maxsize=8)
def _definitions(source: str) -> Mapping[str, tuple[str, set[str]]]:
    """For each name that a module defines the statements that do, and the names in these."""
    texts: dict[str, str] = collections.defaultdict(str)
    named: dict[str, set[str]] = collections.defaultdict(set)
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # somebody is writing it
        return {}
    for statement in statements:
        nodes = list(ast.walk(statement))
        for node in nodes:
            _strip(node)
        for name in _bound(statement):
            texts[name] += ast.unparse(statement) + "\n"
            named[name].update(node.id for node in nodes if isinstance(node, ast.Name))
    return {name: (texts[name], named[name]) for name in texts}


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module defines; that we import from ourselves is no matter."""
    if isinstance(statement, _NAMED):
        return {statement.name}
    if isinstance(statement, ast.ImportFrom) and (statement.module or "").partition(".")[0] == _PACKAGE:
        return set()
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, _NAMED):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _strip(node: Any) -> None:
    """Takes docstrings away."""
    body = getattr(node, "body", None)
    if isinstance(body, list):
        node.body = [one for one in body if not _is_docstring(one)] or [ast.Pass()]


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def _codes(thing: Any) -> list[types.CodeType]:
    functions = [thing, *getattr(thing, "__dict__", {}).values()]
    return [one.__code__ for one in functions if isinstance(one, types.FunctionType)]


def _bytecode(code: types.CodeType) -> str:
    constants = [_bytecode(one) if isinstance(one, types.CodeType) else _text(one) for one in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
