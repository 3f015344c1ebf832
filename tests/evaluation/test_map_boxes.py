from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou
from torchvision.transforms.functional import center_crop

from cutmix_zoo.evaluation.map_boxes import (
    cropped_boxes,
    iou,
    min_max,
    over_maximum,
    paper_boxes,
    resize_map,
    resized_boxes,
    wsol_boxes,
)

UNIMODAL = [[0, 0, 0, 0, 0], [0, 0.4, 0.4, 0.4, 0.6], [0, 0.4, 1, 0.8, 0.6], [0, 0.4, 0.4, 0.4, 0.6]]
MULTIMODAL = [[0.4, 0, 0.2, 0.2, 0.2], [0.4, 0.4, 0, 0.4, 0], [0, 0, 0, 0.4, 0], [1, 0.6, 0.8, 0.2, 0.2]]


def from_corners(boxes: list[list[int]]) -> NDArray[np.int64]:
    """Turn boxes that others write as x and y of the first and the last pixel into ours."""
    x0, y0, x1, y1 = np.array(boxes).T
    return np.stack([y0, x0, y1 + 1, x1 + 1], axis=1)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (UNIMODAL, [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]]),
        (MULTIMODAL, [[0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]]),
        (np.zeros((4, 5)).tolist(), [[0, 0, 0, 0]] * 5),
    ],
    ids=["unimodal", "multimodal", "zeros"],
)
def test_boxes_of_contours_are_those_that_wsolevaluation_publishes(
    scores: list[list[float]], expected: list[list[int]]
) -> None:
    boxes, _ = wsol_boxes(np.array(scores, np.float64), np.arange(0, 1, 0.2))
    assert boxes.tolist() == from_corners(expected).tolist()


def test_thresholds_are_shares_of_the_highest_level() -> None:
    thresholds = np.array([0.1, 0.5, 0.7])
    bright, _ = wsol_boxes(np.array(UNIMODAL), thresholds)
    dark, _ = wsol_boxes(np.array(UNIMODAL) / 2, thresholds)
    assert np.array_equal(dark, bright)


def test_all_contours_by_hand() -> None:
    ring = np.zeros((7, 8))
    ring[1:6, 1:6] = 1.0
    ring[2:5, 2:5] = 0.5
    ring[3, 7] = 0.9
    _, (number, boxes) = wsol_boxes(ring, np.array([0.2, 0.6, 0.95]))
    whole, speck = [1, 1, 7, 7], [3, 7, 5, 8]  # one row and column more, where there is one
    # at the highest two there is a hole; its edge is the ring itself
    assert [boxes[number == place].tolist() for place in range(3)] == [
        [whole, speck],
        [whole, speck, whole],
        [whole, whole],
    ]


@pytest.mark.parametrize("wrong", [float("nan"), -0.1, 1.1])
def test_scores_that_are_none_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="scores must be numbers from 0 to 1"):
        wsol_boxes(np.array([[0.5, wrong]]), np.array([0.0]))


def test_paper_boxes_are_strictly_over_the_threshold() -> None:
    boxes = paper_boxes(np.array(UNIMODAL), np.array([0.0, 0.4, 0.6, 0.8, 1.0]))
    assert boxes.tolist() == [[1, 1, 4, 5], [1, 2, 4, 5], [2, 2, 3, 4], [2, 2, 3, 3], [0, 0, 0, 0]]


def test_iou_by_hand() -> None:
    def value(one: list[int], other: list[int]) -> float:
        return float(iou(from_corners([one]), from_corners([other]))[0, 0])

    assert value([1, 2, 5, 6], [3, 1, 4, 5]) == pytest.approx(8 / 27, rel=1e-15)
    assert value([0, 0, 9, 9], [0, 0, 9, 4]) == 0.5
    assert value([0, 0, 0, 0], [0, 0, 0, 0]) == 1.0
    empty = np.zeros((1, 4))
    assert iou(empty, empty).tolist() == [[0.0]]
    assert iou(empty, np.array([[0, 0, 3, 3]])).tolist() == [[0.0]]


