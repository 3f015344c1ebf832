"""The connected regions of masks, as boxes; many masks at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cutmix_zoo.checks import require

if TYPE_CHECKING:
    from numpy.typing import NDArray


def largest_boxes(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Box the region of each mask that has most pixels; those that touch at a corner belong together.

    Args:
        masks: (N, H, W).

    Returns:
        (N, 4): top, left, bottom, right, half-open; zeros for a mask without a pixel. Of regions of one size it is the
        last one, ordered by the row and then the column where they begin.

    Raises:
        ValueError: if ``masks`` is not (N, H, W) bool.

    Example:
        >>> mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1]], bool)
        >>> largest_boxes(mask[None]).tolist()
        [[0, 0, 3, 2]]
    """
    regions = _regions(_runs(masks), corners=True)
    return _boxes_of_largest(regions, regions.pixels, len(masks))


class Contours(NamedTuple):
    """The boxes of contours: top, left, bottom, right, half-open."""

    largest: NDArray[np.int64]
    """(N, 4) of each mask the contour with most area inside; zeros for a mask without a pixel."""
    mask: NDArray[np.int64]
    """(R,) the number of the mask of each contour."""
    boxes: NDArray[np.int64]
    """(R, 4) its box."""


def contour_boxes(masks: NDArray[np.bool_]) -> Contours:
    """Box every contour of each mask: the outer edges of its regions, and the edges of their holes.

    The edge of a hole is made of the pixels around it, so its box is that of the hole and one pixel more to each side.
    What lies in a hole is a region of its own. A hole has no way out between pixels that touch at a corner.

    The area inside a contour is that of the polygon through the centres of its pixels: holes count, and a line one
    pixel wide has none. Of contours of one area the largest is the last one, ordered by the row and then the column
    where they begin.

    Args:
        masks: (N, H, W).

    Raises:
        ValueError: if ``masks`` is not (N, H, W) bool.

    **Source**: what OpenCV's ``findContours`` (``RETR_TREE``), ``boundingRect`` and ``contourArea`` give, all contours
    in another order.

    Example:
        >>> mask = np.pad(np.ones((3, 4), bool), 1)
        >>> mask[2, 2] = False
        >>> contour_boxes(mask[None]).boxes.tolist()
        [[1, 1, 4, 5], [1, 1, 4, 4]]
    """
    runs = _runs(masks)
    around = _background(runs)
    regions, outside = _regions(runs, corners=True), _regions(around, corners=False)
    # all that surrounds the regions, of all masks together, is one region, and the first
    filled = _regions(_between(around, outside.of_run == 0), corners=True)
    holes = outside.boxes[1:] + np.array([-1, -1, 1, 1])
    return Contours(
        _boxes_of_largest(filled, filled.area, len(masks)),
        np.concatenate([regions.mask, outside.mask[1:]]),
        np.concatenate([regions.boxes, holes]),
    )


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
    of_run: NDArray[np.intp]
    """To which region each run belongs."""


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


def _between(around: _Runs, outside: NDArray[np.bool_]) -> _Runs:
    """Find the runs between those of the outside: of the masks with their holes filled."""
    # every row begins and ends with one of the outside
    start, end = around.end[outside][:-1], around.start[outside][1:]
    return _Runs(start[start < end], end[start < end], around.shape)


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
    return _Regions(start[first] // (height * width), boxes, pixels, area.astype(np.float64), region)


def _boxes_of_largest(regions: _Regions, size: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Take the largest region of each of ``count`` masks."""
    order = np.lexsort((size, regions.mask))  # stable: of equals the last one is the last
    order = order[np.diff(regions.mask[order], append=count) > 0]
    boxes = np.zeros((count, 4), np.int64)
    boxes[regions.mask[order]] = regions.boxes[order]
    return boxes
