"""What a recipe trains with, in words: the zoo table's words are the reference."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cutmix_zoo.hub.method import method_of, mix_settings, other_settings
from cutmix_zoo.mixing import Chain, CutMix, Cutout, FeatureMix, Mixup, OneOf, Scheduled
from cutmix_zoo.mixing.method import MixMethod
from cutmix_zoo.mixing.registry import CANONICAL
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.settings import EmaSettings, Recipe, RegularizeSettings
from cutmix_zoo.zoo import ZooEntry, zoo_table


def recipe(mix: MixMethod | None = None, ema: float | None = None, **regularize: Any) -> Recipe:
    settings = RegularizeSettings(**regularize)
    return replace(load_recipe("quickstart"), mix=mix, regularize=settings, ema=EmaSettings(ema))


@pytest.mark.parametrize("entry", zoo_table().values(), ids=lambda entry: entry.name)
def test_words_are_those_of_the_zoo_table(entry: ZooEntry) -> None:
    assert method_of(load_recipe(entry.recipe)) == entry.method


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (None, "none"),
        (CANONICAL["ricap"], "RICAP"),
        (CANONICAL["fmix"], "FMix"),
        (Scheduled(CutMix()), "scheduled CutMix"),
        (OneOf([Mixup(), CutMix()]), "mixup or CutMix"),
        (Chain([Cutout(16), FeatureMix(Mixup())]), "Cutout, Manifold Mixup"),
        (Chain([Cutout(16), OneOf([Mixup(), CutMix()])]), "Cutout, (mixup or CutMix)"),
        (Scheduled(OneOf([Mixup(), CutMix()])), "scheduled (mixup or CutMix)"),
        (FeatureMix(OneOf([CutMix()])), "Feature CutMix"),
        (FeatureMix(CutMix(), depths=(0,)), "CutMix"),
    ],
)
def test_methods_of_methods(mix: MixMethod | None, words: str) -> None:
    assert method_of(recipe(mix)) == words


@pytest.mark.parametrize(
    ("given", "words", "numbers"),
    [
        ({}, "none", ""),
        ({"drop_path_rate": 0.25}, "stochastic depth", "stochastic depth (drop_path_rate 0.25)"),
        ({"drop_block_rate": 0.1}, "DropBlock", "DropBlock (drop_block_rate 0.1)"),
        ({"drop_rate": 0.2}, "dropout", "dropout (drop_rate 0.2)"),
        ({"class_weights": "balanced"}, "class weights", "class weights (class_weights balanced)"),
        ({"class_weights": (1.0, 2.0)}, "class weights", "class weights (class_weights one by one)"),
        ({"ema": 0.99}, "EMA", "EMA (ema_decay 0.99)"),
        (
            {"mix": CutMix(), "label_smoothing": 0.1, "shakedrop_prob": 0.5},
            "CutMix, ShakeDrop, label smoothing",
            "ShakeDrop (shakedrop_prob 0.5), label smoothing (label_smoothing 0.1)",
        ),
    ],
)
def test_regularizers_are_said_where_they_are_not_zero(given: Mapping[str, Any], words: str, numbers: str) -> None:
    found = recipe(**given)
    assert (method_of(found), other_settings(found)) == (words, numbers)


def test_what_the_network_was_told_itself_counts_too() -> None:
    plain = recipe(CutMix())
    told = replace(plain, model=replace(plain.model, args={"shakedrop_prob": 0.5, "global_pool": "max"}))
    assert method_of(told) == "CutMix, ShakeDrop"
    assert other_settings(told) == "ShakeDrop (shakedrop_prob 0.5)"


def test_settings_of_methods_of_methods_are_written_as_those_of_one() -> None:
    alone = "cutmix (prob 1.0, per batch, alpha 1.0)"
    assert mix_settings(recipe(CutMix())) == alone
    assert mix_settings(recipe(Scheduled(CutMix(), off_from=0.9))) == f"scheduled (mix {alone}, off_from 0.9)"
    assert mix_settings(recipe(FeatureMix(CutMix(), depths=(2,)))) == f"feature_mix (mix {alone}, depths [2])"
    several = mix_settings(recipe(OneOf([CutMix(), Mixup(alpha=0.2)])))
    assert several == f"one_of (mixes [{alone}, mixup (prob 1.0, per batch, alpha 0.2)], per batch)"
    assert mix_settings(recipe()) == "none"
