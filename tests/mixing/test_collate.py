import pickle
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import FastCollateMixup, create_loader
from timm.data.loader import PrefetchLoader
from torch import Tensor
from torch.multiprocessing import get_all_sharing_strategies, get_sharing_strategy, set_sharing_strategy
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from cutmix_zoo.keys import SampleKey, Stream, generator_for
from cutmix_zoo.mixing import (
    CANONICAL,
    Chain,
    CutMix,
    Cutout,
    FeatureMix,
    MixCollate,
    MixedTarget,
    MixMethod,
    MixTransform,
    Mixup,
    OneOf,
    Scheduled,
    collate_samples,
    drawing,
    memory,
    plan_for,
)
from cutmix_zoo.mixing.timm_args import method_from_timm
from tests.conftest import global_states

NUM_CLASSES = 10
MIX = CutMix(per="sample")
DTYPES = [np.uint8, np.float32, np.float16, np.int64]


def _image(index: int, height: int = 12, width: int = 10) -> np.ndarray:
    """Random (H, W, 3) pixels."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def _samples(batch_size: int = 6, key: tuple[int, int] | None = None) -> list[tuple[Any, ...]]:
    """Samples as timm's transforms give them: (C, H, W) views of height-width-channel memory."""
    samples = [(torch.from_numpy(_image(i)).permute(2, 0, 1), i % NUM_CLASSES) for i in range(batch_size)]
    if key is None:
        return samples
    return [(*sample, SampleKey(*key, index=i)) for i, sample in enumerate(samples)]


class Images(Dataset):
    """PIL images through timm's transform, in the loader's workers; the same images in every batch."""

    def __init__(self, size: int = 24, period: int = 24, keyed: bool = False) -> None:
        self.size, self.period, self.keyed = size, period, keyed
        self.transform: Callable[[Image.Image], Any] = lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        content = index % self.period
        image, label = self.transform(Image.fromarray(_image(content, 16, 16))), content % NUM_CLASSES
        return (image, label, SampleKey(2, index // 6, index)) if self.keyed else (image, label)


class SpawnImages(Images):
    """Without the lambda, which does not pickle."""

    def __init__(self) -> None:
        self.size, self.period, self.keyed = 12, 12, False

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return torch.from_numpy(_image(index, 16, 16)).permute(2, 0, 1), index % NUM_CLASSES


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_stacking_keeps_dtype_and_layout(dtype: type, as_tensor: bool, channels_last: bool) -> None:
    arrays = [_image(i).astype(dtype).transpose(2, 0, 1) for i in range(5)]
    if not channels_last:
        arrays = [np.ascontiguousarray(array) for array in arrays]
    images, labels = collate_samples([(torch.from_numpy(a) if as_tensor else a, i) for i, a in enumerate(arrays)])
    assert torch.equal(images, torch.from_numpy(np.stack(arrays)))
    assert images.dtype == torch.from_numpy(arrays[0]).dtype
    assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts(channels: int) -> None:
    arrays = [np.full((8, 6, channels), i, np.uint8).transpose(2, 0, 1) for i in range(3)]
    images, _ = collate_samples([(array, 0) for array in arrays])
    assert torch.equal(images, torch.from_numpy(np.stack(arrays)))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_views_of_any_kind_can_be_read() -> None:
    read_only = _image(0).transpose(2, 0, 1)
    read_only.flags.writeable = False
    flipped = _image(1)[:, ::-1].transpose(2, 0, 1)
    cropped = np.pad(_image(2), ((3, 3), (3, 3), (0, 0)))[3:-3, 3:-3].transpose(2, 0, 1)
    arrays = [read_only, flipped, cropped]
    for order in (arrays, arrays[::-1], [flipped, read_only, cropped]):
        images, _ = MixCollate(CutMix(prob=0.0), NUM_CLASSES)([(array, 0) for array in order])
        assert np.array_equal(images.numpy(), np.stack(order))
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("label", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_integer_labels_of_any_kind(label: object) -> None:
    image = _samples(1)[0][0]
    assert collate_samples([(image, label)])[1].tolist() == [3]
    assert MixCollate(MIX, NUM_CLASSES)([(image, label)])[1].argmax().item() == 3


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch_size", [1, 2, 7, 8])
@pytest.mark.parametrize("mix", [CutMix(), MIX, CutMix(prob=0.5, per="pair")], ids=repr)
def test_with_a_key_the_batch_is_that_of_the_device_path(
    mix: CutMix, batch_size: int, dtype: type, as_tensor: bool
) -> None:
    samples = [
        (image.numpy().astype(dtype) if not as_tensor else torch.from_numpy(image.numpy().astype(dtype)), *rest)
        for image, *rest in _samples(batch_size, key=(3, 5))
    ]
    images, targets = MixCollate(mix, NUM_CLASSES, smoothing=0.1, seed=9, rank=2)(samples)
    unmixed, labels = collate_samples(samples)
    plan = plan_for(mix, batch_size, 12, 10, seed=9, epoch=3, step=5, rank=2)
    # with a gradient to carry, `apply` does not write rows but masks, as on an accelerator
    masked = plan.apply(unmixed.double().requires_grad_()).detach()
    assert torch.equal(images, masked.to(images.dtype))
    assert torch.equal(images, plan.apply(unmixed))
    assert images.stride() == unmixed.stride()
    assert torch.equal(targets, plan.mix_targets(labels, NUM_CLASSES, 0.1))
    if batch_size > 2 and mix.prob == 1:
        assert not torch.equal(images, unmixed)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"epoch": 1}, {"step": 1}, {"rank": 1}])
