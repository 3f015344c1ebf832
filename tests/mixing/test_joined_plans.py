import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cutmix_zoo.mixing import (
    BlendPlan,
    BoxPlan,
    ChoicePlan,
    IdentityPlan,
    MaskPlan,
    MixPlan,
    SequencePlan,
    concatenate,
)
from tests.mixing.helpers import (
    BATCH,
    HEIGHT,
    PLANS,
    WIDTH,
    blend_plan,
    box_plan,
    by_tensor_operations,
    choice_plan,
    counted_shares,
    erase_plan,
    generator,
    lies_in,
    mask_plan,
    patch_plan,
    pixels,
    random_images,
    sequence_plan,
    stated_shares,
    written,
)

MEAN = (124.0, 116.0, 104.0)
CHANNELS_LAST = {"memory_format": torch.channels_last}

# what their rows want to see, of bfloat16 and of other dtypes: bits, numbers, or nothing
SEQUENCES: dict[str, tuple[MixPlan, ...]] = {
    "bits, bits": (box_plan(), mask_plan(hard=True)),
    "bits, numbers": (box_plan(), erase_plan(MEAN)),
    "numbers, bits": (erase_plan(MEAN), mask_plan(hard=True), box_plan(seed=2)),
    "bits, blend": (box_plan(), blend_plan()),
    "blend, bits": (blend_plan(), box_plan()),
    "numbers, blend": (erase_plan(), blend_plan(), mask_plan(hard=False)),
    "tensors, bits": (box_plan(shared=True), box_plan()),
    "resized, bits": (patch_plan(resized=True), box_plan()),
    "moved, numbers, resized": (patch_plan(resized=False), erase_plan(), patch_plan(resized=True)),
    "identity": (IdentityPlan(BATCH, HEIGHT, WIDTH), box_plan()),
    "one": (box_plan(),),
    "nested": (sequence_plan(erase_plan(MEAN), box_plan()), choice_plan(box_plan(seed=4), erase_plan(MEAN))),
}
sequences = pytest.mark.parametrize("parts", SEQUENCES.values(), ids=SEQUENCES)


def _one_by_one(parts: tuple[MixPlan, ...], images: Tensor) -> Tensor:
    for part in parts:
        images = part.apply(images)
    return images


@sequences
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_a_sequence_is_its_steps(parts: tuple[MixPlan, ...], dtype: torch.dtype) -> None:
    images, plan = random_images(dtype=dtype), sequence_plan(*parts)
    expected = _one_by_one(parts, images)
    # blends by rows and by tensor operations may differ in their last digit, step for step
    atol = 0.0 if dtype == torch.uint8 else 6 * 256 * torch.finfo(dtype).eps
    for mixed in (
        plan.apply(images),
        by_tensor_operations(plan, images),
        plan.apply(images.contiguous(**CHANNELS_LAST)),
    ):
        assert mixed.dtype == dtype
        torch.testing.assert_close(mixed, expected, rtol=0, atol=atol)
    if dtype != torch.bfloat16:
        torch.testing.assert_close(written(plan, images), expected, rtol=0, atol=atol)


@sequences
def test_labels_are_mixed_step_by_step(parts: tuple[MixPlan, ...]) -> None:
    plan, targets = sequence_plan(*parts), torch.eye(BATCH)
    for part in parts:
        targets = part.mix_targets(targets, BATCH)
    torch.testing.assert_close(plan.mix_targets(torch.arange(BATCH), BATCH), targets)
    # by hand: what becomes of one unit of each label
    by_hand = torch.eye(BATCH, dtype=torch.float64)
    for part in parts:
        before, by_hand = by_hand, torch.zeros_like(by_hand)
        for i in range(BATCH):
            for source, share in zip(part.sources[i].tolist(), part.label_shares[i].tolist(), strict=True):
                by_hand[i] += share * before[source]
    torch.testing.assert_close(targets.double(), by_hand, rtol=0, atol=1e-6)
    values = torch.rand(BATCH, 3, generator=generator())
    torch.testing.assert_close(plan.mix_values(values), (by_hand @ values.double()).float())


@sequences
def test_pixels_are_counted(parts: tuple[MixPlan, ...]) -> None:
    plan = sequence_plan(*parts)
    torch.testing.assert_close(stated_shares(plan), counted_shares(plan))
    assert plan.pixel_shares.shape == plan.label_shares.shape == plan.sources.shape
    assert plan.sources[:, 0].tolist() == list(range(BATCH))


