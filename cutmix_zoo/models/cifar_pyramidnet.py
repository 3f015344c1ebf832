"""CIFAR PyramidNet: every block is a little wider than the one before.

Papers: Deep Pyramidal Residual Networks (Han et al., CVPR 2017, arXiv 1610.02915);
CutMix (Yun et al., ICCV 2019, arXiv 1905.04899), whose main CIFAR network is ``cifar_pyramidnet200_a240``.

The definition is the official CutMix code's, whose networks have bottlenecks throughout; state-dict keys are its own,
so its checkpoints load without renaming.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from cutmix_zoo.models.regularize import ResidualBlock
from cutmix_zoo.models.staged_net import StagedNet, architecture_cfg, blocks_per_stage, create_net

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = ["CifarPyramidNet", "PyramidBottleneck", "pyramid_widths"]


class _Shortcut(nn.Module):
    """Make the input of a block as small and as wide as its output, without parameters.

    It is averaged down where the stride is 2, and padded with channels of zeros.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        # ceil_mode: a side of 7 becomes 4, as in the strided convolution
        self.downsample = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.extra_chs = out_chs - in_chs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # padding fills and copies in one pass, in the memory format of its input; a constant of zeros to concatenate
        # would be made anew in each step
        return nn.functional.pad(self.downsample(x), (0, 0, 0, 0, 0, self.extra_chs))


class PyramidBasicBlock(ResidualBlock):
    """BN, 3x3 (with the stride), BN, ReLU, 3x3, BN beside a shortcut without parameters; nothing follows the sum."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, **dd: Any) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_block = nn.Identity()
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_path = nn.Identity()
        self.shortcut = _Shortcut(in_chs, out_chs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B, out_chs, h, w) that follow maps (B, in_chs, H, W)."""
        shortcut = self.shortcut(x)
        x = self.conv1(self.bn1(x))
        x = self.conv2(self.act2(self.drop_block(self.bn2(x))))
        x = self.drop_path(self.bn3(x))
        x += shortcut
        return x


class PyramidBottleneck(ResidualBlock):
    """BN, 1x1, BN, ReLU, 3x3 (with the stride), BN, ReLU, 1x1, BN beside a shortcut without parameters.

    Nothing follows the sum. The output is four times as wide as what the 3x3 convolution sees.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, **dd: Any) -> None:
        super().__init__()
        mid_chs = out_chs // 4
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.conv1 = nn.Conv2d(in_chs, mid_chs, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(mid_chs, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(mid_chs, mid_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(mid_chs, **dd)
        self.drop_block = nn.Identity()
        self.act3 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(mid_chs, out_chs, 1, bias=False, **dd)
        self.bn4 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_path = nn.Identity()
        self.shortcut = _Shortcut(in_chs, out_chs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B, out_chs, h, w) that follow maps (B, in_chs, H, W)."""
        shortcut = self.shortcut(x)
        x = self.conv1(self.bn1(x))
        x = self.conv2(self.act2(self.bn2(x)))
        x = self.conv3(self.act3(self.drop_block(self.bn3(x))))
        x = self.drop_path(self.bn4(x))
        x += shortcut
        return x


def pyramid_widths(stem_width: int, alpha: float, num_blocks: Sequence[int]) -> list[list[int]]:
    """Return the inner width of every block of every stage: it grows by the same amount each block, and is rounded.

    Args:
        stem_width: where it begins.
        alpha: how much wider the last block is.
        num_blocks: blocks of each stage.

    Raises:
        ValueError: if alpha is negative.

    Example:
        >>> pyramid_widths(16, 12, [1, 1, 2])
        [[19], [22], [25, 28]]
    """
    if alpha < 0:
        raise ValueError(f"alpha must be at least 0, got {alpha}")
    widths = iter(round(stem_width + alpha * (i + 1) / sum(num_blocks)) for i in range(sum(num_blocks)))
    return [[next(widths) for _ in range(count)] for count in num_blocks]


class CifarPyramidNet(StagedNet):
    """PyramidNet for small images, pre-activation.

    Args:
        depth: layers: 9n + 2 with bottlenecks, 6n + 2 with basic blocks, n blocks a stage.
        alpha: how much the inner width grows from the stem's 16 to the last block, spread evenly over the 3n
            blocks and rounded; a bottleneck's output is four times as wide.
        bottleneck: bottlenecks instead of basic blocks.
        kwargs: ``num_classes, in_chans, global_pool, drop_rate, device, dtype`` and the regularizers of
            :class:`~cutmix_zoo.models.staged_net.StagedNet`.

    Raises:
        ValueError: if no n gives that depth, or if alpha is negative.
    """

    def __init__(self, depth: int, alpha: float, bottleneck: bool = True, **kwargs: Any) -> None:
        block, expansion = (PyramidBottleneck, 4) if bottleneck else (PyramidBasicBlock, 1)
        inner = pyramid_widths(16, alpha, [blocks_per_stage(depth, bottleneck)] * 3)
        widths = [[expansion * width for width in stage] for stage in inner]
        super().__init__(block, widths, stem="conv_norm", final_norm=True, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        name: architecture_cfg(
            "cifar10",
            pool_size=8,
            paper_ids="arXiv:1610.02915",
            paper_name="Deep Pyramidal Residual Networks",
            origin_url="https://github.com/clovaai/CutMix-PyTorch",
        )
        for name in (
            "cifar_pyramidnet110_a64",
            "cifar_pyramidnet110_a270_basic",
            "cifar_pyramidnet200_a240",
            "cifar_pyramidnet272_a200",
        )
    }
)


@register_model
def cifar_pyramidnet110_a64(pretrained: bool = False, **kwargs: Any) -> CifarPyramidNet:
    """Create the PyramidNet-110, alpha 64, of the CutMix paper (table 6): 1.7 M parameters."""
    return create_net(CifarPyramidNet, "cifar_pyramidnet110_a64", pretrained, kwargs, depth=110, alpha=64)


@register_model
def cifar_pyramidnet110_a270_basic(pretrained: bool = False, **kwargs: Any) -> CifarPyramidNet:
    """Create the PyramidNet-110, alpha 270, with basic blocks, of the PyramidNet paper: 28.5 M parameters."""
    return create_net(
        CifarPyramidNet, "cifar_pyramidnet110_a270_basic", pretrained, kwargs, depth=110, alpha=270, bottleneck=False
    )


@register_model
def cifar_pyramidnet200_a240(pretrained: bool = False, **kwargs: Any) -> CifarPyramidNet:
    """Create the PyramidNet-200, alpha 240, of the CutMix paper (tables 5 and 7): 26.8 M parameters."""
    return create_net(CifarPyramidNet, "cifar_pyramidnet200_a240", pretrained, kwargs, depth=200, alpha=240)


@register_model
def cifar_pyramidnet272_a200(pretrained: bool = False, **kwargs: Any) -> CifarPyramidNet:
    """Create the PyramidNet-272, alpha 200, that work on augmentation compares on: 26.3 M parameters."""
    return create_net(CifarPyramidNet, "cifar_pyramidnet272_a200", pretrained, kwargs, depth=272, alpha=200)
