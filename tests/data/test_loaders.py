import multiprocessing
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.data.dataset import IterableImageDataset
from torch import Tensor
from torch.utils.data import Dataset, Subset, get_worker_info

from cutmix_zoo.data.datasets import open_split
from cutmix_zoo.data.loaders import eval_loader, train_loader
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.data.transforms import eval_transform, train_transform
from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import SampleKey, Stream, isolated_rng
from tests.conftest import global_states, leaves_files_open, random_image

SETTINGS = DataSettings("torch/cifar10", input_size=(3, 8, 9), batch_size=6, workers=0, pad=2, color_jitter=0.2)


class Images(Dataset):
    """Images of random pixels with the labels 0 to 4; sample ``broken`` cannot be read."""

    def __init__(self, size: int = 20, broken: int | None = None) -> None:
        self.size, self.broken = size, broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == self.broken:
            raise OSError("image file is truncated")
        return random_image(index, 8, 9), index % 5


def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
    """Stack images; beside the label put the key, the number of the worker, and its process."""
    worker = get_worker_info()
    rows = [[label, *key, worker.id if worker else -1, os.getpid()] for _, label, key in samples]
    return torch.stack([image for image, *_ in samples]), torch.tensor(rows)


def make(settings: DataSettings = SETTINGS, dataset: Any = None, **options: Any) -> Any:
    return train_loader(
        Images() if dataset is None else dataset,
        settings,
        collate_fn=collate,
        **{"num_classes": 5, "seed": 3, **options},
    )


def make_eval(settings: DataSettings = SETTINGS, dataset: Any = None, **options: Any) -> Any:
    return eval_loader(
        Images() if dataset is None else dataset, settings, **{"batch_size": 6, "num_classes": 5, **options}
    )


def with_workers(workers: int) -> DataSettings:
    return DataSettings(**{**vars(SETTINGS), "workers": workers})


def same(first: list[Any], second: list[Any], *, but_the_process: bool = False) -> bool:
    rows = (slice(None), slice(-2)) if but_the_process else slice(None)
    return len(first) == len(second) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1][rows], b[1][rows]) for a, b in zip(first, second, strict=True)
    )


def test_training_batches_are_what_their_keys_say() -> None:
    loader = make()
    assert len(loader) == 3
    transform, seen = train_transform(SETTINGS), []
    for step, (images, rows) in enumerate(loader.epoch(4)):
        assert (images.shape, images.dtype) == ((6, 3, 8, 9), torch.uint8)
        for image, (label, epoch, at, index, worker, _) in zip(images, rows.tolist(), strict=True):
            assert (label, epoch, at, worker) == (index % 5, 4, step, -1)
            with isolated_rng(3, Stream.AUGMENT, 4, index):
                assert torch.equal(image, transform(random_image(index, 8, 9)))
            seen.append(index)
    assert len(set(seen)) == 18


def test_workers_change_nothing_and_stay_from_epoch_to_epoch() -> None:
    alone, helped = make(), make(with_workers(2))
    before, processes = global_states(), set()
    for epoch, start in ((0, 0), (1, 0), (5, 2), (0, 0)):
        with_two = list(helped.epoch(epoch, start))
        assert same(list(alone.epoch(epoch, start)), with_two, but_the_process=True)
        processes |= {int(rows[0, -1]) for _, rows in with_two}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert global_states() == before, "the main process's own generators are not touched"


def test_closing_stops_the_workers_and_another_epoch_starts_new_ones() -> None:
    loader = make(with_workers(2))
    next(batches := loader.epoch(0))
    assert len(workers := multiprocessing.active_children()) == 2
    batches.close()
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert same(list(loader.epoch(1)), list(make().epoch(1)), but_the_process=True)
    loader.close()


def test_spawned_workers_change_nothing() -> None:
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        batches = list(make(with_workers(1)).epoch(1))
    finally:
        multiprocessing.set_start_method(method, force=True)
    assert same(list(make().epoch(1)), batches, but_the_process=True)


