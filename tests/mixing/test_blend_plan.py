import re
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data.mixup import FastCollateMixup
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from cutmix_zoo.mixing import BlendPlan, MaskPlan, MixPlan
from cutmix_zoo.mixing.memory import LARGE
from tests.mixing.helpers import (
    BATCH,
    HEIGHT,
    PLANS,
    WIDTH,
    blend_plan,
    by_pixels,
    by_tensor_operations,
    generator,
    mask_plan,
    pixels,
    random_donor,
    random_images,
    written,
)

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# images that are blended alone, and small ones in blocks, the last of which is shorter
SIZES = [(3, 3, 150, 150), (175, 3, 32, 32), (7, 1, 1, 1), (3, 2, 3, 40, 40), (2, 2, 3, 110, 110), (5, 9, 4)]


def _plan(shape: tuple[int, ...], seed: int = 2) -> BlendPlan:
    weight = torch.rand(shape[0], generator=generator(seed))
    return BlendPlan(shape[0], shape[-2], shape[-1], random_donor(shape[0], seed), weight)


def _soft_mask(shape: tuple[int, ...], *, shared: bool, seed: int = 2) -> MaskPlan:
    mask = torch.rand(shape[-2:] if shared else (shape[0], *shape[-2:]), generator=generator(seed))
    return MaskPlan(shape[0], shape[-2], shape[-1], random_donor(shape[0], seed), mask)


def _formula(own: np.ndarray, other: np.ndarray, weight: Any) -> np.ndarray:
    return (weight * own.astype(np.int64) + (256 - weight) * other.astype(np.int64) + 128) >> 8


def _expected(plan: BlendPlan | MaskPlan, images: Tensor) -> np.ndarray:
    """Blend image by image in integers that cannot overflow, from the weights that the plan states."""
    array, mixed = images.numpy(), []
    for i, donor in enumerate(plan.donor.tolist()):
        if isinstance(plan, BlendPlan):
            weight: Any = round(256 * float(plan.own_lam[i]))
        else:
            mask = plan.mask if plan.mask.ndim == 2 else plan.mask[i]
            weight = (256 * mask.double()).round().long().numpy()
        mixed.append(_formula(array[i], array[donor], weight))
    return np.stack(mixed)


