"""What a recipe's regularizers become in its network, what the network says of its input, and its optimizer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.models.drop_block import DropBlock2d
from cutmix_zoo.models.regularize import residual_blocks
from cutmix_zoo.models.shakedrop import ShakeDrop
from cutmix_zoo.train import train
from cutmix_zoo.training.network import complete_input, make_network, make_optimizer
from cutmix_zoo.training.schedule import make_schedule
from cutmix_zoo.training.settings import ModelSettings, OptimizerSettings, Recipe, RegularizeSettings, ScheduleSettings


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


def test_a_tag_that_timm_does_not_list_says_what_it_takes_or_that_there_is_none(tiny_recipe: Recipe) -> None:
    folder = replace(tiny_recipe.data, name="folder", root="nowhere")
    recipe = replace(tiny_recipe, model=ModelSettings("resnet18_stride16.cutmix_in1k"), data=folder)
    with pytest.raises(UserError, match=r"cannot make model .*Invalid pretrained tag \(cutmix_in1k\) for resnet18"):
        complete_input(recipe)
    recipe = replace(recipe, model=ModelSettings("resnet50_stride16.cutmix_in1k"))
    assert complete_input(recipe).data.input_size == (3, 224, 224)


def optimized(recipe: Recipe, network: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return make_optimizer(replace(recipe, optimizer=OptimizerSettings(lr=0.5, **settings)), network)


def rates(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter by its name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = [
        (names[id(parameter)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(dict(found)) == len(found), "no parameter twice"
    return dict(found)


SCHEDULES = [
    ScheduleSettings(4, "constant"),
    ScheduleSettings(4, "multistep", milestones=(0.5,), warmup_epochs=1, warmup_lr=0.1),
    ScheduleSettings(4, "cosine", min_lr=0.01, warmup_epochs=1, warmup_lr=0.1),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_backbone_learns_at_its_share_of_the_rate_all_along(
    name: str, decay_all: bool, schedule: ScheduleSettings, tiny_recipe: Recipe
) -> None:
    network = make_network(regularized(tiny_recipe))
    common: dict[str, Any] = {"name": name, "weight_decay": 0.01, "decay_all": decay_all}
    plain, scaled = (
        optimized(tiny_recipe, network, **common),
        optimized(tiny_recipe, network, backbone_lr_scale=0.1, **common),
    )
    schedules = [make_schedule(schedule, optimizer, 5) for optimizer in (plain, scaled)]
    seen = set()
    for update in range(20):
        for each in schedules:
            each.step_update(update)
        before, after = rates(plain, network), rates(scaled, network)
        assert before.keys() == after.keys() == dict(network.named_parameters()).keys()
        for parameter, (rate, decay) in before.items():
            scale = 1.0 if parameter.startswith("fc.") else 0.1
            assert after[parameter] == (pytest.approx(rate * scale), decay)
        seen.add(before["conv1.weight"][0])
    assert {decay for _, decay in after.values()} == ({0.01} if decay_all else {0.0, 0.01})
    assert len(seen) > 1 or schedule.name == "constant"


def test_a_step_moves_the_backbone_by_its_share(tiny_recipe: Recipe) -> None:
    moves = []
    for scale in (None, 0.1):
        network = make_network(regularized(tiny_recipe))
        before = {name: parameter.clone() for name, parameter in network.named_parameters()}
        optimizer = optimized(tiny_recipe, network, name="momentum", weight_decay=0.0, backbone_lr_scale=scale)
        make_schedule(ScheduleSettings(1, "constant"), optimizer, 1).step_update(0)
        images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        network(images).square().sum().backward()
        optimizer.step()
        moves.append({name: before[name] - parameter for name, parameter in network.named_parameters()})
    for name, move in moves[0].items():
        scale = 1.0 if name.startswith("fc.") else 0.1
        torch.testing.assert_close(moves[1][name], move * scale, rtol=1e-3, atol=1e-6)


def test_what_else_distinguishes_groups_is_kept(tiny_recipe: Recipe) -> None:
    """Muon leaves what is listed to AdamW."""
    network = make_network(regularized(tiny_recipe))
    listed = {"args": {"fallback_list": ["fc.*", "conv1.*"]}, "name": "muon"}
    before, after = (
        optimized(tiny_recipe, network, **listed),
        optimized(tiny_recipe, network, backbone_lr_scale=0.1, **listed),
    )

    def left_to_adamw(optimizer: torch.optim.Optimizer) -> set[int]:
        groups = [group["params"] for group in optimizer.param_groups if group.get("use_fallback")]
        return {id(parameter) for group in groups for parameter in group}

    expected = {id(parameter) for parameter in (*network.fc.parameters(), network.conv1.weight)}
    assert left_to_adamw(before) == left_to_adamw(after) == expected
    assert sorted(group["lr_scale"] for group in after.param_groups) == [0.1, 0.1, 1.0]


def test_two_rates_resume_with_the_same_bits(tiny_recipe: Recipe, tmp_path: Path) -> None:
    optimizer = OptimizerSettings(lr=0.1, backbone_lr_scale=0.25, decay_all=False)
    recipe = replace(tiny_recipe, optimizer=optimizer)
    summary = train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoints" / "epoch-0002"))
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("whole", "resumed")]
    assert weights[0] == weights[1]
    assert summary["epochs"] == 3
    first = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[0]
    plain = train(replace(recipe, optimizer=replace(optimizer, backbone_lr_scale=None)), tmp_path / "plain")
    assert plain["epochs"] == 3
    # what is logged is the rate of the classifier, that of the recipe
    assert f'"lr": {json.loads(first)["lr"]}' in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()[0]
