from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from cutmix_zoo.errors import UserError
from cutmix_zoo.known import known_dataset
from cutmix_zoo.mixing import CutMix
from cutmix_zoo.training.job import make_network, resolve
from cutmix_zoo.training.overrides import split_overrides
from cutmix_zoo.training.recipe import (
    dump_recipe,
    find_recipe,
    load_recipe,
    recipe_dict,
    recipe_difference,
    recipe_keys,
    shipped_recipes,
)

MINIMAL = """\
version: 1
model:
  name: cifar_resnet8
data:
  name: fashion_mnist_mini
schedule:
  epochs: 2
"""


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
        (MINIMAL + "  name: steps\n", 8, ["schedule.name", "one of multistep, cosine, constant", "'steps'"]),
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
        (MINIMAL + "evaluate:\n  every: 0\n", 9, ["evaluate.every must be"]),
        (MINIMAL + "runtime:\n  keep_checkpoints: 0\n", 9, ["runtime.keep_checkpoints must be"]),
        (MINIMAL + "runtime:\n  trackers: [wandb]\n", 9, ["runtime.trackers", "one of tensorboard"]),
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
        (MINIMAL.replace("version: 1", "version: 2"), 1, ["version must be 1"]),
        (MINIMAL + "name: a/b\n", 8, ["name must be a plain word"]),
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


@pytest.mark.parametrize("text", ["a: [", "- a\n", "", "\x00", "seed: !foo 3\n", "seed: 2024-13-45\n"])
def test_what_is_not_a_recipe_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"not a YAML file|a recipe is a mapping") as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)


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


def test_paper_recipes_mix_as_the_authors_do() -> None:
    authors = {"alpha": 1.0, "per": "batch", "box": "clip", "pairing": "permutation", "correct_lam": True}
    for name, prob in [("cifar100_pyramidnet200_cutmix", 0.5), ("imagenet_resnet50_cutmix", 1.0)]:
        assert load_recipe(name).mix == CutMix(prob=prob, **authors)
    baseline, cutmix = (load_recipe(f"cifar100_pyramidnet200_{kind}") for kind in ("baseline", "cutmix"))
    assert (
        recipe_difference(recipe_dict(replace(baseline, mix=cutmix.mix, name=cutmix.name)), recipe_dict(cutmix)) == []
    )


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_makes_its_model(name: str) -> None:
    recipe = load_recipe(name)
    known = known_dataset(recipe.data.name)
    assert known is not None
    with torch.device("meta"):
        network = make_network(resolve(recipe, known.classes or range(known.num_classes)))
    assert network.num_classes == known.num_classes
    assert network(torch.zeros(2, *known.input_size, device="meta")).shape == (2, known.num_classes)


def test_every_key_that_is_listed_can_be_given() -> None:
    keys = recipe_keys()
    recipe = recipe_dict(load_recipe("quickstart"))
    for dotted in keys:
        node = recipe
        *sections, last = dotted.split(".")
        for section in sections:
            node = node[section]
        assert last in node, dotted
    assert keys["schedule.epochs"] == "int"
    assert keys["model.in_chans"] == "int or null"


def test_difference_names_keys_old_and_new() -> None:
    old = recipe_dict(load_recipe("quickstart"))
    new = recipe_dict(load_recipe("quickstart", {"optimizer.lr": "0.5", "mix": "null", "data.workers": "7"}))
    lines = recipe_difference(old, new, ignore=["data.workers"])
    assert f"optimizer.lr: {old['optimizer']['lr']} -> 0.5" in lines
    assert any(line.startswith("mix.name: cutmix -> None") for line in lines)
    assert not any("workers" in line for line in lines)
    assert recipe_difference(old, old) == []


def test_dumped_recipe_is_plain_yaml() -> None:
    plain = yaml.safe_load(dump_recipe(load_recipe("quickstart")))
    assert list(plain)[:2] == ["version", "name"]
    assert plain["mix"]["name"] == "cutmix"
