"""Plans that average two images: everywhere alike (mixup), or by a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.mixing.plan import DonorPlan, MixPlan, bits_of, check_label_lam

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVELS = 256
"""Weights are whole 256ths: what integer arithmetic really uses on bytes is then what the labels say."""


@dataclass(frozen=True, eq=False)
class BlendPlan(DonorPlan):
    """Each image is averaged with its partner, by one weight for all pixels.

    Bytes are blended as ``(w * own + (256 - w) * partner + 128) >> 8``: at most half a grey level from the
    exact value. Floating point is blended in its own precision.

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        donor: (B,) int64 in ``[0, B)``, the partner of each image.
        own_lam: (B,) floating point in [0, 1], the weight of each image itself; rounded to whole 256ths, which
            is what pixels and labels then have.

    Raises:
        ValueError: if a shape, a dtype or a value does not fit.

    Example:
        >>> plan = BlendPlan(2, 1, 1, donor=torch.tensor([1, 0]), own_lam=torch.tensor([0.75, 0.5]))
        >>> plan.apply(torch.tensor([[[8.0]], [[0.0]]])).flatten()
        tensor([6., 4.])
    """

    own_lam: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        own_lam = check_label_lam(self.own_lam, self.batch_size)
        object.__setattr__(self, "own_lam", quantize(own_lam))

    @property
    def own_share(self) -> Tensor:  # noqa: D102
        return self.own_lam

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return self.pixel_shares

    def _transform(self, images: Tensor) -> Tensor:
        weight = self.own_lam.to(images.device).view(-1, *[1] * (images.ndim - 1))
        return blend(images, images[self.donor.to(images.device)], weight)

    def _write(self, samples: Sequence[np.ndarray] | np.ndarray, out: np.ndarray, rows: Sequence[int]) -> None:
        donors, weights = self.donor.tolist(), self.own_lam.tolist()
        for i in rows:
            _blend_into(out[i], samples[i], samples[donors[i]], weights[i])

    def _row_dtype(self, dtype: torch.dtype) -> torch.dtype | None:
        return torch.uint8 if dtype == torch.uint8 else None


@dataclass(frozen=True, eq=False)
class MaskPlan(DonorPlan):
    """Each image is joined with its partner by a mask: pixel by pixel (hard), or averaged by it (soft).

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        donor: (B,) int64 in ``[0, B)``, the partner of each image.
        mask: (B, height, width), or (height, width) for the whole batch: the weight of each image itself. Bool: True
            keeps the pixel. Floating point in [0, 1]: a blend as in :class:`BlendPlan`, rounded to whole 256ths.

    Raises:
        ValueError: if a shape, a dtype or a value does not fit.

    Example:
        >>> keep = torch.tensor([[True, False]])
        >>> plan = MaskPlan(2, 1, 2, donor=torch.tensor([1, 0]), mask=keep)
        >>> plan.apply(torch.tensor([[[1, 1]], [[2, 2]]])).tolist(), plan.lam
        ([[[1, 2]], [[2, 1]]], tensor([0.5000, 0.5000]))
    """

    mask: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        plane = (self.height, self.width)
        if tuple(self.mask.shape) not in (plane, (self.batch_size, *plane)):
            expected = f"{plane} or {(self.batch_size, *plane)}"
            raise ValueError(f"mask must have shape {expected}, got {tuple(self.mask.shape)}")
        if self._is_hard:
            return
        if not self.mask.is_floating_point() or not ((self.mask >= 0) & (self.mask <= 1)).all():
            raise ValueError(f"mask must be bool, or floating point in [0, 1], got {self.mask.dtype}")
        object.__setattr__(self, "mask", quantize(self.mask.float()))

    @property
    def own_share(self) -> Tensor:  # noqa: D102
        return self.mask.double().mean((-2, -1)).float().expand(self.batch_size)

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return self.pixel_shares

    @property
    def _is_hard(self) -> bool:
        return self.mask.dtype == torch.bool

    def _transform(self, images: Tensor) -> Tensor:
        mask = self.mask.to(images.device)
        if mask.ndim == 3:
            mask = mask.view(self.batch_size, *[1] * (images.ndim - 3), self.height, self.width)
        partners = images[self.donor.to(images.device)]
        return torch.where(mask, images, partners) if self._is_hard else blend(images, partners, mask)

    def _write(self, samples: Sequence[np.ndarray] | np.ndarray, out: np.ndarray, rows: Sequence[int]) -> None:
        donors = self.donor.tolist()
        masks = self.mask.expand(self.batch_size, self.height, self.width).numpy()
        for i in rows:
            partner = samples[donors[i]]
            if self._is_hard:
                out[i] = samples[i]
                np.copyto(out[i], partner, where=~masks[i])
            else:
                _blend_into(out[i], samples[i], partner, masks[i])

    def _row_dtype(self, dtype: torch.dtype) -> torch.dtype | None:
        if self._is_hard:
            return bits_of(dtype)
        return torch.uint8 if dtype == torch.uint8 else None

    def _mask_plan(self, ignore_index: int) -> MixPlan:
        return self if self._is_hard else super()._mask_plan(ignore_index)


def quantize(weights: Tensor) -> Tensor:
    """Round weights in [0, 1] to whole 256ths."""
    return (weights * LEVELS).round() / LEVELS


def blend(own: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """Average two batches: ``weight * own + (1 - weight) * partner``.

    Args:
        own: (B, ...) floating point or uint8.
        partner: the same shape and dtype.
        weight: float32, whole 256ths in [0, 1], broadcast to them.

    Returns:
        The same shape and dtype; bytes are rounded half up.

    Raises:
        ValueError: if the dtype is another one.
    """
    check_blendable(own.dtype.is_floating_point, own.dtype == torch.uint8, own.dtype)
    if own.dtype != torch.uint8:
        return torch.lerp(partner, own, weight.to(own.dtype))
    whole = (weight * LEVELS).int()
    return ((own * whole + partner * (LEVELS - whole) + LEVELS // 2) >> 8).to(torch.uint8)


def _blend_into(out: np.ndarray, own: np.ndarray, partner: np.ndarray, weight: float | np.ndarray) -> None:
    """Write what :func:`blend` computes."""
    check_blendable(out.dtype.kind == "f", out.dtype == np.uint8, out.dtype)
    if out.dtype != np.uint8:
        out[...] = partner + (own - partner) * np.asarray(weight, out.dtype)
        return
    whole = np.asarray(np.multiply(weight, LEVELS), np.uint16)
    # 256 * 255 + 128 still fits
    total = np.multiply(own, whole, dtype=np.uint16)
    total += np.multiply(partner, LEVELS - whole, dtype=np.uint16)
    total += np.uint16(LEVELS // 2)
    total >>= np.uint16(8)
    out[...] = total


def check_blendable(is_floating: bool, is_bytes: bool, dtype: object) -> None:
    """Raise ValueError unless images of this dtype can be averaged."""
    if not (is_floating or is_bytes):
        raise ValueError(f"only floating-point and uint8 images can be blended, got {dtype}: convert them first")
