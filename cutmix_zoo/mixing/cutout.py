"""Cutout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np
import torch

from cutmix_zoo.checks import require, require_choice, require_count, require_fraction
from cutmix_zoo.mixing.erase_plan import ErasePlan
from cutmix_zoo.mixing.method import as_tuple
from cutmix_zoo.mixing.pairing import numpy_generator
from cutmix_zoo.mixing.plan import IdentityPlan, MixPlan

if TYPE_CHECKING:
    from cutmix_zoo.mixing.method import Context


@dataclass(frozen=True)
class Cutout:
    """Erase a square of each image; labels stay as they are.

    The centre is uniform over the pixels, and what sticks out of the image is cut off.

    Args:
        size: side of the square in pixels. The CutMix paper used 16 on CIFAR (32 px) and 112 on ImageNet (224 px).
        fill: what is put in its place, in the images' own units: one value, or one for each channel; or None for the
            0 of normalised images. Bytes have no such 0: for them it is the dataset's mean, such as
            ``(124, 116, 104)`` for ImageNet. With a value for each channel, clips are (B, T, C, H, W).
        prob: probability of erasing, in [0, 1].
        per: ``"sample"``: each image has its own gate and square, as in the Cutout paper; ``"batch"``: one for all.

    Raises:
        ValueError: if a setting is out of range or unknown; from ``apply``, if ``fill`` is None and the images are
            integers, or does not fit their channels (:class:`~cutmix_zoo.mixing.ErasePlan`).

    **Source**: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout (2017),
    section 3; its code fills with zeros after normalisation. Sizes: Yun et al., CutMix (ICCV 2019), section 4.1. An
    odd side is kept, where the authors' code makes it even.

    Example:
        >>> plan = Cutout(size=2).draw(4, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> plan.apply(torch.ones(4, 1, 8, 8)).sum((1, 2, 3)), plan.label_shares.flatten()
        (tensor([62., 60., 60., 60.]), tensor([1., 1., 1., 1.]))
    """

    size: int = 16
    fill: tuple[float, ...] | None = None
    prob: float = 1.0
    per: Literal["batch", "sample"] = "sample"

    def __post_init__(self) -> None:
        require_count("size", self.size)
        require_fraction("prob", self.prob)
        require_choice("per", self.per, ("batch", "sample"))
        if self.fill is not None:
            fill = as_tuple(self.fill)
            require(len(fill) > 0, "fill must have at least one value, or be None")
            finite = all(isinstance(value, Real) and math.isfinite(value) for value in fill)
            require(finite, f"fill must be finite numbers, one or one for each channel, got {fill}")
            object.__setattr__(self, "fill", fill)

    def draw(
        self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **_: Unpack[Context]
    ) -> MixPlan:
        """Draw what is erased, of a single image too; see :meth:`~cutmix_zoo.mixing.method.MixMethod.draw`."""
        rng = numpy_generator(generator)
        groups = batch_size if self.per == "sample" else 1
        gate = rng.random(groups) < self.prob
        size = np.array([height, width])
        corner = (rng.random((groups, 2)) * size).astype(np.int64) - self.size // 2
        box = np.concatenate([corner.clip(0), (corner + self.size).clip(0, size)], axis=1) * gate[:, None]
        if not gate.any():
            return IdentityPlan(batch_size, height, width)
        return ErasePlan(batch_size, height, width, torch.from_numpy(box).expand(batch_size, 4), self.fill)