def test_where_boxes_overlap_the_last_one_counts() -> None:
    first = BoxPlan(3, 4, 4, torch.tensor([1, 2, 0]), torch.tensor([0, 0, 3, 3]))
    second = BoxPlan(3, 4, 4, torch.tensor([2, 0, 1]), torch.tensor([1, 1, 4, 4]))
    plan = SequencePlan(3, 4, 4, (first, second))
    # image 0: nine pixels of 2 after its own first step, of which four had become 0 and five are still 2;
    # the rest had got five pixels of 1 and kept two
    assert plan.sources[0].tolist() == [0, 1, 2, 0]
    assert (16 * plan.pixel_shares[0]).tolist() == [2 + 4, 5, 5, 0]
    # labels: 7/16 of (7/16 own, 9/16 of 1), and 9/16 of (7/16 of 2, 9/16 of 0)
    assert (256 * plan.label_shares[0]).tolist() == [7 * 7, 7 * 9, 9 * 7, 9 * 9]
    assert plan.boxes.tolist() == [[1, 1, 4, 4]] * 3


def test_a_source_in_several_columns_has_its_whole_share_in_the_first() -> None:
    """Two images that swap twice: each has itself and the other in two columns."""
    swap = [BoxPlan(2, 4, 4, torch.tensor([1, 0]), torch.tensor(box)) for box in ([0, 0, 4, 2], [0, 1, 4, 3])]
    plan = SequencePlan(2, 4, 4, tuple(swap))
    assert plan.sources.tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    # columns of image 0: the other, itself twice pasted, the other, itself
    assert (4 * plan.pixel_shares).tolist() == [[2, 2, 0, 0]] * 2
    assert (4 * plan.label_shares).tolist() == [[1, 1, 1, 1]] * 2


def test_pixels_of_three_steps_one_by_one() -> None:
    parts = (box_plan(seed=1), box_plan(seed=2), box_plan(seed=3))
    plan = sequence_plan(*parts)
    counted = torch.zeros(BATCH, BATCH)
    for i, row, column in pixels(plan):
        source = i
        for part in reversed(parts):
            source = int(part.donor[source]) if lies_in(part.boxes[source], row, column) else source
        counted[i, source] += 1
    torch.testing.assert_close(stated_shares(plan), counted / (HEIGHT * WIDTH))


@pytest.mark.parametrize("fill", [(9.0,), MEAN], ids=str)
def test_a_fill_counts_for_no_image_in_plans_within_plans_either(fill: tuple[float, ...]) -> None:
    inner: list[MixPlan] = [
        sequence_plan(erase_plan(fill), box_plan()),
        choice_plan(erase_plan(fill), box_plan()),
        concatenate([choice_plan(erase_plan(fill))]),
    ]
    for part in inner:
        plan = sequence_plan(part, box_plan(seed=4))
        assert float(plan.pixel_shares.min()) >= 0
        assert float(plan.pixel_shares.sum(1).max()) <= 1 + 1e-6
        torch.testing.assert_close(stated_shares(plan), counted_shares(plan))


def test_the_box_of_a_sequence_is_the_last_that_is_not_empty() -> None:
    def boxes(*box: list[int]) -> BoxPlan:
        return BoxPlan(3, 4, 4, torch.tensor([1, 2, 0]), torch.tensor(box))

    empty, line = [0, 0, 0, 0], [1, 1, 1, 4]
    plan = sequence_plan(
        boxes([0, 0, 1, 1], [0, 0, 2, 2], empty),
        boxes([1, 1, 3, 3], empty, empty),
        BlendPlan(3, 4, 4, torch.tensor([1, 2, 0]), torch.ones(3)),
        boxes(line, line, line),
    )
    assert plan.boxes[:2].tolist() == [[1, 1, 3, 3], [0, 0, 2, 2]]
    assert plan.boxes[2].tolist() == empty
    # several of three are not empty: 0, 1 and 2 of image 0, 0 and 1 of image 1, 1 and 2 of image 2
    plan = sequence_plan(
        boxes([0, 0, 1, 1], [0, 0, 2, 1], line),
        boxes([1, 1, 3, 3], [0, 1, 2, 3], [2, 0, 4, 4]),
        boxes([2, 2, 4, 3], empty, [3, 1, 4, 2]),
    )
    assert plan.boxes.tolist() == [[2, 2, 4, 3], [0, 1, 2, 3], [3, 1, 4, 2]]


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 0, 1], [3, 3, 3, 3, 3, 3], [2, 0, 2, 0, 2, 0], [1, 2, 2, 1, 1, 2]])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_each_image_of_a_choice_is_that_of_its_part(chosen: list[int], dtype: torch.dtype) -> None:
    """Parts of one, two and three sources."""
    parts = (box_plan(), blend_plan(), patch_plan(resized=True), erase_plan(MEAN))
    images, plan = random_images(dtype=dtype), ChoicePlan(BATCH, HEIGHT, WIDTH, parts, torch.tensor(chosen))
    assert plan.sources.shape == plan.pixel_shares.shape == plan.label_shares.shape == (BATCH, 3)
    ways = [plan.apply(images), by_tensor_operations(plan, images)]
    ways += [] if dtype == torch.bfloat16 else [written(plan, images)]
    for i, number in enumerate(chosen):
        part = parts[number]
        for mixed in ways:
            torch.testing.assert_close(mixed[i], part.apply(images)[i], rtol=0, atol=0 if dtype.itemsize == 1 else 1e-4)
        columns = part.sources.shape[1]
        assert plan.sources[i].tolist() == part.sources[i].tolist() + [i] * (3 - columns)
        for name in ("pixel_shares", "label_shares"):
            expected = getattr(part, name)[i].tolist() + [0.0] * (3 - columns)
            assert getattr(plan, name)[i].tolist() == expected
        assert torch.equal(plan.boxes[i], part.boxes[i])
        targets, own = (which.mix_targets(torch.arange(BATCH), BATCH)[i] for which in (plan, part))
        assert torch.equal(targets, own)


