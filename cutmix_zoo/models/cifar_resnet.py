"""CIFAR ResNet: three stages of 16, 32 and 64 channels (bottleneck: four times as many), and a ResNet-18 of full width.

Papers: Deep Residual Learning for Image Recognition (He et al., CVPR 2016, arXiv 1512.03385, section 4.2);
CutMix (Yun et al., ICCV 2019, arXiv 1905.04899), whose ResNet-110 is ``cifar_resnet110_bottleneck``.

As in the official CutMix code, and unlike He et al., who pad with zeros, the shortcut is a 1x1 convolution with
BatchNorm wherever the shape changes. State-dict keys are torchvision's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from cutmix_zoo.models.regularize import ResidualBlock
from cutmix_zoo.models.staged_net import StagedNet, architecture_cfg, blocks_per_stage, create_net

if TYPE_CHECKING:
    import torch

__all__ = ["Bottleneck", "CifarResNet", "CifarResNet18"]


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions beside a shortcut, ReLU after the sum."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_block = nn.Identity()
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_path = nn.Identity()
        self.downsample = _shortcut(in_chs, out_chs, stride, **dd)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B, out_chs, h, w) that follow maps (B, in_chs, H, W)."""
        shortcut = self.downsample(x)
        x = self.act1(self.drop_block(self.bn1(self.conv1(x))))
        x = self.drop_path(self.bn2(self.conv2(x)))
        x += shortcut
        return self.act2(x)


class Bottleneck(ResidualBlock):
    """1x1, 3x3 (with the stride) and 1x1 convolutions beside a shortcut, ReLU after the sum.

    Args:
        in_chs: input channels.
        out_chs: output channels.
        stride: of the 3x3 convolution.
        mid_ratio: the 3x3 convolution has a quarter of the output's channels times this.
        groups: its groups.
        dd: device and dtype.
    """

    def __init__(
        self, in_chs: int, out_chs: int, stride: int, *, mid_ratio: int = 1, groups: int = 1, **dd: Any
    ) -> None:
        super().__init__()
        mid_chs = out_chs // 4 * mid_ratio
        self.conv1 = nn.Conv2d(in_chs, mid_chs, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(mid_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(mid_chs, mid_chs, 3, stride=stride, padding=1, groups=groups, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(mid_chs, **dd)
        self.drop_block = nn.Identity()
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(mid_chs, out_chs, 1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_path = nn.Identity()
        self.downsample = _shortcut(in_chs, out_chs, stride, **dd)
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B, out_chs, h, w) that follow maps (B, in_chs, H, W)."""
        shortcut = self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.drop_block(self.bn2(self.conv2(x))))
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


class CifarResNet(StagedNet):
    """ResNet for small images, post-activation.

    Args:
        depth: layers: 6n + 2 with basic blocks, 9n + 2 with bottlenecks, n blocks a stage.
        bottleneck: bottlenecks instead of basic blocks.
        kwargs: ``num_classes, in_chans, global_pool, drop_rate, device, dtype`` and the regularizers of
            :class:`~cutmix_zoo.models.staged_net.StagedNet`.

    Raises:
        ValueError: if no n gives that depth.
    """

    def __init__(self, depth: int, bottleneck: bool = False, **kwargs: Any) -> None:
        block, expansion = (Bottleneck, 4) if bottleneck else (BasicBlock, 1)
        num_blocks = blocks_per_stage(depth, bottleneck)
        super().__init__(block, [[width * expansion] * num_blocks for width in (16, 32, 64)], **kwargs)


class CifarResNet18(StagedNet):
    """ResNet-18 with a 3x3 stem and nothing behind it, which keeps small images large: four stages, 64 to 512 channels.

    Args:
        kwargs: those of :class:`~cutmix_zoo.models.staged_net.StagedNet`.
    """

    num_stages = 4

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(BasicBlock, [[width] * 2 for width in (64, 128, 256, 512)], stem_width=64, **kwargs)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    paper = "Deep Residual Learning for Image Recognition"
    return architecture_cfg("cifar10", paper_ids="arXiv:1512.03385", paper_name=paper, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "cifar_resnet8": _cfg(pool_size=8),
        "cifar_resnet14": _cfg(pool_size=8),
        "cifar_resnet20": _cfg(pool_size=8),
        "cifar_resnet32": _cfg(pool_size=8),
        "cifar_resnet44": _cfg(pool_size=8),
        "cifar_resnet56": _cfg(pool_size=8),
        "cifar_resnet110": _cfg(pool_size=8),
        "cifar_resnet110_bottleneck": _cfg(pool_size=8, origin_url="https://github.com/clovaai/CutMix-PyTorch"),
        "cifar_resnet164_bottleneck": _cfg(pool_size=8),
        "cifar_resnet18": _cfg(pool_size=4),
    }
)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-8 for CIFAR: one basic block a stage."""
    return create_net(CifarResNet, "cifar_resnet8", pretrained, kwargs, depth=8)


@register_model
def cifar_resnet14(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-14 for CIFAR: two basic blocks a stage."""
    return create_net(CifarResNet, "cifar_resnet14", pretrained, kwargs, depth=14)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-20 for CIFAR (He et al., table 6)."""
    return create_net(CifarResNet, "cifar_resnet20", pretrained, kwargs, depth=20)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-32 for CIFAR (He et al., table 6)."""
    return create_net(CifarResNet, "cifar_resnet32", pretrained, kwargs, depth=32)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-44 for CIFAR (He et al., table 6)."""
    return create_net(CifarResNet, "cifar_resnet44", pretrained, kwargs, depth=44)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-56 for CIFAR (He et al., table 6)."""
    return create_net(CifarResNet, "cifar_resnet56", pretrained, kwargs, depth=56)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-110 for CIFAR (He et al., table 6): basic blocks, 1.7 M parameters."""
    return create_net(CifarResNet, "cifar_resnet110", pretrained, kwargs, depth=110)


@register_model
def cifar_resnet110_bottleneck(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-110 of the CutMix paper (table 6): bottlenecks, 1.17 M parameters."""
    return create_net(CifarResNet, "cifar_resnet110_bottleneck", pretrained, kwargs, depth=110, bottleneck=True)


@register_model
def cifar_resnet164_bottleneck(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Create the ResNet-164 for CIFAR: bottlenecks, 1.7 M parameters."""
    return create_net(CifarResNet, "cifar_resnet164_bottleneck", pretrained, kwargs, depth=164, bottleneck=True)


@register_model
def cifar_resnet18(pretrained: bool = False, **kwargs: Any) -> CifarResNet18:
    """Create the ResNet-18 that work on robustness and out-of-distribution detection compares on: 11.2 M parameters."""
    return create_net(CifarResNet18, "cifar_resnet18", pretrained, kwargs)
