"""The connected regions of masks, as boxes; many masks at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from cutmix_zoo.checks import require, require_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rule = Literal["pixels", "contour"]
"""What the largest region has most of: pixels, or area inside its outer contour."""


def largest_boxes(masks: NDArray[np.bool_], rule: Rule = "pixels") -> NDArray[np.int64]:
    """Box the largest region of each mask; pixels that touch at a corner belong together.

    Args:
        masks: (N, H, W).
        rule: ``pixels`` counts the pixels of a region. ``contour`` takes the area of the polygon through the centres of
            the pixels along its outer edge, as OpenCV does: holes count, and a line one pixel wide has none.

    Returns:
        (N, 4): top, left, bottom, right, half-open; zeros for a mask without a pixel. Of regions of one size it is the
        last one, ordered by the row and then the column where they begin, as in OpenCV's order of contours.

    Raises:
        ValueError: if ``masks`` is not (N, H, W) bool, or ``rule`` unknown.

    Example:
        >>> mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1]], bool)
        >>> largest_boxes(mask[None]).tolist()
        [[0, 0, 3, 2]]
    """
    require_choice("rule", rule, get_args(Rule))
    runs = _runs(masks)
    regions = _regions(runs, corners=True) if rule == "pixels" else _regions(_filled(runs), corners=True)
    size = regions.pixels if rule == "pixels" else regions.area
    order = np.lexsort((size, regions.mask))  # stable: of equals the last one is the last
    order = order[np.diff(regions.mask[order], append=len(masks)) > 0]
    boxes = np.zeros((len(masks), 4), np.int64)
    boxes[regions.mask[order]] = regions.boxes[order]
    return boxes


def contour_boxes(masks: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Box every contour of each mask: the outer edges of its regions, and the edges of their holes.

    The edge of a hole is made of the pixels around it, so its box is that of the hole and one pixel more to each side.
    What lies in a hole is a region of its own. A hole has no way out between pixels that touch at a corner.

    Args:
        masks: (N, H, W).

    Returns:
        Of each contour the number of its mask (R,), and its box (R, 4): top, left, bottom, right, half-open.

    Raises:
        ValueError: if ``masks`` is not (N, H, W) bool.

    **Source**: what OpenCV's ``findContours`` (``RETR_TREE``) and ``boundingRect`` give, in another order.

    Example:
        >>> mask = np.pad(np.ones((3, 4), bool), 1)
        >>> mask[2, 2] = False
        >>> contour_boxes(mask[None])[1].tolist()
        [[1, 1, 4, 5], [1, 1, 4, 4]]
    """
    runs = _runs(masks)
    regions, around = _regions(runs, corners=True), _regions(_background(runs), corners=False)
    # all that surrounds the regions, of all masks together, is one region, and the first
    holes = around.boxes[1:] + np.array([-1, -1, 1, 1])
    return np.concatenate([regions.mask, around.mask[1:]]), np.concatenate([regions.boxes, holes])


class _Runs(NamedTuple):
    """Pixels side by side in a row. Masks have an empty rim around them, lie below each other and are read row by row.

    The runs are in this order. A place is counted from the beginning of the first mask.
    """

    start: NDArray[np.int64]
    """(R,) place of the first pixel of a run."""
    end: NDArray[np.int64]
    """(R,) place after its last pixel."""
    shape: tuple[int, int, int]
    """Masks, and their rows and columns with the rim."""


class _Regions(NamedTuple):
    """Regions, ordered by the place where they begin."""

    mask: NDArray[np.int64]
    boxes: NDArray[np.int64]
    pixels: NDArray[np.int64]
    area: NDArray[np.float64]


def _runs(masks: NDArray[np.bool_]) -> _Runs:
    require(
        masks.ndim == 3 and masks.dtype == np.bool_,
        f"masks must be (N, H, W) bool, got {masks.dtype} of shape {masks.shape}",
    )
    rimmed = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    line = rimmed.reshape(-1)
    change = np.flatnonzero(line[1:] != line[:-1]) + 1
    return _Runs(change[::2], change[1::2], rimmed.shape)


def _background(runs: _Runs) -> _Runs:
    """Find the runs of what is not in the masks, the rim included."""
    masks, height, width = runs.shape
    rows = np.arange(masks * height + 1) * width
    start, end = np.concatenate([rows[:-1], runs.end]), np.concatenate([rows[1:], runs.start])
    return _Runs(np.sort(start), np.sort(end), runs.shape)


def _filled(runs: _Runs) -> _Runs:
    """Find the runs of the masks with their holes filled."""
    around = _background(runs)
    outside = _labels(len(around.start), *_touching(around, corners=False)) == 0
    # what is between two runs of the outside; every row begins and ends with one
    start, end = around.end[outside][:-1], around.start[outside][1:]
    return _Runs(start[start < end], end[start < end], runs.shape)


def _touching(runs: _Runs, *, corners: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pair each run with those in the row below it that it touches."""
    width = runs.shape[2]
    first = np.searchsorted(runs.end, runs.start + width, side="left" if corners else "right")
    after = np.searchsorted(runs.start, runs.end + width, side="right" if corners else "left")
    count = after - first
    upper = np.repeat(np.arange(len(count)), count)
    lower = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count - first, count)
    return upper, lower


def _labels(count: int, one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.intp]:
    """Label ``count`` things, of which pairs belong together, each with the first that it belongs to."""
    label = np.arange(count)
    while True:
        low, high = np.minimum(label[one], label[other]), np.maximum(label[one], label[other])
        apart = low < high
        if not apart.any():
            return label
        one, other = one[apart], other[apart]
        np.minimum.at(label, high[apart], low[apart])
        while not np.array_equal(label, label[label]):
            label = label[label]


def _regions(runs: _Runs, *, corners: bool) -> _Regions:
    start, end, (_, height, width) = runs
    upper, lower = _touching(runs, corners=corners)
    first, region = np.unique(_labels(len(start), upper, lower), return_inverse=True)
    row, left, right = start // width % height - 1, start % width - 1, (end - 1) % width
    boxes = np.stack([row[first], left[first], row[first] + 1, right[first]], axis=1)
    np.minimum.at(boxes[:, 1], region, left)
    np.maximum.at(boxes[:, 2], region, row + 1)
    np.maximum.at(boxes[:, 3], region, right)
    pixels = np.bincount(region, end - start, minlength=len(first)).astype(np.int64)
    # between the centres of four neighbours lies a unit square: it counts if all four are in, half of it if three are
    shared = np.minimum(right[upper], right[lower]) - np.maximum(left[upper], left[lower])
    uneven = 0.5 * (left[upper] != left[lower]) + 0.5 * (right[upper] != right[lower])
    area = np.bincount(region[upper], np.where(shared > 0, shared - 1 + uneven, 0.0), minlength=len(first))
    return _Regions(start[first] // (height * width), boxes, pixels, area.astype(np.float64))
