"""The keys of a recipe are what its sections say they are."""

import dataclasses
from dataclasses import MISSING
from typing import Any

import pytest
import yaml

from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.mixing import METHODS
from cutmix_zoo.training.recipe import load_recipe, recipe_dict
from cutmix_zoo.training.recipe_keys import describe_keys, recipe_keys
from cutmix_zoo.training.settings import OptimizerSettings, RegularizeSettings, RuntimeSettings


def test_every_key_that_is_listed_can_be_given() -> None:
    keys = recipe_keys()
    recipe = recipe_dict(load_recipe("quickstart"))
    methods = {key for key in keys if key.startswith("mix.")}
    for dotted in set(keys) - methods:
        node = recipe
        *sections, last = dotted.split(".")
        for section in sections:
            node = node[section]
        assert last in node, dotted
    fields = {field.name for method in METHODS.values() for field in dataclasses.fields(method)}
    assert methods == {"mix.name", *(f"mix.{name}" for name in fields)}
    assert keys["schedule.epochs"].expects == "int"
    assert keys["model.in_chans"].expects == "int or null"


def test_the_keys_of_methods_say_whose_they_are() -> None:
    keys = {name: key.expects for name, key in recipe_keys().items()}
    assert keys["mix.name"] == f"one of {', '.join(METHODS)}"
    assert keys["mix.start"] == "float (scheduled)"
    assert keys["mix.minmax"] == "a list of 2 float or null (cutmix)"
    assert keys["mix.depths"] == "a list of int (feature_mix)"
    assert keys["mix.weights"].startswith("a list of float or null (one_of")
    assert keys["mix.mixes"].startswith("a list of methods, each written as mix itself (one_of, chain")
    assert keys["mix.mix"].startswith("a method, written as mix itself (scheduled, feature_mix")
    per = keys["mix.per"].split("; ")
    assert per[0].startswith("one of batch, pair, sample (cutmix, mixup")
    assert any(text.startswith("one of batch, sample (cutout") for text in per)


@pytest.mark.parametrize(
    ("section", "prefix"),
    [
        (DataSettings, "data"),
        (OptimizerSettings, "optimizer"),
        (RegularizeSettings, "regularize"),
        (RuntimeSettings, "runtime"),
    ],
)
def test_a_default_is_that_of_the_section(section: Any, prefix: str) -> None:
    keys = recipe_keys()
    for field in dataclasses.fields(section):
        made = field.default if field.default is not MISSING else field.default_factory
        default = keys[f"{prefix}.{field.name}"].default
        if made is MISSING:
            assert default is None
        else:
            value = made() if callable(made) else made
            assert default is not None
            assert yaml.safe_load(default) == (list(value) if isinstance(value, tuple) else value), field.name


def test_every_key_has_a_meaning_and_of_methods_that_differ_one_has_it() -> None:
    keys = recipe_keys()
    assert all(key.about for key in keys.values())
    assert keys["mix.alpha"].about.startswith("of cutmix: ")
    assert keys["mix.pairing"].about.endswith("first and last, as in timm. More at PairMethod.")
    batch = "batch of cutmix, mixup, resizemix, fmix, gridmix, smoothmix, saliencymix, ricap, one_of"
    assert keys["mix.per"].default == f"{batch}; sample of cutout"
    assert keys["regularize.drop_block_size"].about.startswith("side of the blocks")  # of the class it is made from
    assert keys["mix.minmax"].about.endswith("It is timm's cutmix_minmax.")
    assert keys["optimizer.decay_all"].about.endswith("; false spares biases and norms too, as timm does.")
    assert "Raises" not in " ".join(key.about for key in keys.values())


def test_the_help_has_each_key_with_what_it_takes_and_means() -> None:
    text = describe_keys()
    assert "  --optimizer.momentum float\n        momentum of SGD-like optimizers (default: 0.9)\n" in text
    assert "  --schedule.epochs int\n        length of the run\n" in text
    assert [line.split()[0][2:] for line in text.splitlines() if line.startswith("  --")] == list(recipe_keys())
    assert max(len(line) for line in text.splitlines() if line.startswith("        ")) <= 100
