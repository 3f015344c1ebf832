"""Regularizers inside residual blocks: stochastic depth, ShakeDrop and DropBlock.

The blocks of our networks, and those of timm's ResNets, have two slots: ``drop_block`` behind the norm of the 3x3
convolution (basic blocks: of the first one), and ``drop_path`` at the end of the residual branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from cutmix_zoo.checks import require, require_choice, require_count
from cutmix_zoo.models.drop_block import DropBlock2d
from cutmix_zoo.models.shakedrop import ShakeDrop, ShakeGate, ShakePer, shakedrop_probs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class ResidualBlock(nn.Module):
    """A block of ours: its layers are registered in the order in which they are computed, the two slots among them."""


DropPathRule = Literal["linear", "uniform"]
"""How the probability of stochastic depth grows with depth."""


@dataclass(frozen=True)
class BlockRegularizers:
    """What is put into the residual blocks of a network; nothing by default.

    Args:
        drop_path_rate: stochastic depth: probability to leave out the residual branch of a block, for each sample, in
            [0, 1).
        drop_path_rule: ``linear``: it grows from 0 at the first block to ``drop_path_rate`` at the last one;
            ``uniform``: it is the same for all.
        drop_block_rate: DropBlock: share of the maps that is dropped in the last two stages, in [0, 1);
            ``1 - keep_prob`` of its paper.
        drop_block_size: side of the blocks. The papers take 7 on ImageNet, and 4 on CIFAR.
        shakedrop_prob: ShakeDrop: probability that the last block is shaken, in [0, 1); it grows linearly with depth.
        shakedrop_per: what shares a pair of its coefficients.
        shakedrop_gate: what is shaken or not together.

    Raises:
        ValueError: if a number is out of range, or both stochastic depth and ShakeDrop are asked for.
    """

    drop_path_rate: float = 0.0
    drop_path_rule: DropPathRule = "linear"
    drop_block_rate: float = 0.0
    drop_block_size: int = 7
    shakedrop_prob: float = 0.0
    shakedrop_per: ShakePer = "sample"
    shakedrop_gate: ShakeGate = "batch"

    def __post_init__(self) -> None:
        for key in ("drop_path_rate", "drop_block_rate", "shakedrop_prob"):
            value = getattr(self, key)
            require(0 <= value < 1, f"{key} must be at least 0 and below 1, got {value}")
        require_count("drop_block_size", self.drop_block_size)
        words = {"drop_path_rule": DropPathRule, "shakedrop_per": ShakePer, "shakedrop_gate": ShakeGate}
        for key, valid in words.items():
            require_choice(key, getattr(self, key), get_args(valid))
        require(
            not (self.drop_path_rate and self.shakedrop_prob),
            "shakedrop_prob and drop_path_rate both scale the residual branch: give one of them, got "
            f"{self.shakedrop_prob} and {self.drop_path_rate}",
        )


def regularize_blocks(network: nn.Module, regularizers: BlockRegularizers) -> None:
    """Put regularizers into the residual blocks of a network; slots that they do not concern stay as they are.

    Args:
        network: one of ours, or a ResNet of timm.
        regularizers: what to put in.

    Raises:
        ValueError: if the blocks of the network have no such slots, or for ShakeDrop a branch ends with attention or
            has stochastic depth.
    """
    blocks = residual_blocks(network)
    wanted = [key for key in ("drop_path_rate", "drop_block_rate", "shakedrop_prob") if getattr(regularizers, key)]
    if wanted and not blocks:
        raise ValueError(
            f"{', '.join(wanted)}: {type(network).__name__} has no residual blocks with slots for it; the networks of "
            "cutmix_zoo and the ResNets of timm have"
        )
    if regularizers.drop_path_rate:
        _put_drop_path(blocks, regularizers)
    if regularizers.shakedrop_prob:
        _put_shakedrop(blocks, regularizers)
    if regularizers.drop_block_rate:
        _put_drop_block(blocks, regularizers)


def _put_drop_path(blocks: Mapping[str, nn.Module], regularizers: BlockRegularizers) -> None:
    rates = calculate_drop_path_rates(regularizers.drop_path_rate, len(blocks))
    if regularizers.drop_path_rule == "uniform":
        rates = [regularizers.drop_path_rate] * len(blocks)
    for block, rate in zip(blocks.values(), rates, strict=True):
        block.drop_path = _like(block, DropPath(rate) if rate else nn.Identity())


def _put_shakedrop(blocks: Mapping[str, nn.Module], regularizers: BlockRegularizers) -> None:
    attended = next((name for name, block in blocks.items() if getattr(block, "se", None) is not None), None)
    if attended is not None:
        raise ValueError(f"shakedrop_prob: the branch of {attended} ends with attention, where a norm was expected")
    if any(isinstance(block.drop_path, DropPath) for block in blocks.values()):
        raise ValueError("shakedrop_prob: the network has stochastic depth already; make it without drop_path_rate")
    for block, prob in zip(blocks.values(), shakedrop_probs(regularizers.shakedrop_prob, len(blocks)), strict=True):
        layer = ShakeDrop(prob, regularizers.shakedrop_per, regularizers.shakedrop_gate)
        block.drop_path = _like(block, layer)


def _put_drop_block(blocks: Mapping[str, nn.Module], regularizers: BlockRegularizers) -> None:
    stages = {name: name.rpartition(".")[0] for name in blocks}  # layer3.0 is in layer3
    last_two = list(dict.fromkeys(stages.values()))[-2:]
    for name, block in blocks.items():
        if stages[name] in last_two:
            layer = DropBlock2d(regularizers.drop_block_rate, regularizers.drop_block_size)
            block.drop_block = _like(block, layer)


def _like(block: nn.Module, layer: nn.Module) -> nn.Module:
    """Bring a layer to the mode and the device of a block."""
    return layer.train(block.training).to(next(block.parameters()).device)


def residual_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """Find the blocks that have slots for regularizers, in the order in which they are computed."""
    # not every block with such attributes: that of ResNeSt has drop_path in front of its branch
    kinds = (ResidualBlock, BasicBlock, Bottleneck)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights with which the same network without ShakeDrop computes the same in evaluation.

    ShakeDrop has no weights, but scales each branch in evaluation; here the scale is multiplied into the last layer of
    the branch, in float32 where weights are of half precision, which would round it. All else is the network's
    ``state_dict``.

    Args:
        network: a network, whose weights are not modified.
    """
    weights: dict[str, Tensor] = network.state_dict()
    for name, block in residual_blocks(network).items():
        if isinstance(block.drop_path, ShakeDrop):
            last = f"{name}.{_end_of_branch(block)}"
            for key in weights.keys() & {f"{last}.weight", f"{last}.bias"}:
                exact = weights[key].to(torch.promote_types(weights[key].dtype, torch.float32))
                weights[key] = exact * (1.0 - block.drop_path.drop_prob)
    return weights


def _end_of_branch(block: nn.Module) -> str:
    """Name the last convolution or norm in front of ``drop_path``; they are registered as they are computed.

    Not the last layer with weights: activations may have some, and timm registers one from behind the sum before it.
    """
    names = [name for name, _ in block.named_children()]
    layers = [name for name in names[: names.index("drop_path")] if name.startswith(("conv", "bn"))]
    return layers[-1]
