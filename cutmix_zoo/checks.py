"""Checks of settings. A message begins with the name of the setting: that is how a recipe finds the line to blame."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from numbers import Integral, Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number above 0."""
    require(_is_number(value) and 0 < value < math.inf, f"{name} must be a finite number above 0, got {value!r}")


def require_fraction(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a number in [0, 1]."""
    require(_is_number(value) and 0 <= value <= 1, f"{name} must be a number from 0 to 1, got {value!r}")


def require_whole(name: str, value: int, lowest: int | None = None) -> None:
    """Raise ValueError unless ``value`` is a whole number, of at least ``lowest`` if that is given."""
    expected = "a whole number" if lowest is None else f"a whole number of at least {lowest}"
    fits = _is_whole(value) and (lowest is None or value >= lowest)
    require(fits, f"{name} must be {expected}, got {value!r}")


def require_count(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least 1."""
    require_whole(name, value, lowest=1)


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}")


def whole_number(lowest: int) -> Callable[[str], int]:
    """Make a ``type`` for argparse: a whole number of at least ``lowest``."""

    def parse(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise ArgumentTypeError(f"must be at least {lowest}, got {value}")
        return value

    parse.__name__ = "whole number"  # what argparse calls it in its own message
    return parse


def positive_number(text: str) -> float:
    """Read an argument of a command line, for argparse: a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"must be a finite number above 0, got {text}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
