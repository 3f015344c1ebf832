import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cutmix_zoo.mixing import RICAP, PatchPlan, ResizeMix
from cutmix_zoo.mixing.patch_plan import resize
from tests.mixing.helpers import (
    BATCH,
    HEIGHT,
    WIDTH,
    by_tensor_operations,
    draw,
    generator,
    patch_plan,
    pixels,
    random_images,
    stated_shares,
    written,
)

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DTYPES = [torch.bool, torch.uint8, torch.int16, torch.int64, torch.complex64, *FLOATS]
EMPTY = [2, 1, 2, 4]


def _one_patch(crop: list[int], box: list[int], donor: list[int] | None = None) -> PatchPlan:
    """Let the six images have one patch each, which is the same for all."""
    crops, boxes = (torch.tensor(where).expand(BATCH, 1, 4) for where in (crop, box))
    donors = torch.arange(BATCH).roll(1) if donor is None else torch.tensor(donor)
    return PatchPlan(BATCH, HEIGHT, WIDTH, donors.unsqueeze(1), crops, boxes)


def _differing(batch_size: int = BATCH, seed: int = 0) -> PatchPlan:
    """Two patches of places and sizes that differ from image to image; some are empty."""
    rng = np.random.default_rng(seed)
    crops, boxes = np.zeros((2, batch_size, 2, 4), np.int64)
    for i in range(batch_size):
        split = rng.integers(0, WIDTH + 1)
        for p, (left, right) in enumerate([(0, split), (split, WIDTH)]):
            top, bottom = np.sort(rng.integers(0, HEIGHT + 1, 2))
            boxes[i, p] = top, left, bottom, right
            row, column = rng.integers(0, HEIGHT - (bottom - top) + 1), rng.integers(0, WIDTH - (right - left) + 1)
            crops[i, p] = row, column, row + bottom - top, column + right - left
    donor = torch.from_numpy(rng.integers(0, batch_size, (batch_size, 2)))
    return PatchPlan(batch_size, HEIGHT, WIDTH, donor, torch.from_numpy(crops), torch.from_numpy(boxes))


def _moved(plan: PatchPlan, images: Tensor) -> Tensor:
    """Move pixel by pixel; where sizes differ, take the pixel in which the middle of the new one lies."""
    mixed = images.clone()
    for i in range(plan.batch_size):
        for p, donor in enumerate(plan.donor[i].tolist()):
            (top, left, bottom, right), crop = plan.box[i, p].tolist(), plan.crop[i, p].tolist()
            for row in range(top, bottom):
                for column in range(left, right):
                    source_row = crop[0] + (2 * (row - top) + 1) * (crop[2] - crop[0]) // (2 * (bottom - top))
                    source_column = crop[1] + (2 * (column - left) + 1) * (crop[3] - crop[1]) // (2 * (right - left))
                    mixed[i, ..., row, column] = images[donor, ..., source_row, source_column]
    return mixed


@pytest.mark.parametrize("dtype", DTYPES)
def test_pixels_of_every_dtype_are_moved_one_by_one(dtype: torch.dtype) -> None:
    images = random_images(dtype=dtype)
    for plan in (patch_plan(resized=False), _differing(), _differing(seed=1)):
        expected = _moved(plan, images)
        assert torch.equal(plan.apply(images), expected)
        assert torch.equal(by_tensor_operations(plan, images), expected)
        if dtype != torch.bfloat16:
            assert torch.equal(written(plan, images), expected)


def test_bits_are_moved() -> None:
    images = torch.full((BATCH, 1, HEIGHT, WIDTH), torch.nan)
    images[::2] = -0.0
    mixed = patch_plan(resized=False).apply(images)
    assert torch.equal(mixed.view(torch.int32), _moved(patch_plan(resized=False), images).view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS])
