import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cutmix_zoo.mixing import BoxPlan, ErasePlan, IdentityPlan, MixPlan
from tests.mixing.helpers import (
    BATCH,
    BLENDING_PLANS,
    HEIGHT,
    MOVING_PLANS,
    PLANS,
    WIDTH,
    by_tensor_operations,
    counted_shares,
    erase_plan,
    generator,
    random_images,
    stated_shares,
    without_fill,
    written,
)

every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
moving_plans = pytest.mark.parametrize("plan", MOVING_PLANS.values(), ids=MOVING_PLANS)


@every_plan
def test_rows_and_tensor_operations_give_the_same_bytes(plan: MixPlan) -> None:
    images = random_images()
    before, mixed = images.clone(), plan.apply(images)
    assert torch.equal(by_tensor_operations(plan, images), mixed)
    assert torch.equal(written(plan, images), mixed)
    assert torch.equal(images, before)


@every_plan
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rows_and_tensor_operations_agree_on_floating_point(plan: MixPlan, dtype: torch.dtype) -> None:
    images = random_images(dtype=dtype)
    # three blends at most, of numbers below 256, each rounded twice
    tolerance = {"rtol": 0.0, "atol": 6 * 256 * torch.finfo(dtype).eps}
    torch.testing.assert_close(by_tensor_operations(plan, images), plan.apply(images), **tolerance)
    torch.testing.assert_close(written(plan, images), plan.apply(images), **tolerance)


@every_plan
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(plan: MixPlan, memory_format: torch.memory_format, plain: bool) -> None:
    images = random_images().float().contiguous(memory_format=memory_format)
    mixed = plan.apply(images) if plain else plan.apply(images.requires_grad_())
    assert mixed.stride() == images.stride()
    assert mixed.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("samples_last", [False, True])
@pytest.mark.parametrize("out_last", [False, True])
@every_plan
def test_samples_and_batch_may_lie_in_memory_in_any_order(
    plan: MixPlan, out_last: bool, samples_last: bool, dtype: torch.dtype
) -> None:
    images = random_images(dtype=dtype)
    order = torch.channels_last if samples_last else torch.contiguous_format
    samples = [image.numpy() for image in images.contiguous(memory_format=order)]
    out = torch.empty(images.shape, dtype=dtype, memory_format=torch.channels_last if out_last else None)
    plan.write(samples, out.numpy())
    torch.testing.assert_close(out, plan.apply(images), rtol=0, atol=0 if dtype == torch.uint8 else 1e-3)


@every_plan
def test_clips_are_mixed_frame_by_frame(plan: MixPlan) -> None:
    clips = random_images(BATCH, 2, 3, HEIGHT, WIDTH)
    frames = torch.stack([plan.apply(frame.contiguous()) for frame in clips.unbind(1)], dim=1)
    assert torch.equal(plan.apply(clips), frames)
    assert torch.equal(by_tensor_operations(plan, clips), frames)


@every_plan
def test_dense_targets_are_mixed_like_a_channel(plan: MixPlan) -> None:
    images = random_images()
    assert torch.equal(plan.apply(images[:, 0].contiguous()), plan.apply(images)[:, 0])
    assert torch.equal(by_tensor_operations(plan, images[:, 0]), plan.apply(images)[:, 0])


@every_plan
def test_an_expanded_batch_can_be_read(plan: MixPlan) -> None:
    images = random_images(1, 3, HEIGHT, WIDTH).expand(BATCH, 3, HEIGHT, WIDTH)
    assert torch.equal(plan.apply(images), plan.apply(images.contiguous()))


@every_plan
def test_gradients_are_those_of_an_affine_map(plan: MixPlan) -> None:
    images, step, weight = (
        torch.rand(BATCH, 3, HEIGHT, WIDTH, dtype=torch.float64, generator=generator(i)) for i in range(3)
    )
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((plan.apply(leaf) * weight).sum(), leaf)
    change = ((plan.apply(images + step) - plan.apply(images)) * weight).sum()
    torch.testing.assert_close((gradient * step).sum(), change)


