"""DropBlock: zero square blocks of feature maps.

Paper: DropBlock: A regularization method for convolutional networks (Ghiasi et al., NeurIPS 2018, arXiv 1810.12890).

timm's layer lets blocks hang over the border, which drops more than asked for, and torchvision's changes the size of
the map where the block's side is even. Neither can be scheduled without compiling the network again.
"""

from __future__ import annotations

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional

from cutmix_zoo.checks import require_count, require_fraction


@register_notrace_module  # its arithmetic on sizes cannot be traced
class DropBlock2d(nn.Module):
    """Zero square blocks of each channel in training, and scale what is left up to keep the sum.

    Args:
        drop_prob: share of each map that is dropped, ``1 - keep_prob`` of the paper, in [0, 1]. Blocks overlap, so it
            is a little less: 0.096 for 0.1, and much less where it is large.
        block_size: side of the blocks; on a smaller map, that of the map.

    Raises:
        ValueError: if ``drop_prob`` or ``block_size`` is out of range.

    Source:
        Algorithm 1 and equation 1 of the paper. Every channel has blocks of its own, and all of a block lies on
        the map. ``progress`` scales ``drop_prob``; :func:`set_drop_block_progress` sets it.
    """

    def __init__(self, drop_prob: float, block_size: int) -> None:
        super().__init__()
        require_fraction("drop_prob", drop_prob)
        require_count("block_size", block_size)
        self.drop_prob, self.block_size = drop_prob, block_size
        # a tensor, because torch.compile would compile again for every new number
        self.progress = nn.Buffer(torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Drop blocks of maps (B, C, H, W)."""
        if not self.training:
            return x
        size = min(self.block_size, x.shape[2], x.shape[3])
        height, width = x.shape[2] - size + 1, x.shape[3] - size + 1
        share = block_seed_prob(self.drop_prob, size, x.shape[2], x.shape[3])
        seeds = torch.rand([x.shape[0], x.shape[1], height, width], device=x.device) < share * self.progress
        return drop_blocks(x, seeds)

    def extra_repr(self) -> str:
        """Describe the layer for ``print(model)``."""
        return f"drop_prob={self.drop_prob}, block_size={self.block_size}"


def block_seed_prob(drop_prob: float, block_size: int, height: int, width: int) -> float:
    """Return the probability that a block begins at a place where all of it fits on the map: gamma of the paper.

    Args:
        drop_prob: share of the map to drop.
        block_size: side of the blocks, at most that of the map.
        height: height of the map.
        width: its width.

    Example:
        >>> round(block_seed_prob(0.1, 4, 8, 8), 6)
        0.016
    """
    places = (height - block_size + 1) * (width - block_size + 1)
    return drop_prob * height * width / (block_size * block_size * places)


def drop_blocks(x: Tensor, seeds: Tensor) -> Tensor:
    """Zero the blocks that begin at the seeds, and scale the rest.

    Args:
        x: maps (B, C, H, W).
        seeds: bool (B, C, H - k + 1, W - k + 1): the upper left corners of the blocks, whose side is k.

    Returns:
        The maps, multiplied where they are kept by the number of values over the number kept.
    """
    size = x.shape[2] - seeds.shape[2] + 1
    edge = size - 1
    around = functional.pad(seeds.to(x.dtype), [edge, edge, edge, edge])
    keep = 1.0 - functional.max_pool2d(around, [size, size], [1, 1])
    # counted in float32: bfloat16 holds whole numbers up to 256 only
    scale = keep.numel() / keep.sum(dtype=torch.float32).clamp(min=1.0)
    return x * keep * scale.to(x.dtype)


def set_drop_block_progress(network: nn.Module, progress: float) -> None:
    """Scale the drop probability of every DropBlock of a network, as the paper does over the course of training.

    Args:
        network: a network with :class:`DropBlock2d` layers, or without.
        progress: factor in [0, 1]; 1 is what a new layer has.
    """
    for module in network.modules():
        if isinstance(module, DropBlock2d):
            module.progress.fill_(progress)