@pytest.mark.parametrize("shape", [(9, 3, 20, 20), (4, 3, 150, 150)], ids=str)
def test_parts_of_a_choice_write_rows_that_are_no_range(shape: tuple[int, ...]) -> None:
    """Small images that would be blended in blocks, and large ones; each part writes its own rows alone."""
    batch_size, _, height, width = shape
    images, donor = random_images(*shape), torch.arange(batch_size).roll(2)
    weight = torch.rand(batch_size, generator=generator())
    parts = (
        BlendPlan(batch_size, height, width, donor, weight),
        MaskPlan(batch_size, height, width, donor, torch.rand(height, width, generator=generator())),
        BoxPlan(batch_size, height, width, donor, torch.tensor([1, 2, 15, 17])),
        MaskPlan(batch_size, height, width, donor, torch.rand(height, width, generator=generator()) < 0.5),
        IdentityPlan(batch_size, height, width),
    )
    for shift in range(5):
        choice = (torch.arange(batch_size) * 2 + shift) % 5
        plan = ChoicePlan(batch_size, height, width, parts, choice)
        expected = torch.stack([parts[number].apply(images)[i] for i, number in enumerate(choice.tolist())])
        assert torch.equal(plan.apply(images), expected)
        assert torch.equal(written(plan, images), expected)
        # within a sequence, samples of the second step are one array
        twice = SequencePlan(batch_size, height, width, (plan, plan))
        assert torch.equal(twice.apply(images), plan.apply(expected))
        assert torch.equal(written(twice, images), plan.apply(expected))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_sequence_does_not_change_its_samples(order: tuple[int, ...]) -> None:
    plan = sequence_plan(*[(blend_plan(), box_plan())[number] for number in order])
    samples = [image.numpy().copy() for image in random_images()]
    before = [sample.copy() for sample in samples]
    plan.write(samples, np.empty((BATCH, 3, HEIGHT, WIDTH), np.uint8))
    assert all(np.array_equal(*pair) for pair in zip(samples, before, strict=True))


