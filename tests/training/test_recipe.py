import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from cutmix_zoo.errors import UserError
from cutmix_zoo.known import known_dataset
from cutmix_zoo.mixing import (
    METHODS,
    Chain,
    CutMix,
    Cutout,
    FeatureMix,
    IdentityPlan,
    MixMethod,
    Mixup,
    OneOf,
    Scheduled,
    map_sizes,
)
from cutmix_zoo.mixing.feature import deepest
from cutmix_zoo.training.mix import draw_mix
from cutmix_zoo.training.network import complete_input, make_network
from cutmix_zoo.training.overrides import split_overrides
from cutmix_zoo.training.recipe import (
    dump_recipe,
    find_recipe,
    load_recipe,
    recipe_dict,
    recipe_difference,
    recipe_head,
    shipped_recipes,
)
from cutmix_zoo.training.recipe_keys import recipe_keys
from cutmix_zoo.training.settings import Recipe, RegularizeSettings
from cutmix_zoo.training.splits import resolve

MINIMAL = """\
version: 1
model:
  name: cifar_resnet8
data:
  name: fashion_mnist_mini
schedule:
  epochs: 2
"""


CHAIN = (
    MINIMAL
    + """\
mix:
  name: chain
  mixes:
    - name: cutout
      size: 8
      fill: [1]
    - name: feature_mix
      mix:
        {name: mixup, alpha: 0.5}
      depths: [0, 1]
"""
)


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text)
    return file


def test_minimal_recipe_is_called_after_its_file_and_typed(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL + "optimizer:\n  lr: 1e-2\nmix:\n  name: cutmix\n  alpha: 2\n"))
    assert recipe.name == "mine"
    assert recipe.optimizer.lr == 0.01  # YAML 1.1 reads 1e-2 as text
    assert isinstance(recipe.mix, CutMix)
    assert recipe.mix.alpha == 2.0
    assert recipe.schedule.milestones == (0.5, 0.75)


