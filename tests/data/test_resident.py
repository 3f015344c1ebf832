import random
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from torchvision.transforms import functional as TF  # noqa: N812  torchvision's own documentation calls it so

from cutmix_zoo.data import loaders
from cutmix_zoo.data.loaders import TrainLoader, eval_loader, train_loader
from cutmix_zoo.data.resident import CropFlip, ResidentLoader, draw_crop_flip
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.errors import SampleError, UserError
from cutmix_zoo.mixing import collate_samples
from tests.conftest import global_states, random_image

CPU = torch.device("cpu")
SETTINGS = DataSettings("torch/cifar10", input_size=(3, 8, 9), batch_size=6, workers=0, pad=2)


class Images(Dataset):
    """Images of random pixels with the labels 0 to 4."""

    def __init__(self, *sizes: tuple[int, int], mode: str = "RGB", count: int = 20) -> None:
        self.sizes, self.mode, self.count = sizes or ((8, 9),), mode, count

    def __len__(self) -> int:
        return self.count

    @property
    def targets(self) -> list[int]:
        return [index % 5 for index in range(self.count)]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return random_image(index, *self.sizes[index % len(self.sizes)], self.mode), index % 5


def make(settings: DataSettings, dataset: Any = None, *, resident: bool = True, **options: Any) -> Any:
    options = {"num_classes": 5, "seed": 3, **options}
    dataset = Images() if dataset is None else dataset
    device = CPU if resident else None
    return train_loader(dataset, settings, collate_fn=collate_samples, device=device, **options)


def same(first: Any, second: Any) -> bool:
    pairs = list(zip(first, second, strict=True))
    return bool(pairs) and all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hflip": 0.0},
        {"hflip": 1.0},
        {"pad": 0},
        {"crop": "none"},
        {"workers": 2},
        {"balanced": True},
        {"input_size": (1, 8, 9), "mean": (0.5,), "std": (0.2,)},
        {"input_size": (3, 7, 7)},  # images that stand out over the crop on one side
        {"input_size": (3, 4, 9), "crop": "none"},
    ],
    ids=str,
)
def test_batches_are_those_of_the_streamed_path_bit_for_bit(changes: dict[str, Any]) -> None:
    settings = replace(SETTINGS, **changes)
    resident, streamed = make(settings), make(settings, resident=False)
    assert len(resident) == len(streamed) == 3
    for epoch, start in ((0, 0), (1, 0), (7, 2)):
        assert same(resident.epoch(epoch, start), streamed.epoch(epoch, start))
    resident.close()
    streamed.close()


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_has_its_part(rank: int) -> None:
    place = {"rank": rank, "world_size": 2}
    assert same(make(SETTINGS, **place).epoch(4), make(SETTINGS, resident=False, **place).epoch(4))


def cropped(image: Tensor, top: int, left: int, flip: bool, pad: int, height: int, width: int) -> Tensor:
    """One image, with torchvision."""
    crop = TF.crop(TF.pad(image, [pad] * 4), top, left, height, width)
    return TF.hflip(crop) if flip else crop


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_given_draws_are_applied_as_torchvision_does(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (7, 3, 6, 5), generator=generator).to(dtype)
    indices = torch.tensor([3, 3, 0, 6, 1])
    draws = CropFlip(torch.tensor([0, 4, 2, 1, 3]), torch.tensor([1, 0, 3, 2, 4]), torch.tensor([1, 0, 1, 0, 1]) > 0)
    padded = torch.nn.functional.pad(images, [2] * 4)
    result = draws.apply(padded, indices, 6, 5)
    for row, image in enumerate(result):
        top, left, flip = (int(values[row]) for values in (draws.top, draws.left, draws.flip))
        assert torch.equal(image, cropped(images[indices[row]], top, left, bool(flip), 2, 6, 5))
    assert torch.equal(padded, torch.nn.functional.pad(images, [2] * 4))


def test_draws_are_uniform_and_each_sample_has_its_own() -> None:
    indices = torch.arange(20_000)
    draws = draw_crop_flip(0, 0, indices, rows=9, columns=5, hflip=0.3)
    counts = torch.zeros(9, 5)
    counts.index_put_((draws.top, draws.left), torch.ones(20_000), accumulate=True)
    expected = 20_000 / 45
    # 44 degrees of freedom: 5 standard deviations above the mean of the statistic
    assert ((counts - expected) ** 2 / expected).sum() < 44 + 5 * (2 * 44) ** 0.5
    assert float(draws.flip.float().mean()) == pytest.approx(0.3, abs=5 * (0.21 / 20_000) ** 0.5)
    again, later = (draw_crop_flip(0, epoch, indices, rows=9, columns=5, hflip=0.3) for epoch in (0, 1))
    assert torch.equal(draws.top, again.top)
    assert float((draws.top == later.top).float().mean()) == pytest.approx(1 / 9, abs=0.02)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("workers", "count"), [(0, 11), (2, 11), (0, 1), (2, 1)])
