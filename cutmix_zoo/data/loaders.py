"""Loaders: from a dataset of PIL images to the batches of a run, epoch by epoch."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from cutmix_zoo.data.datasets import dataset_size, is_random_access, need_labels
from cutmix_zoo.data.keyed import Keyed, KeyedStream, Plain, PlainStream, Prepare
from cutmix_zoo.data.resident import Images, ResidentLoader
from cutmix_zoo.data.sampler import KeyedBatchSampler, eval_indices, local_batch_size
from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.data.transforms import eval_transform, resident_transform, size_before_crop, train_transform
from cutmix_zoo.errors import SampleError, UserError
from cutmix_zoo.keys import Stream, generator_for
from cutmix_zoo.mixing import collate_samples

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from cutmix_zoo.data.settings import DataSettings

RESIDENT_BYTES = 1 << 30
"""A split of at most this size is kept on the device, unless the recipe says otherwise."""

Batch = tuple[Tensor, Tensor]
Collate = Callable[[list[Any]], Batch]
T = TypeVar("T")


class TrainLoader:
    """The training batches of one process, from any epoch and step on.

    Made by :func:`train_loader`. Two loaders with the same seed give the same batches, whatever was
    read before and however many workers read it; for streams see :class:`KeyedStream`.
    """

    def __init__(self, loader: DataLoader[Any], source: KeyedBatchSampler | KeyedStream, steps: int) -> None:
        self._loader, self._source, self._steps = loader, source, steps

    def __len__(self) -> int:
        """Count the steps of a whole epoch."""
        return self._steps

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch]:
        """Iterate over an epoch, or over the rest of it; over one at a time.

        Args:
            epoch: epoch, from 0.
            start_step: the first step wanted. A stream reads what comes before it and throws it away.

        Yields:
            What the collate function made of each batch.

        Raises:
            SampleError: when a sample cannot be read or has a label outside the classes, or a stream ends early.
        """
        source = self._source
        if isinstance(source, KeyedBatchSampler):
            source.set_position(epoch, start_step)
            yield from user_errors(self._loader)
        else:
            source.set_epoch(epoch)
            # the base seed of the workers, with which some readers shuffle
            self._loader.generator = generator_for(source.seed, Stream.SHUFFLE, epoch, source.rank)
            step = 0
            for step, batch in enumerate(islice(user_errors(self._loader), self._steps), start=1):
                if step > start_step:
                    yield batch
            if step < self._steps:
                raise SampleError(
                    f"the stream ended after {step} of the {self._steps} batches of an epoch: a worker got too few "
                    "samples, or none; see whether they can be read and data.input_key fits, or set data.workers to 1"
                )

    def close(self) -> None:
        """Stop the workers that are kept from epoch to epoch; another epoch starts new ones."""
        # torch has no name for it; left to the end of the process, each worker takes five seconds
        self._loader._iterator = None


class EvalLoader:
    """The evaluation batches of one process. Made by :func:`eval_loader`; iterate over it as often as you like.

    Args:
        loader: gives this process's batches, each time anew.
        size: number of images in the whole split, over all processes.
    """

    def __init__(self, loader: Iterable[Batch], size: int) -> None:
        self._loader, self.size = loader, size

    def __iter__(self) -> Iterator[Batch]:
        return user_errors(self._loader)


def train_loader(
    dataset: Any,
    settings: DataSettings,
    *,
    collate_fn: Collate,
    num_classes: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | None = None,
) -> TrainLoader | ResidentLoader:
    """Load augmented, keyed training batches.

    Args:
        dataset: what ``open_split(settings, "train")`` returned, or any dataset of (PIL image, label).
        settings: the data section of a recipe.
        collate_fn: from a list of (uint8 (C, H, W), label, :class:`SampleKey`) to a batch.
        num_classes: labels have to lie in [0, num_classes).
        seed: seed of the run.
        rank: this process.
        world_size: number of processes; each gets its part of ``settings.batch_size``.
        device: where the batches go. With :func:`~cutmix_zoo.mixing.collate_samples`, the images stay there where
            ``settings.resident`` and their kind allow it, in the batches that would be streamed. ``None`` to stream.

    Returns:
        A loader. An indexable dataset keeps its workers from epoch to epoch; a stream has at least one
        worker, and new ones each epoch, because timm's readers carry state from one epoch to the next.

    Raises:
        UserError: when the batch is larger than the dataset or does not divide among the processes, the classes are
            to be balanced of a dataset that does not tell its labels, a webdataset has fewer shards than workers, or
            the images cannot stay and ``settings.resident`` is True.
    """
    place: dict[str, Any] = {"seed": seed, "rank": rank, "world_size": world_size}
    kept_on = device if collate_fn is collate_samples else None
    prepare = Prepare(train_transform(settings), num_classes)
    common = {"collate_fn": collate_fn, **loader_options(device)}
    labels = _balanced_labels(dataset, settings)
    if not is_random_access(dataset):
        if kept_on is not None:
            _streamed(settings, "it is a stream")
        workers, local = _stream_workers(dataset, settings), local_batch_size(settings.batch_size, world_size)
        _check_shards(dataset, settings, workers, world_size)
        stream = KeyedStream(dataset, prepare, batch_size=local, **place)
        loader = DataLoader(stream, batch_size=local, drop_last=True, num_workers=workers, **common)
        return TrainLoader(loader, stream, len(dataset.reader) // local)
    # before anything is decoded, as it checks the batch size
    sampler = KeyedBatchSampler(len(dataset), settings.batch_size, labels=labels, **place)
    if kept_on is not None and _may_stay(dataset, settings, training=True):
        images = _load_images(dataset, Prepare(resident_transform(settings), num_classes), settings, kept_on)
        if images is not None:
            return ResidentLoader(images, settings, sampler)
    loader = DataLoader(
        Keyed(dataset, prepare, seed=seed),
        batch_sampler=sampler,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        **common,
    )
    return TrainLoader(loader, sampler, len(sampler))


def eval_loader(
    dataset: Any,
    settings: DataSettings,
    *,
    batch_size: int,
    num_classes: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | None = None,
) -> EvalLoader:
    """Load evaluation batches: every sample once over all processes, none twice, in a fixed order.

    Args:
        dataset: what ``open_split(settings, "val")`` returned, or any dataset of (PIL image, label).
        settings: the data section of a recipe.
        batch_size: images of a batch of this process.
        num_classes: labels have to lie in [0, num_classes).
        rank: this process.
        world_size: number of processes. Their shares may differ by one sample.
        device: where the batches go, and this process's share stays where ``settings.resident`` and the kind of images
            allow it. ``None`` to stream.

    Returns:
        A loader of images (B, C, H, W) uint8 and labels (B,) int64. Of a stream every process reads all
        samples and keeps its share.

    Raises:
        UserError: when a stream does not say how many samples it has, or the images cannot stay and
            ``settings.resident`` is True.
    """
    size = dataset_size(dataset)
    prepare = Prepare(eval_transform(settings), num_classes)
    common = {"batch_size": batch_size, "collate_fn": collate_samples, **loader_options(device)}
    if not is_random_access(dataset):
        if device is not None:
            _streamed(settings, "it is a stream")
        workers = _stream_workers(dataset, settings)
        stream = PlainStream(dataset, prepare, rank=rank, world_size=world_size)
        return EvalLoader(DataLoader(stream, num_workers=workers, **common), size)
    places = eval_indices(size, rank, world_size)
    share = Subset(dataset, places)
    if device is not None and _may_stay(share, settings):
        images = _load_images(share, prepare, settings, device)
        if images is not None:
            parts = (part.split(batch_size) for part in (images.pixels, images.labels))
            # a share of nothing is split into one part
            return EvalLoader([batch for batch in zip(*parts, strict=True) if len(batch[0])], size)
    # workers are started for each iteration: no more of them than have something to do
    workers = min(settings.workers, math.ceil(len(places) / batch_size))
    return EvalLoader(DataLoader(Plain(dataset, prepare), sampler=places, num_workers=workers, **common), size)


def loader_options(device: torch.device | None) -> dict[str, Any]:
    """Return what every loader is given.

    Args:
        device: where its batches go; ``None`` if they stay in the CPU's memory.
    """
    return {
        "pin_memory": device is not None and device.type == "cuda",
        "generator": torch.Generator(),
        "worker_init_fn": outlive_signals,
    }


def _balanced_labels(dataset: Any, settings: DataSettings) -> Tensor | None:
    """Return the labels that the classes are balanced by, if they are."""
    if not settings.balanced:
        return None
    instead = "leave out data.balanced, and set regularize.class_weights to numbers"
    labels = need_labels(dataset, settings, "its classes cannot be balanced", instead)
    return torch.as_tensor(labels, dtype=torch.int64)


def _may_stay(dataset: Any, settings: DataSettings, *, training: bool = False) -> bool:
    """Say whether a dataset may stay on a device: its setting, its augmentation and its size allow it."""
    if settings.resident is False:
        return False
    if settings.crop == "random_resized" or settings.color_jitter or settings.lighting:
        return _streamed(settings, "it is augmented by more than flips and crop: pad, squash or none")
    channels, height, width = input_spec(settings).input_size
    if training and settings.crop == "squash":
        height, width = size_before_crop(settings)
    pad = 2 * settings.pad if training and settings.crop == "pad" else 0
    size = len(dataset) * channels * (height + pad) * (width + pad)
    return settings.resident is True or size <= RESIDENT_BYTES


def _streamed(settings: DataSettings, why: str) -> bool:
    """Say that a dataset has to be streamed; that is an error if it was to stay."""
    if settings.resident is True:
        raise UserError(f"data.resident is true, but {settings.name} has to be streamed: {why}; set it to auto")
    return False


def _load_images(dataset: Any, prepare: Prepare, settings: DataSettings, device: torch.device) -> Images | None:
    """Decode a dataset and keep it on a device; return None if it has to be streamed after all."""
    images = _decode(dataset, prepare, settings.workers)
    if images is None:
        _streamed(settings, "its images are not of one size")
        return None
    return Images(images.pixels.to(device), images.labels)


def _decode(dataset: Any, prepare: Prepare, workers: int) -> Images | None:
    """Read a dataset from its beginning to its end; return None if the images are not of one size."""
    loader = DataLoader(
        Plain(dataset, prepare),
        batch_size=256,
        num_workers=workers,
        collate_fn=_stack_if_alike,
        **loader_options(None),
    )
    # what becomes of a share without any image
    pixels = torch.empty(0, 0, 0, 0, dtype=torch.uint8)
    labels = [torch.empty(0, dtype=torch.int64)]
    start = 0
    for batch in user_errors(loader):
        if batch is None or (start and batch[0].shape[1:] != pixels.shape[1:]):
            return None
        if not start:
            pixels = batch[0].new_empty(len(dataset), *batch[0].shape[1:])
        pixels[start : start + len(batch[0])] = batch[0]
        start += len(batch[0])
        labels.append(batch[1])
    return Images(pixels, torch.cat(labels))


def _stack_if_alike(samples: list[Any]) -> Batch | None:
    return collate_samples(samples) if len({image.shape for image, *_ in samples}) == 1 else None


def outlive_signals(_: int) -> None:
    """Let a worker work on when a signal to its whole group asks the run to stop: the run still needs it to save.

    It ends with the run, which tells it to, or for want of that two minutes after SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SIGALRM is left to end the process
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(120))


