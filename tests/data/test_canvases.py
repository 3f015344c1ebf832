from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from cutmix_zoo.data.canvases import PIECES, SCALES, Canvases
from cutmix_zoo.data.fashion_mnist import MINI_ROOT, FashionMNIST
from cutmix_zoo.known import KNOWN_DATASETS

GARMENTS = FashionMNIST(MINI_ROOT, train=True)
CANVASES = Canvases(GARMENTS, train=True)
PLACES = range(0, 10_000, 97)


def pixels(dataset: Canvases, index: int) -> np.ndarray:
    return np.asarray(dataset[index][0]).astype(int)


def only(*images: np.ndarray) -> FashionMNIST:
    """Fashion-MNIST with other images."""
    source = FashionMNIST(MINI_ROOT, train=True)
    source.images, source.targets = np.stack(images).astype(np.uint8), source.targets[: len(images)]
    return source


def test_a_canvas_is_a_grey_image_with_the_label_of_its_garment() -> None:
    assert len(CANVASES) == len(GARMENTS)
    for index in (0, 5, 9_999):
        image, label = CANVASES[index]
        assert (image.mode, image.size, label) == ("L", (56, 56), GARMENTS[index][1])
    assert (CANVASES.classes, CANVASES.class_to_idx) == (GARMENTS.classes, GARMENTS.class_to_idx)
    np.testing.assert_array_equal(CANVASES.targets, GARMENTS.targets)


def test_a_canvas_is_a_function_of_split_and_index_alone() -> None:
    first = [pixels(CANVASES, index) for index in range(6)]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = Canvases(GARMENTS, train=True)
    for index in reversed(range(6)):
        np.testing.assert_array_equal(pixels(again, index), first[index])
    assert torch.equal(torch.get_rng_state(), before)
    other = Canvases(GARMENTS, train=False)
    assert all(other.boxes(index) != CANVASES.boxes(index) for index in range(6))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_process_makes_the_same_canvases(workers: int) -> None:
    loader = DataLoader(range(8), num_workers=workers, collate_fn=lambda batch: pil_to_tensor(CANVASES[batch[0]][0]))
    for index, canvas in enumerate(loader):
        np.testing.assert_array_equal(canvas[0].numpy(), pixels(CANVASES, index))


def test_places_count_from_the_end_too_and_end_somewhere() -> None:
    np.testing.assert_array_equal(pixels(CANVASES, -1), pixels(CANVASES, 9_999))
    assert CANVASES.boxes(np.int64(4)) == CANVASES.boxes(4)
    with pytest.raises(IndexError):
        CANVASES[10_000]


def test_the_box_is_the_tight_box_of_the_garment() -> None:
    """What differs from the same canvas without its garment; all other garments are black, and so are the pieces."""
    rectangle, black = np.zeros((28, 28)), np.zeros((28, 28))
    rectangle[4:20, 6:15] = 255
    with_garment, without = (Canvases(only(*[image] * 8, *[black] * 992), train=True) for image in (rectangle, black))
    for index in range(8):
        rows, columns = np.nonzero(pixels(with_garment, index) != pixels(without, index))
        (box,) = with_garment.boxes(index)
        # an edge may happen to have the grey of what is behind it
        found = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
        assert np.abs(found - box).max() <= 1
        scale = (box.bottom - box.top) / 16
        assert SCALES[0] - 0.1 < scale < SCALES[1] + 0.2
        assert (box.right - box.left) / 9 == pytest.approx(scale, abs=0.2)


def test_boxes_lie_inside_and_cover_the_range_of_scales_and_places() -> None:
    boxes = np.array([CANVASES.boxes(index)[0] for index in range(2000)])
    top, left, bottom, right = boxes.T
    assert min(top.min(), left.min()) >= 0
    assert max(bottom.max(), right.max()) <= 56
    # a garment of Fashion-MNIST touches two opposite sides of its frame
    longest = np.maximum(bottom - top, right - left)
    assert round(28 * SCALES[0]) - 2 <= longest.min() <= 18
    assert 35 <= longest.max() <= round(28 * SCALES[1])
    centre = np.stack([top + bottom, left + right]) / 2
    assert centre.min() < 12
    assert centre.max() > 44
    assert abs(centre.mean() - 28) < 1
    assert CANVASES.image_size(0) == (56, 56)


def test_the_garment_is_not_covered_and_what_is_around_it_is_fainter() -> None:
    inside, around = [], []
    for index in PLACES:
        canvas = pixels(CANVASES, index)
        (box,) = CANVASES.boxes(index)
        mask = np.zeros((56, 56), bool)
        mask[box.top : box.bottom, box.left : box.right] = True
        inside.append(np.percentile(canvas[mask], 75))
        around.append(canvas[~mask])
    assert np.mean(inside) > 2.5 * np.mean(np.concatenate(around))
    assert max(values.max() for values in around) <= 0.6 * 255
    # it is there nevertheless: a texture that is no constant, and pieces that stand out of it
    assert all(np.std(values) > 5 for values in around)
    assert np.mean([(values > 80).any() for values in around]) > 0.9


def test_pieces_come_from_other_garments() -> None:
    """A small garment among large grey ones: all that is bright outside its box is pieces of these, 16 x 16 at most."""
    small = np.zeros((28, 28))
    small[12:16, 12:16] = 255
    sources = only(small, *[np.full((28, 28), 200)] * 20)
    canvases = Canvases(sources, train=True)
    (box,) = canvases.boxes(0)
    pieces = pixels(canvases, 0) > 75
    pieces[box.top - 1 : box.bottom + 1, box.left - 1 : box.right + 1] = False
    assert 10 * 10 <= pieces.sum() <= PIECES * 16 * 16


def test_a_garment_without_pixels_has_no_box() -> None:
    canvases = Canvases(only(*[np.zeros((28, 28))] * 3), train=True)
    assert canvases.boxes(1) == []
    assert pixels(canvases, 1).max() < 80


@pytest.mark.parametrize("side", [36, 64, 100])
def test_canvases_of_other_sizes(side: int, fashion: Callable[..., Path]) -> None:
    canvases = Canvases(FashionMNIST(fashion(), train=False), train=False, side=side)
    assert canvases[3][0].size == (side, side)
    assert canvases.image_size(3) == (side, side)
    assert max(max(canvases.boxes(index)[0]) for index in range(20)) <= side


def test_a_canvas_that_is_too_small_for_a_garment_is_refused() -> None:
    with pytest.raises(ValueError, match="side must be at least 36, the side of the largest garment, got 35"):
        Canvases(GARMENTS, train=True, side=35)


def test_mean_and_std_of_the_table_are_those_of_the_training_canvases() -> None:
    values = np.stack([np.asarray(CANVASES[index][0]) for index in range(0, 10_000, 5)]) / 255
    known = KNOWN_DATASETS["fashion_mnist_canvas"]
    assert known.input_size == (1, 56, 56)
    assert values.mean() == pytest.approx(known.mean[0], abs=0.002)
    assert values.std() == pytest.approx(known.std[0], abs=0.002)
