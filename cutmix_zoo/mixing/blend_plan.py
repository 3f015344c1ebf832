"""Plans that average two images: everywhere alike (mixup), or by a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.mixing.memory import LARGE
from cutmix_zoo.mixing.plan import MixPlan, PairPlan, are_fractions, bits_of, check_shares
from cutmix_zoo.mixing.rows import batch_order, blocks, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutmix_zoo.mixing.rows import Samples

LEVELS = 256
"""Weights are whole 256ths: what integer arithmetic really uses on bytes is then what the labels say."""

_LONE = 1 << 16
"""Bytes from which an image is blended alone, straight from its sample; smaller ones are stacked first."""

_BLOCK = 1 << 19
"""Bytes of a block of smaller images: its intermediate values, twice as large, stay in the second-level cache."""


@dataclass(frozen=True, eq=False)
class BlendPlan(PairPlan):
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
        object.__setattr__(self, "own_lam", quantize(check_shares("own_lam", self.own_lam, self.batch_size)))

    @property
    def own_share(self) -> Tensor:  # noqa: D102
        return self.own_lam

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return self.pixel_shares

    def _transform(self, images: Tensor) -> Tensor:
        weight = self.own_lam.to(images.device, non_blocking=True).view(-1, *[1] * (images.ndim - 1))
        return blend(images, images[self.donor.to(images.device, non_blocking=True)], weight)

    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        weights = self.own_lam.numpy().reshape(-1, *[1] * (out.ndim - 1))
        _blend_rows(samples, out, rows, self.donor.tolist(), weights)

    def _row_dtype(self, images: Tensor) -> torch.dtype | None:
        # floating point goes by rows only where memory is the limit: they stay in the cache
        large = images.nbytes >= LARGE and images.dtype in (torch.float32, torch.float64)
        return images.dtype if images.dtype == torch.uint8 or large else None


@dataclass(frozen=True, eq=False)
class MaskPlan(PairPlan):
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
        plane = self.shape[1:]
        if tuple(self.mask.shape) not in (plane, self.shape):
            raise ValueError(f"mask must have shape {plane} or {self.shape}, got {tuple(self.mask.shape)}")
        if self._is_hard:
            return
        if not self.mask.is_floating_point() or not are_fractions(self.mask):
            raise ValueError(f"mask must be bool, or floating point in [0, 1], got {self.mask.dtype}")
        object.__setattr__(self, "mask", quantize(self.mask.float()))

    @property
    def own_share(self) -> Tensor:  # noqa: D102
        return _means(self.mask).float().expand(self.batch_size)

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return self.pixel_shares

    @property
    def _is_hard(self) -> bool:
        return self.mask.dtype == torch.bool

    def _transform(self, images: Tensor) -> Tensor:
        mask = self.mask.to(images.device, non_blocking=True)
        if mask.ndim == 3:
            mask = mask.view(self.batch_size, *[1] * (images.ndim - 3), self.height, self.width)
        partners = images[self.donor.to(images.device, non_blocking=True)]
        return torch.where(mask, images, partners) if self._is_hard else blend(images, partners, mask)

    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        donors = self.donor.tolist()
        masks = self.mask.expand(self.shape).numpy()
        if not self._is_hard:
            masks = masks.reshape(self.batch_size, *[1] * (out.ndim - 3), self.height, self.width)
            _blend_rows(samples, out, rows, donors, masks)
            return
        for i in rows:
            out[i] = samples[i]
            _copy_where(~masks[i], samples[donors[i]], out[i])

    def _row_dtype(self, images: Tensor) -> torch.dtype | None:
        if self._is_hard:
            return bits_of(images.dtype)
        return torch.uint8 if images.dtype == torch.uint8 else None

    def _mask_plan(self, ignore_index: int) -> MixPlan:
        return self if self._is_hard else super()._mask_plan(ignore_index)


def _means(mask: Tensor) -> Tensor:
    """Return the float64 mean of each mask (..., height, width)."""
    if mask.dtype != torch.bool or mask.device.type != "cpu" or torch.compiler.is_compiling():
        return mask.double().mean((-2, -1))
    # the same numbers in a twentieth of the time
    planes = mask.numpy().reshape(-1, *mask.shape[-2:])
    counts = torch.tensor([np.count_nonzero(plane) for plane in planes], dtype=torch.float64)
    return (counts / planes[0].size).view(mask.shape[:-2])


def _copy_where(mask: np.ndarray, sample: np.ndarray, out: np.ndarray) -> None:
    """Copy the pixels of a sample (..., height, width) into ``out`` where the mask (height, width) is True."""
    if out.ndim == 3 and _is_dense(out, (1, 2, 0)):
        # with the channels innermost NumPy would go through them pixel by pixel: three times as slow as all at once
        out, sample = (image.transpose(1, 2, 0).reshape(-1) for image in (out, sample))
        mask = np.repeat(mask.reshape(-1), len(out) // mask.size)
    np.copyto(out, sample, where=mask)


def quantize(weights: Tensor) -> Tensor:
    """Round weights in [0, 1] to whole 256ths."""
    return (weights * LEVELS).round() / LEVELS


def blend(own: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """Average two batches: ``weight * own + (1 - weight) * partner``. ``partner`` may be overwritten.

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
        return partner.lerp_(own, weight.to(own.dtype))
    whole = (weight * LEVELS).int()
    return ((own * whole + partner * (LEVELS - whole) + LEVELS // 2) >> 8).to(torch.uint8)


def _blend_rows(
    samples: Samples, out: np.ndarray, rows: Sequence[int], donors: Sequence[int], weights: np.ndarray
) -> None:
    """Write into ``out[rows]`` what :func:`blend` computes; ``weights`` (B, ...) are broadcast to the batch."""
    check_blendable(out.dtype.kind == "f", out.dtype == np.uint8, out.dtype)
    order = batch_order(out[0])
    flat = all(size == 1 for size in weights.shape[1:]) and _is_dense(out, order)

    def in_order(images: np.ndarray) -> np.ndarray:
        ordered = images.transpose(order)
        return ordered.reshape(len(images), -1) if flat else ordered

    mixed, weights = in_order(out), in_order(weights)
    together = isinstance(rows, range) and out[0].nbytes < _LONE and out.dtype == np.uint8
    if together and not isinstance(samples, np.ndarray):
        samples = gather(samples, range(len(samples)))
    scratch = None
    for block in blocks(rows, out, _BLOCK if together else 1):
        part = slice(block[0], block[-1] + 1)
        partner = in_order(gather(samples, donors[part]))
        own = in_order(samples[part] if isinstance(samples, np.ndarray) and together else gather(samples, block))
        if out.dtype != np.uint8:
            _blend_floats(own, partner, weights[part].astype(out.dtype), mixed[part])
            continue
        if scratch is None:  # kept for all blocks: fresh memory would cost as much as the arithmetic
            scratch = np.empty(own.shape, np.uint16)
        _blend_bytes(own, partner, weights[part], mixed[part], scratch[: len(own)])


def _is_dense(array: np.ndarray, order: Sequence[int]) -> bool:
    return array.transpose(order).flags.c_contiguous


def _blend_floats(own: np.ndarray, partner: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """Blend as torch.lerp does: from the nearer end, so that a weight of 0 or 1 gives one of them as it is."""
    if out.dtype == np.float16:  # of which a difference may overflow where the blend does not
        wide = np.empty(out.shape, np.float32)
        _blend_floats(own.astype(np.float32), partner.astype(np.float32), weight.astype(np.float32), wide)
        out[...] = wide
        return
    np.subtract(own, partner, out=out)
    if weight.size == 1:
        near, step = (partner, weight) if weight < 0.5 else (own, weight - 1)
    else:
        near, step = np.where(weight < 0.5, partner, own), np.where(weight < 0.5, weight, weight - 1)
    out *= step
    out += near


def _blend_bytes(
    own: np.ndarray, partner: np.ndarray, weight: np.ndarray, out: np.ndarray, scratch: np.ndarray
) -> None:
    """Blend bytes by 16-bit integers: ``partner + ((own - partner) * w + 128 >> 8)``.

    The difference and its product may wrap around; as the blend itself is a byte, its low byte is right all the same.
    """
    np.subtract(own, partner, out=scratch, dtype=np.uint16)
    scratch *= (weight * LEVELS).astype(np.uint16)
    scratch += np.uint16(LEVELS // 2)
    scratch >>= np.uint16(8)
    np.copyto(out, scratch, casting="unsafe")
    out += partner


def check_blendable(is_floating: bool, is_bytes: bool, dtype: object) -> None:
    """Raise ValueError unless images of this dtype can be averaged."""
    if not (is_floating or is_bytes):
        raise ValueError(f"only floating-point and uint8 images can be blended, got {dtype}: convert them first")
