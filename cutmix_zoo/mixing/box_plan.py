"""A plan that pastes boxes where they were: CutMix and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.mixing.boxes import in_boxes, window
from cutmix_zoo.mixing.memory import LARGE
from cutmix_zoo.mixing.plan import MixPlan, PairPlan, bits_of, check_integers, check_shares, columns
from cutmix_zoo.mixing.rows import blocks, stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutmix_zoo.mixing.rows import Samples

_BLOCK = 1 << 18
"""Bytes of a block of images: what was copied is still in the cache when boxes are pasted over it."""


@dataclass(frozen=True, eq=False)
class BoxPlan(PairPlan):
    """A box of each image is filled with the same box of its partner.

    The constructor takes anybody's draws, so a batch that was mixed elsewhere can be repeated.

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        donor: (B,) int64 in ``[0, B)``, whose pixels fill each image's box.
        box: (B, 4) int64, top, left, bottom, right of each box (:class:`Box`), half-open and inside the
            image; or (4,), one box for the whole batch.
        label_lam: (B,) floating point in [0, 1], the label share of each image itself; or None, the share of
            pixels that are left of it.

    Raises:
        ValueError: if a shape, a dtype or a value does not fit.

    Example:
        >>> plan = BoxPlan(2, 2, 2, donor=torch.tensor([1, 0]), box=torch.tensor([0, 0, 1, 1]))
        >>> plan.apply(torch.tensor([[[1, 1], [1, 1]], [[2, 2], [2, 2]]])).tolist()
        [[[2, 1], [1, 1]], [[1, 2], [2, 2]]]
        >>> plan.lam
        tensor([0.7500, 0.7500])
    """

    box: Tensor
    label_lam: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_boxes("box", self.box, [(self.batch_size, 4), (4,)], self.height, self.width)
        if self.label_lam is not None:
            object.__setattr__(self, "label_lam", check_shares("label_lam", self.label_lam, self.batch_size))

    @property
    def own_share(self) -> Tensor:  # noqa: D102
        top, left, bottom, right = self.box.numpy().T
        pasted = (bottom - top) * (right - left) / (self.height * self.width)
        return torch.from_numpy(np.asarray(1.0 - pasted, np.float32)).expand(self.batch_size)

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        if self.label_lam is None:
            return self.pixel_shares
        label_lam = self.label_lam.numpy()
        return torch.from_numpy(columns(label_lam, 1.0 - label_lam))

    @property
    def boxes(self) -> Tensor:  # noqa: D102
        return self.box.expand(self.batch_size, 4)

    def _transform(self, images: Tensor) -> Tensor:
        if self.box.ndim == 1 and not torch.compiler.is_compiling():
            return self._transform_slice(images)
        mask = in_boxes(self.boxes.to(images.device, non_blocking=True), self.height, self.width)
        mask = mask.view(self.batch_size, *[1] * (images.ndim - 3), self.height, self.width)
        return torch.where(mask, images[self.donor.to(images.device, non_blocking=True)], images)

    def _transform_slice(self, images: Tensor) -> Tensor:
        top, left, bottom, right = self.box.tolist()
        mixed = images.clone()
        patches = images[..., top:bottom, left:right]
        mixed[..., top:bottom, left:right] = patches.index_select(0, self.donor.to(images.device, non_blocking=True))
        return mixed

    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        donors = self.donor.tolist()
        windows = [window(box) for box in self.box.reshape(-1, 4).tolist()]
        for block in blocks(rows, out, _BLOCK):
            stack(samples, out, block)
            if len(windows) == 1 and isinstance(samples, np.ndarray) and isinstance(block, range):
                part = slice(block.start, block.stop)
                out[part][windows[0]] = samples[windows[0]][donors[part]]
                continue
            for i in block:
                inside = windows[i if len(windows) > 1 else 0]
                out[i][inside] = samples[donors[i]][inside]

    def _row_dtype(self, images: Tensor) -> torch.dtype | None:
        # one box for all is pasted by two tensor operations, which rows beat only where memory is the limit
        return None if self.box.ndim == 1 and images.nbytes < LARGE else bits_of(images.dtype)

    def _mask_plan(self, _: int) -> MixPlan:
        return self


def check_boxes(name: str, boxes: Tensor, shapes: list[tuple[int, ...]], height: int, width: int) -> None:
    """Raise ValueError unless ``boxes`` are int64 of one of the shapes and lie within the image."""
    check_integers(name, boxes, shapes, [height, width, height, width])
    numbers = boxes.numpy()
    if (numbers[..., :2] > numbers[..., 2:]).any():
        raise ValueError(f"a {name} must have top <= bottom and left <= right")
