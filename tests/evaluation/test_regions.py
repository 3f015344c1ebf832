import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from cutmix_zoo.evaluation.regions import contour_boxes, largest_boxes

EIGHT = np.ones((3, 3))
# clockwise from the east, in rows and columns
AROUND = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]


def random_masks(seed: int, count: int = 120) -> NDArray[np.bool_]:
    """Masks from nearly empty to nearly full, so that there are many regions and many holes."""
    rng = np.random.default_rng(seed)
    return rng.random((count, 11, 14)) < np.linspace(0, 1, count)[:, None, None]


def box_of(place: tuple[slice, slice], more: int = 0) -> tuple[int, int, int, int]:
    rows, columns = place
    return rows.start - more, columns.start - more, rows.stop + more, columns.stop + more


def traced_area(region: NDArray[np.bool_]) -> float:
    """Walk around a region until the first step comes again, and take the area that was walked around."""
    padded = np.pad(region, 1)
    here, back = tuple(np.argwhere(padded)[0]), 4  # the pixel to the west of the first one is outside
    steps: list[tuple[tuple[int, ...], int]] = []
    while True:
        ways = [(back + turn) % 8 for turn in range(1, 9)]
        near = [(here[0] + AROUND[way][0], here[1] + AROUND[way][1]) for way in ways]
        inside = [number for number, place in enumerate(near) if padded[place]]
        if not inside:
            return 0.0
        step = (here, ways[inside[0]])
        if step in steps:
            assert step == steps[0]
            break
        steps.append(step)
        outside = near[inside[0] - 1]
        here = near[inside[0]]
        back = AROUND.index((outside[0] - here[0], outside[1] - here[1]))
    rows, columns = np.array([place for place, _ in steps]).T
    return abs(float(rows @ np.roll(columns, -1) - columns @ np.roll(rows, -1))) / 2


def test_the_largest_region_is_that_of_scipy_and_of_equals_the_last_one() -> None:
    masks = random_masks(0)
    boxes = largest_boxes(masks)
    for mask, box in zip(masks, boxes, strict=True):
        labels, count = label(mask, EIGHT)
        # scipy numbers regions in the order in which they begin
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        expected = (0, 0, 0, 0)
        if count:
            largest = np.flatnonzero(sizes == sizes.max())[-1]
            expected = box_of(find_objects(labels)[largest])
        assert tuple(box) == expected


def test_the_largest_contour_is_the_one_with_most_area_inside_when_traced() -> None:
    masks = random_masks(1)
    differ = 0
    for mask, box, by_pixels in zip(masks, contour_boxes(masks).largest, largest_boxes(masks), strict=True):
        labels, count = label(mask, EIGHT)
        areas = [traced_area(labels == number) for number in range(1, count + 1)]
        expected = (0, 0, 0, 0)
        if count:
            largest = np.flatnonzero(np.array(areas) == max(areas))[-1]
            expected = box_of(find_objects(labels)[largest])
        assert tuple(box) == expected
        differ += not np.array_equal(box, by_pixels)
    assert differ > 10


def test_contours_are_regions_and_holes_that_scipy_finds() -> None:
    masks = random_masks(2)
    _, numbers, boxes = contour_boxes(masks)
    assert numbers.max() == len(masks) - 1
    holes = 0
    for number, mask in enumerate(masks):
        regions, _ = label(mask, EIGHT)
        # four neighbours, and a rim that makes one region of all that reaches the border
        background, _ = label(~np.pad(mask, 1))
        assert background[0, 0] == 1
        found = find_objects(background)[1:]
        expected = [box_of(place) for place in find_objects(regions)]
        expected += [(box[0] - 1, box[1] - 1, box[2] - 1, box[3] - 1) for box in (box_of(place, 1) for place in found)]
        assert sorted(map(tuple, boxes[numbers == number].tolist())) == sorted(expected)
        holes += len(found)
    assert holes > 100


def test_a_mask_is_not_changed_by_its_neighbours() -> None:
    masks = random_masks(3, count=20)
    masks[4:6] = True  # touch every side
    largest, numbers, boxes = contour_boxes(masks)
    for number, mask in enumerate(masks):
        alone = contour_boxes(mask[None])
        assert np.array_equal(largest_boxes(masks)[number], largest_boxes(mask[None])[0])
        assert np.array_equal(largest[number], alone.largest[0])
        assert np.array_equal(boxes[numbers == number], alone.boxes)


def test_rules_by_hand() -> None:
    mask = np.zeros((12, 12), bool)
    mask[0, :10] = True  # a line: 10 pixels, no area
    mask[2:5, 0:3] = True  # a block: 9 pixels, area 4
    mask[2:8, 5:11] = True
    mask[3:7, 6:10] = False  # a ring: 20 pixels, area 25
    mask[4:6, 7:9] = True  # and something in it
    assert largest_boxes(mask[None]).tolist() == [[2, 5, 8, 11]]
    assert contour_boxes(mask[None]).largest.tolist() == [[2, 5, 8, 11]]
    mask[2:8, 5:11] = False
    assert largest_boxes(mask[None]).tolist() == [[0, 0, 1, 10]]
    assert contour_boxes(mask[None]).largest.tolist() == [[2, 0, 5, 3]]


def test_corners_join_pixels_and_close_holes() -> None:
    diamond = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert largest_boxes(diamond[None]).tolist() == [[0, 0, 3, 3]]
    assert contour_boxes(diamond[None]).boxes.tolist() == [[0, 0, 3, 3], [0, 0, 3, 3]]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"masks must be \(N, H, W\) bool, got bool of shape \(3, 4\)"):
        largest_boxes(np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match=r"masks must be .* got int64"):
        contour_boxes(np.zeros((1, 3, 4), np.int64))