@pytest.mark.parametrize("name", ["box", "shared box", "blend", "hard mask", "soft mask", "shared soft mask"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_apply_compiles_as_one_graph(name: str, dtype: torch.dtype) -> None:
    compiled = torch.compile(lambda plan, images: plan.apply(images), backend="eager", fullgraph=True)
    plan = PLANS[name]
    for seed in (0, 1):
        images = random_images(dtype=dtype, seed=seed)
        assert torch.equal(compiled(plan, images), by_tensor_operations(plan, images))


@every_plan
def test_shares_are_the_pixels_counted(plan: MixPlan) -> None:
    torch.testing.assert_close(stated_shares(plan), counted_shares(plan))


@every_plan
def test_targets_and_values_are_the_sources_weighed_one_by_one(plan: MixPlan) -> None:
    labels, values = torch.tensor([0, 3, 3, 1, 0, 2]), torch.linspace(-1, 1, BATCH)
    targets, mixed = torch.zeros(BATCH, 4), torch.zeros(BATCH)
    for i in range(BATCH):
        for source, share in zip(plan.sources[i].tolist(), plan.label_shares[i].tolist(), strict=True):
            targets[i, labels[source]] += share
            mixed[i] += share * values[source]
    torch.testing.assert_close(plan.mix_targets(labels, 4), targets)
    torch.testing.assert_close(plan.mix_targets(one_hot(labels, 4).double(), 4), targets)
    torch.testing.assert_close(plan.mix_values(values), mixed)
    torch.testing.assert_close(targets.sum(1), torch.ones(BATCH))
    assert plan.sources[:, 0].tolist() == list(range(BATCH))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
@moving_plans
def test_masks_are_mixed_as_their_one_hot_planes(plan: MixPlan, dtype: torch.dtype) -> None:
    classes = torch.randint(4, (BATCH, HEIGHT, WIDTH), generator=generator())
    masks = classes.to(dtype)
    planes = without_fill(plan).apply(one_hot(classes, 4).movedim(-1, 1).float())
    # where a pixel was erased, no plane is set
    expected = torch.where(planes.sum(1) == 0, 255, planes.argmax(1)).to(dtype)
    mixed = plan.apply_masks(masks)
    assert mixed.dtype == dtype
    assert torch.equal(mixed, expected)
    assert torch.equal(masks, classes.to(dtype))
    assert torch.equal(by_tensor_operations(plan, masks), plan.apply(masks))


def test_the_ignored_class_can_be_chosen() -> None:
    masks = torch.ones(BATCH, HEIGHT, WIDTH, dtype=torch.int64)
    plan = erase_plan()
    assert (plan.apply_masks(masks, ignore_index=-100) == -100).sum() == (plan.apply_masks(masks) == 255).sum() > 0
    with pytest.raises(ValueError, match=r"torch.uint8 cannot hold -100"):
        plan.apply_masks(masks.to(torch.uint8), ignore_index=-100)


@pytest.mark.parametrize("plan", BLENDING_PLANS.values(), ids=BLENDING_PLANS)
def test_plans_that_blend_refuse_masks(plan: MixPlan) -> None:
    message = re.escape("blends images, so a pixel of the mask would have several classes: mix one-hot masks")
    with pytest.raises(ValueError, match=message):
        plan.apply_masks(torch.zeros(BATCH, HEIGHT, WIDTH, dtype=torch.int64))


@every_plan
@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(BATCH, HEIGHT, WIDTH), "masks must be integers, got torch.float32: mix dense targets with apply"),
        (torch.zeros(BATCH, HEIGHT, WIDTH, dtype=torch.complex64), "masks must be integers, got torch.complex64"),
        (torch.zeros(BATCH, WIDTH, HEIGHT, dtype=torch.int64), "6 images of 7 x 5 pixels"),
    ],
)
def test_refused_masks(plan: MixPlan, masks: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan.apply_masks(masks)


@moving_plans
def test_plans_that_only_move_pixels_take_complex_images(plan: MixPlan) -> None:
    images = torch.complex(random_images().float(), random_images(seed=2).float())
    mixed = plan.apply(images)
    assert mixed.dtype == torch.complex64
    assert torch.equal(mixed.real, plan.apply(images.real.contiguous()))
    # a fill is a real number
    assert torch.equal(mixed.imag, without_fill(plan).apply(images.imag.contiguous()))


@every_plan
@pytest.mark.parametrize("shape", [(5, 3, 7, 5), (6, 3, 5, 7), (6, 35), (6, 3, 7, 6)])
def test_apply_refuses_another_batch(plan: MixPlan, shape: tuple[int, ...]) -> None:
    message = rf"6 images of 7 x 5 pixels \(height x width\), got a batch of shape \({', '.join(map(str, shape))}\)"
    with pytest.raises(ValueError, match=message):
        plan.apply(torch.zeros(shape))


@every_plan
def test_plans_pickle(plan: MixPlan) -> None:
    copy = pickle.loads(pickle.dumps(plan))
    assert type(copy) is type(plan)
    assert copy.shape == plan.shape == (BATCH, HEIGHT, WIDTH)
    assert torch.equal(copy.apply(random_images()), plan.apply(random_images()))
    for name in ("sources", "pixel_shares", "label_shares", "boxes"):
        assert torch.equal(getattr(copy, name), getattr(plan, name))


def test_identity() -> None:
    plan, images = IdentityPlan(BATCH, HEIGHT, WIDTH), random_images()
    assert plan.apply(images) is images
    assert plan.apply_masks(images) is images
    assert torch.equal(written(plan, images), images)
    assert plan.sources.tolist() == [[0], [1], [2], [3], [4], [5]]
    assert plan.pixel_shares.tolist() == plan.label_shares.tolist() == [[1.0]] * 6
    assert plan.lam.tolist() == [1.0] * 6
    assert plan.partner.tolist() == list(range(6))
    assert plan.boxes.tolist() == [[0, 0, 0, 0]] * 6
    assert plan.mix_targets(torch.arange(6), 6, smoothing=0.6).diag().tolist() == pytest.approx([0.5] * 6)


def test_two_sources_have_a_lam_and_a_partner() -> None:
    boxes = torch.tensor([[0, 0, HEIGHT, WIDTH], [0, 0, 0, 0], [1, 2, 3, 4]])
    plan = BoxPlan(3, HEIGHT, WIDTH, torch.tensor([1, 2, 0]), boxes)
    assert plan.lam.tolist() == pytest.approx([0.0, 1.0, 1 - 4 / (HEIGHT * WIDTH)])
    assert plan.partner.tolist() == [1, 2, 0]


@pytest.mark.parametrize("name", ["lam", "partner"])
def test_more_than_two_sources_have_no_lam_and_no_partner(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is for plans of two sources, this one has 3: use sources"):
        getattr(PLANS["resized patch"], name)


@pytest.mark.parametrize("sizes", [(0, 4, 4), (2, 0, 4), (2, 4, -1)])
def test_a_plan_needs_a_pixel(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one image of one pixel"):
        IdentityPlan(*sizes)


@pytest.mark.parametrize(
    ("donor", "message"),
    [
        (torch.tensor([0, 2]), "donor must lie between 0 and 1"),
        (torch.tensor([-1, 0]), "donor must lie between 0 and 1"),
        (torch.tensor([0]), r"donor must be int64 of shape \(2,\), got torch.int64 of shape \(1,\)"),
        (torch.tensor([0.0, 1.0]), "donor must be int64"),
        (torch.tensor([0, 1], dtype=torch.int32), "donor must be int64"),
    ],
)
def test_refused_donors(donor: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxPlan(2, 4, 3, donor, torch.tensor([0, 0, 2, 2]))


@pytest.mark.parametrize("plan", [PLANS["box"], PLANS["patch"], PLANS["erase"]], ids=["box", "patch", "erase"])
def test_one_large_batch_is_written_like_a_small_one(plan: Any) -> None:
    """Rows are taken in blocks of some megabytes: here the blocks are of one image and less than the batch."""
    images = random_images(BATCH, 40_000, HEIGHT, WIDTH)
    mixed = plan.apply(images)
    for channel in (0, 39_999):
        assert torch.equal(mixed[:, channel], plan.apply(images[:, channel].contiguous()))
    assert torch.equal(written(plan, images), mixed)


def test_numpy_batches_are_samples_too() -> None:
    images = random_images()
    for plan in PLANS.values():
        out = np.empty(images.shape, np.uint8)
        plan.write(images.numpy(), out)
        assert np.array_equal(out, plan.apply(images).numpy())


def test_erasing_leaves_less_than_all_pixels() -> None:
    plan = PLANS["erase"]
    assert isinstance(plan, ErasePlan)
    assert float(plan.pixel_shares.min()) < 1
    assert plan.label_shares.tolist() == [[1.0]] * BATCH