def test_a_plan_belongs_to_one_step_of_one_run(changed: dict[str, int]) -> None:
    name = {"seed": 0, "epoch": 0, "step": 0, "rank": 0}
    plan, same, other = (plan_for(MIX, 8, 32, 32, **parts) for parts in (name, name, name | changed))
    assert torch.equal(plan.boxes, same.boxes)
    assert not torch.equal(plan.boxes, other.boxes)
    drawn = MIX.draw(8, 32, 32, generator=generator_for(0, Stream.MIX, 0, 0, 0))
    assert torch.equal(plan.boxes, drawn.boxes)


@pytest.mark.parametrize("key", [None, (0, 0)])
def test_samples_are_only_read_and_a_batch_is_never_written_again(key: tuple[int, int] | None) -> None:
    samples, pristine = _samples(key=key), _samples()
    collate_fn = MixCollate(CutMix(per="pair"), NUM_CLASSES)
    first = collate_fn(samples)
    kept = [tensor.clone() for tensor in first]
    for _ in range(3):
        collate_fn(samples)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(first, kept, strict=True))
    first[0].zero_()
    assert all(torch.equal(sample[0], untouched[0]) for sample, untouched in zip(samples, pristine, strict=True))


def test_global_generators_are_not_touched() -> None:
    before = global_states()
    MixCollate(MIX, NUM_CLASSES)(_samples())
    MixCollate(MIX, NUM_CLASSES)(_samples(key=(0, 0)))
    assert global_states() == before


def test_without_keys_the_worker_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = _samples(8)

    def batches(collate_fn: MixCollate, worker_seed: int | None) -> list[bytes]:
        worker = None if worker_seed is None else SimpleNamespace(seed=worker_seed)
        monkeypatch.setattr(drawing, "get_worker_info", lambda: worker)
        return [collate_fn(samples)[0].numpy().tobytes() for _ in range(2)]

    used = MixCollate(MIX, NUM_CLASSES)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        main = batches(used, None)
        assert main == batches(MixCollate(MIX, NUM_CLASSES), None)
        torch.manual_seed(5)
        assert main != batches(MixCollate(MIX, NUM_CLASSES), None)
    # a collate that was used before goes on from its worker's seed, not from what it drew
    copies = [batches(pickle.loads(pickle.dumps(used)), seed) for seed in (1, 2)]
    assert copies == [batches(MixCollate(MIX, NUM_CLASSES), seed) for seed in (1, 2)]
    assert len({main[0], main[1], *copies[0], *copies[1]}) == 6
    others = [MixCollate(MIX, NUM_CLASSES, seed=1), MixCollate(MIX, NUM_CLASSES, rank=1)]
    assert copies[0] not in [batches(other, 1) for other in others]