@pytest.mark.parametrize(
    ("crop", "box"),
    [
        ([0, 0, 7, 5], [1, 1, 4, 3]),  # reduced
        ([2, 1, 4, 3], [0, 0, 7, 5]),  # enlarged
        ([0, 0, 7, 2], [2, 0, 5, 5]),  # squeezed one way, stretched the other
        ([3, 2, 4, 3], [1, 1, 4, 4]),  # a single pixel
        ([0, 0, 7, 5], [6, 4, 7, 5]),  # into a single pixel
    ],
)
def test_crops_are_resized_as_torch_does(crop: list[int], box: list[int], dtype: torch.dtype) -> None:
    images, plan = random_images(dtype=dtype), _one_patch(crop, box)
    expected = images.clone()
    for i in range(BATCH):
        taken = images[i - 1, :, crop[0] : crop[2], crop[1] : crop[3]].double()
        size = (box[2] - box[0], box[3] - box[1])
        patch = interpolate(taken[None], size, mode="bilinear", antialias=True)[0]
        patch = patch if dtype.is_floating_point else patch.round()
        expected[i, :, box[0] : box[2], box[1] : box[3]] = patch.to(dtype)
    # float32 may round the bytes' ties otherwise
    precision = torch.finfo(torch.float32 if dtype == torch.uint8 else dtype).eps
    tolerance = {"rtol": 0.0, "atol": 1 if dtype == torch.uint8 else 4 * 256 * precision}
    for mixed in (plan.apply(images), by_tensor_operations(plan, images)):
        assert mixed.dtype == dtype
        torch.testing.assert_close(mixed, expected, **tolerance)
        assert float((mixed != expected).float().mean()) < 0.02 or dtype != torch.uint8
    if dtype != torch.bfloat16:
        torch.testing.assert_close(written(plan, images), expected, **tolerance)


def test_halving_is_the_mean_of_what_the_filter_covers() -> None:
    """A closed form: by the triangle of width 4, the weights of 2:1 inside are 1, 3, 3, 1 eighths."""
    row = torch.tensor([0.0, 8.0, 16.0, 80.0, 0.0, 40.0]).view(1, 1, 1, 6)
    assert float(resize(row, (1, 3))[..., 1]) == pytest.approx((8 + 3 * 16 + 3 * 80 + 0) / 8)


def test_resizing_keeps_double_precision() -> None:
    patches = torch.rand(1, 1, 8, 6, dtype=torch.float64, generator=generator())
    resized = resize(patches, (4, 3))
    assert resized.dtype == torch.float64
    assert torch.equal(resized, interpolate(patches, (4, 3), mode="bilinear", antialias=True))


def test_resize_returns_patches_of_the_size_as_they_are() -> None:
    patches = random_images(2, 4, 3, dtype=torch.int64)
    assert resize(patches, (4, 3)) is patches
    assert resize(patches, (4, 3), nearest=True) is patches


def test_resize_takes_any_number_of_leading_axes() -> None:
    images = random_images(2, 3, 4, 7, 5)
    for nearest in (True, False):
        whole = resize(images, (4, 6), nearest=nearest)
        assert whole.shape == (2, 3, 4, 4, 6)
        assert torch.equal(whole[1, 2, 3], resize(images[1, 2, 3], (4, 6), nearest=nearest))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_what_cannot_be_averaged_is_not_resized(dtype: torch.dtype) -> None:
    images, plan = random_images(dtype=dtype), patch_plan(resized=True)
    for apply in (plan.apply, lambda images: by_tensor_operations(plan, images), lambda images: written(plan, images)):
        with pytest.raises(ValueError, match=f"only floating-point and uint8 images can be blended, got {dtype}"):
            apply(images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize(("crop", "box"), [([0, 0, 7, 5], [1, 1, 4, 3]), ([2, 1, 5, 3], [0, 0, 7, 5])])
def test_masks_take_the_nearest_pixel(crop: list[int], box: list[int], dtype: torch.dtype) -> None:
    masks, plan = random_images(BATCH, HEIGHT, WIDTH, dtype=dtype), _one_patch(crop, box)
    assert torch.equal(plan.apply_masks(masks), _moved(plan, masks))
    nearest = replace(plan, nearest=True)
    assert torch.equal(by_tensor_operations(nearest, masks), _moved(plan, masks))
    assert torch.equal(written(nearest, masks), _moved(plan, masks))


@pytest.mark.parametrize(("old", "new"), [(1, 7), (2, 7), (7, 5), (7, 3), (32, 7), (224, 96), (97, 224)])
def test_the_nearest_pixel_is_that_of_torch(old: int, new: int) -> None:
    line = torch.arange(float(old)).view(1, 1, 1, old)
    expected = interpolate(line, (1, new), mode="nearest-exact")
    assert torch.equal(resize(line, (1, new), nearest=True), expected)


def test_between_two_pixels_the_later_one_is_taken() -> None:
    """The middle of 41 pixels is the border of 2: floating point would put it on either side."""
    for old, new in ((2, 41), (2, 47), (6, 123), (14, 205)):
        expected = [int(Fraction(2 * i + 1, 2) * old / new) for i in range(new)]
        assert resize(torch.arange(old).view(1, old), (1, new), nearest=True).flatten().tolist() == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_may_be_read_only(channels: int) -> None:
    """As arrays that view a PIL image are."""
    plan, images = _one_patch([0, 0, 7, 5], [1, 1, 4, 3]), random_images(BATCH, channels, HEIGHT, WIDTH)
    samples = [image.numpy().copy() for image in images]
    for sample in samples:
        sample.flags.writeable = False
    out = np.empty(images.shape, np.uint8)
    plan.write(samples, out)
    assert np.array_equal(out, plan.apply(images).numpy())


def test_empty_boxes_change_nothing() -> None:
    for crop in (EMPTY, [0, 0, 7, 5]):
        plan, images = _one_patch(crop, EMPTY), random_images()
        assert torch.equal(plan.apply(images), images)
        assert torch.equal(by_tensor_operations(plan, images), images)
        assert torch.equal(written(plan, images), images)
        assert plan.lam.tolist() == [1.0] * BATCH
        assert plan.partner.tolist() == [5, 0, 1, 2, 3, 4]


def test_gradients_go_where_the_pixels_came_from() -> None:
    plan = _differing()
    images = torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=generator()).requires_grad_()
    into = torch.rand(images.shape, generator=generator(1))
    (gradient,) = torch.autograd.grad(plan.apply(images), images, into)
    number = torch.arange(images.numel()).view(images.shape)
    origin = _moved(plan, number).flatten()
    expected = torch.zeros(images.numel()).index_add(0, origin, into.flatten())
    torch.testing.assert_close(gradient.flatten(), expected)


