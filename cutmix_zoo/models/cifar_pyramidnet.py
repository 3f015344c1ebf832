"""CIFAR PyramidNet: every block is a little wider than the one before.

Papers: Deep Pyramidal Residual Networks (Han et al., CVPR 2017, arXiv 1610.02915);
CutMix (Yun et al., ICCV 2019, arXiv 1905.04899), whose main CIFAR network is ``cifar_pyramidnet200_a240``.

The definition is the official CutMix code's, with bottlenecks throughout; state-dict keys are its own, so its
checkpoints load without renaming.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.layers import DropPath
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from cutmix_zoo.models.cifar_net import STEM_WIDTH, ThreeStageNet, cifar_cfg

if TYPE_CHECKING:
    import torch

__all__ = ["CifarPyramidNet"]


class _PyramidBottleneck(nn.Module):
    """BN, 1x1, BN, ReLU, 3x3 (with the stride), BN, ReLU, 1x1, BN beside a shortcut without parameters.

    The shortcut is averaged down where the stride is 2 and padded with channels of zeros; nothing follows the sum.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        mid_chs = out_chs // 4
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.conv1 = nn.Conv2d(in_chs, mid_chs, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(mid_chs, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(mid_chs, mid_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(mid_chs, **dd)
        self.act3 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(mid_chs, out_chs, 1, bias=False, **dd)
        self.bn4 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        # ceil_mode: a side of 7 becomes 4, as in the strided convolution
        self.downsample = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.extra_chs = out_chs - in_chs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = nn.functional.pad(self.downsample(x), (0, 0, 0, 0, 0, self.extra_chs))
        x = self.conv1(self.bn1(x))
        x = self.conv2(self.act2(self.bn2(x)))
        x = self.conv3(self.act3(self.bn3(x)))
        x = self.drop_path(self.bn4(x))
        x += shortcut
        return x


class CifarPyramidNet(ThreeStageNet):
    """PyramidNet for small images, pre-activation, bottlenecks.

    Args:
        depth: layers: 9n + 2, n blocks a stage.
        alpha: how much the inner width grows from the stem's 16 to the last block, spread evenly over the 3n
            blocks and rounded; a block's output is four times as wide.
        kwargs: ``num_classes, in_chans, global_pool, drop_rate, drop_path_rate, device, dtype`` of
            :class:`~cutmix_zoo.models.cifar_net.ThreeStageNet`.

    Raises:
        ValueError: if no n gives that depth, or if alpha is negative.
    """

    def __init__(self, depth: int, alpha: float, **kwargs: Any) -> None:
        num_blocks, rest = divmod(depth - 2, 9)
        if rest or num_blocks < 1:
            raise ValueError(f"depth must be 9n + 2 (n = 1, 2, ...), got {depth}")
        if alpha < 0:
            raise ValueError(f"alpha must be at least 0, got {alpha}")
        widths = [4 * round(STEM_WIDTH + alpha * (i + 1) / (3 * num_blocks)) for i in range(3 * num_blocks)]
        stages = [widths[i * num_blocks : (i + 1) * num_blocks] for i in range(3)]
        super().__init__(_PyramidBottleneck, stages, preact=True, **kwargs)


def _create_cifar_pyramidnet(variant: str, pretrained: bool, **kwargs: Any) -> CifarPyramidNet:
    return build_model_with_cfg(
        CifarPyramidNet, variant, pretrained, feature_cfg={"out_indices": (0, 1, 2, 3)}, **kwargs
    )


default_cfgs = generate_default_cfgs(
    {
        name: cifar_cfg(paper_ids="arXiv:1610.02915", paper_name="Deep Pyramidal Residual Networks")
        for name in ("cifar_pyramidnet110_a64", "cifar_pyramidnet200_a240")
    }
)


@register_model
def cifar_pyramidnet110_a64(pretrained: bool = False, **kwargs: Any) -> CifarPyramidNet:
    """Create the PyramidNet-110, alpha 64, of the CutMix paper (table 6): 1.7 M parameters."""
    return _create_cifar_pyramidnet("cifar_pyramidnet110_a64", pretrained, depth=110, alpha=64, **kwargs)


@register_model
def cifar_pyramidnet200_a240(pretrained: bool = False, **kwargs: Any) -> CifarPyramidNet:
    """Create the PyramidNet-200, alpha 240, of the CutMix paper (tables 5 and 7): 26.8 M parameters."""
    return _create_cifar_pyramidnet("cifar_pyramidnet200_a240", pretrained, depth=200, alpha=240, **kwargs)