def test_an_epoch_can_be_left_and_taken_up_again() -> None:
    for settings in (SETTINGS, with_workers(2)):
        whole, loader = list(make().epoch(2)), make(settings)
        iterator = loader.epoch(2)
        first = next(iterator)
        iterator.close()
        assert same([first, *loader.epoch(2, 1)], whole, but_the_process=True)
        assert same(list(make(settings).epoch(2, 2)), whole[2:], but_the_process=True)
        assert list(loader.epoch(2, 3)) == []


def test_two_ranks_divide_the_batches_of_one() -> None:
    whole = list(make().epoch(1))
    parts = [list(make(rank=rank, world_size=2).epoch(1)) for rank in range(2)]
    union = [tuple(torch.cat(pair) for pair in zip(*step, strict=True)) for step in zip(*parts, strict=True)]
    assert same(whole, union)


def test_the_seed_counts() -> None:
    assert same(list(make(seed=4).epoch(0)), list(make(seed=4).epoch(0)))
    assert not same(list(make(seed=4).epoch(0)), list(make().epoch(0)))


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(UserError, match=r"expected a multiple of 4, got 6"):
        make(world_size=4)


def test_a_dataset_smaller_than_a_batch() -> None:
    with pytest.raises(UserError, match=r"the dataset has 5 images, less than a batch"):
        make(dataset=Images(5))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": Images(broken=9)}, "cannot read sample 9 of the dataset: image file is truncated"),
        (
            {"num_classes": 4},
            "label 4 is outside the 4 classes: expected 0 to 3; set the number of classes to that of the dataset",
        ),
    ],
)
def test_what_goes_wrong_in_a_worker_arrives_as_one_line(options: dict[str, Any], message: str, workers: int) -> None:
    for batches in (make(with_workers(workers), **options).epoch(0), make_eval(with_workers(workers), **options)):
        assert error_of(batches) == message


def error_of(batches: Any) -> str:
    # not pytest.raises, which keeps the traceback and with it the workers until a garbage collection
    try:
        list(batches)
    except UserError as error:
        return str(error)
    return "none"