def test_mix_null_is_no_mixing(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL + "mix: null\n")).mix is None
    assert load_recipe(write(tmp_path, MINIMAL + "mix:\n  name: cutmix\n"), {"mix": "null"}).mix is None


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        (MINIMAL + "optimiser:\n  lr: 1\n", 8, ["optimiser", "unknown key", "did you mean optimizer?"]),
        (MINIMAL.replace("epochs", "epoch"), 7, ["schedule.epoch", "did you mean schedule.epochs?"]),
        (
            MINIMAL.replace("cifar_resnet8", "cifar_resnet88"),
            3,
            ["model.name", "cifar_resnet88", "did you mean cifar_resnet8"],
        ),
        (MINIMAL.replace("cifar_resnet8", "QQQQ"), 3, ["'QQQQ'", "timm.list_models()"]),
        (MINIMAL.replace("epochs: 2", "epochs: two"), 7, ["schedule.epochs", "expected int", "'two'"]),
        (MINIMAL.replace("epochs: 2", "epochs: 0"), 7, ["schedule.epochs must be a whole number of at least 1, got 0"]),
        (MINIMAL.replace("epochs: 2", "name: cosine"), 6, ["schedule.epochs", "missing", "int"]),
        (MINIMAL + "  name: steps\n", 8, ["schedule.name", "one of multistep, constant, cosine, tanh", "'steps'"]),
        (MINIMAL + "  milestones: [0.75, 0.5]\n", 8, ["schedule.milestones must rise"]),
        (MINIMAL + "  milestones: 0.5\n", 8, ["schedule.milestones", "a list of float"]),
        (MINIMAL + "mix:\n  name: cutmx\n", 9, ["mix.name", "did you mean cutmix?"]),
        (MINIMAL + "mix:\n  name: [cutmix]\n", 9, ["mix.name", "no method is called ['cutmix']"]),
        (MINIMAL + "mix: cutmix\n", 8, ["mix", "null, or a section"]),
        (MINIMAL + "mix:\n  name: cutmix\n  alfa: 1\n", 10, ["mix.alfa", "did you mean mix.alpha?"]),
        (MINIMAL + "mix:\n  name: cutmix\n  alpha: -1\n", 10, ["mix.alpha", "-1"]),
        (MINIMAL + "mix:\n  name: cutmix\n  per: image\n", 10, ["mix.per", "one of batch, pair, sample"]),
        (MINIMAL + "model:\n  name: resnet50\n", 8, ["model", "given twice", ":2"]),
        (MINIMAL + "optimizer: 3\n", 8, ["optimizer", "expected a section"]),
        (MINIMAL + "optimizer:\n  name: sdg\n", 9, ["optimizer.name", "did you mean"]),
        (MINIMAL + "optimizer:\n  name: zzzzzz\n", 9, ["optimizer.name", "timm.optim.list_optimizers()"]),
        (MINIMAL + "optimizer:\n  lr: -1\n", 9, ["optimizer.lr must be a finite number above 0, got -1"]),
        (MINIMAL + "optimizer:\n  momentum: 1\n", 9, ["optimizer.momentum must be"]),
        (MINIMAL + "optimizer:\n  weight_decay: -1\n", 9, ["optimizer.weight_decay must be"]),
        (MINIMAL + "  gamma: 2\n", 8, ["schedule.gamma must be"]),
        (MINIMAL + "  warmup_epochs: 3\n", 8, ["schedule.warmup_epochs must be"]),
        (MINIMAL + "  warmup_lr: -2\n", 8, ["schedule.warmup_lr must be"]),
        (MINIMAL + "  min_lr: -2\n", 8, ["schedule.min_lr must be"]),
        (MINIMAL + "regularize:\n  label_smoothing: 1\n", 9, ["regularize.label_smoothing must be"]),
        (MINIMAL + "regularize:\n  drop_block_size: 0\n", 9, ["regularize.drop_block_size must be a whole number"]),
        (MINIMAL + "regularize:\n  drop_path_rule: up\n", 9, ["regularize.drop_path_rule", "one of linear, uniform"]),
        (MINIMAL + "regularize:\n  drop_block_schedule: up\n", 9, ["drop_block_schedule", "one of linear, constant"]),
        (
            MINIMAL + "regularize:\n  drop_path_rate: 0.1\n  shakedrop_prob: 0.5\n",
            10,
            ["regularize", "both scale the residual branch"],
        ),
        (MINIMAL.replace("mini\n", "mini\n  val_fraction: 1\n"), 6, ["data.val_fraction must be", "got 1"]),
        (MINIMAL.replace("mini\n", "mini\n  fold: 5/5\n"), 6, ["data.fold must be such as 0/5", "got '5/5'"]),
        (MINIMAL.replace("mini\n", "mini\n  fold: 0/5\n  val_fraction: 0.1\n"), 7, ["data.val_fraction must be 0"]),
        (MINIMAL + "optimizer:\n  layer_decay: 1.5\n", 9, ["optimizer.layer_decay must be between 0 and 1, got 1.5"]),
        (
            MINIMAL + "optimizer:\n  backbone_lr_scale: 0\n",
            9,
            ["optimizer.backbone_lr_scale must be", "above 0, got 0"],
        ),
        (
            MINIMAL + "optimizer:\n  backbone_lr_scale: 0.1\n  layer_decay: 0.5\n",
            10,
            ["optimizer.layer_decay must be null beside backbone_lr_scale, got 0.5"],
        ),
        (MINIMAL.replace("mini\n", "mini\n  only_classes: [1, 1]\n"), 6, ["data.only_classes must be", "got [1, 1]"]),
        (MINIMAL.replace("mini\n", "mini\n  only_classes: [bag]\n"), 6, ["data.only_classes", "a list of int or null"]),
        (MINIMAL.replace("resnet8", "resnet8\n  train: head"), 4, ["model.train", "one of all, classifier"]),
        (MINIMAL + "optimizer:\n  name: adamw\n", 8, ["optimizer.lr must be given for adamw", "one for SGD"]),
        (MINIMAL + "optimizer:\n  name: adahessian\n", 9, ["optimizer.name must be", "needs second derivatives"]),
        (MINIMAL + "optimizer:\n  clip_norm: 0\n", 9, ["optimizer.clip_norm must be"]),
        (MINIMAL + "optimizer:\n  skip_nonfinite: -1\n", 9, ["optimizer.skip_nonfinite must be at least 0, got -1"]),
        (MINIMAL + "evaluate:\n  every: 0\n", 9, ["evaluate.every must be"]),
        (MINIMAL + "evaluate:\n  best_by: loss\n", 9, ["evaluate.best_by", "one of top1, top5, val_loss"]),
        (MINIMAL + "evaluate:\n  best_by: ema_top1\n", 9, ["evaluate.best_by is ema_top1", "set ema.decay"]),
        (MINIMAL + "ema:\n  decay: 1\n", 9, ["ema.decay must be between 0 and 1, got 1"]),
        (MINIMAL + "runtime:\n  compile: inducto\n", 9, ["runtime.compile must be one of", "inductor"]),
        (
            MINIMAL + "mix: {name: feature_mix, mix: {name: cutmix}, depths: [1]}\nruntime:\n  compile: eager\n",
            10,
            ["runtime.compile must be null, because mix reaches into the network, got eager"],
        ),
        (MINIMAL + "evaluate:\n  patience: 0\n", 9, ["evaluate.patience must be"]),
        (MINIMAL + "evaluate:\n  batch_size: 0\n", 9, ["evaluate.batch_size must be"]),
        (MINIMAL + "regularize:\n  drop_rate: 1\n", 9, ["regularize.drop_rate must be"]),
        (MINIMAL + "runtime:\n  micro_batch: 0\n", 9, ["runtime.micro_batch must be"]),
        (
            MINIMAL + "mix: {name: feature_mix, mix: {name: cutmix}, depths: [1]}\nruntime:\n  micro_batch: 8\n",
            10,
            ["runtime.micro_batch must be null, because mix joins the maps of a whole batch, got 8"],
        ),
        (MINIMAL + "runtime:\n  keep_best: -1\n", 9, ["runtime.keep_best must be at least 0, got -1"]),
        (MINIMAL + "runtime:\n  checkpoint_every_steps: 0\n", 9, ["runtime.checkpoint_every_steps must be"]),
        (MINIMAL + "runtime:\n  checkpoint_every_minutes: 0\n", 9, ["runtime.checkpoint_every_minutes must be"]),
        (MINIMAL + "runtime:\n  keep_checkpoints: 0\n", 9, ["runtime.keep_checkpoints must be"]),
        (MINIMAL + "runtime:\n  trackers: [mlflow]\n", 9, ["runtime.trackers", "one of tensorboard, wandb, trackio"]),
        (
            MINIMAL.replace("  name: cifar_resnet8", "  name: cifar_resnet8\n  in_chans: 0"),
            4,
            ["model.in_chans must be"],
        ),
        (
            MINIMAL.replace("  name: fashion_mnist_mini", "  name: x\n  batch_size: 0"),
            6,
            ["data.batch_size", "at least 1", "0"],
        ),
        (
            MINIMAL + "optimizer:\n  decay_all:\n",
            9,
            ["optimizer.decay_all: expected true or false, got null (or nothing"],
        ),
        (MINIMAL + "  milestones: null\n", 8, ["schedule.milestones: expected a list of float, got null"]),
        (MINIMAL.replace("cifar_resnet8", "null"), 3, ["model.name: expected text, got null (or nothing behind"]),
        (MINIMAL + "optimizer:\n", 8, ["optimizer: expected a section of keys, got null (or nothing behind"]),
        *(
            (
                MINIMAL.replace("resnet8", "resnet8\n  train: classifier") + f"regularize:\n  {key}: 0.25\n",
                10,
                [f"regularize.{key} must be 0 where model.train is classifier", "evaluation mode, got 0.25"],
            )
            for key in ("drop_rate", "drop_path_rate", "drop_block_rate", "shakedrop_prob")
        ),
        (MINIMAL.replace("version: 1", "version: 2"), 1, ["version must be 1"]),
        (MINIMAL + "name: a/b\n", 8, ["name must be a plain word"]),
        (MINIMAL + "mix:\n  name: scheduled\n", 8, ["mix.mix: missing; it expects a method, written as mix itself"]),
        (MINIMAL + "mix:\n  name: scheduled\n  mix: null\n", 10, ["mix.mix: expected a section with a name (cutmix,"]),
        (
            MINIMAL + "mix:\n  name: scheduled\n  mix:\n    nam: cutmix\n",
            10,
            ["mix.mix: expected a section with a name"],
        ),
        (MINIMAL + "mix:\n  name: scheduled\n  mix: {name: cutmx}\n", 10, ["mix.mix.name", "did you mean cutmix?"]),
        (
            MINIMAL + "mix:\n  name: scheduled\n  mix:\n    name: cutmix\n    alfa: 2\n",
            12,
            ["mix.mix.alfa: unknown key; did you mean mix.mix.alpha?", "Keys of mix.mix: prob, per,"],
        ),
        (CHAIN.replace("name: cutout", "name: cutot"), 11, ["mix.mixes[0].name", "did you mean cutout?"]),
        (CHAIN.replace("size: 8", "siz: 8"), 12, ["mix.mixes[0].siz: unknown key; did you mean mix.mixes[0].size?"]),
        (CHAIN.replace("size: 8", "size: 0"), 12, ["mix.mixes[0].size must be a whole number of at least 1, got 0"]),
        (CHAIN.replace("size: 8", "size: x"), 12, ["mix.mixes[0].size: expected int, got 'x'"]),
        (CHAIN.replace("[1]", "[x]"), 13, ["mix.mixes[0].fill: expected a list of float or null, got ['x']"]),
        (CHAIN.replace("alpha: 0.5", "alpha: -1"), 16, ["mix.mixes[1].mix.alpha must be", "-1"]),
        (CHAIN.replace("[0, 1]", "[0, 0.5]"), 17, ["mix.mixes[1].depths: expected a list of int, got [0, 0.5]"]),
        (CHAIN.replace("[0, 1]", "[-1]"), 17, ["mix.mixes[1].depths must be whole numbers from 0"]),
        (MINIMAL + "mix:\n  name: chain\n  mixes: []\n", 10, ["mix.mixes must name at least one method"]),
        (MINIMAL + "mix:\n  name: chain\n  mixes: {}\n", 10, ["mix.mixes: expected a list of methods, got {}"]),
        (MINIMAL + "mix:\n  name: chain\n  mixes:\n    - 3\n", 11, ["mix.mixes[0]: expected a section with a name"]),
        (
            MINIMAL + "mix:\n  name: one_of\n  mixes: [{name: mixup}, {name: cutmix}]\n  weights: [1]\n",
            11,
            ["mix.weights must be 2 numbers from 0, not all 0, got (1.0,)"],
        ),
        (MINIMAL + "mix:\n  name: cutmix\n  minmax: [0.1]\n", 10, ["mix.minmax: expected a list of 2 float or null"]),
        (
            MINIMAL + "mix:\n  name: chain\n  mixes: [{name: feature_mix, mix: {name: mixup}}, {name: cutmix}]\n",
            8,
            ["mix must mix maps after all images and for a whole batch: put feature_mix last in a chain"],
        ),
        (
            MINIMAL + "mix:\n  name: one_of\n  per: sample\n  mixes: [{name: feature_mix, mix: {name: mixup}}]\n",
            8,
            ["mix must mix maps after all images and for a whole batch", "into one_of with per: batch"],
        ),
        (
            CHAIN + "runtime:\n  mix_on: collate\n",
            19,
            ["runtime.mix_on must be device, because mix reaches the maps inside the network, got collate"],
        ),
    ],
)
def test_mistakes_name_file_line_key_and_expectation(tmp_path: Path, text: str, line: int, parts: list[str]) -> None:
    file = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_recipe(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: "), message
    assert "\n" not in message
    for part in parts:
        assert part in message


KEYS = {key: about.expects for key, about in recipe_keys().items() if not key.startswith("mix.")}


@pytest.mark.parametrize("key", KEYS)
def test_null_is_taken_by_the_keys_that_say_so_and_by_no_other(key: str, tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)
    if KEYS[key].endswith("or null"):
        value = load_recipe(file, {key: "null"})
        for part in key.split("."):
            value = getattr(value, part)
        assert value == (0.1 if key == "optimizer.lr" else None)  # which SGD's is filled in for
    else:
        with pytest.raises(UserError) as caught:
            load_recipe(file, {key: "null"})
        assert (
            str(caught.value) == f"command line: {key}: expected {KEYS[key]}, got null (or nothing behind the colon)."
        )


@pytest.mark.parametrize("method", METHODS)
def test_null_is_taken_by_the_keys_of_methods_that_say_so_and_by_no_other(method: str, tmp_path: Path) -> None:
    own = {field.name for field in fields(METHODS[method])}
    inner = {"mix": {"name": "mixup"}, "mixes": [{"name": "mixup"}], "depths": [1]}
    needed = {key: value for key, value in inner.items() if key in own}
    for dotted, about in recipe_keys(METHODS[method], "mix.").items():
        key = dotted.removeprefix("mix.")
        file = write(tmp_path, MINIMAL + yaml.safe_dump({"mix": {"name": method, **needed, key: None}}))
        if about.expects.endswith("or null"):
            assert getattr(load_recipe(file).mix, key) is None
        else:
            with pytest.raises(UserError, match=rf"^{re.escape(str(file))}:\d+: {dotted}: expected "):
                load_recipe(file)


@pytest.mark.parametrize(
    "text", ["a: [", "- a\n", "", "\x00", "seed: !foo 3\n", "seed: 2024-13-45\n", "mix: &a [*a]\n", "mix: &a {b: *a}\n"]
)
def test_what_is_not_a_recipe_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"not a YAML file|a recipe is a mapping") as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)


