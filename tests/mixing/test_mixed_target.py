import pickle
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import send_to_device
from timm.data.loader import PrefetchLoader
from torch.utils.data import DataLoader, default_collate
from torch.utils.data._utils.pin_memory import pin_memory

from cutmix_zoo.mixing import Chain, CutMix, IdentityPlan, MixedTarget, MixPlan, two_term_loss
from tests.mixing.helpers import BATCH, HEIGHT, PLANS, WIDTH, box_plan, generator, mask_plan, patch_plan

LABELS = torch.tensor([4, 0, 2, 2, 1, 3])
TENSORS = ("labels", "sources", "label_shares", "boxes")


def _equal(one: MixedTarget, other: MixedTarget) -> bool:
    same = all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)
    return same and (one.num_classes, one.smoothing) == (other.num_classes, other.smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_it_keeps_what_a_plan_of_any_kind_says(plan: MixPlan, smoothing: float) -> None:
    target = MixedTarget.of(plan, LABELS, num_classes=5, smoothing=smoothing)
    for name in TENSORS[1:]:
        assert torch.equal(getattr(target, name), getattr(plan, name))
    assert torch.equal(target.labels, LABELS)
    assert (len(target), target.num_classes, target.smoothing) == (BATCH, 5, smoothing)
    assert torch.equal(target.dense(), plan.mix_targets(LABELS, 5, smoothing))


def test_pixels_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence paints images to count them, which takes longer than to mix."""
    plan = Chain([CutMix(per="sample"), CutMix(per="sample")]).draw(BATCH, HEIGHT, WIDTH, generator=generator())
    counted = []
    monkeypatch.setattr(type(plan), "_share_of", lambda *_: counted.append(1))
    assert torch.equal(MixedTarget.of(plan, LABELS, 5).dense(), plan.mix_targets(LABELS, 5))
    assert not counted


def test_two_sources_have_a_lambda_and_a_partner() -> None:
    plan = box_plan()
    target = MixedTarget.of(plan, LABELS, 5)
    assert torch.equal(target.lam, plan.lam)
    assert torch.equal(target.partner, plan.partner)
    unmixed = MixedTarget.of(IdentityPlan(BATCH, HEIGHT, WIDTH), LABELS, 5)
    assert unmixed.lam.tolist() == [1.0] * BATCH
    assert unmixed.partner.tolist() == list(range(BATCH))


@pytest.mark.parametrize("name", ["lam", "partner"])
def test_more_sources_have_none(name: str) -> None:
    target = MixedTarget.of(patch_plan(resized=False), LABELS, 5)
    with pytest.raises(ValueError, match=f"{name} is for plans of two sources, this one has 3: use sources"):
        getattr(target, name)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_any_integer_labels_become_int64(dtype: torch.dtype) -> None:
    target = MixedTarget.of(box_plan(), LABELS.to(dtype), 5)
    assert target.labels.dtype == torch.int64
    assert torch.equal(target.labels, LABELS)


def test_labels_that_are_dense_already() -> None:
    plan, soft = box_plan(), torch.rand(BATCH, 5, generator=generator())
    target = MixedTarget.of(plan, soft, 5)
    assert target.labels is soft
    assert torch.equal(target.dense(), plan.mix_targets(soft, 5))


@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 3)])
def test_values(shape: tuple[int, ...]) -> None:
    plan, values = box_plan(), torch.rand(*shape, generator=generator(), dtype=torch.float64)
    target = MixedTarget.of(plan, values, None)
    assert target.dense().dtype == torch.float64
    assert torch.equal(target.dense(), plan.mix_values(values))


def test_without_the_number_of_classes_there_are_still_two_terms() -> None:
    target = MixedTarget.of(box_plan(), LABELS, None)
    loss = two_term_loss(torch.nn.CrossEntropyLoss(reduction="none"))
    assert float(loss(torch.zeros(BATCH, 5), target.labels, target)) == pytest.approx(np.log(5))
    with pytest.raises(ValueError, match="dense targets need num_classes, and this target was made without"):
        target.dense()


@pytest.mark.parametrize(
    ("labels", "num_classes", "smoothing", "message"),
    [
        (LABELS, 4, 0.0, r"label 4 is outside \[0, 4\)"),
        (LABELS[:5], 5, 0.0, "labels must be 6 integers"),
        (LABELS[:5], None, 0.0, "labels must be 6 integers"),
        (torch.rand(BATCH, 4), 5, 0.0, "floating-point labels must be 6 rows of 5 numbers"),
        (torch.rand(BATCH, 5), 5, 0.1, "smoothing is for integer labels"),
        (torch.rand(5), None, 0.0, "values must be floating point, one for each of the 6 images"),
        (LABELS, None, 0.1, "smoothing needs num_classes, got smoothing=0.1 without"),
        (LABELS, 5, 2.0, "smoothing must be a number from 0 to 1, got 2.0"),
        (LABELS, 0, 0.0, "num_classes must be a whole number of at least 1, got 0"),
        (torch.zeros(BATCH, HEIGHT, WIDTH).long(), 5, 0.0, "mix them with plan.apply_masks"),
    ],
)
def test_refused_labels(labels: torch.Tensor, num_classes: int | None, smoothing: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedTarget.of(box_plan(), labels, num_classes, smoothing)


def test_the_two_term_loss_takes_it_for_its_plan() -> None:
    plan = box_plan()
    logits = torch.randn(BATCH, 5, generator=generator())
    loss = two_term_loss(torch.nn.CrossEntropyLoss(reduction="none"))
    target = MixedTarget.of(plan, LABELS, 5)
    assert torch.equal(loss(logits, target.labels, target), loss(logits, LABELS, plan))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_two_term_loss_refuses_its_smoothing(label_smoothing: float) -> None:
    target = MixedTarget.of(box_plan(), LABELS, 5, smoothing=0.1)
    loss = two_term_loss(torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=label_smoothing))
    with pytest.raises(
        ValueError, match=r"the target asks for label smoothing 0.1, .* leave smoothing to the criterion"
    ):
        loss(torch.zeros(BATCH, 5), target.labels, target)


def test_it_survives_pickling() -> None:
    target = MixedTarget.of(mask_plan(hard=True), LABELS, 5, 0.1)
    assert _equal(pickle.loads(pickle.dumps(target)), target)


def test_moving_takes_all_tensors_along() -> None:
    target = MixedTarget.of(box_plan(), LABELS, 5, 0.1)
    for moved in (
        target.to("meta"),
        target.to(torch.device("meta")),
        target.to(device=torch.device("meta"), non_blocking=True),
        send_to_device((torch.zeros(1), target), "meta", non_blocking=True)[1],
    ):
        assert {getattr(moved, name).device.type for name in TENSORS} == {"meta"}
        assert moved.labels.shape == target.labels.shape
        assert (moved.num_classes, moved.smoothing) == (5, 0.1)
    assert _equal(target.to("cpu"), target)


def test_pinning_takes_all_tensors_along(monkeypatch: pytest.MonkeyPatch) -> None:
    # page-locked memory needs an accelerator: here each pinned tensor is 1 more
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    target = MixedTarget.of(box_plan(), LABELS, 5, 0.1)
    images, pinned = pin_memory((torch.zeros(2), target))
    assert images.tolist() == [1.0, 1.0]
    assert type(pinned) is MixedTarget
    for name in TENSORS:
        assert torch.equal(getattr(pinned, name), getattr(target, name) + 1)
    assert (pinned.num_classes, pinned.smoothing) == (5, 0.1)


def _collate(samples: list[Any]) -> tuple[torch.Tensor, MixedTarget]:
    images, labels = default_collate(samples)
    plan = CutMix(per="sample").draw(len(labels), 8, 8, generator=generator(int(labels[0])))
    return plan.apply(images), MixedTarget.of(plan, labels, 10, 0.1)


@pytest.mark.parametrize("workers", [0, 1])
def test_it_travels_from_a_worker_through_timms_prefetcher(workers: int) -> None:
    dataset = [(torch.full((3, 8, 8), i, dtype=torch.uint8), i) for i in range(10)]
    loader = DataLoader(dataset, batch_size=5, collate_fn=_collate, num_workers=workers)
    batches = list(PrefetchLoader(loader, device=torch.device("cpu")))
    assert len(batches) == 2
    for number, (images, target) in enumerate(batches):
        _, expected = _collate(dataset[5 * number : 5 * number + 5])
        assert images.shape == (5, 3, 8, 8)
        assert _equal(target, expected)


def test_it_travels_through_accelerates_loader() -> None:
    dataset = [(torch.full((3, 8, 8), i, dtype=torch.uint8), i) for i in range(10)]
    loader = prepare_data_loader(DataLoader(dataset, batch_size=5, collate_fn=_collate), device=torch.device("cpu"))
    (_, first), (_, second) = loader
    assert _equal(first, _collate(dataset[:5])[1])
    assert _equal(second, _collate(dataset[5:])[1])


def test_sources_of_several_steps() -> None:
    plan = Chain([CutMix(per="sample"), CutMix(per="sample")]).draw(BATCH, HEIGHT, WIDTH, generator=generator())
    target = MixedTarget.of(plan, LABELS, 5)
    assert target.sources.shape == (BATCH, 4)
    # the target of a sequence against a loop over the four ways to a source
    expected = torch.zeros(BATCH, 5)
    for i in range(BATCH):
        for m in range(4):
            expected[i, LABELS[target.sources[i, m]]] += target.label_shares[i, m]
    torch.testing.assert_close(target.dense(), expected)