def _stream_workers(dataset: Any, settings: DataSettings) -> int:
    workers = max(1, settings.workers)
    dataset.set_loader_cfg(num_workers=workers)
    return workers


def _check_shards(dataset: Any, settings: DataSettings, workers: int, world_size: int) -> None:
    """Require a shard for each worker of a webdataset: without one it would give nothing, but its share is counted."""
    # timm's other readers deal out samples, or refuse by themselves
    if not settings.name.lower().startswith("wds/"):
        return
    shards, readers = len(dataset.reader.split_info.filenames), workers * world_size
    if shards < readers:
        most = shards // world_size
        fewer = f"set data.workers to {most} or less" if most else "start fewer processes"
        raise UserError(
            f"split {settings.train_split!r} of {settings.name} has {shards} shards, and each of {readers} workers "
            f"({workers} in each of {world_size} processes) reads shards of its own: {fewer}, or write at least "
            f"{readers} shards"
        )


def user_errors(batches: Iterable[T]) -> Iterator[T]:
    """Give an error from a worker its own message back, which torch wraps in the worker's traceback."""
    try:
        yield from batches
    except UserError as error:
        message = str(error).rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")[2].strip()
        # torch's frames would keep the workers until a garbage collection, which takes five seconds to stop each
        error.__traceback__ = None
        raise SampleError(message) from None
