import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from cutmix_zoo.mixing import BoxPlan
from cutmix_zoo.mixing.memory import LARGE
from tests.mixing.helpers import (
    BATCH,
    HEIGHT,
    WIDTH,
    box_plan,
    by_pixels,
    by_tensor_operations,
    generator,
    lies_in,
    pixels,
    random_boxes,
    random_donor,
    random_images,
    written,
)

DTYPES = [torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.complex64]


def _pasted(plan: BoxPlan, images: Tensor) -> Tensor:
    """Decide for every pixel by itself."""
    return by_pixels(
        plan,
        images,
        lambda i, r, c: images[int(plan.donor[i]) if lies_in(plan.boxes[i], r, c) else i, ..., r, c],
    )


def _pasted_rows(plan: BoxPlan, images: np.ndarray) -> np.ndarray:
    """Decide for every row by itself, in Python's lists: for images of many pixels."""
    mixed = images.copy()
    for i, (top, left, bottom, right) in enumerate(plan.boxes.tolist()):
        for row in range(top, bottom):
            for column in range(left, right):
                mixed[i, ..., row, column] = images[int(plan.donor[i]), ..., row, column]
    return mixed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [True, False])
def test_pixels_of_every_dtype_are_pasted_one_by_one(shared: bool, dtype: torch.dtype) -> None:
    for seed in range(3):
        plan, images = box_plan(shared=shared, seed=seed), random_images(dtype=dtype)
        expected = _pasted(plan, images)
        assert torch.equal(plan.apply(images), expected)
        assert torch.equal(by_tensor_operations(plan, images), expected)
        if dtype != torch.bfloat16:
            assert torch.equal(written(plan, images), expected)