def test_the_switch() -> None:
    collate_fn, samples = MixCollate(MIX, NUM_CLASSES, smoothing=0.1), _samples()
    assert isinstance(collate_fn, FastCollateMixup)
    assert collate_fn.mixup_enabled is True
    collate_fn.mixup_enabled = False
    assert collate_fn.mixup_enabled is False
    images, targets = collate_fn(samples)
    assert torch.equal(images, torch.stack([image for image, _ in samples]))
    on, off = 0.91, 0.01
    expected = torch.full((6, NUM_CLASSES), off).scatter_(1, torch.arange(6).unsqueeze(1), on)
    torch.testing.assert_close(targets, expected)
    collate_fn.mixup_enabled = True
    assert not torch.equal(collate_fn(samples)[0], images)


def _is_mixed(targets: Tensor) -> bool:
    """Whether a smoothed target has two classes above the floor."""
    return bool(((targets > 0.0101).sum(1) > 1).any())


def _check_switch(loader: PrefetchLoader) -> None:
    for enabled in (True, False, True):
        loader.mixup_enabled = enabled
        assert loader.mixup_enabled is enabled
        batches = list(loader)
        assert [images.shape for images, _ in batches] == [(6, 3, 16, 16)] * len(batches)
        assert all(targets.shape == (6, NUM_CLASSES) for _, targets in batches)
        assert [_is_mixed(targets) for _, targets in batches] == [enabled] * len(batches)
        if not enabled:
            peak = torch.tensor([0.91]).expand(6)
            assert all(torch.allclose(targets.amax(1), peak) for _, targets in batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_switch_in_timms_loader(num_workers: int) -> None:
    loader = create_loader(
        Images(),
        input_size=(3, 16, 16),
        batch_size=6,
        is_training=True,
        no_aug=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=MixCollate(MIX, NUM_CLASSES, smoothing=0.1),
        device=torch.device("cpu"),
    )
    assert isinstance(loader, PrefetchLoader)
    _check_switch(loader)
    images, _ = next(iter(loader.loader))
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_switch_in_spawned_workers() -> None:
    collate_fn = MixCollate(MIX, NUM_CLASSES, smoothing=0.1)
    collate_fn(_samples())  # what it drew here must not be in the way
    loader = DataLoader(
        SpawnImages(),
        batch_size=6,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context="spawn",
        collate_fn=collate_fn,
    )
    _check_switch(PrefetchLoader(loader, device=torch.device("cpu")))


def test_a_worker_writes_into_shared_memory() -> None:
    loader = DataLoader(Images(), batch_size=6, num_workers=1, collate_fn=_SharedReport(MIX, NUM_CLASSES))
    assert [images.item() for images, _ in loader] == [1] * 4
    assert not MixCollate(MIX, NUM_CLASSES)(_samples())[0].is_shared()


class _SharedReport(MixCollate):
    """Says whether the batch was in shared memory when it was finished."""

    def __call__(self, batch: list[tuple[Any, ...]], _: object = None) -> tuple[Tensor, Tensor]:
        images, targets = super().__call__(batch)
        return torch.tensor(int(images.is_shared())), targets


def _epoch(num_workers: int, *, keyed: bool, collate_fn: MixCollate) -> list[Tensor]:
    loader = DataLoader(
        Images(size=24, period=6, keyed=keyed), batch_size=6, num_workers=num_workers, collate_fn=collate_fn
    )
    return [images for images, _ in loader]


def test_with_keys_the_number_of_workers_changes_nothing() -> None:
    alone, together = (
        _epoch(num_workers, keyed=True, collate_fn=MixCollate(MIX, NUM_CLASSES, seed=1)) for num_workers in (0, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_without_keys_every_batch_of_every_worker_has_its_own_plan() -> None:
    collate_fn = MixCollate(MIX, NUM_CLASSES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batches = _epoch(0, keyed=False, collate_fn=collate_fn)  # the collate is used before it is forked
        torch.manual_seed(0)
        first = _epoch(2, keyed=False, collate_fn=collate_fn)
        torch.manual_seed(0)
        again = _epoch(2, keyed=False, collate_fn=collate_fn)
    # all batches hold the same images, so only the plans differ
    assert len({batch.numpy().tobytes() for batch in batches + first}) == 8
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


IMAGE = torch.zeros(3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize("collate_fn", [collate_samples, MixCollate(MIX, NUM_CLASSES)], ids=["stack", "mix"])
@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([], ValueError, "at least one sample, got none"),
        ([(IMAGE, 0), (IMAGE[:, :3], 0)], ValueError, r"one shape and dtype, .*\(3, 4, 4\) and uint8 \(3, 3, 4\)"),
        ([(IMAGE, 0), (IMAGE.float(), 0)], ValueError, "one shape and dtype, got uint8 .* and float32"),
        ([(IMAGE,)], TypeError, r"a sample must be \(image, label\) or .*, got tuple of \(Tensor\)"),
        ([(IMAGE, 0, 7)], TypeError, r"a sample must be .* got tuple of \(Tensor, int, int\)"),
        ([IMAGE], TypeError, r"a sample must be .* got Tensor of shape \(3, 4, 4\)"),
        ([((IMAGE, IMAGE), 0)], TypeError, r"an image must be .* got tuple of \(Tensor, Tensor\)"),
        ([(IMAGE[0], 0)], TypeError, r"an image must be .* \(C, H, W\), got Tensor of shape \(4, 4\)"),
        ([("cat.png", 0)], TypeError, "an image must be .* got str"),
        ([(IMAGE.bfloat16(), 0)], TypeError, "an image must be a CPU tensor .* BFloat16"),
        ([(IMAGE, "cat")], TypeError, "a label must be an integer, a number, a row of numbers or a mask, got str"),
        ([(IMAGE, [0, 1])], TypeError, "a label must be an integer.*got int64 of shape .2,.: give several labels"),
        ([(IMAGE, 0.5), (IMAGE, [0.5])], ValueError, r"of one kind and shape, got float64 \(\) and float64 \(1,\)"),
        ([(IMAGE, 0.5), (IMAGE, 1)], ValueError, "of one kind and shape, got float64 .* and int64"),
        ([(IMAGE, 0), (IMAGE, 0, SampleKey(0, 0, 1))], TypeError, "all samples of a batch have a key, or none; got 1"),
    ],
)
def test_refused_samples(
    collate_fn: Callable[[list[Any]], Any], samples: list[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        collate_fn(samples)


def test_a_label_outside_the_classes_is_named() -> None:
    with pytest.raises(ValueError, match=r"label 5 is outside \[0, 5\)"):
        MixCollate(MIX, num_classes=5)(_samples(6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"num_classes": 2, "smoothing": -0.1}, "smoothing must be a number from 0 to 1"),
        ({"num_classes": None, "smoothing": 0.1}, "smoothing needs num_classes, got smoothing=0.1 without"),
        ({"num_classes": 2, "epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"num_classes": 2, "reuse": -1}, "reuse must be a whole number of at least 0, got -1"),
        ({"num_classes": 2, "reuse": 1.5}, "reuse must be a whole number of at least 0, got 1.5"),
        ({"num_classes": 2, "seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"num_classes": 2, "rank": "0"}, "rank must be a whole number of at least 0, got '0'"),
        ({"num_classes": 2, "rank": -1}, "rank must be a whole number of at least 0, got -1"),
        ({"num_classes": 2, "ignore_index": "x"}, "ignore_index must be a whole number, got 'x'"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixCollate(MIX, **settings)


@pytest.mark.parametrize("mix", ["cutmix", None, 10])
def test_what_is_no_method_is_refused_at_once(mix: Any) -> None:
    with pytest.raises(TypeError, match=r"mix must be a mixing method such as CutMix\(\), got"):
        MixCollate(mix, NUM_CLASSES)


@pytest.mark.parametrize("depths", [(1,), (0, 2)])
def test_maps_inside_a_network_are_out_of_reach(depths: tuple[int, ...]) -> None:
    for mix in (FeatureMix(CutMix(), depths), OneOf([Mixup(), Scheduled(FeatureMix(CutMix(), depths))])):
        with pytest.raises(ValueError, match="the network, which neither collate nor transform has: use mix_features"):
            MixCollate(mix, NUM_CLASSES)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("size", [32, 150], ids=["small", "large"])
@pytest.mark.parametrize("mix", CANONICAL.values(), ids=CANONICAL)
def test_with_a_key_every_method_mixes_as_on_the_device(mix: MixMethod, size: int, as_tensor: bool) -> None:
    batch_size, epochs = 7, 4
    arrays = [_image(i, size, size).transpose(2, 0, 1) for i in range(batch_size)]
    assert (arrays[0].nbytes >= 64 * 1024) == (size > 32)
    stacked, labels = torch.from_numpy(np.stack(arrays)), torch.arange(batch_size)
    collate_fn = MixCollate(mix, NUM_CLASSES, smoothing=0.1, seed=9, rank=1, epochs=epochs)
    changed = 0
    for step in range(3):
        images = [torch.from_numpy(array) if as_tensor else array for array in arrays]
        samples = [(image, i, SampleKey(3, step, index=20 + i)) for i, image in enumerate(images)]
        mixed, targets = collate_fn(samples)
        context = {"progress": 3 / epochs, "images": stacked}
        plan = plan_for(mix, batch_size, size, size, seed=9, epoch=3, step=step, rank=1, **context)
        assert torch.equal(mixed, plan.apply(stacked))
        assert torch.equal(targets, plan.mix_targets(labels, NUM_CLASSES, 0.1))
        changed += not torch.equal(mixed, stacked)
    assert changed
    assert all(np.array_equal(array.transpose(1, 2, 0), _image(i, size, size)) for i, array in enumerate(arrays))


def _keyed(labels: Any) -> list[tuple[Any, ...]]:
    return [(sample[0], label, sample[2]) for sample, label in zip(_samples(len(labels), (3, 5)), labels, strict=True)]


def _plan(mix: MixMethod, batch_size: int = 6) -> Any:
    """The plan of the batches that :func:`_keyed` makes."""
    return plan_for(mix, batch_size, 12, 10, seed=0, epoch=3, step=5, rank=0)


@pytest.mark.parametrize("num_classes", [NUM_CLASSES, None])
@pytest.mark.parametrize("mix", [MIX, Mixup(per="sample")], ids=repr)
def test_rows_of_soft_or_several_labels(mix: MixMethod, num_classes: int | None) -> None:
    rows = torch.rand(6, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    for dense in (rows, (rows > 0.7).float()):
        for given in (dense, dense.numpy(), dense.double().tolist()):
            _, targets = MixCollate(mix, num_classes)(_keyed(given))
            assert targets.dtype == torch.float32
            assert torch.equal(targets, _plan(mix).mix_targets(dense, NUM_CLASSES))


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 2, 3)])
def test_values_are_averaged(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plan = _plan(Mixup(per="sample"))
    for given in (values, values.numpy(), values.tolist()):
        _, targets = MixCollate(Mixup(per="sample"), None)(_keyed(given))
        assert torch.equal(targets, plan.mix_values(values))
    for i in range(6):
        expected = plan.lam[i] * values[i] + (1 - plan.lam[i]) * values[plan.partner[i]]
        torch.testing.assert_close(targets[i], expected)


@pytest.mark.parametrize("num_classes", [NUM_CLASSES, None])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("mix", [MIX, Cutout(4, fill=(0.0,))], ids=repr)
def test_masks_are_cut_and_pasted(mix: MixMethod, dtype: type, num_classes: int | None) -> None:
    masks = np.random.default_rng(0).integers(0, NUM_CLASSES, (6, 12, 10)).astype(dtype)
    _, targets = MixCollate(mix, num_classes)(_keyed(masks))
    assert targets.dtype == torch.from_numpy(masks).dtype
    assert torch.equal(targets, _plan(mix).apply_masks(torch.from_numpy(masks)))
    assert (255 in targets) == isinstance(mix, Cutout)
    assert not np.array_equal(targets.numpy(), masks)


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([0, 1, 2], {"num_classes": None}, "num_classes must be given where labels are classes"),
        (
            np.zeros((3, 12, 10), np.float32),
            {"num_classes": None},
            r"labels of shape \(3, 12, 10\) are maps of the images' size, .*: mix them as further images",
        ),
        ([0.5, 1.5, 2.5], {"num_classes": NUM_CLASSES}, "mix other values with mix_values .num_classes=None."),
        (np.eye(3), {"num_classes": 4}, "floating-point labels must be 3 rows of 4 numbers"),
        (np.eye(3), {"num_classes": 3, "smoothing": 0.1}, "smoothing is for integer labels"),
        (np.zeros((3, 10, 12), int), {"num_classes": None}, "the plan was drawn for 3 images of 12 x 10 pixels"),
        (np.zeros((3, 12, 10), int), {"num_classes": None, "keep_plan": True}, "masks are cut and pasted like their"),
        (np.zeros((3, 12, 10), int), {"num_classes": 3, "smoothing": 0.1}, "smoothing is for one label an image"),
        (np.zeros((3, 12, 10), int), {"num_classes": 3, "mix": Mixup()}, "BlendPlan blends images, so a pixel of the"),
    ],
    ids=str,
)
def test_labels_that_do_not_fit(labels: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixCollate(**({"mix": MIX} | settings))(_keyed(labels))


@pytest.mark.parametrize("mix", [MIX, Mixup(), CutMix(prob=0.0)], ids=repr)
def test_a_kept_plan_has_the_same_dense_target(mix: MixMethod) -> None:
    rows, classes = torch.eye(NUM_CLASSES)[:6], list(range(6))
    for labels, num_classes, smoothing in ((classes, NUM_CLASSES, 0.1), (rows, NUM_CLASSES, 0.0), (rows, None, 0.0)):
        samples, plan = _keyed(labels), _plan(mix)
        images, target = MixCollate(mix, num_classes, smoothing, keep_plan=True)(samples)
        expected_images, dense = MixCollate(mix, num_classes, smoothing)(samples)
        assert isinstance(target, MixedTarget)
        assert torch.equal(images, expected_images)
        assert torch.equal(target.dense(), dense)
        assert torch.equal(target.labels, torch.as_tensor(labels))
        for name in ("sources", "label_shares", "boxes"):
            assert torch.equal(getattr(target, name), getattr(plan, name))
    # without the number of classes the plan is kept all the same, for a loss on hard labels
    assert MixCollate(mix, None, keep_plan=True)(_keyed(classes))[1].lam.tolist() == plan.lam.tolist()


@pytest.mark.parametrize("reuse", [1, 3])
def test_buffers_come_round_after_as_many_batches(reuse: int) -> None:
    collate_fn, fresh = (MixCollate(MIX, NUM_CLASSES, reuse=count) for count in (reuse, 0))
    batches, contents = [], []
    for step in range(3 * reuse):
        samples = _samples(key=(0, step))
        batches.append(collate_fn(samples)[0])
        contents.append(fresh(samples)[0])
        assert batches[-1].stride() == contents[-1].stride()
        # the batch and those before it that have not come round yet
        for i in range(max(0, step - reuse + 1), step + 1):
            assert torch.equal(batches[i], contents[i])
        if step >= reuse:
            assert batches[step].data_ptr() == batches[step - reuse].data_ptr()
            assert torch.equal(batches[step - reuse], contents[step])
    assert len({batch.data_ptr() for batch in batches}) == reuse


def test_batches_of_other_layouts_have_buffers_of_their_own() -> None:
    collate_fn = MixCollate(MIX, NUM_CLASSES, reuse=1)
    first, _ = collate_fn(_samples(6, key=(0, 0)))
    kept = first.clone()
    smaller, _ = collate_fn(_samples(4, key=(0, 1)))
    floats, _ = collate_fn([(image.float(), label) for image, label in _samples(6)])
    flat, _ = collate_fn([(image.contiguous(), label) for image, label in _samples(6)])
    assert [smaller.shape[0], floats.dtype, flat.is_contiguous()] == [4, torch.float32, True]
    assert torch.equal(first, kept)
    collate_fn(_samples(6, key=(0, 2)))
    assert not torch.equal(first, kept)


@pytest.fixture(params=sorted(get_all_sharing_strategies()))
def _sharing(request: pytest.FixtureRequest) -> Iterator[None]:
    before = get_sharing_strategy()
    set_sharing_strategy(request.param)
    yield
    set_sharing_strategy(before)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.usefixtures("_sharing")
def test_buffers_in_a_worker(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, eight batches, three buffers, and every batch is kept: each ends as the last one of its buffer."""
    if large:
        monkeypatch.setattr(memory, "LARGE", 1)  # a forked worker allocates as it does from 4 MiB on
    settings = {"batch_size": 3, "num_workers": 1}
    collate_fn = MixCollate(MIX, NUM_CLASSES, reuse=3)
    collate_fn([Images()[i] for i in range(3)])  # the memory of this process is not the worker's
    kept = [images for images, _ in DataLoader(Images(keyed=True), collate_fn=collate_fn, **settings)]
    fresh = [
        images for images, _ in DataLoader(Images(keyed=True), collate_fn=MixCollate(MIX, NUM_CLASSES), **settings)
    ]
    assert len({images.numpy().tobytes() for images in fresh}) == 8
    for i, images in enumerate(kept):
        last = max(j for j in range(8) if j % 3 == i % 3)
        assert torch.equal(images, fresh[last])


@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_with_enough_buffers_is_never_too_fast(persistent: bool) -> None:
    # prefetch_factor + 2, and each batch is used up before the next is asked for
    loader = DataLoader(
        Images(keyed=True),
        batch_size=3,
        num_workers=1,
        prefetch_factor=2,
        persistent_workers=persistent,
        collate_fn=MixCollate(MIX, NUM_CLASSES, reuse=4),
    )
    expected = DataLoader(Images(keyed=True), batch_size=3, collate_fn=MixCollate(MIX, NUM_CLASSES))
    for _ in range(2):
        for (images, targets), (expected_images, expected_targets) in zip(loader, expected, strict=True):
            assert torch.equal(images, expected_images)
            assert torch.equal(targets, expected_targets)


class UnevenStream(IterableDataset):
    """24 batches of three from the first worker, one from each other; every pixel says which worker and batch."""

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        worker = get_worker_info().id
        for index in range(3 if worker else 72):
            yield np.full((3, 16, 16), 30 * worker + index // 3, np.uint8), 0


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
def test_enough_buffers_of_a_stream_are_those_of_all_workers_batches() -> None:
    """When the other workers have ended, the first one takes over their batches: prefetch_factor + 2 are too few."""
    workers, prefetch = 4, 2
    loader = DataLoader(
        UnevenStream(),
        batch_size=3,
        num_workers=workers,
        prefetch_factor=prefetch,
        collate_fn=MixCollate(CutMix(prob=0.0), NUM_CLASSES, reuse=prefetch * workers + 2),
    )
    seen = []
    for images, _ in loader:
        time.sleep(0.02)  # a training step, in which a worker makes all the batches that it is allowed to
        assert len(images.unique()) == 1
        seen.append(int(images[0, 0, 0, 0]))
    assert sorted(seen) == [*range(24), 30, 60, 90]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_delivered_batch_never_changes(num_workers: int) -> None:
    loader = DataLoader(
        Images(keyed=True), batch_size=3, num_workers=num_workers, collate_fn=MixCollate(MIX, NUM_CLASSES)
    )
    copies = [images.clone() for images, _ in loader]
    kept = list(loader)
    assert len({images.data_ptr() for images, _ in kept}) == 8
    assert all(torch.equal(images, copy) for (images, _), copy in zip(kept, copies, strict=True))


def test_the_epoch_of_a_key_reaches_scheduled_methods() -> None:
    collate_fn = MixCollate(Scheduled(Mixup(1000.0), off_from=0.5), NUM_CLASSES, epochs=4)
    collate_fn.set_epoch(3)  # keys know better
    mixed = [
        not torch.equal(collate_fn(_samples(key=(epoch, 0)))[0], collate_samples(_samples())[0]) for epoch in range(5)
    ]
    assert mixed == [True, True, False, False, False]
    with pytest.raises(ValueError, match=r"Scheduled needs to know .* MixCollate and MixTransform need epochs="):
        MixCollate(Scheduled(MIX), NUM_CLASSES)(_samples(key=(0, 0)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_without_keys_the_epoch_is_set_and_reaches_running_workers(num_workers: int) -> None:
    collate_fn = MixCollate(Scheduled(Mixup(1000.0), off_from=0.5), NUM_CLASSES, epochs=4)
    loader = DataLoader(
        Images(size=24),
        batch_size=6,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=collate_fn,
    )
    mixed = []
    for epoch in (0, 3, 1, 2):
        collate_fn.set_epoch(epoch)
        mixed.append([_is_mixed(targets) for _, targets in loader])
    assert mixed == [[True] * 4, [False] * 4, [True] * 4, [False] * 4]
    with pytest.raises(ValueError, match="epoch must be below epochs=4, got 4"):
        collate_fn.set_epoch(4)
    with pytest.raises(ValueError, match="epoch must be a whole number of at least 0, got -1"):
        collate_fn.set_epoch(-1)


def test_the_arguments_of_timms_collate() -> None:
    mixing = {"mixup_alpha": 0.2, "cutmix_alpha": 0.3, "prob": 0.9, "switch_prob": 0.4, "mode": "elem"}
    collate_fn = MixCollate.from_timm(**mixing, correct_lam=False, label_smoothing=0.1, num_classes=NUM_CLASSES)
    assert isinstance(collate_fn, FastCollateMixup)
    assert collate_fn.plans.mix == method_from_timm(**mixing, correct_lam=False)
    assert (collate_fn.plans.num_classes, collate_fn.plans.smoothing) == (NUM_CLASSES, 0.1)
    assert collate_fn.plans.keep_plan is False
    minmax = MixCollate.from_timm(mixup_alpha=0.0, cutmix_minmax=[0.2, 0.8])
    assert minmax.plans.mix == CutMix(minmax=(0.2, 0.8), pairing="reverse")
    # timm's own default is 0.1
    assert (minmax.plans.num_classes, minmax.plans.smoothing) == (1000, 0.0)
    with pytest.raises(TypeError, match="label_smooth"):
        MixCollate.from_timm(label_smooth=0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_unmixed_batch_of_timms_collate(smoothing: float) -> None:
    settings = {"prob": 0.0, "num_classes": NUM_CLASSES, "label_smoothing": smoothing}
    images, targets = MixCollate.from_timm(**settings)(_samples())
    timms_images, timms_targets = FastCollateMixup(**settings)(_samples())
    assert torch.equal(images, timms_images)
    torch.testing.assert_close(targets, timms_targets)


@pytest.mark.parametrize("multi_label", [False, True])
def test_several_labels_an_image_as_in_timm(multi_label: bool) -> None:
    rows = (torch.rand(6, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) > 0.6).float()
    samples = [(image, row) for (image, _), row in zip(_samples(), rows, strict=True)]
    settings = {"prob": 0.0, "num_classes": NUM_CLASSES, "label_smoothing": 0.0}
    _, targets = MixCollate.from_timm(**settings, multi_label=multi_label)(samples)
    _, timms = FastCollateMixup(**settings, multi_label=True)(samples)
    assert torch.equal(targets, timms)
    assert torch.equal(targets, rows)


def test_timms_smoothing_of_several_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="label_smoothing of several labels an image is not defined here"):
        MixCollate.from_timm(multi_label=True, label_smoothing=0.1)


@pytest.mark.parametrize("batch", [MixCollate, MixTransform])
def test_the_ignored_class_of_masks_can_be_chosen(batch: Callable[..., Any]) -> None:
    masks = [np.ones((12, 10), np.int64) for _ in range(6)]
    mix = batch(Cutout(6, fill=0.0), None, ignore_index=-100)
    if batch is MixCollate:
        _, mixed = mix([(image, mask) for (image, _), mask in zip(_samples(), masks, strict=True)])
    else:
        _, mixed = mix((collate_samples(_samples())[0], torch.from_numpy(np.stack(masks))))
    assert mixed.unique().tolist() == [-100, 1]


def test_a_method_that_cannot_mix_the_samples_is_refused_by_the_first_batch() -> None:
    collate_fn = MixCollate(Chain([CutMix(), Cutout(4, prob=0.001, per="batch")]), NUM_CLASSES)
    collate_fn.mixup_enabled = False
    collate_fn(_samples())  # nothing is mixed
    collate_fn.mixup_enabled = True
    with pytest.raises(ValueError, match=r"^Cutout\(.* cannot mix this data: the fill of integer images must be given"):
        collate_fn(_samples())
    masks = [(image, np.zeros((12, 10), np.uint8)) for image, _ in _samples()]
    with pytest.raises(ValueError, match=r"^Mixup\(.* cannot mix this data: .* a pixel of the mask would have several"):
        MixCollate(OneOf([CutMix(), Mixup()], weights=[0.999, 0.001]), None)(masks)


def test_the_trial_of_the_first_batch_changes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    def batches() -> list[Tensor]:
        collate_fn = MixCollate(OneOf([MIX, Mixup(per="sample")]), NUM_CLASSES)
        return [collate_fn(_samples())[0] for _ in range(4)]

    tried = batches()
    monkeypatch.setattr(drawing, "try_methods", lambda *_: None)
    assert all(torch.equal(a, b) for a, b in zip(tried, batches(), strict=True))
