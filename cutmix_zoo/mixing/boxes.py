"""Boxes: from what was drawn to whole pixels, one image or a thousand at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import EllipsisType


class Box(NamedTuple):
    """A rectangle of whole pixels, half-open: rows ``top`` to ``bottom - 1``, columns ``left`` to ``right - 1``."""

    top: int
    left: int
    bottom: int
    right: int


def clipped_boxes(lam: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """Place boxes around their centres and clip them to the image, as the official code does.

    The nominal side is ``floor(size * sqrt(1 - lam))``, and half of it (rounded down) goes to each
    side of the centre: an odd side loses a pixel, a side of 1 is an empty box. What sticks out of
    the image is cut off, so with alpha 1 a box covers 0.299 of a 32 x 32 image and 0.318 of a
    224 x 224 one on average, not the nominal half.

    Args:
        lam: (N,) float64 in [0, 1], the share the boxes leave to the image before clipping.
        centre: (N, 2) int64, row in ``[0, height)`` and column in ``[0, width)``.
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        (N, 4) int64: top, left, bottom, right of each box (:class:`Box`).

    Raises:
        ValueError: if a lambda is outside [0, 1] or a centre outside the image.

    **Source**: Yun et al., CutMix (ICCV 2019), equation 2 and algorithm A1; rounding from the
    authors' code.

    Example:
        >>> clipped_boxes(torch.tensor([0.75], dtype=torch.float64), torch.tensor([[0, 10]]), 32, 32).tolist()
        [[0, 2, 8, 18]]
    """
    size = np.array([height, width])
    _check_within("lam", lam, (lam.numpy() >= 0) & (lam.numpy() <= 1), "[0, 1]")
    inside = (centre.numpy() >= 0) & (centre.numpy() < size)
    _check_within("centre", centre, inside, f"the image of {height} x {width} pixels")
    half = _nominal_sides(lam, size).astype(np.int64) // 2
    top_left = np.maximum(centre.numpy() - half, 0)
    bottom_right = np.minimum(centre.numpy() + half, size)
    return torch.from_numpy(np.concatenate([top_left, bottom_right], axis=1))


def inside_boxes(lam: Tensor, position: Tensor, height: int, width: int) -> Tensor:
    """Place boxes wholly inside the image, every place being equally likely.

    The side is ``size * sqrt(1 - lam)`` rounded to the nearest pixel, so the share stays as drawn up
    to that rounding: with alpha 1 a box covers 0.500 of the image on average, at 32 x 32 as at
    224 x 224.

    Args:
        lam: (N,) float64 in [0, 1], the share the boxes leave to the image.
        position: (N, 2) float64 in [0, 1), uniform: where between the first and the last possible
            row and column the box stands.
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        (N, 4) int64: top, left, bottom, right of each box (:class:`Box`).

    Raises:
        ValueError: if a lambda is outside [0, 1] or a position outside [0, 1).

    Example:
        >>> inside_boxes(torch.tensor([0.75], dtype=torch.float64), torch.tensor([[0.0, 0.99]]), 32, 32).tolist()
        [[0, 16, 16, 32]]
    """
    size = np.array([height, width])
    _check_within("lam", lam, (lam.numpy() >= 0) & (lam.numpy() <= 1), "[0, 1]")
    _check_within("position", position, (position.numpy() >= 0) & (position.numpy() < 1), "[0, 1)")
    side = _nominal_sides(lam, size).round().astype(np.int64)
    return torch.from_numpy(place_inside(side, position.numpy(), size))


def place_inside(side: np.ndarray, position: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Place boxes of given sides inside the image, every place being equally likely.

    Args:
        side: (..., 2) int64, height and width of each box.
        position: (..., 2) float64 in [0, 1), uniform.
        size: (2,) int64, height and width of the image.

    Returns:
        (..., 4) int64: top, left, bottom, right of each box (:class:`Box`).
    """
    corner = (position * (size - side + 1)).astype(np.int64)
    return np.concatenate([corner, corner + side], axis=-1)


def _check_within(name: str, values: Tensor, inside: np.ndarray, where: str) -> None:
    if not inside.all():
        raise ValueError(f"{name} must lie within {where}, got {values.tolist()}")


def _nominal_sides(lam: Tensor, size: np.ndarray) -> np.ndarray:
    """Return the (N, 2) real-valued height and width of boxes that cover ``1 - lam`` of the image."""
    return size * np.sqrt(1.0 - lam.numpy())[:, None]


def box_areas(boxes: Tensor) -> Tensor:
    """Return the (N,) int64 number of pixels in each of (N, 4) boxes."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def in_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return a (B, height, width) mask of the pixels inside (B, 4) boxes, on their device."""
    top, left, bottom, right = boxes.unsqueeze(2).unbind(1)
    row, column = (torch.arange(size, device=boxes.device) for size in (height, width))
    in_rows, in_columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return in_rows.unsqueeze(2) & in_columns.unsqueeze(1)


def window(box: Sequence[int]) -> tuple[EllipsisType, slice, slice]:
    """Return the index of a box in an array (..., height, width).

    Example:
        >>> window((1, 2, 3, 5))
        (Ellipsis, slice(1, 3, None), slice(2, 5, None))
    """
    top, left, bottom, right = box
    return (..., slice(top, bottom), slice(left, right))