def test_a_defect_keeps_its_type() -> None:
    def broken(samples: list[Any]) -> Any:
        raise KeyError("a defect")

    with pytest.raises(KeyError, match=r"a defect"):
        list(train_loader(Images(), SETTINGS, collate_fn=broken, num_classes=5, seed=0).epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once(workers: int) -> None:
    transform = eval_transform(SETTINGS)
    before = global_states()
    for world_size in (1, 3):
        seen = []
        for rank in range(world_size):
            loader = make_eval(with_workers(workers), batch_size=4, rank=rank, world_size=world_size)
            assert loader.size == 20
            batches = list(loader)
            assert same(batches, list(loader))
            place = rank
            for images, labels in batches:
                assert (labels.dtype, images.dtype) == (torch.int64, torch.uint8)
                assert len(images) == 4 or images is batches[-1][0]
                for image, label in zip(images, labels.tolist(), strict=True):
                    assert torch.equal(image, transform(random_image(place, 8, 9)))
                    assert label == place % 5
                    seen.append(place)
                    place += world_size
        assert sorted(seen) == list(range(20))
    assert global_states() == before


def test_a_part_of_the_training_set_can_be_evaluated() -> None:
    ((images, labels),) = make_eval(dataset=Subset(Images(), [4, 2, 11]))
    assert labels.tolist() == [4, 2, 1]
    assert torch.equal(images[2], eval_transform(SETTINGS)(random_image(11, 8, 9)))


def test_memory_is_pinned_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Spy(torch.utils.data.DataLoader):
        def __init__(self, *args: Any, pin_memory: bool, **options: Any) -> None:
            asked.append(pin_memory)
            super().__init__(*args, **options)

    monkeypatch.setattr("cutmix_zoo.data.loaders.DataLoader", Spy)
    for build in (make, make_eval):
        for device in (None, torch.device("cpu"), torch.device("cuda")):
            build(with_workers(0), device=device)
    assert asked == [False, False, True] * 2


@pytest.mark.parametrize(("workers", "batch_size", "started"), [(3, 6, 3), (3, 10, 2), (3, 20, 1), (0, 6, 0)])
def test_no_more_workers_evaluate_than_there_are_batches(workers: int, batch_size: int, started: int) -> None:
    loader = make_eval(with_workers(workers), batch_size=batch_size)
    assert loader._loader.num_workers == started
    assert sum(len(labels) for _, labels in loader) == 20


class Reader:
    """A stream as timm's readers make them: shares for ranks and workers, an order from epoch and worker seed.

    Like timm's reader of webdatasets it carries the state of its shuffle from one epoch to the next.
    """

    def __init__(self, num_samples: int, batch_size: int, *, training: bool) -> None:
        self.num_samples, self.batch_size, self.training = num_samples, batch_size, training
        self.dist_rank, self.dist_num_replicas, self.num_workers = 0, 1, 1
        self.epoch, self.shuffle = 0, None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def set_loader_cfg(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def _share(self) -> int:
        share = -(-self.num_samples // (self.num_workers * self.dist_num_replicas))
        return -(-share // self.batch_size) * self.batch_size

    def __len__(self) -> int:
        return self._share() * self.num_workers

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        info = get_worker_info()
        assert info is not None
        first, step = self.dist_rank * info.num_workers + info.id, info.num_workers * self.dist_num_replicas
        places = list(range(first, self.num_samples, step))
        if self.training:
            self.shuffle = self.shuffle or random.Random(info.seed)
            self.shuffle.shuffle(places)
            places = (places * self.num_samples)[: self._share()]
        for place in places:
            yield random_image(place, 8, 9), place % 5


def stream(rank: int = 0, world_size: int = 1, *, training: bool = True) -> IterableImageDataset:
    reader = Reader(32, 6 // world_size, training=training)
    if training:
        reader.dist_rank, reader.dist_num_replicas = rank, world_size
    return IterableImageDataset("", reader=reader)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_has_the_keys_of_its_batches(workers: int) -> None:
    loader = make(with_workers(workers), stream())
    batches = list(loader.epoch(7))
    assert len(loader) == len(batches) == 6
    transform, indices = train_transform(SETTINGS), []
    for step, (images, rows) in enumerate(batches):
        assert len(images) == 6
        for image, (label, epoch, at, index, worker, _) in zip(images, rows.tolist(), strict=True):
            assert (epoch, at, worker) == (7, step, step % max(1, workers))
            candidates = []
            for place in range(label, 32, 5):
                with isolated_rng(3, Stream.AUGMENT, 7, index):
                    candidates.append(transform(random_image(place, 8, 9)))
            assert any(torch.equal(image, candidate) for candidate in candidates)
            indices.append(index)
    assert sorted(indices) == list(range(36))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_repeats_any_epoch_whatever_came_before(workers: int) -> None:
    settings = with_workers(workers)
    loader = make(settings, stream())
    before = global_states()
    epochs = [list(loader.epoch(epoch)) for epoch in range(3)]
    assert global_states() == before
    orders = [[label for _, rows in epoch for label in rows[:, 0].tolist()] for epoch in epochs]
    assert orders[0] != orders[1], "the reader's own shuffle is another one each epoch"
    assert same(list(make(settings, stream()).epoch(2)), epochs[2], but_the_process=True)
    assert same(list(make(settings, stream()).epoch(2, 4)), epochs[2][4:], but_the_process=True)
    assert not same(list(make(settings, stream(), seed=9).epoch(2)), epochs[2], but_the_process=True)


def test_ranks_of_a_stream_have_keys_of_their_own() -> None:
    indices = []
    for rank in range(2):
        loader = make(with_workers(2), stream(rank, 2), rank=rank, world_size=2)
        assert len(loader) == 6
        for images, rows in loader.epoch(0):
            assert len(images) == 3
            indices += rows[:, 3].tolist()
    assert len(set(indices)) == len(indices) == 36


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_stream_is_divided_exactly(workers: int) -> None:
    transform = eval_transform(SETTINGS)
    expected = sorted(transform(random_image(place, 8, 9)).numpy().tobytes() for place in range(32))
    for world_size in (1, 3):
        seen = []
        for rank in range(world_size):
            dataset = stream(training=False)
            loader = make_eval(with_workers(workers), dataset, rank=rank, world_size=world_size)
            assert loader.size == 32
            seen += [image.numpy().tobytes() for images, _ in loader for image in images]
        assert sorted(seen) == expected


@leaves_files_open
def test_webdataset(webdataset_folder: Path) -> None:
    pytest.importorskip("webdataset")
    settings = DataSettings(
        "wds/",
        root=str(webdataset_folder),
        input_size=(3, 8, 8),
        mean=(0.5,),
        std=(0.5,),
        batch_size=4,
        workers=2,
        pad=0,
    )
    val = make_eval(settings, open_split(settings, "val"))
    places = [int(image[0, 0, 0]) for images, _ in val for image in images]
    assert sorted(places) == list(range(24))
    loader = make(settings, open_split(settings, "train", seed=3))
    epochs = [list(loader.epoch(epoch)) for epoch in range(3)]
    assert [len(epoch) for epoch in epochs] == [len(loader)] * 3 == [6] * 3
    orders = [[int(image[0, 0, 0]) for images, _ in epoch for image in images] for epoch in epochs]
    assert sorted(orders[0]) == list(range(24))
    assert orders[0] != orders[1]
    for step, (_, rows) in enumerate(epochs[1]):
        assert {SampleKey(*row[1:3], 0) for row in rows.tolist()} == {SampleKey(1, step, 0)}
    again = make(settings, open_split(settings, "train", seed=3))
    assert same(list(again.epoch(2)), epochs[2], but_the_process=True)


@leaves_files_open
@pytest.mark.parametrize(
    ("workers", "world_size", "advice"),
    [
        (5, 1, r"each of 5 workers \(5 in each of 1 processes\) .* set data.workers to 4 or less, or .* 5 shards$"),
        (3, 2, r"each of 6 workers \(3 in each of 2 processes\) .* set data.workers to 2 or less, or .* 6 shards$"),
        (0, 5, r"each of 5 workers \(1 in each of 5 processes\) .*: start fewer processes, or .* 5 shards$"),
    ],
)
def test_a_webdataset_has_a_shard_for_each_worker(
    workers: int, world_size: int, advice: str, webdataset_folder: Path
) -> None:
    pytest.importorskip("webdataset")
    root = str(webdataset_folder)
    settings = DataSettings("wds/", root, input_size=(3, 8, 8), mean=(0.5,), std=(0.5,), batch_size=30, workers=workers)
    dataset = open_split(settings, "train", world_size=world_size)
    with pytest.raises(UserError, match=rf"^split 'train' of wds/ has 4 shards, and {advice}"):
        make(settings, dataset, world_size=world_size)
    make(DataSettings(**{**vars(settings), "workers": min(workers, 2)}), dataset, world_size=2)


@pytest.mark.parametrize("start", [0, 2, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_ends_early_is_an_error(workers: int, start: int) -> None:
    class Short(Reader):
        def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
            info = get_worker_info()
            # of two workers the second has nothing, as one without a shard
            yield from [] if info.id else list(super().__iter__())[:18]

    loader = make(with_workers(workers), IterableImageDataset("", reader=Short(32, 6, training=True)))
    assert len(loader) == 6
    assert error_of(loader.epoch(0, start)).startswith("the stream ended after 3 of the 6 batches of an epoch")
    batches = loader.epoch(0)
    assert [len(next(batches)[0]) for _ in range(3)] == [6] * 3, "what there is can be read"
    batches.close()


def test_a_dataset_that_does_not_tell_its_labels_cannot_be_balanced() -> None:
    expected = r"torch/cifar10 does not tell its labels .* its classes cannot be balanced; leave out data.balanced"
    with pytest.raises(UserError, match=expected):
        make(DataSettings(**{**vars(SETTINGS), "balanced": True}))


def test_a_copy_of_an_image_is_augmented_otherwise() -> None:
    class Labelled(Images):
        targets = (0,) * 19 + (1,)

    loader = make(DataSettings(**{**vars(SETTINGS), "balanced": True, "batch_size": 20}), Labelled())
    ((images, rows),) = loader.epoch(0)
    copies = images[rows[:, 3] % 20 == 19]
    assert len(copies) == 10
    assert len({image.numpy().tobytes() for image in copies}) == 10
