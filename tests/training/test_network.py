"""What a recipe's regularizers become in its network, and what the network says of its input."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
from timm.layers import DropPath

from cutmix_zoo.errors import UserError
from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.models.drop_block import DropBlock2d
from cutmix_zoo.models.regularize import residual_blocks
from cutmix_zoo.models.shakedrop import ShakeDrop
from cutmix_zoo.train import train
from cutmix_zoo.training.network import complete_input, make_network
from cutmix_zoo.training.settings import ModelSettings, Recipe, RegularizeSettings


def regularized(recipe: Recipe, name: str = "cifar_resnet14", **regularizers: object) -> Recipe:
    model = ModelSettings(name, in_chans=1, num_classes=10)
    return replace(recipe, model=model, regularize=RegularizeSettings(**regularizers))


def layers(recipe: Recipe, slot: str) -> list[object]:
    return [getattr(block, slot) for block in residual_blocks(make_network(recipe)).values()]


@pytest.mark.parametrize("name", ["cifar_resnet14", "resnet26"])
def test_regularizers_are_put_into_our_blocks_and_timms(tiny_recipe: Recipe, name: str) -> None:
    shaken = regularized(tiny_recipe, name, shakedrop_prob=0.5, shakedrop_per="channel", shakedrop_gate="sample")
    assert all(isinstance(layer, ShakeDrop) for layer in layers(shaken, "drop_path"))
    assert {(layer.per, layer.gate) for layer in layers(shaken, "drop_path")} == {("channel", "sample")}
    blocky = regularized(tiny_recipe, name, drop_block_rate=0.1, drop_block_size=4)
    found = [layer for layer in layers(blocky, "drop_block") if isinstance(layer, DropBlock2d)]
    assert {(layer.drop_prob, layer.block_size) for layer in found} == {(0.1, 4)}
    uniform = regularized(tiny_recipe, name, drop_path_rate=0.25, drop_path_rule="uniform")
    assert {layer.drop_prob for layer in layers(uniform, "drop_path")} == {0.25}
    linear = regularized(tiny_recipe, name, drop_path_rate=0.25)
    last = layers(linear, "drop_path")[-1]
    assert isinstance(last, DropPath)
    assert last.drop_prob == 0.25


def test_any_model_takes_linear_stochastic_depth_and_dropout_as_timm_has_them(tiny_recipe: Recipe) -> None:
    recipe = regularized(tiny_recipe, "convnext_atto", drop_path_rate=0.1, drop_rate=0.2)
    network = make_network(recipe)
    rates = [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(0.1)
    assert network.head.drop.p == 0.2


def test_a_model_without_such_blocks_is_refused(tiny_recipe: Recipe) -> None:
    for regularizers in ({"drop_block_rate": 0.1}, {"drop_path_rate": 0.1, "drop_path_rule": "uniform"}):
        key = next(iter(regularizers))
        with pytest.raises(UserError, match=f"cannot make model 'vit_tiny.*{key}: VisionTransformer has no residual"):
            make_network(regularized(tiny_recipe, "vit_tiny_patch16_224", **regularizers))


def test_arguments_of_the_model_come_last(tiny_recipe: Recipe) -> None:
    recipe = regularized(tiny_recipe, drop_path_rate=0.25)
    recipe = replace(recipe, model=replace(recipe.model, args={"drop_path_rate": 0.5}))
    assert layers(recipe, "drop_path")[-1].drop_prob == 0.5


def test_nothing_of_the_regularizers_is_a_weight(tiny_recipe: Recipe) -> None:
    plain = timm.create_model("cifar_resnet14", in_chans=1)
    recipe = regularized(tiny_recipe, shakedrop_prob=0.5, drop_block_rate=0.1)
    assert make_network(recipe).state_dict().keys() == plain.state_dict().keys()


def test_what_a_folder_does_not_say_comes_from_the_network(tiny_recipe: Recipe, tmp_path: Path) -> None:
    folder = replace(tiny_recipe.data, name="folder", root=str(tmp_path))
    recipe = replace(tiny_recipe, model=ModelSettings("vit_base_patch16_384.augreg_in21k_ft_in1k"), data=folder)
    data = complete_input(recipe).data
    assert (data.input_size, data.mean, data.std) == ((3, 384, 384), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    given = replace(recipe, data=replace(folder, input_size=(3, 224, 224), mean=(0.1,)))
    data = complete_input(given).data
    assert (data.input_size, data.mean, data.std) == ((3, 224, 224), (0.1,), (0.5, 0.5, 0.5))
    for unchanged in (
        tiny_recipe,
        replace(recipe, model=replace(recipe.model, in_chans=1)),
    ):
        assert complete_input(unchanged) == unchanged
    nowhere = f"local-dir:{tmp_path / 'nothing'}"
    with pytest.raises(UserError, match=f"cannot make model '{nowhere}'"):
        complete_input(replace(recipe, model=ModelSettings(nowhere)))


def test_a_folder_of_an_exported_model_says_what_it_takes(tiny_recipe: Recipe, tmp_path: Path) -> None:
    train(tiny_recipe, tmp_path / "run")
    folder = replace(tiny_recipe.data, name="folder", root=str(tmp_path))
    recipe = replace(tiny_recipe, model=ModelSettings(f"local-dir:{tmp_path / 'run' / 'model'}"), data=folder)
    data, known = complete_input(recipe).data, KNOWN_DATASETS["fashion_mnist"]
    assert (data.input_size, data.mean, data.std) == (known.input_size, known.mean, known.std)
