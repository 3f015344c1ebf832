"""CIFAR Wide ResNet: few, wide, pre-activation blocks.

Paper: Wide Residual Networks (Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from cutmix_zoo.models.regularize import ResidualBlock
from cutmix_zoo.models.staged_net import StagedNet, architecture_cfg, create_net

if TYPE_CHECKING:
    import torch

__all__ = ["CifarWideResNet"]


class _PreactBasicBlock(ResidualBlock):
    """BN, ReLU, 3x3 (with the stride), BN, ReLU, 3x3 beside a shortcut; nothing follows the sum.

    Where the shape changes, the shortcut is a 1x1 convolution of what the first ReLU gives.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, **dd: Any) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.drop_block = nn.Identity()
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.drop_path = nn.Identity()
        self.same_shape = stride == 1 and in_chs == out_chs
        self.downsample = (
            nn.Identity() if self.same_shape else nn.Conv2d(in_chs, out_chs, 1, stride=stride, bias=False, **dd)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        preact = self.act1(self.bn1(x))
        shortcut = x if self.same_shape else self.downsample(preact)
        x = self.conv1(preact)
        x = self.drop_path(self.conv2(self.act2(self.drop_block(self.bn2(x)))))
        x += shortcut
        return x


class CifarWideResNet(StagedNet):
    """Wide ResNet for small images.

    Args:
        depth: layers: 6n + 4, n blocks a stage.
        widen: how many times wider than 16, 32 and 64 channels the stages are.
        kwargs: ``num_classes, in_chans, global_pool, drop_rate, device, dtype`` and the regularizers of
            :class:`~cutmix_zoo.models.staged_net.StagedNet`. Dropout inside the blocks, which the paper also tries,
            is left out.

    Raises:
        ValueError: if no n gives that depth.
    """

    def __init__(self, depth: int, widen: int, **kwargs: Any) -> None:
        num_blocks, rest = divmod(depth - 4, 6)
        if rest or num_blocks < 1:
            raise ValueError(f"depth must be 6n + 4 (n = 1, 2, ...), got {depth}")
        widths = [[width * widen] * num_blocks for width in (16, 32, 64)]
        super().__init__(_PreactBasicBlock, widths, stem="conv", final_norm=True, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "cifar_wideresnet28_10": architecture_cfg(
            "cifar10", pool_size=8, paper_ids="arXiv:1605.07146", paper_name="Wide Residual Networks"
        )
    }
)


@register_model
def cifar_wideresnet28_10(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """Create the WRN-28-10 (Zagoruyko and Komodakis, table 4): 36.5 M parameters."""
    return create_net(CifarWideResNet, "cifar_wideresnet28_10", pretrained, kwargs, depth=28, widen=10)