@pytest.mark.parametrize("whole", [True, False])
def test_iou_is_that_of_torchvision(whole: bool) -> None:
    corners = np.random.default_rng(0).uniform(0, 20, (30, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1)
    boxes = boxes.astype(np.int64) if whole else boxes
    one, other = boxes[:18], boxes[18:]
    expected = box_iou(*(torch.from_numpy(each.astype(np.float64))[:, [1, 0, 3, 2]] for each in (one, other)))
    assert iou(one, other) == pytest.approx(expected.numpy(), rel=1e-14)


def test_boxes_are_resized_as_wsolevaluation_publishes() -> None:
    # that code writes x first, and counts the last row and column in
    resized = resized_boxes(np.array([[2, 1, 3, 4]]), image=(20, 10), size=(10, 35))
    assert resized.dtype == np.int64
    assert resized.tolist() == from_corners([[3, 1, 14, 1]]).tolist()
    assert resized_boxes(np.array([[0, 0, 20, 10]]), image=(20, 10), size=(10, 35)).tolist() == [[0, 0, 11, 36]]


def test_boxes_follow_the_resizing_to_256_and_the_crop_of_224() -> None:
    boxes = np.array([[0, 100, 150, 500], [75, 200, 300, 300], [0, 0, 18, 500]])
    # an image of 300 x 500: rows times 256 / 300, columns times 256 / 500, both less 16
    expected = [[0, 35.2, 112, 224], [48, 86.4, 224, 137.6], [0, 0, 0, 224]]
    cropped = cropped_boxes(boxes, (300, 500), (256, 256), (224, 224))
    assert cropped == pytest.approx(np.array(expected), abs=1e-12)
    assert iou(cropped[2:], np.array([[0, 0, 224, 224]])).tolist() == [[0.0]]


@pytest.mark.parametrize(("whole", "part"), [(183, 160), (185, 160), (256, 224), (37, 32)])
def test_crops_are_those_of_torchvision(whole: int, part: int) -> None:
    rows = torch.arange(whole).expand(whole, whole).T
    cropped = center_crop(rows[None], [part, part])[0]
    first = int(cropped[0, 0])
    found = cropped_boxes(np.array([[first, first, first + 8, first + 9]]), (whole,) * 2, (whole,) * 2, (part,) * 2)
    assert found.tolist() == [[0, 0, 8, 9]]


def cubic(distance: float) -> float:
    """Keys' kernel with the parameter of OpenCV, -0.75."""
    x = abs(distance)
    if x < 1:
        return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def linear(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


@pytest.mark.parametrize(("mode", "kernel"), [("bilinear", linear), ("bicubic", cubic)])
def test_maps_are_resized_with_pixel_centres_on_pixel_centres(mode: Any, kernel: Callable[[float], float]) -> None:
    activation = np.random.default_rng(0).normal(size=(3, 4))

    def weights(old: int, new: int) -> NDArray[np.float64]:
        matrix = np.zeros((new, old))
        for row in range(new):
            centre = (row + 0.5) * old / new - 0.5
            for place in range(-3, old + 3):
                matrix[row, min(max(place, 0), old - 1)] += kernel(centre - place)
        return matrix

    expected = weights(3, 10) @ activation @ weights(4, 17).T
    assert resize_map(activation, (10, 17), mode) == pytest.approx(expected, abs=1e-12)


def test_what_normalised_maps_do_not_depend_on() -> None:
    activation = np.random.default_rng(0).normal(size=(5, 6))
    assert min_max(3 * activation - 7) == pytest.approx(min_max(activation), abs=1e-12)
    assert (min_max(activation).min(), min_max(activation).max()) == (0, 1)
    assert over_maximum(3 * activation) == pytest.approx(over_maximum(activation), abs=1e-12)
    assert np.abs(over_maximum(activation + 1) - over_maximum(activation)).max() > 0.1
    assert not np.any(over_maximum(-np.abs(activation)))
    for flat in (np.full((2, 3), 4.0), np.full((2, 3), np.nan)):
        assert not np.any(min_max(flat))
