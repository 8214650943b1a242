"""What gin files and bindings bind, looked at without calling anything that they configure.

    gin.parse_config(...)
    check_types()                       # LanguageTask.num_lanes is 'many'; expected an integer
    check_required(Experiment)          # Experiment has no optimizer
    value("Experiment.num_steps")       # 1500, also where it is bound to a macro

    unused()                            # after everything has been called: what nothing used
    nearest_to(error)                   # what a name that gin does not know may have been meant for
    changed(before, now, may_change)    # Experiment.seed was 1 and is 2

The one module besides `program` that reads gin's private tables; gin has no public ones.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

import gin

from tf_codistill import settings

_MACRO, _CONSTANT = "gin.macro", "gin.constant"
_UNKNOWN_PARAMETER = re.compile(r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'")
_COMMENT = re.compile(r"^# (\w+): (\S+)$", re.MULTILINE)
_UNKNOWN_NAME = re.compile(r"No configurable matching (?:reference )?'@?(?:[^']*/)?([^'(]+)")


def value(name: str) -> Any:
    """The value bound to a parameter, such as ``Experiment.num_steps``.

    Args:
        name: Configurable and parameter.

    Returns:
        The value, macros and constants followed; None if none is bound, or only a call could tell it.
    """
    try:
        found = _followed(gin.query_parameter(name))
    except ValueError:
        return None
    return None if found in (settings.ANYTHING, gin.REQUIRED) else found


def check_required(configurable: Callable[..., Any]) -> None:
    """Checks that every parameter without a default is bound.

    Args:
        configurable: What has the parameters, as gin knows it.

    Raises:
        ValueError: One is not, or only to REQUIRED.
    """
    registered = gin.config._REGISTRY.get_match(configurable.__name__)
    bound = gin.config._CONFIG.get(("", registered.selector), {})
    missing = [
        name
        for name, parameter in inspect.signature(registered.wrapped).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and _followed(bound.get(name, gin.REQUIRED)) is gin.REQUIRED
    ]
    if missing:
        raise ValueError(
            f"{registered.name} has no {', '.join(missing)}; bind what is missing in a --gin_file or by "
            "--gin_bindings"
        )


def check_types() -> None:
    """Checks that every value that is bound is of the type that its parameter's annotation says.

    Raises:
        ValueError: Values of another type, each with what was expected.
    """
    wrong = []
    for (_, selector), parameters in gin.config._CONFIG.items():
        annotations = settings.annotations_of(gin.config._REGISTRY[selector].wrapped)
        name = selector.rpartition(".")[2]
        followed = {parameter: _followed(bound) for parameter, bound in parameters.items()}
        known = {parameter: one for parameter, one in followed.items() if one is not gin.REQUIRED}
        wrong += [f"{name}.{sentence}" for sentence in settings.mismatches(annotations, known)]
    if wrong:
        raise ValueError(", and ".join(wrong))


def unused() -> tuple[list[str], list[str]]:
    """What is bound and has not been used by now.

    Returns:
        The names, sorted; and for some of them names that have been used and are like them.
    """
    operative = gin.config._OPERATIVE_CONFIG
    used = {
        (outer, selector, name)
        for (scope, selector), parameters in operative.items()
        for name in parameters
        for outer in (_outer_scopes(scope) if selector != _MACRO else [scope])
    }
    bound = {(*key, name) for key, parameters in gin.config._CONFIG.items() for name in parameters}
    scopes = {scope for scope, selector in operative if selector != _MACRO and scope}
    macros = {scope: scope for scope, selector in operative if selector == _MACRO}
    parameters = {
        name: f"{selector.rpartition('.')[2]}.{name}"
        for (_, selector), values in operative.items()
        for name in values
        if selector != _MACRO
    }
    names: list[str] = []
    meant: list[str] = []
    for scope, selector, name in sorted(bound - used):
        if selector == _MACRO:
            names.append(scope)
            meant += [(parameters | macros)[near] for near in _nearest(scope, parameters | macros)]
        else:
            names.append(f"{scope}/{selector}.{name}".lstrip("/"))
            meant += [f"{near}/{selector}.{name}" for near in _nearest(scope, scopes - {scope})]
    return sorted(names), meant


def nearest_to(error: str) -> str | None:
    """The name that is nearest to one that gin does not know.

    Args:
        error: What gin says of it.

    Returns:
        A parameter, or a configurable; None if the error is another or nothing is near.
    """
    if match := _UNKNOWN_PARAMETER.search(error):
        function = gin.config._REGISTRY.get_match(match[1]).wrapped
        return next(iter(_nearest(match[2], inspect.signature(function).parameters)), None)
    if match := _UNKNOWN_NAME.search(error):
        parts = [selector.split(".") for selector, _ in gin.config._REGISTRY.items()]
        known = {".".join(part[start:]) for part in parts for start in range(len(part))}
        return next(iter(_nearest(match[1], known)), None)
    return None


def changed(before: str, now: str, may_change: Collection[str]) -> list[str]:
    """What two gin texts bind to different values, where both bind it.

    Args:
        before: The text that was in force, with every value that was used.
        now: The text that is in force now.
        may_change: Names that do not count.

    Returns:
        A sentence for each: the name, the value that it had, and the one that it has now.
    """
    then, found = _statements(before), _statements(now)
    return [
        f"{name} was {then[name]!r} and is {found[name]!r}"
        for name in sorted(then.keys() & found.keys() - set(may_change))
        if then[name] != found[name]
    ]


def _statements(text: str) -> dict[str, Any]:
    """The values that a text binds, references by their names, and those that comments name."""
    return dict(_COMMENT.findall(text)) | {
        f"{statement.scope}/{statement.selector.split('.')[-1]}.{statement.arg_name}".lstrip(
            "/"
        ): statement.value
        for statement in gin.config_parser.ConfigParser(text, _References())
        if isinstance(statement, gin.config_parser.BindingStatement)
    }


class _References(gin.config_parser.ParserDelegate):
    def configurable_reference(self, scoped_name: str, evaluate: bool) -> str:
        """A reference stands for its name."""
        return f"@{scoped_name.split('.')[-1]}{'()' if evaluate else ''}"

    def macro(self, scoped_name: str) -> str:
        """So does a macro."""
        return f"%{scoped_name}"


def _followed(bound: Any) -> Any:
    """A bound value without macros and constants; what only a call could tell becomes `settings.ANYTHING`."""
    if isinstance(bound, gin.config.ConfigurableReference):
        if bound.selector in (_MACRO, _CONSTANT):
            name = "/".join(bound.scopes)
            try:
                return _followed(gin.query_parameter(name if bound.selector == _CONSTANT else f"%{name}"))
            except ValueError:  # a macro that is not bound
                return settings.ANYTHING
        return settings.ANYTHING if bound.evaluate else bound.scoped_configurable_fn
    if isinstance(bound, dict):
        return {_followed(key): _followed(one) for key, one in bound.items()}
    return type(bound)(map(_followed, bound)) if isinstance(bound, list | tuple) else bound


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)


def _outer_scopes(scope: str) -> list[str]:
    """The scopes whose bindings hold in a scope: for ``a/b`` those are none, ``a`` and ``a/b`` itself."""
    parts = scope.split("/")
    return ["/".join(parts[:length]) for length in range(len(parts) + 1)]