def test_shares_are_counted_in_whole_pixels() -> None:
    plan = _differing()
    assert plan.sources.shape == plan.pixel_shares.shape == (BATCH, 3)
    inside = np.zeros((BATCH, 3))
    for i, row, column in pixels(plan):
        within = [t <= row < b and left <= column < r for t, left, b, r in plan.box[i].tolist()]
        inside[i, 1 + within.index(True) if any(within) else 0] += 1
    torch.testing.assert_close(plan.pixel_shares, torch.from_numpy(inside / (HEIGHT * WIDTH)).float())
    assert torch.equal(plan.label_shares, plan.pixel_shares)
    assert torch.equal(plan.boxes, plan.box[:, 0])


@pytest.mark.parametrize("size", [(7, 3), (224, 224), (97, 301)])
def test_a_full_image_leaves_a_share_of_0_to_itself(size: tuple[int, int]) -> None:
    """Thirds and sevenths that were rounded one by one would leave something, or less than nothing."""
    height, width = size
    edges = [0, width // 3, 2 * width // 3, width]
    boxes = torch.tensor([[0, left, height, right] for left, right in pairwise(edges)])
    for donor in ([[1, 1, 1], [0, 0, 0]], [[0, 1, 1], [1, 0, 0]]):
        plan = PatchPlan(2, height, width, torch.tensor(donor), *[boxes.expand(2, 3, 4)] * 2)
        assert float(plan.pixel_shares.min()) >= 0
        torch.testing.assert_close(plan.pixel_shares.double().sum(1), torch.ones(2).double(), rtol=0, atol=1e-7)
        if donor[0][0] == 1:
            assert plan.pixel_shares[:, 0].tolist() == [0.0, 0.0]


def test_where_the_first_patch_is_the_images_own_it_is_no_other_source() -> None:
    plan = _one_patch([0, 0, 3, 2], [4, 2, 7, 4], donor=list(range(BATCH)))
    assert plan.sources.tolist() == [[i] for i in range(BATCH)]
    assert plan.pixel_shares.tolist() == [[1.0]] * BATCH
    assert plan.lam.tolist() == [1.0] * BATCH
    assert plan.partner.tolist() == list(range(BATCH))
    assert plan.boxes.tolist() == [[0, 0, 0, 0]] * BATCH
    images = random_images()
    assert torch.equal(plan.apply(images), _moved(plan, images))
    # one image that meets another is enough for all to have two sources
    plan = _one_patch([0, 0, 3, 2], [4, 2, 7, 4], donor=[1, 1, 2, 3, 4, 5])
    assert plan.sources.shape == plan.pixel_shares.shape == (BATCH, 2)
    assert plan.boxes.tolist() == [[4, 2, 7, 4]] * BATCH


def test_ricap_frames_no_box() -> None:
    """Its first rectangle is the image's own, so nothing was pasted there."""
    for per in ("batch", "sample"):
        plan = draw(RICAP(beta=1.0, per=per), 8, 12, 10)
        assert plan.boxes.shape == (8, 4)
        assert not plan.boxes.any()
        assert plan.boxes.dtype == torch.int64
        assert plan.sources.shape == plan.pixel_shares.shape == plan.label_shares.shape == (8, 4)


def test_resizemix_where_some_or_all_images_meet_themselves() -> None:
    mix = ResizeMix(pairing="permutation")
    seen = set()
    for seed in range(20):
        plan = draw(mix, 2, 12, 10, seed=seed)
        columns = plan.sources.shape[1]
        seen.add(columns)
        assert plan.pixel_shares.shape == plan.label_shares.shape == (2, columns)
        assert plan.boxes.shape == (2, 4)
        torch.testing.assert_close(stated_shares(plan).sum(1), torch.ones(2))
        if columns == 1:
            images = random_images(2, 3, 12, 10)
            assert torch.equal(plan.apply(images), images)
            assert not plan.boxes.any()
    assert seen == {1, 2}


def test_samples_and_batch_need_not_be_dense() -> None:
    images = random_images()
    padded = np.zeros((BATCH, 3, HEIGHT + 2, WIDTH + 2), np.uint8)
    padded[..., 1:-1, 1:-1] = images.numpy()
    flipped = np.ascontiguousarray(images.numpy()[..., ::-1])[..., ::-1]
    for plan in (patch_plan(resized=False), patch_plan(resized=True)):
        for samples in (list(padded[..., 1:-1, 1:-1]), list(flipped), flipped):
            for out in (np.zeros_like(padded)[..., 1:-1, 1:-1], np.zeros_like(flipped)):
                plan.write(samples, out)
                assert np.array_equal(out, plan.apply(images).numpy())


WHOLE = [[[0, 0, 4, 3]], [[0, 0, 4, 3]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"donor": [[2], [0]]}, "donor must lie between 0 and 1"),
        ({"donor": [[-1], [0]]}, "donor must lie between 0 and 1"),
        ({"donor": [1, 0]}, "donor must be int64 of shape (2, 1), got torch.int64 of shape (2,)"),
        ({"donor": 1}, "donor must be int64 of shape (2, 1), got torch.int64 of shape ()"),
        ({"donor": [[], []]}, "donor must be int64 of shape (2, 1), got torch.float32 of shape (2, 0)"),
        ({"donor": [[1.0], [0.0]]}, "donor must be int64 of shape (2, 1), got torch.float32"),
        ({"donor": [[1, 1], [0, 0]]}, "crop must be int64 of shape (2, 2, 4), got torch.int64 of shape (2, 1, 4)"),
        ({"box": [[0, 0, 4, 3]]}, "box must be int64 of shape (2, 1, 4), got torch.int64 of shape (1, 4)"),
        ({"crop": [[[0, 0, 5, 3]], [[0, 0, 4, 3]]]}, "crop must lie between 0 and [4, 3, 4, 3]"),
        ({"box": [[[0, 0, 4, 3]], [[0, -1, 4, 3]]]}, "box must lie between 0 and [4, 3, 4, 3]"),
        ({"crop": [[[3, 0, 2, 3]], [[0, 0, 4, 3]]]}, "a crop must have top <= bottom and left <= right"),
        ({"box": [[[0, 2, 4, 1]], [[0, 0, 4, 3]]]}, "a box must have top <= bottom and left <= right"),
        ({"crop": [[[1, 0, 1, 3]], [[0, 0, 4, 3]]]}, "a crop must not be empty where its box is not"),
    ],
)
def test_refused_patches(change: dict[str, Any], message: str) -> None:
    settings = {"donor": [[1], [0]], "crop": WHOLE, "box": WHOLE} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        PatchPlan(2, 4, 3, **{name: torch.tensor(value) for name, value in settings.items()})


def test_boxes_of_an_image_must_not_overlap() -> None:
    def plan(first: list[int], second: list[int]) -> PatchPlan:
        boxes = torch.tensor([[[0, 0, 1, 1], [1, 1, 2, 2]], [first, second]])
        return PatchPlan(2, 4, 3, torch.tensor([[1, 1], [0, 0]]), torch.tensor([0, 0, 4, 3]).expand(2, 2, 4), boxes)

    for second in ([1, 0, 3, 2], [0, 0, 2, 2], [1, 1, 2, 2]):
        with pytest.raises(ValueError, match="boxes of an image must not overlap"):
            plan([0, 0, 2, 2], second)
    # side by side, only a corner in common, and an empty one inside
    for second in ([0, 2, 2, 3], [2, 2, 4, 3], [1, 1, 1, 2]):
        assert plan([0, 0, 2, 2], second).batch_size == 2


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
def test_tensor_operations_take_the_pixels_that_rows_take(shape: tuple[int, ...]) -> None:
    values = random_images(BATCH, *shape, HEIGHT, WIDTH, dtype=torch.int64)
    for plan in (patch_plan(resized=False), replace(patch_plan(resized=True), nearest=True)):
        assert torch.equal(by_tensor_operations(plan, values), plan.apply(values))
