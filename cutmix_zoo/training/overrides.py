"""Dotted overrides on a command line: ``--optimizer.lr 0.05`` or ``--optimizer.lr=0.05``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


def split_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Pair the keys and values of the options that override a recipe.

    Args:
        arguments: what the common options left over.

    Returns:
        Dotted key to YAML text; of a key that is given twice the last value counts.

    Raises:
        UserError: if an argument is not an option, or an option has no value.

    Example:
        >>> split_overrides(["--optimizer.lr", "0.05", "--data.hflip=0", "--mix", "null"])
        {'optimizer.lr': '0.05', 'data.hflip': '0', 'mix': 'null'}
    """
    overrides = {}
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        key, separator, value = option.removeprefix("--").partition("=")
        if not option.startswith("--") or not key:
            raise UserError(f"unexpected argument {option!r}; options are written as --key value")
        if not separator:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{option} needs a value, such as {option} 1")
            value = rest.pop(0)
        overrides[key] = value
    return overrides