NESTED = {
    "chain": Chain([Cutout(8, fill=(1.0,)), FeatureMix(Mixup(0.5), (0, 1))]),
    "scheduled": Scheduled(CutMix(alpha=2.0), start=0.0),
    "one_of": OneOf([Mixup(0.2), Scheduled(Chain([Cutout(fill=(0.0,)), CutMix()]))], weights=[1, 2], per="sample"),
    "feature_mix": FeatureMix(OneOf([Mixup(), CutMix()]), depths=[2]),
}


@pytest.mark.parametrize("name", NESTED)
def test_methods_hold_methods(name: str, tmp_path: Path) -> None:
    mix = NESTED[name]
    recipe = replace(load_recipe("quickstart"), mix=mix)
    assert recipe_dict(recipe)["mix"]["name"] == name
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe
    by_hand = {
        "chain": CHAIN.removeprefix(MINIMAL),
        "scheduled": "mix: {name: scheduled, mix: {name: cutmix, alpha: 2}, start: 0}\n",
        "one_of": """mix:
  name: one_of
  weights: [1, 2]
  per: sample
  mixes:
    - {name: mixup, alpha: 0.2}
    - name: scheduled
      mix: {name: chain, mixes: [{name: cutout, fill: [0]}, {name: cutmix}]}
""",
        "feature_mix": """mix:
  name: feature_mix
  mix: {name: one_of, mixes: [{name: mixup}, {name: cutmix}]}
  depths: [2]
""",
    }
    assert load_recipe(write(tmp_path, MINIMAL + by_hand[name])).mix == mix


