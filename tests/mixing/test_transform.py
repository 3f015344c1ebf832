import pickle
from collections import UserDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from cutmix_zoo.mixing import (
    Chain,
    CutMix,
    Cutout,
    FeatureMix,
    IdentityPlan,
    MixedTarget,
    MixMethod,
    MixPlan,
    MixTransform,
    Mixup,
    OneOf,
    Scheduled,
)
from tests.conftest import global_states
from tests.mixing.helpers import generator, random_images

B, K, SIZE = 6, 5, (12, 10)
MIX = CutMix(per="sample")
LABELS = torch.tensor([4, 0, 2, 2, 1, 3])
Pair = namedtuple("Pair", ["left", "right"])


def _images(dtype: torch.dtype = torch.uint8, channels: int = 3, seed: int = 1) -> torch.Tensor:
    return random_images(B, channels, *SIZE, dtype=dtype, seed=seed)


def _watched(monkeypatch: pytest.MonkeyPatch, transform: MixTransform) -> list[MixPlan]:
    """Write down the plans of a transform."""
    plans: list[MixPlan] = []
    draw = transform.plans.draw

    def watch(*arguments: Any, **settings: Any) -> MixPlan:
        plans.append(draw(*arguments, **settings))
        return plans[-1]

    monkeypatch.setattr(transform.plans, "draw", watch)
    return plans


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mix", [MIX, Mixup(per="sample"), Cutout(4, fill=(7.0,))], ids=repr)
@pytest.mark.parametrize("kind", [tuple, list])
def test_images_and_labels_are_mixed_by_one_plan(
    kind: type, mix: MixMethod, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = MixTransform(mix, K, smoothing=0.1)
    plans = _watched(monkeypatch, transform)
    images, labels = _images(dtype), LABELS.clone()
    before = images.clone()
    batch = transform(kind((images, labels)))
    assert type(batch) is tuple
    (plan,) = plans
    assert torch.equal(batch[0], plan.apply(images))
    assert torch.equal(batch[1], plan.mix_targets(LABELS, K, 0.1))
    assert batch[0].dtype == dtype
    assert torch.equal(images, before)
    assert torch.equal(labels, LABELS)


def test_smoothing_is_0_unless_asked_for() -> None:
    _, targets = MixTransform(CutMix(prob=0.0), K)((_images(), LABELS))
    assert torch.equal(targets, torch.eye(K)[LABELS])


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_mappings_keep_what_else_they_hold(kind: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    transform = MixTransform(MIX, K, image_key="pixel_values", label_key="labels")
    plans = _watched(monkeypatch, transform)
    images, other = _images(), ["a", "b"]
    batch = kind({"pixel_values": images, "labels": LABELS, "paths": other})
    mixed = transform(batch)
    (plan,) = plans
    assert type(mixed) is dict
    assert list(mixed) == ["pixel_values", "labels", "paths"]
    assert torch.equal(mixed["pixel_values"], plan.apply(images))
    assert torch.equal(mixed["labels"], plan.mix_targets(LABELS, K))
    assert mixed["paths"] is other
    assert batch["pixel_values"] is images
    assert batch["labels"] is LABELS


def test_several_images_are_mixed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = MixTransform(MIX, K)
    plans = _watched(monkeypatch, transform)
    colour, depth = _images(), _images(torch.float32, channels=1, seed=2)
    for images in (Pair(colour, depth), (colour, depth), [colour, depth], {"colour": colour, "depth": depth}):
        mixed, _ = transform((images, LABELS))
        plan = plans[-1]
        assert type(mixed) is type(images)
        values = list(mixed.values()) if isinstance(mixed, dict) else list(mixed)
        assert torch.equal(values[0], plan.apply(colour))
        assert torch.equal(values[1], plan.apply(depth))
        if isinstance(mixed, dict):
            assert list(mixed) == ["colour", "depth"]
    assert len(plans) == 4


def test_methods_look_at_the_first_of_several_images() -> None:
    seen = []

    class Looking:
        def draw(self, batch_size: int, height: int, width: int, **context: Any) -> MixPlan:
            seen.append(context["images"])
            return IdentityPlan(batch_size, height, width)

    first, second = _images(), _images(channels=1)
    (kept, _), _ = MixTransform(Looking(), K)(((first, second), LABELS))
    assert seen[0] is first
    assert kept is first


def test_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = MixTransform(MIX, K)
    plans = _watched(monkeypatch, transform)
    clips = random_images(B, 3, 2, *SIZE)
    mixed, _ = transform((clips, LABELS))
    assert torch.equal(mixed, plans[0].apply(clips))


def test_on_another_device() -> None:
    images, targets = MixTransform(MIX, K)((_images(torch.float32).to("meta"), LABELS.to("meta")))
    assert (images.device.type, images.shape) == ("meta", (B, 3, *SIZE))
    assert (targets.device.type, targets.shape) == ("meta", (B, K))


@pytest.mark.parametrize("num_classes", [K, None])
def test_dense_targets_and_values(num_classes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = MixTransform(MIX, num_classes)
    plans = _watched(monkeypatch, transform)
    dense = torch.rand(B, K, generator=generator())
    _, targets = transform((_images(), dense))
    expected = torch.zeros(B, K)
    for i in range(B):
        for source, share in zip(plans[0].sources[i], plans[0].label_shares[i], strict=True):
            expected[i] += share * dense[source]
    torch.testing.assert_close(targets, expected)


@pytest.mark.parametrize("shape", [(B,), (B, 1), (B, 2, 3)])
def test_values_of_any_shape(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    transform = MixTransform(Mixup(per="sample"), None)
    plans = _watched(monkeypatch, transform)
    values = torch.rand(*shape, generator=generator(), dtype=torch.float64)
    _, targets = transform((_images(), values))
    assert targets.dtype == torch.float64
    assert torch.equal(targets, plans[0].mix_values(values))


@pytest.mark.parametrize("num_classes", [K, None])
@pytest.mark.parametrize("shape", [(B, *SIZE), (B, 1, *SIZE)])
def test_masks_are_pasted_like_their_images(shape: tuple[int, ...], num_classes: int | None) -> None:
    masks = random_images(*shape, dtype=torch.int64) % K
    # what shows the classes of a mask as grey levels moves as the mask does
    images = (masks.view(B, 1, *SIZE) * 20).to(torch.uint8)
    mixed, targets = MixTransform(MIX, num_classes)((images, masks))
    assert not torch.equal(targets, masks)
    assert targets.shape == shape
    assert targets.dtype == torch.int64
    assert torch.equal(mixed, (targets.view(B, 1, *SIZE) * 20).to(torch.uint8))


def test_erased_pixels_are_ignored_in_masks() -> None:
    images, masks = torch.zeros(B, 1, *SIZE, dtype=torch.uint8), torch.full((B, *SIZE), 3)
    mixed, targets = MixTransform(Cutout(4, fill=(9.0,)), None)((images, masks))
    assert torch.equal(targets == 255, mixed[:, 0] == 9)
    assert set(targets.unique().tolist()) == {3, 255}


@pytest.mark.parametrize(("labels", "num_classes"), [(LABELS, K), (LABELS, None), (LABELS.double(), None)])
def test_the_plan_can_be_kept(labels: torch.Tensor, num_classes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    smoothing = 0.1 if num_classes else 0.0
    transform = MixTransform(MIX, num_classes, smoothing, keep_plan=True)
    plans = _watched(monkeypatch, transform)
    images, target = transform((_images(), labels))
    assert isinstance(target, MixedTarget)
    assert torch.equal(images, plans[0].apply(_images()))
    assert torch.equal(target.lam, plans[0].lam)
    assert torch.equal(target.labels, labels)
    assert (target.num_classes, target.smoothing) == (num_classes, smoothing)


def test_the_switch_leaves_targets_dense_and_images_alone() -> None:
    transform = MixTransform(MIX, K, smoothing=0.1)
    assert transform.enabled
    transform.enabled = False
    assert not transform.enabled
    images = _images()
    kept, targets = transform((images, LABELS))
    assert kept is images
    torch.testing.assert_close(targets, torch.eye(K)[LABELS] * 0.9 + 0.1 / K)
    transform.enabled = True
    assert not torch.equal(transform((images, LABELS))[0], images)


def test_epochs_reach_scheduled_methods() -> None:
    transform = MixTransform(Scheduled(MIX, off_from=0.5), K, epochs=4)
    mixed = []
    for epoch in range(4):
        transform.set_epoch(epoch)
        images = _images()
        mixed.append(transform((images, LABELS))[0] is not images)
    assert mixed == [True, True, False, False]
    with pytest.raises(ValueError, match="epoch must be below epochs=4, got 4"):
        transform.set_epoch(4)
    with pytest.raises(ValueError, match=r"Scheduled needs to know .* MixCollate and MixTransform need epochs="):
        MixTransform(Scheduled(MIX), K)((_images(), LABELS))


def _mixed(transform: MixTransform, batches: int = 2) -> torch.Tensor:
    return torch.stack([transform((_images(), LABELS))[0] for _ in range(batches)])


def test_the_plans_follow_from_the_global_seed_without_touching_it() -> None:
    torch.manual_seed(5)
    before = global_states()
    first = _mixed(MixTransform(MIX, K))
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, _mixed(MixTransform(MIX, K)))
    assert global_states() == before
    for other in (MixTransform(MIX, K, seed=1), MixTransform(MIX, K, rank=1)):
        assert not torch.equal(first, _mixed(other))
    torch.manual_seed(6)
    assert not torch.equal(first, _mixed(MixTransform(MIX, K)))


def test_it_can_be_pickled() -> None:
    transform = MixTransform(MIX, K, 0.1, image_key="image", label_key="label")
    transform.enabled = False
    again = pickle.loads(pickle.dumps(transform))
    batch = {"image": _images(), "label": LABELS}
    assert torch.equal(again(batch)["label"], transform(batch)["label"])
    assert not again.enabled


@pytest.mark.parametrize("workers", [0, 2])
def test_in_the_collate(workers: int) -> None:
    # an image shows its label in every pixel, so a mixed image tells its target
    dataset = [(torch.full((1, *SIZE), float(i % K)), i % K) for i in range(24)]
    transform = MixTransform(MIX, K)
    loader = DataLoader(
        dataset,
        batch_size=6,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=lambda samples: transform(default_collate(samples)),
    )
    boxes = set()
    for images, targets in loader:
        counted = torch.stack([(images == k).float().mean((1, 2, 3)) for k in range(K)], dim=1)
        torch.testing.assert_close(targets, counted)
        assert type(targets) is torch.Tensor
        assert not targets.is_shared()  # it came inside the message
        boxes.add(targets.amax(1).sum().item())
    assert len(boxes) > 1
    transform.enabled = False  # reaches workers that are running
    for _, targets in loader:
        assert torch.equal(targets.amax(1), torch.ones(6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"smoothing": 1.5}, "smoothing must be a number from 0 to 1, got 1.5"),
        ({"num_classes": None, "smoothing": 0.1}, "smoothing needs num_classes, got smoothing=0.1 without"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"rank": "0"}, "rank must be a whole number of at least 0, got '0'"),
        ({"ignore_index": None}, "ignore_index must be a whole number, got None"),
        ({"image_key": "image"}, "image_key and label_key go together, got 'image' and None"),
        ({"label_key": "label"}, "image_key and label_key go together, got None and 'label'"),
        ({"mix": FeatureMix(CutMix())}, r"FeatureMix\(.* mixes inside the network, .*: use mix_features"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixTransform(**({"mix": MIX, "num_classes": K} | settings))


def test_only_methods_are_taken() -> None:
    with pytest.raises(TypeError, match=r"mix must be a mixing method such as CutMix\(\), got 'cutmix'"):
        MixTransform("cutmix", K)


IMAGE = torch.zeros(B, 3, *SIZE)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (IMAGE, r"a batch must be \(images, labels\), got Tensor of shape \(6, 3, 12, 10\)"),
        ((IMAGE, LABELS, 1), r"a batch must be \(images, labels\), got tuple of"),
        ({"image": IMAGE, "label": LABELS}, "got dict: for a mapping, give image_key and label_key"),
        ((IMAGE, LABELS.tolist()), "labels must be a tensor, got list of 6"),
        ((IMAGE.numpy(), LABELS), r"images must be a tensor \(B, C, H, W\), .*, got ndarray"),
        ((IMAGE[0], LABELS), r"images must be a tensor \(B, C, H, W\), .*, got Tensor of shape \(3, 12, 10\)"),
        (((IMAGE, None), LABELS), r"got Tensor of shape \(6, 3, 12, 10\), NoneType"),
        (((), LABELS), "images must be .*, got tuple of"),
        (({}, LABELS), "images must be .*, got dict"),
    ],
)
def test_refused_kinds_of_batches(batch: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        MixTransform(MIX, K)(batch)


def test_with_keys_a_batch_is_a_mapping_that_has_them() -> None:
    transform = MixTransform(MIX, K, image_key="image", label_key="label")
    with pytest.raises(TypeError, match="a batch must be a mapping, as keys were given, got tuple of"):
        transform((IMAGE, LABELS))
    with pytest.raises(ValueError, match=r"the batch has no \['label'\], only \['image', 'labels'\]"):
        transform({"image": IMAGE, "labels": LABELS})


@pytest.mark.parametrize(
    ("images", "labels", "num_classes", "message"),
    [
        (IMAGE, LABELS[:4], K, "labels must be 6 integers, one for each image"),
        (IMAGE, LABELS, 4, r"label 4 is outside \[0, 4\)"),
        (IMAGE, LABELS, None, "num_classes must be given where labels are classes"),
        (IMAGE, torch.eye(K)[LABELS].long(), K, "give several labels an image as floating-point rows"),
        (IMAGE, torch.ones(B, dtype=torch.bool), K, "labels must be 6 integers, .*got torch.bool"),
        (IMAGE, torch.rand(B, K + 1), K, "floating-point labels must be 6 rows of 5 numbers"),
        (IMAGE, torch.rand(B), K, "floating-point labels must be 6 rows of 5 numbers"),
        (IMAGE, torch.rand(B + 1), None, "values must be floating point, one for each of the 6 images"),
        (IMAGE, torch.rand(B, *SIZE), None, "are maps of the images' size"),
        (IMAGE, torch.zeros(B, 10, 12).long(), None, "the plan was drawn for 6 images of 12 x 10 pixels"),
        ((IMAGE, IMAGE[:5]), LABELS, K, r"images that are mixed alike .*, got \(6, 3, 12, 10\) and \(5, 3, 12, 10\)"),
        ((IMAGE, IMAGE[..., 1:]), LABELS, K, "must have one batch size, height and width"),
        (IMAGE[:0], LABELS[:0], K, "a batch needs at least one image"),
    ],
)
def test_refused_sizes(images: Any, labels: torch.Tensor, num_classes: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixTransform(MIX, num_classes)((images, labels))


def test_what_a_plan_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="int64"):
        MixTransform(Mixup(), K)((IMAGE.long(), LABELS))
    with pytest.raises(ValueError, match="so a pixel of the mask would have several classes"):
        MixTransform(Mixup(), K)((IMAGE, torch.zeros(B, *SIZE, dtype=torch.int64)))
    with pytest.raises(ValueError, match="smoothing is for integer labels"):
        MixTransform(MIX, K, smoothing=0.1)((IMAGE, torch.rand(B, K)))
    with pytest.raises(ValueError, match=r"smoothing is for one label an image, .* leave it to the loss"):
        MixTransform(MIX, K, smoothing=0.1)((IMAGE, torch.zeros(B, *SIZE, dtype=torch.int64)))
    with pytest.raises(ValueError, match="nobody can tell channels from frames"):
        MixTransform(Cutout(4, fill=(1.0, 2.0, 3.0)), K)((torch.zeros(B, 3, 3, *SIZE), LABELS))
    with pytest.raises(ValueError, match="masks are cut and pasted like their images"):
        MixTransform(MIX, K, keep_plan=True)((IMAGE, torch.zeros(B, *SIZE, dtype=torch.int64)))


def test_a_method_that_cannot_mix_the_batch_is_refused_by_the_first_one() -> None:
    masks = torch.zeros(B, *SIZE, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^Mixup\(.* cannot mix this data: .* a pixel of the mask would have several"):
        MixTransform(OneOf([CutMix(), Mixup()], weights=[0.999, 0.001]), None)((IMAGE, masks))
    depth = torch.zeros(B, 1, *SIZE, dtype=torch.int64)  # of the second images as well
    with pytest.raises(ValueError, match="cannot mix this data: only floating-point and uint8 images can be blended"):
        MixTransform(Chain([CutMix(), Mixup(prob=0.001)]), K)(((IMAGE, depth), LABELS))