@pytest.mark.parametrize(
    "parts", [(), (box_plan(5),), (box_plan(), IdentityPlan(BATCH, WIDTH, HEIGHT)), (box_plan(), box_plan(1))], ids=len
)
@pytest.mark.parametrize("kind", [SequencePlan, ChoicePlan])
def test_refused_parts(kind: Any, parts: tuple[MixPlan, ...]) -> None:
    sizes = [(part.batch_size, part.height, part.width) for part in parts]
    message = f"the parts must be plans of one batch of (6, 7, 5) (batch size, height, width), got {sizes}"
    choice = {} if kind is SequencePlan else {"choice": torch.zeros(BATCH, dtype=torch.int64)}
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(BATCH, HEIGHT, WIDTH, parts, **choice)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ([0, 1, 2, 0, 0, 0], "choice must lie between 0 and 1, got [0, 1, 2, 0, 0, 0]"),
        ([0, 1, -1, 0, 0, 0], "choice must lie between 0 and 1"),
        ([0, 1], "choice must be int64 of shape (6,), got torch.int64 of shape (2,)"),
        ([0.0] * 6, "choice must be int64 of shape (6,), got torch.float32"),
    ],
)
def test_refused_choices(choice: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ChoicePlan(BATCH, HEIGHT, WIDTH, (box_plan(), blend_plan()), torch.tensor(choice))


def test_a_concatenation_is_its_batches_side_by_side() -> None:
    """Of one, two and three sources, and of batches of unequal sizes."""
    parts = [box_plan(4), erase_plan(MEAN), patch_plan(resized=True), IdentityPlan(1, HEIGHT, WIDTH), box_plan(2)]
    plan, start = concatenate(parts), 0
    assert plan.batch_size == 4 + 6 + 6 + 1 + 2
    assert plan.sources.shape == plan.pixel_shares.shape == plan.label_shares.shape == (19, 3)
    images, labels = random_images(19, 3, HEIGHT, WIDTH), torch.arange(19) % 5
    ways = [plan.apply(images), by_tensor_operations(plan, images), written(plan, images)]
    targets = plan.mix_targets(labels, 5)
    for part in parts:
        rows = slice(start, start + part.batch_size)
        for mixed in ways:
            assert torch.equal(mixed[rows], part.apply(images[rows]))
        columns = part.sources.shape[1]
        assert torch.equal(plan.sources[rows, :columns], part.sources + start)
        # more columns are the image itself, and count for nothing
        more = torch.arange(start, rows.stop).unsqueeze(1).expand(-1, 3 - columns)
        assert torch.equal(plan.sources[rows, columns:], more)
        for name in ("pixel_shares", "label_shares"):
            assert torch.equal(getattr(plan, name)[rows, :columns], getattr(part, name))
            assert not getattr(plan, name)[rows, columns:].any()
        assert torch.equal(plan.boxes[rows], part.boxes)
        assert torch.equal(targets[rows], part.mix_targets(labels[rows], 5))
        start = rows.stop
    torch.testing.assert_close(stated_shares(plan), counted_shares(plan))


def test_masks_of_a_concatenation_are_those_of_its_batches() -> None:
    parts = [box_plan(3), erase_plan(), patch_plan(resized=True)]
    masks = random_images(15, HEIGHT, WIDTH, dtype=torch.int64)
    expected = [part.apply_masks(m, -1) for part, m in zip(parts, masks.split([3, 6, 6]), strict=True)]
    assert torch.equal(concatenate(parts).apply_masks(masks, -1), torch.cat(expected))


def test_concatenations_and_choices_nest() -> None:
    images = random_images(2 * BATCH, 3, HEIGHT, WIDTH)
    halves = [choice_plan(box_plan(), blend_plan()), sequence_plan(erase_plan(), box_plan())]
    both = concatenate([concatenate(halves[:1]), concatenate(halves[1:])])
    expected = torch.cat([half.apply(chunk) for half, chunk in zip(halves, images.split(BATCH), strict=True)])
    assert torch.equal(both.apply(images), expected)
    assert torch.equal(written(both, images), expected)
    size = (2 * BATCH, HEIGHT, WIDTH)
    choice = ChoicePlan(*size, (both, IdentityPlan(*size)), torch.arange(2 * BATCH) % 3 // 2)
    picked = torch.where(choice.choice.view(-1, 1, 1, 1) == 0, expected, images)
    assert torch.equal(choice.apply(images), picked)
    assert torch.equal(written(choice, images), picked)
    assert torch.equal(by_tensor_operations(choice, images), picked)


@pytest.mark.parametrize(
    ("plans", "sizes"),
    [([], "[]"), ([box_plan(), IdentityPlan(BATCH, WIDTH, HEIGHT)], "[(5, 7), (7, 5)]")],
)
def test_refused_concatenations(plans: list[MixPlan], sizes: str) -> None:
    message = f"plans of one image size are needed to concatenate them, got sizes {sizes}"
    with pytest.raises(ValueError, match=re.escape(message)):
        concatenate(plans)


@pytest.mark.parametrize("name", ["sequence", "choice", "concatenation"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_one_part_that_blends_is_enough_to_refuse_a_dtype(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="only floating-point and uint8 images can be blended"):
        PLANS[name].apply(random_images(dtype=dtype))


@pytest.mark.parametrize("kind", ["sequence", "choice", "concatenation"])
def test_joined_moves_take_every_dtype(kind: str) -> None:
    parts = (box_plan(), mask_plan(hard=True), patch_plan(resized=False))
    plans = {"sequence": sequence_plan(*parts), "choice": choice_plan(*parts), "concatenation": concatenate(parts)}
    plan = plans[kind]
    number = random_images(plan.batch_size, 3, HEIGHT, WIDTH, dtype=torch.int64)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.float64, torch.bfloat16, torch.complex64, torch.bool):
        assert torch.equal(plan.apply(number.to(dtype)), plan.apply(number).to(dtype))
