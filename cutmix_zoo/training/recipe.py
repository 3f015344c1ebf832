"""Recipes: YAML text becomes a :class:`Recipe` here, and nowhere else.

jsonargparse types the values. Which keys there are, and on which line a mistake stands, is checked here.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cutmix_zoo.errors import UserError, did_you_mean, one_line
from cutmix_zoo.mixing import METHODS, MixMethod
from cutmix_zoo.training.recipe_keys import METHOD_HINTS, METHODS_HINT, in_words
from cutmix_zoo.training.settings import Recipe

if typing.TYPE_CHECKING:
    from collections.abc import Collection, Mapping

RECIPE_FOLDERS = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[2] / "recipes")
"""Where shipped recipes are: inside an installed package, or beside the package in a checkout."""

_LIST = "tag:yaml.org,2002:seq"
"""What YAML calls a plain list."""


@dataclass(frozen=True)
class _Entry:
    """A value of a recipe and the place it was written at; the value of a section or a list holds entries."""

    value: Any
    place: str

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        return [entry.plain() for entry in self.value] if isinstance(self.value, list) else self.value


def shipped_recipes() -> dict[str, Path]:
    """List the recipes that come with the package.

    Returns:
        Name to file, sorted by name.
    """
    folder = next((folder for folder in RECIPE_FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(name_or_file: str | Path) -> Path:
    """Find a recipe file by its path, or a shipped recipe by its name.

    Raises:
        UserError: if there is neither.
    """
    file = Path(name_or_file)
    return file if file.is_file() else find_shipped(str(name_or_file))


def find_shipped(name: str) -> Path:
    """Find a shipped recipe by its name.

    Raises:
        UserError: if there is none of that name.
    """
    shipped = shipped_recipes()
    if name not in shipped:
        raise UserError(
            f"{name} is neither the path of a recipe file nor a shipped recipe; "
            f"{did_you_mean(Path(name).stem, shipped)}`cutmix-zoo recipes` lists those."
        )
    return shipped[name]


def load_recipe(name_or_file: str | Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe and check every key and value of it.

    Args:
        name_or_file: a YAML file, or the name of a shipped recipe.
        overrides: dotted keys to YAML text, such as ``{"optimizer.lr": "0.05", "mix": "null"}``.

    Returns:
        The recipe; where the file gives no ``name``, it is called after the file.

    Raises:
        UserError: naming the file, the line, the key, what was expected and the nearest valid name.

    Example:
        >>> load_recipe("quickstart", {"schedule.epochs": "2"}).schedule.epochs
        2
    """
    file = find_recipe(name_or_file)
    root = _parse(file)
    root.value.setdefault("name", _Entry(file.stem, str(file)))
    for key, text in (overrides or {}).items():
        _override(root, key, text)
    return _build(Recipe, root, "")


def make_recipe(values: Mapping[str, Any], place: str) -> Recipe:
    """Make a recipe of what :func:`recipe_dict` gave; what has been added to recipes since gets its default.

    Args:
        values: a recipe as plain dicts, lists and scalars.
        place: where they come from, for errors.

    Raises:
        UserError: naming the place, the key, what was expected and the nearest valid name.
    """
    return _build(Recipe, _located(values, place), "")