def test_bytes_are_at_most_half_a_level_from_the_exact_number() -> None:
    """All 257 weights of a grid of pairs of bytes, its edges and middle included."""
    levels = torch.tensor([0, 1, 2, 3, 31, 63, 64, 100, 127, 128, 129, 191, 200, 252, 253, 254, 255], dtype=torch.uint8)
    own, other = torch.meshgrid(levels, levels, indexing="ij")
    images = torch.stack([own, other]).repeat(257, 1, 1, 1).flatten(0, 1)
    weight = torch.arange(257).repeat_interleave(2)
    donor = torch.arange(2 * 257) ^ 1
    plan = BlendPlan(2 * 257, len(levels), len(levels), donor, weight / 256)
    share = weight.double().view(-1, 1, 1) / 256
    exact = share * images.double() + (1 - share) * images[donor].double()
    for mixed in (plan.apply(images), by_tensor_operations(plan, images), written(plan, images)):
        assert float((mixed.double() - exact).abs().max()) <= 0.5
        formula = _formula(images.numpy(), images[donor].numpy(), weight.view(-1, 1, 1).numpy())
        assert np.array_equal(mixed.numpy(), formula)


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_bytes_of_any_size_follow_the_formula(shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    for plan in (_plan(shape), _soft_mask(shape, shared=False), _soft_mask(shape, shared=True)):
        expected = _expected(plan, images)
        assert np.array_equal(plan.apply(images).numpy(), expected)
        assert np.array_equal(written(plan, images).numpy(), expected)
        assert np.array_equal(by_tensor_operations(plan, images).numpy(), expected)


@pytest.mark.parametrize("shape", [(175, 3, 32, 32), (3, 150, 150, 3)], ids=str)
@pytest.mark.parametrize("stacked", [True, False])
def test_samples_need_not_be_dense(shape: tuple[int, ...], stacked: bool) -> None:
    images = random_images(*shape)
    plan = _plan(shape)
    expected = _expected(plan, images)
    padded = np.zeros((*shape[:-2], shape[-2] + 2, shape[-1] + 3), np.uint8)
    padded[..., 1:-1, 2:-1] = images.numpy()
    layouts = {
        "crop with padding": padded[..., 1:-1, 2:-1],
        "flip": np.ascontiguousarray(images.numpy()[..., ::-1])[..., ::-1],
        "flip of rows": np.ascontiguousarray(images.numpy()[..., ::-1, :])[..., ::-1, :],
        "columns before rows": np.ascontiguousarray(images.numpy().swapaxes(-1, -2)).swapaxes(-1, -2),
    }
    for name, array in layouts.items():
        samples: Any = array if stacked else list(array)
        out = np.full(shape, 77, np.uint8)
        plan.write(samples, out)
        assert np.array_equal(out, expected), name


@pytest.mark.parametrize("shape", [(175, 3, 32, 32), (3, 3, 150, 150)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_batch_that_is_written_need_not_be_dense(shape: tuple[int, ...], dtype: Any) -> None:
    images = random_images(*shape)
    for plan in (_plan(shape), _soft_mask(shape, shared=True)):
        expected = plan.apply(torch.from_numpy(images.numpy().astype(dtype))).numpy()
        padded = np.full((*shape[:-2], shape[-2] + 2, shape[-1] + 3), 77, dtype)
        flipped = np.empty(shape, dtype)[..., ::-1]
        for out in (padded[..., 1:-1, 2:-1], flipped):
            plan.write(list(images.numpy().astype(dtype)), out)
            np.testing.assert_allclose(out, expected, rtol=0, atol=0 if dtype == np.uint8 else 1e-4)
        # nothing beside it is touched
        padded[..., 1:-1, 2:-1] = 77
        assert (padded == 77).all()


@given(weight=st.floats(0, 1, width=32))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_weights_are_rounded_to_256ths_which_labels_then_have(weight: float) -> None:
    plan = BlendPlan(2, 1, 1, torch.tensor([1, 0]), torch.tensor([weight, weight]))
    used = float(plan.own_lam[0])
    assert abs(used - weight) <= 1 / 512
    assert used * 256 == int(used * 256)
    assert plan.lam.tolist() == [used, used]
    assert plan.label_shares.tolist() == plan.pixel_shares.tolist() == [[used, 1 - used]] * 2
    assert plan.mix_targets(torch.tensor([0, 1]), 2).tolist() == [[used, 1 - used], [1 - used, used]]
    # what is blended is what is said: 0 and 1 become the share itself
    images = torch.tensor([1.0, 0.0], dtype=torch.float64).view(2, 1, 1)
    assert plan.apply(images).flatten().tolist() == [used, 1 - used]


def test_weights_of_any_precision_are_taken() -> None:
    for dtype in FLOATS:
        plan = BlendPlan(2, 1, 1, torch.tensor([1, 0]), torch.tensor([0.25, 0.5], dtype=dtype))
        assert plan.own_lam.dtype == torch.float32
        assert plan.lam.tolist() == [0.25, 0.5]
        mask = torch.tensor([[0.25]], dtype=dtype)
        assert MaskPlan(2, 1, 1, torch.tensor([1, 0]), mask).lam.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("lam", [0.0, 1 / 256, 77 / 256, 0.5, 200 / 256, 255 / 256, 1.0])
def test_timms_collate_blends_alike(lam: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timm rounds ties to the even number; this is all in which it differs."""
    images, labels = random_images(8, 3, 20, 16), torch.arange(8) % 5
    collate = FastCollateMixup(mixup_alpha=1.0, label_smoothing=0.1, num_classes=5)
    monkeypatch.setattr(collate, "_params_per_batch", lambda: (lam, False))
    timms, targets = collate([(image.numpy(), int(label)) for image, label in zip(images, labels, strict=True)])
    plan = BlendPlan(8, 20, 16, torch.arange(8).flip(0), torch.full((8,), lam))
    ours = plan.apply(images)
    exact = lam * images.double() + (1 - lam) * images.flip(0).double()
    tie = exact.frac() == 0.5
    assert torch.equal(ours[~tie], timms[~tie])
    assert int((ours.int() - timms.int()).abs().max()) <= 1
    torch.testing.assert_close(plan.mix_targets(labels, 5, smoothing=0.1), targets)


@pytest.mark.parametrize("lam", [0.0, 3 / 256, 0.5, 1.0])
def test_torchvision_blends_alike(lam: float, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.rand(6, 3, 9, 7, generator=generator()), torch.arange(6) % 4
    theirs = v2.MixUp(num_classes=4)
    monkeypatch.setattr(theirs, "make_params", lambda _: {"lam": lam})
    mixed, targets = theirs(images, labels)
    plan = BlendPlan(6, 9, 7, torch.arange(6).roll(1), torch.full((6,), lam))
    torch.testing.assert_close(plan.apply(images), mixed)
    torch.testing.assert_close(plan.mix_targets(labels, 4), targets)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("plan", [blend_plan(), mask_plan(hard=False), mask_plan(hard=False, shared=True)])
def test_floating_point_is_blended_in_its_own_precision(plan: Any, dtype: torch.dtype) -> None:
    images = torch.randn(BATCH, 3, HEIGHT, WIDTH, generator=generator(), dtype=torch.float64).to(dtype)
    weight = plan.own_lam.view(-1, 1, 1, 1) if isinstance(plan, BlendPlan) else plan.mask.unsqueeze(-3)
    partner = images[plan.donor].double()
    exact = weight.double() * images.double() + (1 - weight.double()) * partner
    # the difference, its product and the sum are rounded: each at the size of its operands at most
    scale = images.double().abs() + partner.abs()
    for mixed in (plan.apply(images), by_tensor_operations(plan, images)):
        assert mixed.dtype == dtype
        assert bool(((mixed.double() - exact).abs() <= 2 * torch.finfo(dtype).eps * scale).all())


@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS])
@pytest.mark.parametrize("soft", [False, True])
def test_weights_of_0_and_1_copy(soft: bool, dtype: torch.dtype) -> None:
    """What a shut gate leaves alone is left to the bit, however large its partner is."""
    small, large = random_images(1, 3, HEIGHT, WIDTH) / 255, random_images(1, 3, HEIGHT, WIDTH, seed=2) * 100
    images = torch.cat([small, large]).to(dtype)
    mask = torch.tensor([1.0, 0.0]).view(2, 1, 1).expand(2, HEIGHT, WIDTH)
    donor = torch.tensor([1, 0])
    plan = MaskPlan(2, HEIGHT, WIDTH, donor, mask) if soft else BlendPlan(2, HEIGHT, WIDTH, donor, mask[:, 0, 0])
    ways = [plan.apply(images), by_tensor_operations(plan, images)]
    ways += [] if dtype == torch.bfloat16 else [written(plan, images)]
    for mixed in ways:
        assert torch.equal(mixed, images[[0, 0]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.int8, torch.bool, torch.complex64])
@pytest.mark.parametrize("plan", [blend_plan(), mask_plan(hard=False)], ids=["blend", "soft mask"])
def test_refused_dtypes(plan: MixPlan, dtype: torch.dtype) -> None:
    message = "only floating-point and uint8 images can be blended, got {}: convert them first"
    images = random_images(dtype=dtype)
    for apply in (plan.apply, lambda images: by_tensor_operations(plan, images)):
        with pytest.raises(ValueError, match=message.format(dtype)):
            apply(images)
    name = str(images.numpy().dtype)
    with pytest.raises(ValueError, match=message.format(name)):
        written(plan, images)


def _by_mask(plan: MaskPlan, images: Tensor) -> Tensor:
    """Take every pixel by itself, from a hard mask or in exact numbers from a soft one."""
    masks = plan.mask.expand(BATCH, HEIGHT, WIDTH)

    def pixel(i: int, row: int, column: int) -> Tensor:
        own, other = images[i, ..., row, column], images[int(plan.donor[i]), ..., row, column]
        if masks.dtype == torch.bool:
            return own if masks[i, row, column] else other
        weight = float(masks[i, row, column])
        return own * weight + other * (1 - weight)

    return by_pixels(plan, images, pixel)


@pytest.mark.parametrize("shared", [True, False])
def test_soft_masks_pixel_by_pixel(shared: bool) -> None:
    plan, images = mask_plan(hard=False, shared=shared), random_images(dtype=torch.float64)
    torch.testing.assert_close(plan.apply(images), _by_mask(plan, images))
    torch.testing.assert_close(by_tensor_operations(plan, images), _by_mask(plan, images))
    torch.testing.assert_close(written(plan, images), _by_mask(plan, images))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64, torch.complex64, *FLOATS]
)
@pytest.mark.parametrize("shared", [True, False])
def test_hard_masks_copy_pixels_of_every_dtype(shared: bool, dtype: torch.dtype) -> None:
    plan, images = mask_plan(hard=True, shared=shared), random_images(dtype=dtype)
    assert torch.equal(plan.apply(images), _by_mask(plan, images))
    assert torch.equal(by_tensor_operations(plan, images), _by_mask(plan, images))
    if dtype != torch.bfloat16:
        assert torch.equal(written(plan, images), _by_mask(plan, images))


ORDERS = list(permutations((1, 2, 3)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("out_order", ORDERS, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_hard_masks_of_every_layout_in_memory(
    order: tuple[int, ...], out_order: tuple[int, ...], channels: int
) -> None:
    plan, images = mask_plan(hard=True), random_images(BATCH, channels, HEIGHT, WIDTH)
    shape, back = images.shape, [0, *(1 + np.argsort(out_order))]
    samples = [image.permute(*(axis - 1 for axis in order)).contiguous() for image in images]
    out = np.zeros([shape[axis] for axis in (0, *out_order)], np.uint8).transpose(back)
    before = [sample.clone() for sample in samples]
    plan.write([sample.permute(*np.argsort(order).tolist()).numpy() for sample in samples], out)
    assert np.array_equal(out, _by_mask(plan, images).numpy())
    assert all(torch.equal(sample, copy) for sample, copy in zip(samples, before, strict=True))


def test_hard_masks_and_images_need_not_be_dense() -> None:
    plan, images = mask_plan(hard=True), random_images()
    expected = _by_mask(plan, images).numpy()
    loose = MaskPlan(BATCH, HEIGHT, WIDTH, plan.donor, plan.mask.repeat(1, 2, 2)[:, :HEIGHT, :WIDTH])
    padded = np.zeros((BATCH, HEIGHT, WIDTH + 3, 3), np.uint8).transpose(0, 3, 1, 2)[..., 1:-2]
    dense = np.zeros((BATCH, HEIGHT, WIDTH, 3), np.uint8).transpose(0, 3, 1, 2)
    inner = images.contiguous(memory_format=torch.channels_last).numpy()
    flipped = np.ascontiguousarray(inner[..., ::-1])[..., ::-1]
    for samples in (inner, flipped):
        for out in (padded, dense):
            out[...] = 0
            loose.write(list(samples), out)
            assert np.array_equal(out, expected)


def test_hard_masks_copy_bits() -> None:
    """Not-a-numbers and infinities of the image that gives way do not spread."""
    plan = mask_plan(hard=True)
    images = torch.full((BATCH, 1, HEIGHT, WIDTH), torch.nan)
    images[::2] = torch.inf
    for mixed in (plan.apply(images), by_tensor_operations(plan, images)):
        assert torch.equal(mixed.view(torch.int32), _by_mask(plan, images).view(torch.int32))


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_the_share_of_a_mask_is_its_mean(hard: bool, shared: bool) -> None:
    plan = mask_plan(hard=hard, shared=shared)
    total = [0.0] * BATCH
    for i, row, column in pixels(plan):
        total[i] += float(plan.mask.expand(BATCH, HEIGHT, WIDTH)[i, row, column])
    assert plan.lam.tolist() == pytest.approx([value / (HEIGHT * WIDTH) for value in total])
    assert torch.equal(plan.label_shares, plan.pixel_shares)
    assert plan.label_shares.shape == (BATCH, 2)
    assert plan.boxes.tolist() == [[0] * 4] * BATCH


@pytest.mark.parametrize("shape", [(7, 5), (32, 32), (101, 299)])
def test_the_share_of_a_hard_mask_is_its_mean_to_the_bit(shape: tuple[int, int]) -> None:
    keep = torch.rand(50, 1, 1, generator=generator())
    mask = torch.rand(50, *shape, generator=generator(1)) < keep
    expected = mask.double().mean((-2, -1)).float()
    assert torch.equal(MaskPlan(50, *shape, random_donor(50), mask).lam, expected)
    assert torch.equal(MaskPlan(50, *shape, random_donor(50), mask[0]).lam, expected[:1].expand(50))


@pytest.mark.parametrize("own_lam", [[0.5, 1.1], [-0.1, 0.5], [torch.nan, 0.5], [0.5], 0.5, [[0.5], [0.5]]], ids=str)
def test_refused_weights(own_lam: Any) -> None:
    with pytest.raises(ValueError, match=r"own_lam must be 2 numbers in \[0, 1\], got"):
        BlendPlan(2, 4, 3, torch.tensor([1, 0]), torch.tensor(own_lam))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 4), "mask must have shape (4, 3) or (2, 4, 3), got (3, 4)"),
        (torch.ones(1, 4, 3), "mask must have shape (4, 3) or (2, 4, 3), got (1, 4, 3)"),
        (torch.ones(2, 1, 4, 3), "mask must have shape (4, 3) or (2, 4, 3), got (2, 1, 4, 3)"),
        (torch.ones(4, 3, dtype=torch.int64), "mask must be bool, or floating point in [0, 1], got torch.int64"),
        (torch.ones(4, 3, dtype=torch.uint8), "mask must be bool, or floating point in [0, 1], got torch.uint8"),
        (torch.full((4, 3), 1.5), "mask must be bool, or floating point in [0, 1], got torch.float32"),
        (torch.full((4, 3), -0.5), "mask must be bool, or floating point in [0, 1], got torch.float32"),
        (torch.full((4, 3), torch.nan), "mask must be bool, or floating point in [0, 1], got torch.float32"),
    ],
)
def test_refused_masks(mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MaskPlan(2, 4, 3, torch.tensor([1, 0]), mask)


@pytest.mark.parametrize("plan", [blend_plan(), mask_plan(hard=False), mask_plan(hard=True, shared=True)])
def test_gradients_flow_back_to_both_sources(plan: Any) -> None:
    images = torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=generator(), dtype=torch.float64).requires_grad_()
    into = torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=generator(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(plan.apply(images), images, into)
    expected = torch.zeros_like(into)
    for i, row, column in pixels(plan):
        if isinstance(plan, BlendPlan):
            weight = float(plan.own_lam[i])
        else:
            weight = float(plan.mask.expand(BATCH, HEIGHT, WIDTH)[i, row, column])
        expected[i, 0, row, column] += weight * into[i, 0, row, column]
        expected[int(plan.donor[i]), 0, row, column] += (1 - weight) * into[i, 0, row, column]
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", ["blend", "soft mask", "hard mask", "shared mask"])
def test_compiled_plans_blend_half_precision_and_gradients_too(name: str) -> None:
    plan = PLANS[name]
    compiled = torch.compile(plan.apply, backend="eager", fullgraph=True)
    images = random_images(dtype=torch.bfloat16)
    assert torch.equal(compiled(images), by_tensor_operations(plan, images))
    leaf = random_images(dtype=torch.float32).requires_grad_()
    gradients = [torch.autograd.grad(apply(leaf).square().sum(), leaf)[0] for apply in (compiled, plan.apply)]
    assert torch.equal(*gradients)


def test_one_hot_masks_are_blended_as_images() -> None:
    """What the refusal of class masks advises."""
    plan = blend_plan()
    classes = torch.randint(4, (BATCH, HEIGHT, WIDTH), generator=generator())
    mixed = plan.apply(one_hot(classes, 4).movedim(-1, 1).float())
    torch.testing.assert_close(mixed.sum(1), torch.ones(BATCH, HEIGHT, WIDTH))
    own = mixed.gather(1, classes.unsqueeze(1)).squeeze(1)
    assert bool((own >= plan.lam.view(-1, 1, 1) - 1e-6).all())


@pytest.mark.parametrize("side", [8, 128])
@pytest.mark.parametrize("soft", [False, True])
def test_half_precision_does_not_overflow_between_its_largest_numbers(soft: bool, side: int) -> None:
    images = torch.full((4, 64, side, side), 60_000.0).half()
    images[1::2] *= -1
    assert side == 8 or images.nbytes >= LARGE
    weight = torch.tensor([0.75, 0.625, 0.25, 0.5])
    donor = torch.tensor([1, 2, 3, 0])
    if soft:
        plan: MixPlan = MaskPlan(4, side, side, donor, weight.view(4, 1, 1).expand(4, side, side))
    else:
        plan = BlendPlan(4, side, side, donor, weight)
    for mixed in (plan.apply(images), written(plan, images)):
        assert mixed[:, 0, 0, 0].tolist() == [30_000.0, -15_000.0, -30_000.0, 0.0]
        assert torch.equal(mixed, mixed[:, :1, :1, :1].expand_as(mixed))
