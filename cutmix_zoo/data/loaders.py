"""Loaders: from a dataset of PIL images to the batches of a run, epoch by epoch."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from timm.data.dataset import IterableImageDataset
from torch import Tensor
from torch.utils.data import DataLoader

from cutmix_zoo.data.datasets import dataset_size
from cutmix_zoo.data.keyed import Keyed, KeyedStream, Plain, PlainStream, Prepare
from cutmix_zoo.data.sampler import KeyedBatchSampler, eval_indices, local_batch_size
from cutmix_zoo.data.transforms import eval_transform, train_transform
from cutmix_zoo.errors import SampleError, UserError
from cutmix_zoo.keys import Stream, generator_for
from cutmix_zoo.mixing import collate_samples

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from cutmix_zoo.data.settings import DataSettings

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
            SampleError: when a sample cannot be read or has a label outside the classes.
        """
        source = self._source
        if isinstance(source, KeyedBatchSampler):
            source.set_position(epoch, start_step)
            yield from _user_errors(self._loader)
        else:
            source.set_epoch(epoch)
            # the base seed of the workers, with which some readers shuffle
            self._loader.generator = generator_for(source.seed, Stream.SHUFFLE, epoch, source.rank)
            yield from islice(_user_errors(self._loader), start_step, self._steps)

    def close(self) -> None:
        """Stop the workers that are kept from epoch to epoch; another epoch starts new ones."""
        # torch has no name for it; left to the end of the process, each worker takes five seconds
        self._loader._iterator = None


class EvalLoader:
    """The evaluation batches of one process. Made by :func:`eval_loader`; iterate over it as often as you like.

    Args:
        loader: gives this process's batches.
        size: number of images in the whole split, over all processes.
    """

    def __init__(self, loader: DataLoader[Any], size: int) -> None:
        self._loader, self.size = loader, size

    def __iter__(self) -> Iterator[Batch]:
        return _user_errors(self._loader)


def train_loader(
    dataset: Any,
    settings: DataSettings,
    *,
    collate_fn: Collate,
    num_classes: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> TrainLoader:
    """Load augmented, keyed training batches.

    Args:
        dataset: what ``open_split(settings, "train")`` returned, or any dataset of (PIL image, label).
        settings: the data section of a recipe.
        collate_fn: from a list of (uint8 (C, H, W), label, :class:`SampleKey`) to a batch.
        num_classes: labels have to lie in [0, num_classes).
        seed: seed of the run.
        rank: this process.
        world_size: number of processes; each gets its part of ``settings.batch_size``.
        pin_memory: True when the batches go to a CUDA device.

    Returns:
        A loader. An indexable dataset keeps its workers from epoch to epoch; a stream has at least one
        worker, and new ones each epoch, because timm's readers carry state from one epoch to the next.

    Raises:
        UserError: when the batch is larger than the dataset or does not divide among the processes.
    """
    local = local_batch_size(settings.batch_size, world_size)
    prepare = Prepare(train_transform(settings), num_classes)
    common: dict[str, Any] = {
        "collate_fn": collate_fn,
        "pin_memory": pin_memory,
        "generator": torch.Generator(),
        "worker_init_fn": _outlive_signals,
    }
    if isinstance(dataset, IterableImageDataset):
        workers = _stream_workers(dataset, settings)
        stream = KeyedStream(dataset, prepare, seed=seed, batch_size=local, rank=rank, world_size=world_size)
        loader = DataLoader(stream, batch_size=local, drop_last=True, num_workers=workers, **common)
        return TrainLoader(loader, stream, len(dataset.reader) // local)
    sampler = KeyedBatchSampler(len(dataset), settings.batch_size, seed=seed, rank=rank, world_size=world_size)
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
    pin_memory: bool = False,
) -> EvalLoader:
    """Load evaluation batches: every sample once over all processes, none twice, in a fixed order.

    Args:
        dataset: what ``open_split(settings, "val")`` returned, or any dataset of (PIL image, label).
        settings: the data section of a recipe.
        batch_size: images of a batch of this process.
        num_classes: labels have to lie in [0, num_classes).
        rank: this process.
        world_size: number of processes. Their shares may differ by one sample.
        pin_memory: True when the batches go to a CUDA device.

    Returns:
        A loader of images (B, C, H, W) uint8 and labels (B,) int64. Of a stream every process reads all
        samples and keeps its share.

    Raises:
        UserError: when a stream does not say how many samples it has.
    """
    size = dataset_size(dataset)
    prepare = Prepare(eval_transform(settings), num_classes)
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "collate_fn": collate_samples,
        "pin_memory": pin_memory,
        "generator": torch.Generator(),
        "worker_init_fn": _outlive_signals,
    }
    if isinstance(dataset, IterableImageDataset):
        workers = _stream_workers(dataset, settings)
        stream = PlainStream(dataset, prepare, rank=rank, world_size=world_size)
        return EvalLoader(DataLoader(stream, num_workers=workers, **common), size)
    loader = DataLoader(
        Plain(dataset, prepare),
        sampler=eval_indices(size, rank, world_size),
        num_workers=settings.workers,
        **common,
    )
    return EvalLoader(loader, size)


def _outlive_signals(_: int) -> None:
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


def _user_errors(batches: Iterable[T]) -> Iterator[T]:
    """Give an error from a worker its own message back, which torch wraps in the worker's traceback."""
    try:
        yield from batches
    except UserError as error:
        message = str(error).rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")[2].strip()
        # torch's frames would keep the workers until a garbage collection, which takes five seconds to stop each
        error.__traceback__ = None
        raise SampleError(message) from None