def recipe_head(name: str) -> dict[str, str]:
    """Read the head comment of a shipped recipe.

    Returns:
        Its first line under ``""``, and its paragraphs by the words that they begin with.

    Raises:
        UserError: if no recipe of that name is shipped.

    Example:
        >>> recipe_head("cifar100_pyramidnet200_cutmix")["Expected"][:20]
        '14.47 top-1 error, 2'
    """
    lines = find_shipped(name).read_text(encoding="utf-8").splitlines()
    comment = [line.removeprefix("#") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
    head, key = {"": comment[0].strip()}, ""
    for line in comment[1:]:
        text = line.strip()
        if line[1:2].strip():  # not indented any further
            key, _, text = text.partition(" ")
        head[key] = f"{head.get(key, '')} {text.strip()}".strip()
    return head


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML that :func:`load_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(recipe_dict(recipe), sort_keys=False)


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """Turn a recipe into plain dicts, lists and scalars, with the name of each method beside its settings."""
    plain = _plain(recipe)
    return {"version": plain.pop("version"), "name": plain.pop("name"), **plain}


def public_recipe(recipe: Recipe) -> Recipe:
    """Take out of a recipe where things are on this machine, which is nobody else's business."""
    name = recipe.model.name
    if name.startswith("local-dir:"):
        name = f"local-dir:{Path(name.removeprefix('local-dir:')).name}"
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, root=None),
        model=dataclasses.replace(recipe.model, name=name),
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        names: dict[Any, str] = {cls: name for name, cls in METHODS.items()}
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": names[type(value)], **fields} if type(value) in names else fields
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _parse(file: Path) -> _Entry:
    """Read YAML, keeping the line of every key, which yaml.safe_load would drop."""
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            return _entry(loader, node, file, node.start_mark.line)
    except UserError:
        raise
    # such as a date that does not exist, bytes that are no text, or a list that is an item of itself
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a YAML file: {one_line(error)}") from error
    raise UserError(f"{file}: a recipe is a mapping of keys to values; see the shipped ones (`cutmix-zoo recipes`).")


def _entry(loader: yaml.SafeLoader, node: yaml.Node, file: Path, line: int) -> _Entry:
    place = f"{file}:{line + 1}"
    if isinstance(node, yaml.SequenceNode) and node.tag == _LIST:
        return _Entry([_entry(loader, item, file, item.start_mark.line) for item in node.value], place)
    if not isinstance(node, yaml.MappingNode):
        return _Entry(loader.construct_object(node, deep=True), place)
    section: dict[str, _Entry] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        key_line = key_node.start_mark.line
        if key in section:
            raise UserError(f"{file}:{key_line + 1}: {key}: given twice; the first is at {section[key].place}.")
        section[key] = _entry(loader, value_node, file, key_line)
    return _Entry(section, place)


def _override(root: _Entry, dotted: str, text: str) -> None:
    place = "command line"
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{place}: {dotted}: cannot read the value {text!r}; write it as in a YAML file.") from error
    *sections, last = dotted.split(".")
    entry = root
    for name in sections:
        inner = entry.value.get(name)
        if inner is None or not isinstance(inner.value, dict):
            inner = entry.value[name] = _Entry({}, place)
        entry = inner
    entry.value[last] = _located(value, place)


def _located(value: Any, place: str) -> _Entry:
    if isinstance(value, dict):
        return _Entry({str(key): _located(inner, place) for key, inner in value.items()}, place)
    return _Entry([_located(item, place) for item in value] if isinstance(value, list) else value, place)


def _build(cls: Any, entry: _Entry, path: str) -> Any:
    """Make a dataclass from a section: no unknown key, every value typed, every check of the class passed."""
    if not isinstance(entry.value, dict):
        raise UserError(f"{entry.place}: {path}: expected a section of keys, got {_given(entry)}.")
    hints = typing.get_type_hints(cls)
    _check_keys(entry, path, hints)
    missing = [f.name for f in dataclasses.fields(cls) if _required(f) and f.name not in entry.value]
    if missing:
        raise UserError(f"{entry.place}: {_join(path, missing[0])}: missing; it expects {in_words(hints[missing[0]])}.")
    values = {key: _value(hints[key], inner, _join(path, key)) for key, inner in entry.value.items()}
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        # our checks begin with the field's name: point at its line
        key = str(error).split(maxsplit=1)[0].rstrip(":")
        raise UserError(f"{_place_of(entry, key)}: {_join(path, str(error))}") from error


def _place_of(entry: _Entry, dotted: str) -> str:
    """Find where a key was written; the place of its section where it was not."""
    for key in dotted.split("."):
        if not isinstance(entry.value, dict) or key not in entry.value:
            break
        entry = entry.value[key]
    return entry.place


def _value(hint: Any, entry: _Entry, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, entry, path)
    if hint in METHOD_HINTS:
        return None if entry.value is None and hint != MixMethod else _mix(entry, path)
    return _mixes(entry, path) if hint == METHODS_HINT else _typed(hint, entry, path)


def _mixes(entry: _Entry, path: str) -> list[Any]:
    if not isinstance(entry.value, list):
        raise UserError(f"{entry.place}: {path}: expected a list of methods, got {_given(entry)}.")
    return [_mix(item, f"{path}[{number}]") for number, item in enumerate(entry.value)]


def _mix(entry: _Entry, path: str) -> Any:
    if not isinstance(entry.value, dict) or "name" not in entry.value:
        null = "null, or " if path == "mix" else ""
        raise UserError(f"{entry.place}: {path}: expected {null}a section with a name ({', '.join(METHODS)}).")
    fields = dict(entry.value)
    name = fields.pop("name")
    if not isinstance(name.value, str) or name.value not in METHODS:
        given = name.plain()
        raise UserError(
            f"{name.place}: {path}.name: no method is called {given!r}; {did_you_mean(str(given), METHODS)}"
            f"valid: {', '.join(METHODS)}."
        )
    return _build(METHODS[name.value], _Entry(fields, entry.place), path)


def _check_keys(entry: _Entry, path: str, valid: Mapping[str, Any]) -> None:
    for key, inner in entry.value.items():
        if key not in valid:
            nearest = did_you_mean(key, valid, prefix=_join(path, ""))
            where = f"of {path}" if path else "at the top level"
            keys = ", ".join(valid)
            raise UserError(f"{inner.place}: {_join(path, key)}: unknown key; {nearest}Keys {where}: {keys}.")


def _typed(hint: Any, entry: _Entry, path: str) -> Any:
    # imported here: only recipes need it, and it would slow `import cutmix_zoo` down
    from jsonargparse import ArgumentError, ArgumentParser

    if entry.value is None:  # to jsonargparse this is a value that was not given, whatever the hint
        if type(None) in typing.get_args(hint):
            return None
        raise _mistyped(hint, entry, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": entry.plain()}).value
    except ArgumentError as error:
        raise _mistyped(hint, entry, path) from error


def _mistyped(hint: Any, entry: _Entry, path: str) -> UserError:
    return UserError(f"{entry.place}: {path}: expected {in_words(hint)}, got {_given(entry)}.")


def _given(entry: _Entry) -> str:
    return "null (or nothing behind the colon)" if entry.value is None else repr(entry.plain())


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def recipe_difference(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str] = ()) -> list[str]:
    """Compare two recipes key by key.

    Args:
        old: a recipe, as :func:`recipe_dict` gives it.
        new: another.
        ignore: dotted keys that may differ.

    Returns:
        One line for each key that differs, such as ``optimizer.lr: 0.1 -> 0.05``.
    """
    before, after = _flat(old), _flat(new)
    keys = [key for key in {**before, **after} if key not in ignore]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        inner = {_join(path, key): value for key, value in tree.items()}
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        inner = {f"{path}[{number}]": item for number, item in enumerate(tree)}
    else:
        return {path: tree}
    return {key: value for name, branch in inner.items() for key, value in _flat(branch, name).items()}