# several images a block, with a shorter last one; and blocks of one image
@pytest.mark.parametrize("shape", [(62, 4, 130, 131), (3, 8, 512, 350)], ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_large_batches(shape: tuple[int, ...], shared: bool) -> None:
    batch_size, _, height, width = shape
    boxes = random_boxes(batch_size, height=60, width=40, seed=4) + torch.tensor([50, 70, 50, 70])
    plan = BoxPlan(batch_size, height, width, random_donor(batch_size), boxes[0] if shared else boxes)
    images = random_images(*shape)
    assert images.nbytes > LARGE
    expected = torch.from_numpy(_pasted_rows(plan, images.numpy()))
    assert int((plan.boxes[0, 2:] - plan.boxes[0, :2]).min()) > 0
    assert torch.equal(plan.apply(images), expected)
    assert torch.equal(by_tensor_operations(plan, images), expected)
    assert torch.equal(written(plan, images), expected)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    mixed = plan.apply(channels_last)
    assert torch.equal(mixed, expected)
    assert mixed.stride() == channels_last.stride()


@pytest.mark.parametrize("shared", [True, False])
def test_samples_and_batch_need_not_be_dense(shared: bool) -> None:
    plan, images = box_plan(shared=shared), random_images()
    expected = _pasted(plan, images).numpy()
    padded = np.zeros((BATCH, 3, HEIGHT + 2, WIDTH + 2), np.uint8)
    padded[..., 1:-1, 1:-1] = images.numpy()
    flipped = np.ascontiguousarray(images.numpy()[..., ::-1])[..., ::-1]
    for array in (padded[..., 1:-1, 1:-1], flipped):
        samples: list[Any] = [array, list(array)]
        for sample in samples:
            for out in (np.full_like(padded, 77)[..., 1:-1, 1:-1], np.empty_like(images.numpy())[..., ::-1]):
                plan.write(sample, out)
                assert np.array_equal(out, expected)


@pytest.mark.parametrize("shared", [True, False])
def test_shares_are_the_pixels_counted(shared: bool) -> None:
    plan = box_plan(shared=shared, seed=1)
    inside = [0] * BATCH
    for i, row, column in pixels(plan):
        inside[i] += lies_in(plan.boxes[i], row, column)
    own = [1 - count / (HEIGHT * WIDTH) for count in inside]
    assert plan.lam.tolist() == pytest.approx(own, abs=1e-7)
    assert torch.equal(plan.label_shares, plan.pixel_shares)
    assert plan.own_share.dtype == torch.float32


def test_the_label_share_may_be_another_than_that_of_the_pixels() -> None:
    told = torch.linspace(0, 1, BATCH, dtype=torch.float64)
    plan = box_plan(label_lam=told)
    assert plan.lam.dtype == torch.float32
    assert torch.equal(plan.lam, told.float())
    assert torch.equal(plan.label_shares.sum(1), torch.ones(BATCH))
    assert torch.equal(plan.pixel_shares, box_plan().pixel_shares)
    images = random_images()
    assert torch.equal(plan.apply(images), box_plan().apply(images))


def test_torchvision_pastes_alike() -> None:
    images, labels = random_images(BATCH, 3, HEIGHT, WIDTH, dtype=torch.float32), torch.arange(BATCH) % 4
    for seed in range(5):
        top, left, bottom, right = box = random_boxes(1, seed=seed)[0].tolist()
        plan = BoxPlan(BATCH, HEIGHT, WIDTH, torch.arange(BATCH).roll(1), torch.tensor(box))
        theirs = v2.CutMix(num_classes=4)
        drawn = {"box": (left, top, right, bottom), "lam_adjusted": float(plan.lam[0])}
        theirs.make_params = lambda _, drawn=drawn: drawn
        mixed, targets = theirs(images, labels)
        assert torch.equal(plan.apply(images), mixed)
        torch.testing.assert_close(plan.mix_targets(labels, 4), targets)


def test_gradients_go_where_the_pixels_came_from() -> None:
    for shared in (True, False):
        plan = box_plan(shared=shared)
        images = random_images(dtype=torch.float32).requires_grad_()
        into = torch.rand(images.shape, generator=generator())
        (gradient,) = torch.autograd.grad(plan.apply(images), images, into)
        expected = torch.zeros_like(into)
        for i, row, column in pixels(plan):
            source = int(plan.donor[i]) if lies_in(plan.boxes[i], row, column) else i
            expected[source, :, row, column] += into[i, :, row, column]
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (torch.tensor([0, 0, 5, 3]), "box must lie between 0 and [4, 3, 4, 3], got [0, 0, 5, 3]"),
        (torch.tensor([0, 0, 4, 4]), "box must lie between 0 and [4, 3, 4, 3]"),
        (torch.tensor([[0, 0, 4, 3], [-1, 0, 4, 3]]), "box must lie between 0 and [4, 3, 4, 3]"),
        (torch.tensor([3, 0, 2, 3]), "a box must have top <= bottom and left <= right"),
        (torch.tensor([[0, 0, 4, 3], [0, 2, 4, 1]]), "a box must have top <= bottom and left <= right"),
        (torch.tensor([[0, 0, 4, 3]]), "box must be int64 of shape (2, 4) or (4,), got torch.int64 of shape (1, 4)"),
        (torch.tensor([0, 0, 4]), "box must be int64 of shape (2, 4) or (4,), got torch.int64 of shape (3,)"),
        (torch.tensor([0.0, 0.0, 4.0, 3.0]), "box must be int64 of shape (2, 4) or (4,), got torch.float32"),
        (torch.tensor([0, 0, 4, 3], dtype=torch.int32), "box must be int64"),
    ],
)
def test_refused_boxes(box: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BoxPlan(2, 4, 3, torch.tensor([1, 0]), box)


@pytest.mark.parametrize("label_lam", [[0.5, 1.1], [-0.1, 0.5], [torch.nan, 0.5], [0.5], 0.5], ids=str)
def test_refused_label_shares(label_lam: Any) -> None:
    with pytest.raises(ValueError, match=r"label_lam must be 2 numbers in \[0, 1\], got"):
        BoxPlan(2, 4, 3, torch.tensor([1, 0]), torch.tensor([0, 0, 2, 2]), torch.tensor(label_lam))
