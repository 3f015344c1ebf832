import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cutmix_zoo.mixing import ErasePlan
from tests.mixing.helpers import (
    BATCH,
    HEIGHT,
    WIDTH,
    by_pixels,
    by_tensor_operations,
    erase_plan,
    generator,
    lies_in,
    pixels,
    random_boxes,
    random_images,
    written,
)

MEAN = (124.0, 116.0, 104.0)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def _erased(plan: ErasePlan, images: Tensor, fill: Any) -> Tensor:
    filling = torch.tensor(fill).to(images.dtype)
    return by_pixels(plan, images, lambda i, r, c: filling if lies_in(plan.box[i], r, c) else images[i, ..., r, c])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool, torch.complex64, *FLOATS])
@pytest.mark.parametrize("fill", [(9.0,), MEAN], ids=str)
def test_pixels_of_every_dtype_are_filled_one_by_one(fill: tuple[float, ...], dtype: torch.dtype) -> None:
    images, plan = random_images(dtype=dtype), erase_plan(fill)
    expected = _erased(plan, images, fill)
    assert torch.equal(plan.apply(images), expected)
    assert torch.equal(by_tensor_operations(plan, images), expected)
    if dtype != torch.bfloat16:
        assert torch.equal(written(plan, images), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_without_a_fill_floats_become_0(dtype: torch.dtype) -> None:
    images, plan = random_images(dtype=dtype), erase_plan(None)
    for mixed in (plan.apply(images), by_tensor_operations(plan, images)):
        assert torch.equal(mixed, _erased(plan, images, 0.0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_without_a_fill_integers_are_refused(dtype: torch.dtype) -> None:
    images, plan = random_images(dtype=dtype), erase_plan(None)
    for apply in (plan.apply, lambda images: by_tensor_operations(plan, images), lambda images: written(plan, images)):
        with pytest.raises(ValueError, match=r"fill of integer images must be given.*set fill to the mean"):
            apply(images)


@pytest.mark.parametrize(
    ("fill", "dtype", "message"),
    [
        ((256.0,), torch.uint8, "torch.uint8 cannot hold 256: choose another fill"),
        ((-1.0,), torch.uint8, "torch.uint8 cannot hold -1: choose another fill"),
        ((255.6,), torch.uint8, "torch.uint8 cannot hold 256"),
        ((1.0, 2.0, 300.0), torch.uint8, "torch.uint8 cannot hold (1, 2, 300)"),
        ((128.0,), torch.int8, "torch.int8 cannot hold 128"),
        ((1.0, 2.0), torch.float32, "fill has 2 values, but the images have 3 channels"),
        ((1.0, 2.0, 3.0, 4.0), torch.uint8, "fill has 4 values, but the images have 3 channels"),
    ],
)
def test_fills_that_do_not_fit_the_images(fill: tuple[float, ...], dtype: torch.dtype, message: str) -> None:
    images, plan = random_images(dtype=dtype), erase_plan(fill)
    for apply in (plan.apply, lambda images: by_tensor_operations(plan, images), lambda images: written(plan, images)):
        with pytest.raises(ValueError, match=re.escape(message)):
            apply(images)


def test_a_fill_for_each_channel_needs_channels() -> None:
    with pytest.raises(ValueError, match="fill has 3 values, but the images have 1 channels"):
        erase_plan(MEAN).apply(torch.zeros(BATCH, HEIGHT, WIDTH))


def test_a_fill_needs_a_value() -> None:
    with pytest.raises(ValueError, match="fill must be one value, one for each channel, or None"):
        erase_plan(())


def test_fills_of_integers_are_rounded() -> None:
    plan = ErasePlan(1, 1, 2, torch.tensor([[0, 0, 1, 1]]), (123.675, 116.28, 103.53))
    mixed = plan.apply(torch.zeros(1, 3, 1, 2, dtype=torch.uint8))
    assert mixed.flatten().tolist() == [124, 0, 116, 0, 104, 0]


def test_each_channel_of_a_clip_has_its_fill() -> None:
    clips, plan = random_images(BATCH, 2, 3, HEIGHT, WIDTH), erase_plan(MEAN)
    for mixed in (plan.apply(clips), by_tensor_operations(plan, clips), written(plan, clips)):
        assert torch.equal(mixed, _erased(plan, clips, MEAN))


def _refusals(plan: ErasePlan, clips: Tensor, message: str) -> None:
    for apply in (plan.apply, lambda clips: by_tensor_operations(plan, clips), lambda clips: written(plan, clips)):
        with pytest.raises(ValueError, match=message):
            apply(clips)


def test_clips_whose_frames_might_be_channels_are_refused() -> None:
    clips = random_images(BATCH, 3, 3, HEIGHT, WIDTH)
    _refusals(
        erase_plan(MEAN), clips, r"of clips of shape \(6, 3, 3, .*nobody can tell channels from frames: give fill"
    )
    # what the message says to do: one value, or one for each plane
    assert torch.equal(erase_plan((9.0,)).apply(clips), _erased(erase_plan((9.0,)), clips, (9.0,)))
    mixed = erase_plan(MEAN * 3).apply(clips.flatten(1, 2)).view_as(clips)
    frames = [erase_plan(MEAN).apply(frame.contiguous()) for frame in clips.unbind(1)]
    assert torch.equal(mixed, torch.stack(frames, dim=1))


def test_channels_before_frames_are_refused() -> None:
    clips = random_images(BATCH, 3, 8, HEIGHT, WIDTH)
    _refusals(
        erase_plan(MEAN), clips, r"fill has 3 values, but the images have 8 channels: clips must be \(B, T, C, H, W\)"
    )


def test_pixels_are_lost_and_labels_stay() -> None:
    plan = erase_plan()
    left = [HEIGHT * WIDTH] * BATCH
    for i, row, column in pixels(plan):
        left[i] -= lies_in(plan.box[i], row, column)
    assert plan.pixel_shares.flatten().tolist() == pytest.approx([count / (HEIGHT * WIDTH) for count in left])
    assert plan.pixel_shares.shape == plan.label_shares.shape == (BATCH, 1)
    assert plan.label_shares.flatten().tolist() == [1.0] * BATCH
    assert plan.lam.tolist() == [1.0] * BATCH
    assert plan.partner.tolist() == list(range(BATCH))
    assert torch.equal(plan.boxes, random_boxes(seed=3))
    assert torch.equal(plan.mix_targets(torch.arange(BATCH), BATCH), torch.eye(BATCH))


def test_erased_pixels_pass_no_gradient() -> None:
    plan = erase_plan()
    images = torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=generator()).requires_grad_()
    (gradient,) = torch.autograd.grad(plan.apply(images).sum(), images)
    assert torch.equal(gradient, _erased(plan, torch.ones_like(images), 0.0))


def test_samples_and_batch_need_not_be_dense() -> None:
    plan, images = erase_plan(MEAN), random_images()
    flipped = np.ascontiguousarray(images.numpy()[..., ::-1])[..., ::-1]
    for out in (np.zeros((BATCH, 3, HEIGHT, WIDTH + 3), np.uint8)[..., 1:-2], np.zeros_like(images)[..., ::-1]):
        plan.write(list(flipped), out)
        assert np.array_equal(out, _erased(plan, images, MEAN).numpy())


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (torch.tensor([0, 0, 4, 3]), r"box must be int64 of shape \(2, 4\), got torch.int64 of shape \(4,\)"),
        (torch.tensor([[0, 0, 4, 3], [0, 0, 4, 4]]), "box must lie between 0 and"),
        (torch.tensor([[0, 0, 4, 3], [3, 0, 2, 3]]), "a box must have top <= bottom"),
        (torch.zeros(2, 4), "box must be int64"),
    ],
)
def test_refused_boxes(box: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ErasePlan(2, 4, 3, box)
