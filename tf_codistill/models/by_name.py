"""Networks of others by name, which is imported when it is asked for: what nobody names is not loaded.

imported("backbone", "keras.applications.MobileNetV2")
imported("network", "keras_hub.models.LlamaCausalLM")          needs the extra `hub`
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any


def imported(name: str, what: Any) -> Callable[..., Any]:
    """A function or class, or what a dotted name stands for.

    Args:
        name: Of the setting, for errors.
        what: The function or class, or where it is imported from.

    Returns:
        The function or class.

    Raises:
        ValueError: There is none of this name.
    """
    if callable(what):
        return what
    parts = str(what).split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = _module(name, what, parts[:length])
        with contextlib.suppress(AttributeError):
            found: Any = functools.reduce(getattr, parts[length:], module) if module else None
            if callable(found):
                return found
    raise ValueError(
        f"{name} is {what!r}, which cannot be imported; expected a name such as "
        "'keras.applications.MobileNetV2' or 'keras_hub.models.ResNetBackbone'"
    )


def _module(name: str, what: Any, parts: Sequence[str]) -> Any:
    """A module, or None where there is none of this name in one that exists."""
    try:
        return importlib.import_module(".".join(parts))
    except ModuleNotFoundError as error:
        if len(parts) > 1 or error.name != parts[0]:
            return None
        extra = "; the extra `hub` has it: pip install 'tf_codistill[hub]'" * (parts[0] == "keras_hub")
        raise ValueError(f"{name} is {what!r}, but {parts[0]} is not installed{extra}") from error