def test_overrides_reach_methods_inside_methods(tmp_path: Path) -> None:
    scheduled = write(tmp_path, MINIMAL + "mix: {name: scheduled, mix: {name: cutmix}, start: 0}\n")
    options = {"mix.mix.alpha": "0.5", "mix.start": "0.25"}
    assert load_recipe(scheduled, options).mix == Scheduled(CutMix(alpha=0.5), start=0.25)
    text = "{name: chain, mixes: [{name: cutout, fill: [2]}, {name: mixup}]}"
    assert load_recipe(scheduled, {"mix": text}).mix == Chain([Cutout(fill=(2.0,)), Mixup()])
    chain = write(tmp_path, CHAIN)
    assert load_recipe(chain, {"mix.mixes": "[{name: mixup}]"}).mix == Chain([Mixup()])
    with pytest.raises(UserError, match=r"^command line: mix.mixes\[0\].alfa: unknown key; did you mean"):
        load_recipe(chain, {"mix.mixes": "[{name: mixup, alfa: 1}]"})
    with pytest.raises(UserError, match=r"^command line: mix.mixes: expected a list of methods, got {'size': 3}"):
        load_recipe(chain, {"mix.mixes.size": "3"})


def test_overrides_are_typed_and_checked_like_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)
    recipe = load_recipe(
        file,
        {
            "optimizer.lr": "1e-3",
            "model.args": "{block_dpr: 0.1}",
            "schedule.milestones": "[0.25]",
            "mix.name": "cutmix",
            "seed": "3",
        },
    )
    assert (recipe.optimizer.lr, recipe.schedule.milestones, recipe.seed) == (1e-3, (0.25,), 3)
    assert recipe.model.args == {"block_dpr": 0.1}
    assert recipe.mix == CutMix()
    for key, value, part in [
        ("optimizer.lrr", "1", "did you mean optimizer.lr?"),
        ("optimiser.lr", "1", "did you mean optimizer?"),
        ("schedule.epochs", "x", "expected int"),
        ("schedule.epochs", "[", "cannot read the value"),
        ("seed.x", "1", "seed: expected int"),
    ]:
        with pytest.raises(UserError, match=r"^command line: ") as caught:
            load_recipe(file, {key: value})
        assert part in str(caught.value)