def test_evaluation_sees_what_it_streams(workers: int, count: int, rank: int) -> None:
    """Of one image the second of two processes has none."""
    settings = replace(SETTINGS, workers=workers, crop_pct=0.8)
    options = {"batch_size": 4, "num_classes": 5, "rank": rank, "world_size": 2}
    resident = eval_loader(Images(count=count), settings, device=CPU, **options)
    streamed = eval_loader(Images(count=count), settings, **options)
    assert resident.size == streamed.size == count
    for _ in range(2):
        assert same(resident, streamed) or (list(resident) == list(streamed) == [] and count <= rank)


@pytest.mark.parametrize(
    ("changes", "sizes", "reason"),
    [
        ({"crop": "random_resized"}, (), "it is augmented by more than"),
        ({"color_jitter": 0.1}, (), "it is augmented by more than"),
        ({"lighting": 0.1}, (), "it is augmented by more than"),
        ({}, ((8, 9), (8, 12)), "its images are not of one size"),
        ({"batch_size": 1}, ((8, 9),) * 299 + ((8, 12),), "its images are not of one size"),
    ],
)
def test_what_cannot_stay_is_streamed_or_refused(changes: dict[str, Any], sizes: Any, reason: str) -> None:
    settings, images = replace(SETTINGS, **changes), Images(*sizes, count=300)
    assert isinstance(make(settings, images), TrainLoader)
    with pytest.raises(UserError, match=f"data.resident is true, but torch/cifar10 has to be streamed: {reason}"):
        make(replace(settings, resident=True), images)


def evaluated(settings: DataSettings, dataset: Any) -> bool:
    """Say whether evaluation images stay."""
    loader = eval_loader(dataset, settings, device=CPU, batch_size=6, num_classes=5)
    return isinstance(loader._loader, list)


def test_evaluation_images_stay_where_training_images_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not evaluated(replace(SETTINGS, crop="random_resized"), Images())
    for size, kept in ((20 * 3 * 8 * 9, True), (20 * 3 * 8 * 9 - 1, False)):
        monkeypatch.setattr(loaders, "RESIDENT_BYTES", size)
        assert evaluated(SETTINGS, Images()) is kept


class Unreadable(Images):
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        raise AssertionError("nothing should be decoded yet")


def test_mistakes_are_said_before_anything_is_decoded() -> None:
    with pytest.raises(UserError, match="less than a batch"):
        make(replace(SETTINGS, batch_size=21), Unreadable())
    with pytest.raises(UserError, match="expected a multiple of 4"):
        make(SETTINGS, Unreadable(), world_size=4)


def test_a_stream_cannot_stay() -> None:
    settings = replace(SETTINGS, name="wds/", mean=(0.5,), std=(0.2,), resident=True)

    class Stream(IterableDataset):
        reader = SimpleNamespace(num_samples=20)

        def __iter__(self) -> Any:
            raise AssertionError("nothing should be read yet")

    with pytest.raises(UserError, match="has to be streamed: it is a stream"):
        make(settings, Stream())
    with pytest.raises(UserError, match="has to be streamed: it is a stream"):
        evaluated(settings, Stream())


def test_auto_keeps_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = 20 * 3 * (8 + 4) * (9 + 4)
    for size, kept in ((padded, True), (padded - 1, False)):
        monkeypatch.setattr(loaders, "RESIDENT_BYTES", size)
        assert isinstance(make(SETTINGS), ResidentLoader) is kept
        assert isinstance(make(replace(SETTINGS, resident=True)), ResidentLoader)
        assert isinstance(make(replace(SETTINGS, resident=False)), TrainLoader)


def test_what_is_mixed_in_the_collate_is_streamed() -> None:
    mixing = partial(collate_samples)
    assert isinstance(
        train_loader(Images(), SETTINGS, collate_fn=mixing, num_classes=5, seed=3, device=CPU), TrainLoader
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_named(workers: int) -> None:
    class Broken(Images):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            if index == 13:
                raise OSError("image file is truncated")
            return super().__getitem__(index)

    with pytest.raises(SampleError, match=r"^cannot read sample 13 of the dataset: image file is truncated"):
        make(replace(SETTINGS, workers=workers), Broken())


def test_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(UserError, match="label 4 is outside the 4 classes"):
        make(SETTINGS, num_classes=4)


def test_pixels_do_not_depend_on_the_global_generators_and_leave_them_alone() -> None:
    before = global_states()
    images = [images for images, _ in make(SETTINGS).epoch(0)]
    assert global_states() == before
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    again = [images for images, _ in make(SETTINGS).epoch(0)]
    assert all(torch.equal(one, other) for one, other in zip(images, again, strict=True))
