"""CIFAR ResNet: three stages of 16, 32 and 64 channels (bottleneck: four times as many).

Papers: Deep Residual Learning for Image Recognition (He et al., CVPR 2016, arXiv 1512.03385, section 4.2);
CutMix (Yun et al., ICCV 2019, arXiv 1905.04899), whose ResNet-110 is ``cifar_resnet110_bottleneck``.

As in the official CutMix code, and unlike He et al., who pad with zeros, the shortcut is a 1x1 convolution with
BatchNorm wherever the shape changes. State-dict keys are torchvision's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.layers import DropPath
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from cutmix_zoo.models.cifar_net import ThreeStageNet, cifar_cfg

if TYPE_CHECKING:
    import torch

__all__ = ["CifarResNet"]


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, ReLU after the sum."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(out_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.downsample = _shortcut(in_chs, out_chs, stride, **dd)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.drop_path(self.bn2(self.conv2(x)))
        x += shortcut
        return self.act2(x)


class _Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions beside a shortcut, ReLU after the sum."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        mid_chs = out_chs // 4
        self.conv1 = nn.Conv2d(in_chs, mid_chs, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(mid_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(mid_chs, mid_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(mid_chs, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(mid_chs, out_chs, 1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.downsample = _shortcut(in_chs, out_chs, stride, **dd)
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.drop_path(self.bn3(self.conv3(x)))
        x += shortcut
        return self.act3(x)


def _shortcut(in_chs: int, out_chs: int, stride: int, **dd: Any) -> nn.Module:
    if stride == 1 and in_chs == out_chs:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_chs, out_chs, 1, stride=stride, bias=False, **dd),
        nn.BatchNorm2d(out_chs, **dd),
    )


class CifarResNet(ThreeStageNet):
    """ResNet for small images, post-activation.

    Args:
        depth: layers: 6n + 2 with basic blocks, 9n + 2 with bottlenecks, n blocks a stage.
        bottleneck: bottlenecks instead of basic blocks.
        kwargs: ``num_classes, in_chans, global_pool, drop_rate, drop_path_rate, device, dtype`` of
            :class:`~cutmix_zoo.models.cifar_net.ThreeStageNet`.

    Raises:
        ValueError: if no n gives that depth.
    """

    def __init__(self, depth: int, bottleneck: bool = False, **kwargs: Any) -> None:
        layers_per_n = 9 if bottleneck else 6
        num_blocks, rest = divmod(depth - 2, layers_per_n)
        if rest or num_blocks < 1:
            kind = "bottlenecks" if bottleneck else "basic blocks"
            raise ValueError(f"depth must be {layers_per_n}n + 2 with {kind} (n = 1, 2, ...), got {depth}")
        block, expansion = (_Bottleneck, 4) if bottleneck else (_BasicBlock, 1)
        widths = [[width * expansion] * num_blocks for width in (16, 32, 64)]
        super().__init__(block, widths, preact=False, **kwargs)


def _create_cifar_resnet(variant: str, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(CifarResNet, variant, pretrained, feature_cfg={"out_indices": (0, 1, 2, 3)}, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        name: cifar_cfg(paper_ids="arXiv:1512.03385", paper_name="Deep Residual Learning for Image Recognition")
        for name in (
            "cifar_resnet8",
            "cifar_resnet14",
            "cifar_resnet20",
            "cifar_resnet32",
            "cifar_resnet44",
            "cifar_resnet56",
            "cifar_resnet110",
            "cifar_resnet110_bottleneck",
            "cifar_resnet164_bottleneck",
        )
    }
)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-8 for CIFAR: one basic block a stage."""
    return _create_cifar_resnet("cifar_resnet8", pretrained, depth=8, **kwargs)


@register_model
def cifar_resnet14(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-14 for CIFAR: two basic blocks a stage."""
    return _create_cifar_resnet("cifar_resnet14", pretrained, depth=14, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-20 for CIFAR (He et al., table 6)."""
    return _create_cifar_resnet("cifar_resnet20", pretrained, depth=20, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-32 for CIFAR (He et al., table 6)."""
    return _create_cifar_resnet("cifar_resnet32", pretrained, depth=32, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-44 for CIFAR (He et al., table 6)."""
    return _create_cifar_resnet("cifar_resnet44", pretrained, depth=44, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-56 for CIFAR (He et al., table 6)."""
    return _create_cifar_resnet("cifar_resnet56", pretrained, depth=56, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-110 for CIFAR (He et al., table 6): basic blocks, 1.7 M parameters."""
    return _create_cifar_resnet("cifar_resnet110", pretrained, depth=110, **kwargs)


@register_model
def cifar_resnet110_bottleneck(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-110 of the CutMix paper (table 6): bottlenecks, 1.17 M parameters."""
    return _create_cifar_resnet("cifar_resnet110_bottleneck", pretrained, depth=110, bottleneck=True, **kwargs)


@register_model
def cifar_resnet164_bottleneck(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-164 for CIFAR: bottlenecks, 1.7 M parameters."""
    return _create_cifar_resnet("cifar_resnet164_bottleneck", pretrained, depth=164, bottleneck=True, **kwargs)
