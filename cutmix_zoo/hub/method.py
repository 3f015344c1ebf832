"""What a recipe trains with, in words and in numbers: mixing and what regularizes beside it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cutmix_zoo.mixing import Chain, FeatureMix, Mixup, OneOf, Scheduled
from cutmix_zoo.mixing.registry import METHODS
from cutmix_zoo.training.recipe import recipe_dict

if TYPE_CHECKING:
    from cutmix_zoo.mixing import MixMethod
    from cutmix_zoo.training.settings import Recipe

_OTHERS = {
    "drop_path_rate": "stochastic depth",
    "drop_block_rate": "DropBlock",
    "shakedrop_prob": "ShakeDrop",
    "label_smoothing": "label smoothing",
    "drop_rate": "dropout",
    "class_weights": "class weights",
    "ema_decay": "EMA",
}
"""What regularizes beside mixing: how a recipe says it, and what it is called."""
_ALWAYS_SAID = ("alpha", "prob", "per")
"""Settings of a method that its reader looks for, also where they are the usual ones."""


def method_of(recipe: Recipe) -> str:
    """Say what a recipe trains with, as the column ``method`` of the zoo table does.

    Returns:
        Such as ``CutMix``, ``Feature CutMix``, ``Manifold Mixup``, ``CutMix, ShakeDrop`` or ``label smoothing``;
        ``none`` for nothing.

    Example:
        >>> from cutmix_zoo.training.recipe import load_recipe
        >>> method_of(load_recipe("cifar100_pyramidnet200_cutmix_shakedrop"))
        'CutMix, ShakeDrop'
    """
    words = [] if recipe.mix is None else [_called(recipe.mix)]
    return ", ".join([*words, *(_OTHERS[key] for key in _others(recipe))]) or "none"


def mix_settings(recipe: Recipe) -> str:
    """Name the mixing method of a recipe as recipes do, and those of its settings that a reader looks for."""
    mix = recipe_dict(recipe)["mix"]
    return "none" if mix is None else _settings(mix)


def other_settings(recipe: Recipe) -> str:
    """Name what regularizes beside mixing, with how much of it; empty for nothing."""
    found = _others(recipe)
    if not isinstance(found.get("class_weights", ""), str):
        found["class_weights"] = "one by one"  # there may be a thousand
    return ", ".join(f"{_OTHERS[key]} ({key} {_said(value)})" for key, value in found.items())


def _called(mix: MixMethod) -> str:
    match mix:
        case Mixup():
            words = "mixup"
        case FeatureMix() if max(mix.depths) == 0:  # of the images alone
            words = _called(mix.mix)
        case FeatureMix():
            words = "Manifold Mixup" if isinstance(mix.mix, Mixup) else f"Feature {_inside(mix.mix)}"
        case Scheduled():
            words = f"scheduled {_inside(mix.mix)}"
        case OneOf():
            words = " or ".join(map(_inside, mix.mixes))
        case Chain():
            words = ", ".join(map(_inside, mix.mixes))
        case _:
            words = type(mix).__name__
    return words


def _inside(mix: MixMethod) -> str:
    """Name a method that stands beside others, or behind a word."""
    several = isinstance(mix, OneOf | Chain) and len(mix.mixes) > 1
    return f"({_called(mix)})" if several else _called(mix)


def _others(recipe: Recipe) -> dict[str, Any]:
    """List what is not zero of what regularizes beside mixing, also what the network was told itself."""
    own = {**recipe_dict(recipe)["regularize"], "ema_decay": recipe.ema.decay}
    values = {key: own[key] or recipe.model.args.get(key) for key in _OTHERS}
    return {key: value for key, value in values.items() if value}


def _settings(mix: dict[str, Any]) -> str:
    """Write the settings of a method that are not the usual ones, and those of the methods in it."""
    usual = {field.name: field.default for field in fields(METHODS[mix["name"]])}  # type: ignore[arg-type]
    chosen = {key: value for key, value in mix.items() if key in _ALWAYS_SAID or value != usual.get(key)}
    settings = ", ".join(f"{key} {_said(value)}" for key, value in chosen.items() if key != "name")
    return f"{mix['name']} ({settings})" if settings else mix["name"]


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return _settings(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_said, value))}]"
    return str(value)
