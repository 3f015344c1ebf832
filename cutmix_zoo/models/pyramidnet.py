"""PyramidNet for ImageNet: four stages of blocks, each a little wider than the one before.

Paper: Deep Pyramidal Residual Networks (Han et al., CVPR 2017, arXiv 1610.02915, section 4.2).

The definition and the state-dict keys are the official CutMix code's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.models import generate_default_cfgs, register_model

from cutmix_zoo.models.cifar_pyramidnet import PyramidBottleneck, pyramid_widths
from cutmix_zoo.models.staged_net import StagedNet, architecture_cfg, create_net

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PyramidNet"]


class PyramidNet(StagedNet):
    """PyramidNet for large images, pre-activation, bottlenecks, behind the stem of ImageNet's ResNets.

    Args:
        num_blocks: blocks of each of the four stages.
        alpha: how much the inner width grows from the stem's 64 to the last block, spread evenly over the blocks
            and rounded; a block's output is four times as wide.
        kwargs: ``num_classes, in_chans, global_pool, drop_rate, device, dtype`` and the regularizers of
            :class:`~cutmix_zoo.models.staged_net.StagedNet`.

    Raises:
        ValueError: if alpha is negative.
    """

    num_stages = 4

    def __init__(self, num_blocks: Sequence[int], alpha: float, **kwargs: Any) -> None:
        widths = [[4 * width for width in stage] for stage in pyramid_widths(64, alpha, num_blocks)]
        super().__init__(PyramidBottleneck, widths, stem="pool", stem_width=64, final_norm=True, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        name: architecture_cfg(
            "imagenet",
            pool_size=7,
            crop_pct=0.875,
            paper_ids="arXiv:1610.02915",
            paper_name="Deep Pyramidal Residual Networks",
            origin_url="https://github.com/clovaai/CutMix-PyTorch",
        )
        for name in ("pyramidnet50_a300", "pyramidnet101_a360", "pyramidnet200_a300")
    }
)


@register_model
def pyramidnet50_a300(pretrained: bool = False, **kwargs: Any) -> PyramidNet:
    """Create the PyramidNet-50, alpha 300, for ImageNet: 16.9 M parameters."""
    return create_net(PyramidNet, "pyramidnet50_a300", pretrained, kwargs, num_blocks=(3, 4, 6, 3), alpha=300)


@register_model
def pyramidnet101_a360(pretrained: bool = False, **kwargs: Any) -> PyramidNet:
    """Create the PyramidNet-101, alpha 360, for ImageNet: 42.5 M parameters."""
    return create_net(PyramidNet, "pyramidnet101_a360", pretrained, kwargs, num_blocks=(3, 4, 23, 3), alpha=360)


@register_model
def pyramidnet200_a300(pretrained: bool = False, **kwargs: Any) -> PyramidNet:
    """Create the PyramidNet-200, alpha 300, for ImageNet: 62.4 M parameters."""
    return create_net(PyramidNet, "pyramidnet200_a300", pretrained, kwargs, num_blocks=(3, 24, 36, 3), alpha=300)
