"""CIFAR ResNeXt: bottlenecks whose 3x3 convolution is grouped.

Paper: Aggregated Residual Transformations for Deep Neural Networks (Xie et al., CVPR 2017, arXiv 1611.05431,
section 5.2).

As in our CIFAR ResNets, the shortcut is a 1x1 convolution with BatchNorm wherever the shape changes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model

from cutmix_zoo.models.cifar_resnet import Bottleneck
from cutmix_zoo.models.staged_net import StagedNet, architecture_cfg, blocks_per_stage, create_net

__all__ = ["CifarResNeXt"]


class CifarResNeXt(StagedNet):
    """ResNeXt for small images, post-activation: a stem of 64 channels, stages of 256, 512 and 1024.

    Args:
        depth: layers: 9n + 2, n blocks a stage.
        cardinality: groups of the 3x3 convolutions; ``cardinality * base_width`` is a multiple of 64.
        base_width: channels of a group in the first stage, twice as many in each stage that follows.
        kwargs: ``num_classes, in_chans, global_pool, drop_rate, device, dtype`` and the regularizers of
            :class:`~cutmix_zoo.models.staged_net.StagedNet`.

    Raises:
        ValueError: if no n gives that depth, or the widths are not a multiple of 64.
    """

    def __init__(self, depth: int, cardinality: int, base_width: int, **kwargs: Any) -> None:
        mid_ratio, rest = divmod(cardinality * base_width, 64)
        if rest or mid_ratio < 1:
            raise ValueError(f"cardinality * base_width must be a multiple of 64, got {cardinality} * {base_width}")
        block = partial(Bottleneck, mid_ratio=mid_ratio, groups=cardinality)
        num_blocks = blocks_per_stage(depth, bottleneck=True)
        super().__init__(block, [[width] * num_blocks for width in (256, 512, 1024)], stem_width=64, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        name: architecture_cfg(
            "cifar10",
            pool_size=8,
            paper_ids="arXiv:1611.05431",
            paper_name="Aggregated Residual Transformations for Deep Neural Networks",
        )
        for name in ("cifar_resnext29_8x64d", "cifar_resnext29_16x64d")
    }
)


@register_model
def cifar_resnext29_8x64d(pretrained: bool = False, **kwargs: Any) -> CifarResNeXt:
    """Create the ResNeXt-29, 8x64d (Xie et al., table 7): 34.4 M parameters."""
    return create_net(CifarResNeXt, "cifar_resnext29_8x64d", pretrained, kwargs, depth=29, cardinality=8, base_width=64)


@register_model
def cifar_resnext29_16x64d(pretrained: bool = False, **kwargs: Any) -> CifarResNeXt:
    """Create the ResNeXt-29, 16x64d (Xie et al., table 7): 68.2 M parameters."""
    return create_net(
        CifarResNeXt, "cifar_resnext29_16x64d", pretrained, kwargs, depth=29, cardinality=16, base_width=64
    )
