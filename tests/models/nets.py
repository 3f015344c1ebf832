"""Small networks, one of each kind of block and stem, and what is known of them; and how all networks are weighed."""

from collections.abc import Iterable
from typing import NamedTuple

import timm
import torch
from torch import nn

from cutmix_zoo.models import CifarPyramidNet, CifarResNet, CifarResNeXt, CifarWideResNet, PyramidNet
from cutmix_zoo.models.cifar_resnet import BasicBlock
from cutmix_zoo.models.staged_net import StagedNet

NETS = {
    "basic": lambda **kwargs: CifarResNet(14, **kwargs),
    "bottleneck": lambda **kwargs: CifarResNet(11, bottleneck=True, **kwargs),
    "grouped": lambda **kwargs: CifarResNeXt(11, cardinality=2, base_width=32, **kwargs),
    "wide": lambda **kwargs: CifarWideResNet(10, widen=2, **kwargs),
    "pyramid": lambda **kwargs: CifarPyramidNet(11, alpha=12, **kwargs),
    "pyramid_basic": lambda **kwargs: CifarPyramidNet(8, alpha=12, bottleneck=False, **kwargs),
    "four_stages": lambda **kwargs: StagedNet(BasicBlock, [[8], [12, 16], [20], [24]], **kwargs),
    "imagenet": lambda **kwargs: PyramidNet((1, 1, 2, 1), alpha=15, **kwargs),
}


class Facts(NamedTuple):
    """What is known of a kind."""

    channels: list[int]
    """Of the stem and the stages."""
    reductions: list[int]
    blocks: int
    stem: str
    """The layers of the stem."""
    norm: bool
    """Whether norm and ReLU follow the last stage."""


FACTS = {
    "basic": Facts([16, 16, 32, 64], [1, 1, 2, 4], 6, "conv norm relu", norm=False),
    "bottleneck": Facts([16, 64, 128, 256], [1, 1, 2, 4], 3, "conv norm relu", norm=False),
    "grouped": Facts([64, 256, 512, 1024], [1, 1, 2, 4], 3, "conv norm relu", norm=False),
    "wide": Facts([16, 32, 64, 128], [1, 1, 2, 4], 3, "conv", norm=True),
    "pyramid": Facts([16, 80, 96, 112], [1, 1, 2, 4], 3, "conv norm", norm=True),
    "pyramid_basic": Facts([16, 20, 24, 28], [1, 1, 2, 4], 3, "conv norm", norm=True),
    "four_stages": Facts([16, 8, 16, 20, 24], [1, 1, 2, 4, 8], 5, "conv norm relu", norm=False),
    "imagenet": Facts([64, 268, 280, 304, 316], [2, 4, 8, 16, 32], 5, "conv norm relu", norm=True),
}


def make(kind: str, **kwargs: object) -> StagedNet:
    """A net with weights and statistics that are not the initial ones, in evaluation mode."""
    torch.manual_seed(0)
    net = NETS[kind](**kwargs)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (2, 3, 32, 32)), generator=torch.Generator().manual_seed(1))


def meta(name: str, **kwargs: object) -> nn.Module:
    """A registered network without values, where size costs nothing."""
    return timm.create_model(name, device="meta", **kwargs)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def pyramid_parameters(stem: int, widths: Iterable[int], num_classes: int, *, bottleneck: bool) -> int:
    """Count what the blocks of a PyramidNet hold, whose stem's parameters are given, from the inner width of each.

    A width in front of the first one is that of the stem. Shortcuts have no parameters.
    """
    (before, *inner), total = widths, stem
    for width in inner:
        if bottleneck:  # BN, in -> w, BN, 3x3, BN, w -> 4w, BN
            total += 2 * before + before * width + 2 * width + 9 * width**2 + 2 * width + 4 * width**2 + 8 * width
            before = 4 * width
        else:  # BN, 3x3, BN, 3x3, BN
            total += 2 * before + 9 * before * width + 2 * width + 9 * width**2 + 2 * width
            before = width
    return total + 2 * before + before * num_classes + num_classes
