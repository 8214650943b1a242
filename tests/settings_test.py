from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pytest

from tf_codistill import settings


class Loss:
    pass


class Quacks(Protocol):
    def quack(self) -> str: ...


@dataclasses.dataclass(kw_only=True)
class Brew:
    minutes: int = 3
    litres: float = 1.0
    kind: str = "black"
    is_hot: bool = True
    cups: Sequence[str] = ()
    sugar: Mapping[int, float] = dataclasses.field(default_factory=dict)
    pour: Callable[..., Any] = print
    loss: Loss | None = None
    place: str | Mapping[str, float] = "here"
    size: Literal["small", "large"] = "small"
    duck: Quacks | None = None
    anything: Any = None

    def __post_init__(self) -> None:
        settings.check_types(self)


def test_what_fits() -> None:
    Brew()
    Brew(minutes=np.int64(5), litres=2, cups=["a", "b"], sugar={1: 2}, pour=lambda: 0, loss=Loss())
    Brew(litres=np.float32(1.5), place={"there": 1}, size="large", cups=("a",), duck="not looked at")
    Brew(minutes=settings.ANYTHING, cups=[settings.ANYTHING], sugar={1: settings.ANYTHING})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("minutes", "many", "an integer"),
        ("minutes", 3.0, "an integer"),
        ("minutes", True, "an integer"),
        ("minutes", None, "an integer"),
        ("litres", "1.0", "a number"),
        ("litres", False, "a number"),
        ("kind", 5, "a string"),
        ("is_hot", 1, "True or False"),
        ("cups", "green", "a list of strings"),
        ("cups", [1], "a list of strings"),
        ("cups", "", "a list of strings"),
        ("sugar", [1], "a dictionary from integers to numbers"),
        ("sugar", {"a": 1.0}, "a dictionary from integers to numbers"),
        ("pour", 5, "a function, such as @name without ()"),
        ("loss", 1.0, "a Loss or None"),
        ("place", 7, "a string or a dictionary from strings to numbers"),
        ("size", "medium", "'small' or 'large'"),
    ],
)
def test_what_does_not_is_told_with_name_value_and_expectation(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        Brew(**{name: value})
    assert str(caught.value) == f"{name} is {value!r}; expected {expected}"


def test_annotations_of_functions_and_classes() -> None:
    def brew(kind: str, minutes=3) -> str: ...

    class Pot:
        def __init__(self, litres: float | None = None) -> None: ...

    def unknown(kind: NotThere) -> None: ...  # noqa: F821

    assert settings.annotations_of(brew) == {"kind": str, "return": str}
    assert settings.annotations_of(Pot)["litres"] == float | None
    assert settings.annotations_of(unknown) == {}
    assert settings.annotations_of(len) == {}
    assert settings.mismatches({"kind": str}, {"kind": 1, "other": 2}) == ["kind is 1; expected a string"]
