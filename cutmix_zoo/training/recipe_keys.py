"""The keys of a recipe: what each accepts, what it is unless it is given, and what it means."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Union

from cutmix_zoo.mixing import METHODS, MixMethod
from cutmix_zoo.training.settings import Recipe

METHOD_HINTS: tuple[Any, ...] = (MixMethod, MixMethod | None)
"""The type hints of keys that take a method."""

METHODS_HINT: Any = Sequence[MixMethod]
"""The type hint of keys that take a list of methods."""

_WORDS: dict[Any, str] = {
    MixMethod: "a method, written as mix itself",
    METHODS_HINT: "a list of methods, each written as mix itself",
    int: "int",
    float: "float",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
"""What the type hints of single values accept, in words."""


class RecipeKey(NamedTuple):
    """What is to be known of a key."""

    expects: str
    """Which values it takes, in words; of a method's key also which methods have it."""
    default: str | None
    """Its value unless it is given, as YAML, or its value for each method; ``None`` if it has to be given."""
    about: str
    """What it means, from the docstring of its section; where methods differ in it, from that of one of them."""


def recipe_keys(section: Any = Recipe, prefix: str = "") -> dict[str, RecipeKey]:
    """List every key that can be given, by its dotted name; those of methods inside methods once."""
    hints, meanings = typing.get_type_hints(section), _meanings(section)
    keys: dict[str, RecipeKey] = {}
    for field in dataclasses.fields(section):
        name, hint = field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            keys.update(recipe_keys(hint, f"{prefix}{name}."))
        elif not prefix and hint in METHOD_HINTS:
            keys.update(_method_keys(f"{name}."))
        else:
            keys[prefix + name] = RecipeKey(in_words(hint), _default(field), meanings.get(name, ""))
    return keys


def describe_keys() -> str:
    """Write every key with its meaning, for a help text, in lines of at most 100 characters below each key."""
    lines = []
    for name, key in recipe_keys().items():
        lines.append(f"  --{name} {key.expects}")
        default = "" if key.default is None else f"(default: {key.default})"
        text = " ".join(filter(None, (key.about.rstrip("."), default)))
        lines += textwrap.wrap(text, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def in_words(hint: Any) -> str:
    """Say in words what a type hint accepts.

    Example:
        >>> in_words(int | None), in_words(tuple[float, ...]), in_words(Literal["all", "classifier"])
        ('int or null', 'a list of float', 'one of all, classifier')
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(arg) for arg in args)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (tuple, list, Sequence):
        count = f"{len(args)} " if origin is tuple and args[-1] is not Ellipsis else ""
        return f"a list of {count}{in_words(args[0])}"
    return "a mapping" if origin is dict else str(hint)


def _method_keys(prefix: str) -> dict[str, RecipeKey]:
    """List the keys of all methods, each with the methods that have it."""
    owners: dict[str, dict[str, RecipeKey]] = {}
    for method, cls in METHODS.items():
        for key, found in recipe_keys(cls, prefix).items():
            owners.setdefault(key, {})[method] = found
    first = RecipeKey(f"one of {', '.join(METHODS)}", None, "the method; mix null for none")
    return {f"{prefix}name": first, **{key: _shared(found) for key, found in owners.items()}}


def _shared(found: dict[str, RecipeKey]) -> RecipeKey:
    """Take together what methods say of a key that they have in common."""
    expects, defaults = (
        _by_value({method: getattr(key, what) for method, key in found.items()}) for what in ("expects", "default")
    )
    (name, first), *others = found.items()
    return RecipeKey(
        "; ".join(f"{text} ({names})" for text, names in expects.items()),
        first.default if len(defaults) == 1 else "; ".join(f"{value} of {names}" for value, names in defaults.items()),
        first.about if all(key.about == first.about for _, key in others) else f"of {name}: {first.about}",
    )


def _by_value(values: dict[str, str | None]) -> dict[str | None, str]:
    """Write down who has each value."""
    owners: dict[str | None, list[str]] = {}
    for name, value in values.items():
        owners.setdefault(value, []).append(name)
    return {value: ", ".join(names) for value, names in owners.items()}


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is dataclasses.MISSING:
        return None if field.default_factory is dataclasses.MISSING else _as_yaml(field.default_factory())
    return _as_yaml(field.default)


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _meanings(section: Any) -> dict[str, str]:
    """Read what the docstrings of a class and of those it is made from say of their arguments."""
    found: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        _, _, rest = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\nArgs:\n")
        arguments = re.split(r"^(?=\S)", rest, maxsplit=1, flags=re.MULTILINE)[0]
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, flags=re.MULTILINE):
            plain = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", re.sub(r"``(.+?)``", _in_yaml, text))
            found[name] = " ".join(plain.split())
    return found


def _in_yaml(code: re.Match[str]) -> str:
    """Write a value of Python as a recipe has it."""
    return {"None": "null", "True": "true", "False": "false"}.get(code[1], code[1])
