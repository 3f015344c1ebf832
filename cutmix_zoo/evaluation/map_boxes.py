"""From class activation maps to boxes, and how far boxes agree with true ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

from cutmix_zoo.checks import require
from cutmix_zoo.evaluation.regions import contour_boxes, largest_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def resize_map(activation: Floats, size: tuple[int, int], mode: Literal["bilinear", "bicubic"]) -> Floats:
    """Enlarge a map (h, w) to (H, W), pixel centres on pixel centres; what OpenCV's ``resize`` does."""
    resized = interpolate(torch.from_numpy(activation)[None, None], size=size, mode=mode, align_corners=False)
    return resized[0, 0].numpy()


def over_maximum(activation: Floats) -> Floats:
    """Divide a map (H, W) by its maximum; what is negative becomes 0, and all if nothing is positive.

    Example:
        >>> over_maximum(np.array([[-1.0, 1.0, 4.0]])).tolist()
        [[0.0, 0.25, 1.0]]
    """
    positive = np.maximum(activation, 0)
    return positive / (positive.max() or 1.0)


def min_max(activation: Floats) -> Floats:
    """Shift and scale a map (H, W) to [0, 1]; a constant one, or one with NaN, becomes 0 everywhere.

    Example:
        >>> min_max(np.array([[-1.0, 0.0, 3.0]])).tolist()
        [[0.0, 0.25, 1.0]]
    """
    shifted = activation - activation.min()
    peak = shifted.max()
    return shifted / peak if peak > 0 else np.zeros_like(activation)


def paper_boxes(scores: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """Box the largest region of pixels over each threshold.

    Args:
        scores: (H, W), a map over its maximum.
        thresholds: (T,) in [0, 1).

    Returns:
        (T, 4): top, left, bottom, right, half-open; zeros where no pixel is over the threshold.

    **Source**: CutMix, appendix B. It does not say what the size of a region is; here it is its number of pixels.
    """
    return largest_boxes(scores > thresholds[:, None, None])


def wsol_boxes(
    scores: Floats, thresholds: Floats
) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Box what is over each threshold as wsolevaluation does: the largest contour, and all contours.

    Maps are cut into 256 levels first. The boxes are one row and one column too large, unless that is outside the
    image, and where no pixel is over the threshold there is a box of the first pixel; wsolevaluation has it so.

    Args:
        scores: (H, W) in [0, 1].
        thresholds: (T,) in [0, 1), shares of the highest level.

    Returns:
        The boxes of the largest contours (T, 4); and of all contours the number of the threshold (R,) and the box
        (R, 4): top, left, bottom, right, half-open.

    Raises:
        ValueError: if a score is outside [0, 1] or NaN.

    **Source**: Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020, with the rules
    of the authors' code. Which of several contours of the same area is taken is a matter of OpenCV's; here it is the
    last in the order of rows.
    """
    require(bool(((scores >= 0) & (scores <= 1)).all()), "scores must be numbers from 0 to 1")
    levels = (scores * 255).astype(np.uint8)
    masks = levels > (thresholds * levels.max()).astype(int)[:, None, None]
    found = contour_boxes(masks)
    return _enlarged(found.largest, scores.shape), (found.mask, _enlarged(found.boxes, scores.shape))


def _enlarged(boxes: NDArray[np.int64], size: tuple[int, ...]) -> NDArray[np.int64]:
    return np.concatenate([boxes[:, :2], np.minimum(boxes[:, 2:] + 1, size)], axis=1)


def iou(boxes: NDArray[Any], true_boxes: NDArray[Any]) -> Floats:
    """Compute the intersection over the union of each of (N, 4) boxes with each of (G, 4).

    Args:
        boxes: top, left, bottom, right, half-open, whole or not.
        true_boxes: likewise.

    Returns:
        (N, G) in [0, 1]; 0 for two boxes without area.

    Example:
        >>> iou(np.array([[0, 0, 10, 10]]), np.array([[0, 0, 10, 5], [0, 0, 5, 5]])).tolist()
        [[0.5, 0.25]]
    """
    sides = np.minimum(boxes[:, None, 2:], true_boxes[:, 2:]) - np.maximum(boxes[:, None, :2], true_boxes[:, :2])
    shared = np.maximum(sides, 0).prod(axis=2).astype(np.float64)
    areas, true_areas = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, true_boxes))
    union = areas[:, None] + true_areas - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def cropped_boxes(
    boxes: NDArray[Any], image: tuple[int, int], resized: tuple[int, int], crop: tuple[int, int]
) -> Floats:
    """Follow boxes through the resizing of their image and the crop of its centre.

    Args:
        boxes: (G, 4) top, left, bottom, right, half-open, in pixels of the image.
        image: height and width of the image.
        resized: height and width that it is resized to.
        crop: height and width of the crop, as torchvision's ``CenterCrop`` places it.

    Returns:
        (G, 4) in pixels of the crop, not rounded, and clipped to it: a box outside of it has no area.

    Example:
        >>> cropped_boxes(np.array([[0, 50, 100, 100]]), (100, 200), (256, 256), (224, 224)).tolist()
        [[0.0, 48.0, 224.0, 112.0]]
    """
    offset = [round((whole - part) / 2) for whole, part in zip(resized, crop, strict=True)]
    return np.clip(boxes * np.tile(resized, 2) / np.tile(image, 2) - np.tile(offset, 2), 0, np.tile(crop, 2))


def resized_boxes(boxes: NDArray[Any], image: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """Follow boxes through the resizing of their image as wsolevaluation does.

    Their numbers are scaled and rounded down. That code takes them, as those of :func:`wsol_boxes`, for the first and
    the last row and column. So they are in ImageNet's files; a half-open box, such as CUB-200-2011 has, becomes one row
    and one column too large, also where that is outside the image.

    Args:
        boxes: (G, 4) top, left, bottom, right, in pixels of the image, as the dataset's files have them.
        image: height and width of the image.
        size: height and width that it is resized to.

    Returns:
        (G, 4) in pixels of the resized image, half-open.
    """
    return (boxes * np.tile(size, 2) / np.tile(image, 2)).astype(np.int64) + np.array([0, 0, 1, 1])
