"""Datasets of PIL images as datasets of uint8 tensors whose augmentation is keyed."""

from __future__ import annotations

import operator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import SampleKey, Stream, isolated_rng

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutmix_zoo.data.transforms import Transform

Sample = tuple[Tensor, int, SampleKey]
"""A uint8 image (C, H, W), its label, and where it comes from."""

# what formats raise for a sample that is damaged (Pillow reports a broken PNG as a SyntaxError)
_DAMAGED = (OSError, RuntimeError, ValueError, SyntaxError, Image.DecompressionBombError)
# what readers raise for a sample that is of another kind than was said
_OF_ANOTHER_KIND = (LookupError, TypeError, AssertionError, AttributeError)


@dataclass(frozen=True)
class Prepare:
    """What is done to each sample that was read: check its label, transform its image.

    Args:
        transform: from a PIL image to a uint8 tensor (C, H, W).
        num_classes: labels have to lie in [0, num_classes).

    Raises:
        UserError: when a sample's label is no whole number, or lies outside the classes.
    """

    transform: Transform
    num_classes: int

    def __call__(self, image: Any, label: Any) -> tuple[Tensor, int]:
        """Return the tensor and the label as an int."""
        return self.transform(image), self.check_label(label)

    def check_label(self, label: Any) -> int:
        """Return the label as an int."""
        try:
            number = operator.index(label)
        except TypeError:
            raise UserError(f"a label must be one whole number, got {label!r}: check data.target_key") from None
        if not 0 <= number < self.num_classes:
            raise UserError(
                f"label {number} is outside the {self.num_classes} classes: expected 0 to {self.num_classes - 1}; "
                "set the number of classes to that of the dataset"
            )
        return number


class Keyed(Dataset[Sample]):
    """An indexable dataset whose sample is a function of the run's seed and the sample's key.

    An index beyond the dataset's size is another copy of a sample, which is augmented otherwise.

    Args:
        dataset: gives (PIL image, label) for an index.
        prepare: what is done to each sample.
        seed: seed of the run.
    """

    def __init__(self, dataset: Any, prepare: Prepare, *, seed: int) -> None:
        self.dataset, self.prepare, self.seed = dataset, prepare, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample:
        with isolated_rng(self.seed, Stream.AUGMENT, key.epoch, key.index, restore=get_worker_info() is None):
            return *self.prepare(*read_sample(self.dataset, key.index % len(self.dataset))), key


class Plain(Dataset[tuple[Tensor, int]]):
    """An indexable dataset for evaluation: plain indices, nothing random.

    Args:
        dataset: gives (PIL image, label) for an index.
        prepare: what is done to each sample.
    """

    def __init__(self, dataset: Any, prepare: Prepare) -> None:
        self.dataset, self.prepare = dataset, prepare

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        # how iteration by places finds the end; read_sample would blame the data
        if not -len(self) <= index < len(self):
            raise IndexError(f"the dataset has {len(self)} samples, got index {index}")
        return self.prepare(*read_sample(self.dataset, index))


class KeyedStream(IterableDataset[Sample]):
    """A stream of timm's (hfids, tfds, wds) with keys made up from what is known of a sample: its place.

    The ``n``-th sample that worker ``w`` of ``W`` reads on a rank gets ``index = (n * W + w) *
    world_size + rank``, and the step at which a loader with ``W`` workers hands it over if each has as many batches
    as any other: timm's readers begin a worker's shards anew until it has, unless it has none or none of its samples
    can be read; then the training loader refuses. So an epoch is
    repeatable if it is read from its start by the same number of workers and processes. An image that
    timm's reader cannot decode may be dropped by the reader itself, without a word; others of the worker come again.

    Args:
        dataset: iterates over (PIL image, label); timm's readers give each rank and worker its share.
        prepare: what is done to each sample.
        seed: seed of the run.
        batch_size: samples per batch of this rank.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self, dataset: Any, prepare: Prepare, *, seed: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.dataset, self.prepare, self.seed = dataset, prepare, seed
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, before its workers start."""
        self.epoch = epoch
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for count, sample in enumerate(read_stream(self.dataset)):
            step = count // self.batch_size * workers + worker
            index = (count * workers + worker) * self.world_size + self.rank
            key = SampleKey(self.epoch, step, index)
            with isolated_rng(self.seed, Stream.AUGMENT, key.epoch, key.index):
                prepared = self.prepare(*sample)
            yield *prepared, key


class PlainStream(IterableDataset[tuple[Tensor, int]]):
    """A stream for evaluation, of which each process keeps every ``world_size``-th sample.

    Args:
        dataset: iterates over (PIL image, label), the same ones in every process.
        prepare: what is done to each sample.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, dataset: Any, prepare: Prepare, *, rank: int = 0, world_size: int = 1) -> None:
        self.dataset, self.prepare, self.rank, self.world_size = dataset, prepare, rank, world_size

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for count, sample in enumerate(read_stream(self.dataset)):
            if count % self.world_size == self.rank:
                yield self.prepare(*sample)


def read_sample(dataset: Any, index: int) -> tuple[Any, Any]:
    """Read a sample of an indexable dataset and decode its image.

    Args:
        dataset: gives (PIL image, label) for an index.
        index: its place.

    Returns:
        The image and its label, as the dataset has them.

    Raises:
        UserError: when that cannot be done.
    """
    with _reading(f"sample {index}"):
        image, label = dataset[index]
        image.load()
    return image, label


def read_stream(dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Read the samples of a stream one after the other, as :func:`read_sample` reads one by its place."""
    with _reading("the next sample"):
        for image, label in dataset:
            image.load()
            yield image, label


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Blame the data for what goes wrong while it is read."""
    try:
        yield
    except UserError:
        raise
    except _DAMAGED as error:
        raise UserError(f"cannot read {what} of the dataset: {error}") from error
    except _OF_ANOTHER_KIND as error:
        raise UserError(
            f"cannot read {what} of the dataset as an image and a label ({type(error).__name__}: {error}): "
            "check data.input_key and data.target_key"
        ) from error