def test_split_overrides_refuses_what_it_cannot_pair() -> None:
    assert split_overrides(["--a.b", "-1", "--c=x=y", "--a.b", "2"]) == {"a.b": "2", "c": "x=y"}
    with pytest.raises(UserError, match="unexpected argument 'x'"):
        split_overrides(["--a", "1", "x"])
    with pytest.raises(UserError, match="--a needs a value"):
        split_overrides(["--a", "--b", "1"])
    with pytest.raises(UserError, match="--a needs a value"):
        split_overrides(["--a"])


def test_find_recipe_names_the_nearest_shipped_one(tmp_path: Path) -> None:
    assert find_recipe("quickstart").name == "quickstart.yaml"
    with pytest.raises(UserError, match="did you mean quickstart"):
        find_recipe("quickstrat")
    with pytest.raises(UserError, match="neither the path of a recipe file nor a shipped recipe"):
        find_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_dump_and_say_what_they_are(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe
    head = [line for line in find_recipe(name).read_text().splitlines() if line.startswith("#")]
    for word in ("Paper", "Command", "Hardware", "Expected", "Differs"):
        assert any(line.startswith(f"# {word}") for line in head), word
    assert not any("TODO" in line for line in head)


AUTHORS = {"alpha": 1.0, "per": "batch", "box": "clip", "pairing": "permutation", "correct_lam": True}
"""How the authors' code draws."""

LIKE_AUTHORS = CutMix(prob=0.5, **AUTHORS)
MIXUP = Mixup(1.0, pairing="permutation")
CUTOUT = Cutout(16, fill=(125.0, 123.0, 114.0))

CIFAR = {
    "baseline": None,
    "cutmix": LIKE_AUTHORS,
    **{
        f"cutmix_alpha{str(alpha).replace('.', '_')}": replace(LIKE_AUTHORS, alpha=alpha)
        for alpha in (0.1, 0.25, 0.5, 2, 4)
    },
    "cutmix_center_gaussian": replace(LIKE_AUTHORS, box="gaussian", centre_std=0.25),
    "cutmix_fixed_size": replace(LIKE_AUTHORS, fixed_lam=0.75),
    "cutmix_one_hot": replace(LIKE_AUTHORS, label="one_hot"),
    "cutmix_complete_label": replace(LIKE_AUTHORS, label="complete"),
    "cutmix_scheduled": Scheduled(replace(LIKE_AUTHORS, prob=1.0), start=0.0, end=1.0),
    "cutout": CUTOUT,
    "mixup": MIXUP,
    "mixup_alpha0_5": replace(MIXUP, alpha=0.5),
    "manifold_mixup": FeatureMix(MIXUP, (0, 2, 3)),
    "cutout_mixup": Chain([CUTOUT, MIXUP]),
    "cutout_manifold_mixup": Chain([CUTOUT, FeatureMix(MIXUP, (0, 2, 3))]),
}
"""The rows of Tables 5 and 8 that mix, and the points of Figure 3."""

IMAGENET = {
    "baseline": None,
    "cutmix": CutMix(prob=1.0, **AUTHORS),
    "mixup": MIXUP,
    "cutout": Cutout(112, fill=(124.0, 116.0, 104.0)),
    "manifold_mixup": FeatureMix(MIXUP, (0, 2, 3)),
    "feature_cutmix": FeatureMix(CutMix(prob=1.0, **AUTHORS), (0, 2, 3)),
}
"""The rows of Table 3 that mix; Table 4 has some of them."""

REGULARIZED = {
    "smoothing": RegularizeSettings(label_smoothing=0.1),
    "stochastic_depth": RegularizeSettings(drop_path_rate=0.25),
    "dropblock": RegularizeSettings(drop_block_rate=0.1, drop_block_size=4),
    "dropblock_smoothing": RegularizeSettings(drop_block_rate=0.1, drop_block_size=4, label_smoothing=0.1),
    "shakedrop": RegularizeSettings(shakedrop_prob=0.5, shakedrop_per="sample", shakedrop_gate="batch"),
}
"""What Table 5 sets against mixing, or puts beside it; DropBlock on ImageNet has blocks of 7."""


class Row(NamedTuple):
    """What distinguishes a recipe of the paper from the baseline on its dataset."""

    model: str
    mix: MixMethod | None
    regularize: RegularizeSettings = RegularizeSettings()
    data: str = "torch/cifar100"
    lr: float = 0.25
    epochs: int = 300


PYRAMID = "cifar_pyramidnet200_a240"
PAPER = {f"cifar100_pyramidnet200_{kind}": Row(PYRAMID, mix) for kind, mix in CIFAR.items()}
PAPER["cifar100_pyramidnet200_cutout_smoothing"] = Row(PYRAMID, CUTOUT, REGULARIZED["smoothing"])
PAPER |= {f"cifar100_pyramidnet200_{kind}": Row(PYRAMID, None, settings) for kind, settings in REGULARIZED.items()}
PAPER["cifar100_pyramidnet200_cutmix_shakedrop"] = Row(PYRAMID, LIKE_AUTHORS, REGULARIZED["shakedrop"])
for kind, mix in (("baseline", None), ("cutmix", LIKE_AUTHORS)):
    PAPER[f"cifar100_pyramidnet110_{kind}"] = Row("cifar_pyramidnet110_a64", mix)
for kind, mix in (("baseline", None), ("cutmix", replace(LIKE_AUTHORS, prob=1.0))):
    PAPER[f"cifar100_resnet110_{kind}"] = Row("cifar_resnet110_bottleneck", mix, lr=0.1)
for kind in ("baseline", "cutout", "mixup", "manifold_mixup", "cutmix"):
    PAPER[f"cifar10_pyramidnet200_{kind}"] = Row(PYRAMID, CIFAR[kind], data="torch/cifar10")
for network, model, kinds in (
    ("resnet50", "resnet50", IMAGENET),
    ("resnet101", "resnet101", ("baseline", "cutout", "mixup", "cutmix")),
    ("resnet152", "resnet152", ("cutmix",)),
    ("resnext101", "resnext101_32x4d", ("baseline", "cutmix")),
):
    PAPER |= {f"imagenet_{network}_{kind}": Row(model, IMAGENET[kind], data="imagenet", lr=0.1) for kind in kinds}
DEPTH, BLOCKS = REGULARIZED["stochastic_depth"], replace(REGULARIZED["dropblock"], drop_block_size=7)
PAPER["imagenet_resnet50_stochastic_depth"] = Row("resnet50", None, DEPTH, data="imagenet", lr=0.1)
PAPER["imagenet_resnet50_dropblock"] = Row("resnet50", None, BLOCKS, data="imagenet", lr=0.1, epochs=270)


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper_differ_from_their_baseline_in_what_their_row_says(name: str) -> None:
    recipe, row = load_recipe(name), PAPER[name]
    assert (recipe.model.name, recipe.mix, recipe.regularize) == (row.model, row.mix, row.regularize)
    assert (recipe.data.name, recipe.optimizer.lr, recipe.schedule.epochs) == (row.data, row.lr, row.epochs)
    base = load_recipe("imagenet_resnet50_baseline" if row.data == "imagenet" else "cifar100_pyramidnet200_baseline")
    alike = replace(
        base,
        name=name,
        model=replace(base.model, name=row.model),
        mix=row.mix,
        regularize=row.regularize,
        data=replace(base.data, name=row.data),
        optimizer=replace(base.optimizer, lr=row.lr),
        schedule=replace(base.schedule, epochs=row.epochs),
    )
    assert recipe_difference(recipe_dict(alike), recipe_dict(recipe)) == []


def test_every_recipe_of_the_paper_is_known_here() -> None:
    named = {name for name in shipped_recipes() if name.startswith(("cifar", "imagenet", "cub"))}
    assert named == {*PAPER, *LOCALIZED}


LOCALIZED = {
    f"{data}_resnet50_{kind}_wsol": (data, kind, accuracy)
    for data, accuracies in {
        "cub": {"baseline": "49.41", "mixup": "49.30", "cutout": "52.78", "cutmix": "54.81"},
        "imagenet": {"baseline": "46.30", "mixup": "45.84", "cutout": "46.69", "cutmix": "47.25"},
    }.items()
    for kind, accuracy in accuracies.items()
}
"""The rows of Table 9 that train a ResNet-50, and their top-1 localization accuracy."""


@pytest.mark.parametrize("name", LOCALIZED)
def test_recipes_of_localization_follow_appendix_b(name: str) -> None:
    data, kind, accuracy = LOCALIZED[name]
    recipe = load_recipe(name)
    assert (recipe.mix, recipe.regularize) == (IMAGENET[kind], RegularizeSettings())
    assert (recipe.model.name.partition(".")[0], recipe.model.pretrained) == ("resnet50_stride16", True)
    images, optimizer, schedule = recipe.data, recipe.optimizer, recipe.schedule
    assert (images.name, images.crop, images.crop_pct) == ({"cub": "cub200"}.get(data, data), "squash", 224 / 256)
    assert (optimizer.momentum, optimizer.weight_decay, schedule.gamma) == (0.9, 1e-4, 0.1)
    # epochs, learning rates of classifier and rest, epochs between steps, batch
    expected = (600, 0.01, 0.001, 150, 32) if data == "cub" else (20, 0.1, 0.01, 6, 256)
    rest = optimizer.lr * (optimizer.backbone_lr_scale or 1)
    steps = [fraction * schedule.epochs for fraction in schedule.milestones]
    assert (schedule.epochs, optimizer.lr, rest) == (expected[0], expected[1], pytest.approx(expected[2]))
    assert steps == pytest.approx([expected[3] * number for number in (1, 2, 3)])
    assert images.batch_size == expected[4]
    base = recipe_dict(load_recipe(f"{data}_resnet50_baseline_wsol"))
    others = recipe_difference(base, recipe_dict(recipe))
    assert all(line.startswith(("mix", "name")) for line in others), others
    head = recipe_head(name)
    assert head["Expected"].startswith(f"{accuracy} top-1 localization accuracy: the paper")
    assert f"--config {name}" in head["Command"]
    assert f"cutmix-zoo evaluate runs/{name} --suite localization" in head["Command"]


ERRORS = {
    "imagenet_resnet50": {
        "baseline": "23.68, 7.05",
        "cutout": "22.93, 6.66",
        "stochastic_depth": "22.46, 6.27",
        "mixup": "22.58, 6.40",
        "manifold_mixup": "22.50, 6.21",
        "dropblock": "21.87, 5.98",
        "feature_cutmix": "21.80, 6.06",
        "cutmix": "21.40, 5.92",
    },
    "imagenet_resnet101": {
        "baseline": "21.87, 6.29",
        "cutout": "20.72, 5.51",
        "mixup": "20.52, 5.28",
        "cutmix": "20.17, 5.24",
    },
    "imagenet_resnext101": {"baseline": "21.18, 5.57", "cutmix": "19.47, 5.03"},
    "cifar100_pyramidnet200": {
        "baseline": "16.45, 3.69",
        "stochastic_depth": "15.86, 3.33",
        "smoothing": "16.73, 3.37",
        "cutout": "16.53, 3.65",
        "cutout_smoothing": "15.61, 3.88",
        "dropblock": "15.73, 3.26",
        "dropblock_smoothing": "15.16, 3.86",
        "mixup_alpha0_5": "15.78, 4.04",
        "mixup": "15.63, 3.99",
        "manifold_mixup": "16.14, 4.07",
        "cutout_mixup": "15.46, 3.42",
        "cutout_manifold_mixup": "15.09, 3.35",
        "shakedrop": "15.08, 2.72",
        "cutmix": "14.47, 2.97",
        "cutmix_shakedrop": "13.81, 2.29",
        "cutmix_center_gaussian": "15.95, 3.40",
        "cutmix_fixed_size": "14.97, 3.15",
        "cutmix_one_hot": "15.89, 3.32",
        "cutmix_scheduled": "14.72, 3.17",
        "cutmix_complete_label": "15.17, 3.10",
    },
    "cifar100_pyramidnet110": {"baseline": "19.85, 4.66", "cutmix": "17.97, 3.83"},
    "cifar100_resnet110": {"baseline": "23.14, 5.95", "cutmix": "20.11, 4.43"},
    "cifar10_pyramidnet200": {
        "baseline": "3.85",
        "cutout": "3.10",
        "mixup": "3.09",
        "manifold_mixup": "3.15",
        "cutmix": "2.88",
    },
}
"""Top-1 and top-5 errors of Tables 3 to 8, in their order."""


@pytest.mark.parametrize(("network", "kind"), [(network, kind) for network, rows in ERRORS.items() for kind in rows])
def test_every_row_of_the_tables_has_a_recipe_that_quotes_its_errors(network: str, kind: str) -> None:
    head = " ".join(find_recipe(f"{network}_{kind}").read_text().partition("version")[0].replace("#", " ").split())
    top1, _, top5 = ERRORS[network][kind].partition(", ")
    assert f"Expected {top1} top-1 error{f', {top5} top-5 error' if top5 else ''}: " in head


def test_holes_are_filled_with_the_mean_of_the_dataset() -> None:
    for mix, dataset in ((CUTOUT, "cifar100"), (IMAGENET["cutout"], "imagenet")):
        known = known_dataset(dataset)
        assert known is not None
        assert mix.fill == tuple(round(255 * value) for value in known.mean)


def resolved_recipe(name: str) -> Recipe:
    """A shipped recipe with what it takes from its data; a folder has seven classes, and no weights are fetched."""
    recipe = complete_input(load_recipe(name))
    recipe = replace(recipe, model=replace(recipe.model, pretrained=False))
    known = known_dataset(recipe.data.name)
    assert known is not None or recipe.data.name == "folder"
    classes = None if known is None else known.classes
    return resolve(recipe, classes or tuple(map(str, range(7 if known is None else known.num_classes))))


def test_the_models_of_the_shipped_recipes_are_made_and_have_the_maps_that_are_mixed() -> None:
    recipes = [resolved_recipe(name) for name in shipped_recipes()]
    depths: dict[str, int] = {}
    for recipe in recipes:
        depth = 0 if recipe.mix is None else deepest(recipe.mix)
        depths[recipe.model.name] = max(depth, depths.get(recipe.model.name, 0))
    for recipe in {recipe.model.name: recipe for recipe in recipes}.values():
        size, classes = recipe.data.input_size, recipe.model.num_classes
        with torch.device("meta"):
            network = make_network(recipe)
        assert network(torch.zeros(2, *size, device="meta")).shape == (2, classes) == (2, network.num_classes)
        sizes = map_sizes(network, *size[1:])
        assert None not in sizes
        assert depths[recipe.model.name] < len(sizes)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_draws_and_applies_plans(name: str) -> None:
    recipe = resolved_recipe(name)
    channels, height, width = recipe.data.input_size
    images = torch.zeros(4, channels, height, width, dtype=torch.uint8)
    sizes = ((height, width),) * 4
    last = recipe.schedule.epochs - 1
    plans = [draw_mix(recipe, images, last, step, sizes=sizes) for step in range(8)]
    assert all(isinstance(plan, IdentityPlan) for plan in plans) == (recipe.mix is None)
    for plan in plans:
        assert plan.apply(images).shape == images.shape
        assert plan.mix_targets(torch.arange(4), 5).sum(1).allclose(torch.ones(4))


def test_difference_names_keys_old_and_new() -> None:
    old = recipe_dict(load_recipe("quickstart"))
    new = recipe_dict(load_recipe("quickstart", {"optimizer.lr": "0.5", "mix": "null", "data.workers": "7"}))
    lines = recipe_difference(old, new, ignore=["data.workers"])
    assert f"optimizer.lr: {old['optimizer']['lr']} -> 0.5" in lines
    assert any(line.startswith("mix.name: cutmix -> None") for line in lines)
    assert not any("workers" in line for line in lines)
    assert recipe_difference(old, old) == []
    before, after = (
        recipe_dict(replace(load_recipe("quickstart"), mix=Chain([Cutout(size, fill=(0.0,)), Scheduled(Mixup())])))
        for size in (8, 16)
    )
    assert recipe_difference(before, after) == ["mix.mixes[0].size: 8 -> 16"]


def test_a_recipe_is_plain_within_its_arguments_too() -> None:
    recipe = load_recipe("quickstart")
    args = {"betas": (0.9, 0.95), "more": [{"deep": (1, (2, 3))}]}
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, args=args))
    plain = recipe_dict(recipe)
    assert plain["optimizer"]["args"] == {"betas": [0.9, 0.95], "more": [{"deep": [1, [2, 3]]}]}
    assert json.loads(json.dumps(plain)) == plain
    assert recipe.optimizer.args == {"betas": (0.9, 0.95), "more": [{"deep": (1, (2, 3))}]}


def test_dumped_recipe_is_plain_yaml() -> None:
    plain = yaml.safe_load(dump_recipe(load_recipe("quickstart")))
    assert list(plain)[:2] == ["version", "name"]
    assert plain["mix"]["name"] == "cutmix"
