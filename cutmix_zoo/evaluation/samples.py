"""The images that a measurement is made on, dealt to the processes batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from cutmix_zoo.data.datasets import is_random_access
from cutmix_zoo.data.keyed import Prepare, read_sample, read_stream
from cutmix_zoo.data.loaders import loader_options, user_errors
from cutmix_zoo.data.sampler import eval_batches
from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Batch(NamedTuple):
    """Some of the images of a measurement."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """(B,) int64: places in the dataset."""
    images: Tensor
    """(B, C, H, W) uint8."""
    labels: Tensor
    """(B,) int64."""


class Samples:
    """This process's share of the images of a measurement; iterate over it as often as you like.

    Whole batches are dealt out, so that a batch is made of the same images however many processes there are. What
    cannot be read is left out, and noted in ``unreadable``; of a stream, it is an error.

    Args:
        dataset: gives (PIL image, label), by an index or as a stream.
        prepare: what is done to each sample.
        indices: places in the dataset, in the order in which they are measured; of a stream, all in their order.
        batch_size: images of a batch.
        workers: loader processes; a stream is read by one, which keeps its order.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        dataset: Any,
        prepare: Prepare,
        indices: Sequence[int],
        *,
        batch_size: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices = indices
        self.unreadable: list[str] = []
        common: dict[str, Any] = {"collate_fn": _join, **loader_options(None)}
        if not is_random_access(dataset):
            dataset.set_loader_cfg(num_workers=1)  # timm's
            stream = _LocatedStream(dataset, prepare, batch_size, rank, world_size)
            self._loader = DataLoader(stream, batch_size=batch_size, num_workers=1, **common)
        else:
            located = _Located(dataset, prepare, indices)
            batches = [list(places) for places in eval_batches(len(indices), batch_size, rank, world_size)]
            self._loader = DataLoader(located, batch_sampler=batches, num_workers=workers, **common)

    def __len__(self) -> int:
        """Count the images, over all processes."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        self.unreadable = []
        for batch, unreadable in user_errors(self._loader):
            self.unreadable += unreadable
            if batch is not None:
                yield batch


class _Located(Dataset[Any]):
    """Samples with their places in the dataset, or why they could not be read."""

    def __init__(self, dataset: Any, prepare: Prepare, indices: Sequence[int]) -> None:
        self.dataset, self.prepare, self.indices = dataset, prepare, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor, int] | str:
        index = int(self.indices[position])
        try:
            image, label = read_sample(self.dataset, index)
        except UserError as error:
            return str(error)
        try:
            pixels = self.prepare.transform(image)
        except UserError as error:
            return f"sample {index} cannot be prepared: {error}"
        return index, pixels, self.prepare.check_label(label)


class _LocatedStream(IterableDataset[Any]):
    """This process's share of a stream: whole batches, with the places of their samples."""

    def __init__(self, dataset: Any, prepare: Prepare, batch_size: int, rank: int, world_size: int) -> None:
        self.dataset, self.prepare, self.batch_size = dataset, prepare, batch_size
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[tuple[int, Tensor, int]]:
        for index, sample in enumerate(read_stream(self.dataset)):
            if index // self.batch_size % self.world_size == self.rank:
                yield index, *self.prepare(*sample)


def _join(samples: Sequence[tuple[int, Tensor, int] | str]) -> tuple[Batch | None, list[str]]:
    unreadable = [sample for sample in samples if isinstance(sample, str)]
    read = [sample for sample in samples if not isinstance(sample, str)]
    if not read:
        return None, unreadable
    indices, images, labels = zip(*read, strict=True)
    return Batch(torch.tensor(indices), torch.stack(images), torch.tensor(labels)), unreadable
