"""A plan that fills boxes with a constant: Cutout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.mixing.box_plan import check_boxes
from cutmix_zoo.mixing.boxes import box_areas, in_boxes, window
from cutmix_zoo.mixing.plan import MixPlan, is_known_to_numpy
from cutmix_zoo.mixing.rows import stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutmix_zoo.mixing.rows import Samples


@dataclass(frozen=True, eq=False)
class ErasePlan(MixPlan):
    """A box of each image is filled with a constant; labels stay as they are.

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        box: (B, 4) int64, the box to fill in each image (:class:`Box`).
        fill: one value, or one for each channel, in the images' own units; or None: 0 for floating-point
            images, which are taken to be normalised, and an error for bytes, whose mean is not 0. With a value for
            each channel, clips are (B, T, C, height, width).

    Raises:
        ValueError: if a shape, a dtype or a value does not fit; from ``apply``, if ``fill`` does not fit the images,
            or clips have as many frames as channels and as ``fill`` has values, so that nobody can tell the two apart.

    Example:
        >>> plan = ErasePlan(1, 2, 2, box=torch.tensor([[0, 0, 1, 1]]))
        >>> plan.apply(torch.ones(1, 1, 2, 2)).flatten(), plan.pixel_shares, plan.label_shares
        (tensor([0., 1., 1., 1.]), tensor([[0.7500]]), tensor([[1.]]))
    """

    box: Tensor
    fill: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "box", self.box.cpu())
        check_boxes("box", self.box, [(self.batch_size, 4)], self.height, self.width)
        if self.fill is not None and len(self.fill) == 0:
            raise ValueError("fill must be one value, one for each channel, or None, got ()")

    @property
    def sources(self) -> Tensor:  # noqa: D102
        return torch.arange(self.batch_size).unsqueeze(1)

    @property
    def pixel_shares(self) -> Tensor:  # noqa: D102
        erased = box_areas(self.box).double() / (self.height * self.width)
        return (1.0 - erased).float().unsqueeze(1)

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return torch.ones(self.batch_size, 1)

    @property
    def boxes(self) -> Tensor:  # noqa: D102
        return self.box

    def _transform(self, images: Tensor) -> Tensor:
        mask = in_boxes(self.box.to(images.device, non_blocking=True), self.height, self.width)
        mask = mask.view(self.batch_size, *[1] * (images.ndim - 3), self.height, self.width)
        fill = torch.tensor(self._fill_for(images.dtype, images.shape), dtype=images.dtype)
        return torch.where(mask, fill.to(images.device, non_blocking=True), images)

    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        stack(samples, out, rows)
        dtype = torch.from_numpy(np.empty(0, out.dtype)).dtype
        fill, boxes = self._fill_for(dtype, out.shape), self.box.tolist()
        for i in rows:
            out[i][window(boxes[i])] = fill

    def _fill_for(self, dtype: torch.dtype, shape: Sequence[int]) -> float | list[list[list[float]]]:
        """Return what broadcasts to (C, height, width), rounded for integers."""
        if self.fill is None:
            if not dtype.is_floating_point:
                raise ValueError(
                    "the fill of integer images must be given, because their mean is not 0: set fill to the mean "
                    "of the dataset in their own units, such as (124, 116, 104) for ImageNet"
                )
            return 0.0
        fill = self.fill
        if not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool):
            fill, limits = tuple(round(value) for value in fill), torch.iinfo(dtype)
            if not limits.min <= min(fill) <= max(fill) <= limits.max:
                shown = fill[0] if len(fill) == 1 else fill
                advice = "choose another fill, or for masks another ignore_index"
                raise ValueError(f"{dtype} cannot hold {shown}: {advice}")
        if len(fill) == 1:
            return fill[0]
        channels = shape[-3] if len(shape) > 3 else 1
        if channels != len(fill):
            advice = ": clips must be (B, T, C, H, W)" if len(shape) == 5 and shape[1] == len(fill) else ""
            raise ValueError(f"fill has {len(fill)} values, but the images have {channels} channels{advice}")
        if len(shape) == 5 and shape[1] == channels:
            raise ValueError(
                f"fill has {len(fill)} values, and of clips of shape {tuple(shape)} nobody can tell channels from "
                "frames: give fill one value, or mix images.flatten(1, 2) with a value for each of its "
                f"{channels * channels} planes"
            )
        return [[[value]] for value in fill]

    def _row_dtype(self, images: Tensor) -> torch.dtype | None:
        return images.dtype if is_known_to_numpy(images.dtype) else None

    def _mask_plan(self, ignore_index: int) -> MixPlan:
        return ErasePlan(*self.shape, self.box, (float(ignore_index),))
