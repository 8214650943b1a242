from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gin
import pytest

from tf_codistill import bindings

pytestmark = pytest.mark.usefixtures("fresh_gin")


@gin.configurable(module="bindings_test")
def steep(
    leaves: Sequence[str], minutes: int, water: float = 1.0, pour: Callable[[], Any] | None = None
) -> Any:
    raise AssertionError("nothing that can be configured is called")


@gin.configurable(module="bindings_test")
class Pot:
    def __init__(self, litres: float = 1.0, *args: int, **kwargs: int) -> None:
        raise AssertionError("nothing that can be configured is called")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("steep.minutes = 3", 3),
        ("steep.minutes = %time\ntime = 3", 3),
        ("steep.minutes = %time\ntime = %long\nlong = 9", 9),
        ("steep.minutes = %time", None),
        ("steep.minutes = %gin.REQUIRED", None),
        ("steep.minutes = @Pot()", None),
        ("hot/steep.minutes = 3", None),
        ("", None),
    ],
)
def test_value_follows_macros_and_calls_nothing(text: str, value: int | None) -> None:
    gin.parse_config(text)
    assert bindings.value("steep.minutes") == value


def test_containers_are_followed() -> None:
    gin.parse_config("steep.leaves = ['green', %other, {'a': (%other,)}]\nother = 'black'")
    assert bindings.value("steep.leaves") == ["green", "black", {"a": ("black",)}]


def test_what_is_required_and_missing_is_told_at_once() -> None:
    with pytest.raises(
        ValueError, match="steep has no leaves, minutes; bind what is missing in a --gin_file"
    ):
        bindings.check_required(steep)
    gin.parse_config("steep.leaves = ['green']\nsteep.minutes = %time\ntime = %gin.REQUIRED")
    with pytest.raises(ValueError, match="steep has no minutes;"):
        bindings.check_required(steep)
    gin.parse_config("time = @Pot()")
    bindings.check_required(steep)
    bindings.check_required(Pot)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("steep.minutes = 'many'", "steep.minutes is 'many'; expected an integer"),
        ("steep.minutes = %time\ntime = 'many'", "steep.minutes is 'many'; expected an integer"),
        ("hot/steep.leaves = 'green'", "steep.leaves is 'green'; expected a list of strings"),
        ("steep.pour = 3", "steep.pour is 3; expected a function, such as @name without () or None"),
        ("Pot.litres = 'one'", "Pot.litres is 'one'; expected a number"),
    ],
)
def test_a_value_of_another_type_is_told(text: str, sentence: str) -> None:
    gin.parse_config(text)
    with pytest.raises(ValueError, match=".") as caught:
        bindings.check_types()
    assert str(caught.value) == sentence


def test_all_values_of_other_types_are_told() -> None:
    gin.parse_config("steep.minutes = 'many'\nPot.litres = 'one'")
    with pytest.raises(ValueError, match=r"steep\.minutes .* integer, and Pot\.litres .* number"):
        bindings.check_types()


def test_what_is_not_known_before_a_call_fits() -> None:
    gin.parse_config(
        "steep.minutes = @Pot()\nsteep.leaves = [@Pot()]\nsteep.pour = @Pot\nPot.litres = %gin.REQUIRED\n"
        "steep.water = %absent\n"
    )
    bindings.check_types()


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("steep.minuts = 1", "minutes"),
        ("stepp.minutes = 1", "steep"),
        ("steep.pour = @Pott", "Pot"),
        ("steep.pour = @hot/Pott()", "Pot"),
        ("bindings_tset.steep.minutes = 1", "bindings_test.steep"),
        ("steep.colour_of_the_cup = 1", None),
        ("zzzzz.minutes = 1", None),
    ],
)
def test_the_nearest_name(text: str, near: str | None) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        gin.parse_config(text)
    assert bindings.nearest_to(str(caught.value)) == near
