"""Which samples are in which batch: a function of seed, epoch, step and rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from cutmix_zoo.checks import require
from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import SampleKey, Stream, generator_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class KeyedBatchSampler(Sampler[list[SampleKey]]):
    """Yield the batches of an epoch as lists of keys, from any step on.

    The order of an epoch is a function of seed and epoch alone. Step ``s`` takes samples
    ``[s * batch_size, (s + 1) * batch_size)`` of it, and each rank its contiguous part of those; what
    does not fill a last batch is left out of that epoch.

    With labels, each class comes in the batches of an epoch as often as any other, or once more where their number does
    not divide those. Where a sample comes several times in an epoch, its index goes up by ``size`` each time, so that
    each copy has a key of its own.

    Args:
        size: number of samples in the dataset.
        batch_size: samples per step, over all ranks together.
        seed: seed of the run.
        rank: this process.
        world_size: number of processes.
        labels: (size,) int64, to balance the classes; ``None`` to take each sample once.

    Raises:
        UserError: when the batch does not divide among the processes, or is larger than the dataset.
        ValueError: when ``rank`` is none of the processes.

    Example:
        >>> sampler = KeyedBatchSampler(10, 4, seed=0)
        >>> sampler.set_position(epoch=3, step=1)
        >>> [[(key.epoch, key.step) for key in batch] for batch in sampler]
        [[(3, 1), (3, 1), (3, 1), (3, 1)]]
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        labels: Tensor | None = None,
    ) -> None:
        _check_rank(rank, world_size)
        local_batch_size(batch_size, world_size)
        if size < batch_size:
            raise UserError(f"the dataset has {size} images, less than a batch: set data.batch_size to {size} or less")
        self.size, self.batch_size, self.seed, self.rank, self.world_size = size, batch_size, seed, rank, world_size
        order, counts = (None, []) if labels is None else (labels.argsort(stable=True), labels.bincount().tolist())
        self._members = [] if order is None else [each for each in order.split(counts) if len(each)]
        self.set_position(0)

    def __len__(self) -> int:
        """Count the steps of a whole epoch."""
        return self.size // self.batch_size

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Choose where the next iteration starts.

        Args:
            epoch: epoch, from 0.
            step: step within it, from 0 to the length of an epoch.
        """
        self.epoch, self.step = epoch, step

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, first = self.epoch, self.step
        for step, indices in enumerate(self.batches(epoch, first), start=first):
            yield [SampleKey(epoch, step, index) for index in indices.tolist()]

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Tensor]:
        """Iterate over this rank's batches of an epoch, as indices (B,) int64."""
        order = self._order(epoch)
        local = self.batch_size // self.world_size
        for step in range(start_step, len(self)):
            start = step * self.batch_size + self.rank * local
            yield order[start : start + local]

    def _order(self, epoch: int) -> Tensor:
        generator = generator_for(self.seed, Stream.SHUFFLE, epoch)
        if not self._members:
            return torch.randperm(self.size, generator=generator)
        count = len(self) * self.batch_size
        each, rest = divmod(count, len(self._members))
        # which classes come once more is drawn for each epoch
        once_more = (torch.randperm(len(self._members), generator=generator) < rest).tolist()
        chosen = [
            _rounds(members, each + more, self.size, generator)
            for members, more in zip(self._members, once_more, strict=True)
        ]
        return torch.cat(chosen)[torch.randperm(count, generator=generator)]


def _rounds(members: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Choose so many of some samples, all of them before any comes again; each copy counts ``size`` on."""
    # at least one, of which nothing may be taken
    rounds = max(1, math.ceil(count / len(members)))
    shuffled = [members[torch.randperm(len(members), generator=generator)] + turn * size for turn in range(rounds)]
    return torch.cat(shuffled)[:count]


def _check_rank(rank: int, world_size: int) -> None:
    require(0 <= rank < world_size, f"rank must be from 0 and below world_size={world_size}, got {rank}")


def local_batch_size(batch_size: int, world_size: int) -> int:
    """Divide a batch among the processes.

    Raises:
        UserError: when it does not divide evenly.
    """
    if batch_size % world_size:
        raise UserError(
            f"data.batch_size counts the images of all processes together: expected a multiple of {world_size}, "
            f"got {batch_size}"
        )
    return batch_size // world_size


def eval_indices(size: int, rank: int = 0, world_size: int = 1) -> range:
    """Choose the samples that a process evaluates: every one exactly once over all processes, none twice.

    Args:
        size: number of samples in the dataset.
        rank: this process.
        world_size: number of processes.

    Returns:
        Their indices; ranks may differ by one in how many.

    Raises:
        ValueError: when ``rank`` is none of the processes.

    Example:
        >>> list(eval_indices(5, 0, 2)), list(eval_indices(5, 1, 2))
        ([0, 2, 4], [1, 3])
    """
    _check_rank(rank, world_size)
    return range(rank, size, world_size)


def eval_batches(size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[range]:
    """Deal the batches of an evaluation to the processes: a batch has the same samples however many there are.

    Args:
        size: number of samples.
        batch_size: samples of a batch; the last one may have fewer.
        rank: this process.
        world_size: number of processes.

    Returns:
        The positions of the samples of each of this process's batches; ranks may differ by one batch.

    Raises:
        ValueError: when ``rank`` is none of the processes.

    Example:
        >>> eval_batches(5, 2, 0, 2), eval_batches(5, 2, 1, 2)
        ([range(0, 2), range(4, 5)], [range(2, 4)])
    """
    _check_rank(rank, world_size)
    return [range(start, min(start + batch_size, size)) for start in range(0, size, batch_size)][rank::world_size]


def fixed_subset(size: int, limit: int | None) -> NDArray[np.int64]:
    """Choose samples of a dataset that depend on nothing but its size.

    Args:
        size: number of samples in the dataset.
        limit: how many; ``None``, or more than there are, for all. Fewer are some of more.

    Returns:
        Their indices, in rising order.
    """
    order = torch.randperm(size, generator=generator_for(Stream.SUBSET, size))
    return np.sort(order[:limit].numpy())


def balanced_subset(labels: NDArray[Any], limit: int | None) -> NDArray[np.int64]:
    """Choose samples that depend on nothing but the labels, and of each class as many as of any other.

    Args:
        labels: (N,) of the dataset.
        limit: how many; ``None``, or more than there are, for all. Fewer are some of more. A class that has too few
            has all of its samples among them, and where the classes do not divide ``limit``, some have one more.

    Returns:
        Their indices, in rising order.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 2])
        >>> labels[balanced_subset(labels, 5)].tolist()
        [0, 0, 1, 2, 2]
    """
    order = torch.randperm(len(labels), generator=generator_for(Stream.SUBSET, len(labels))).numpy()
    by_class = np.argsort(labels[order], kind="stable")
    _, counts = np.unique(labels, return_counts=True)
    # a first one of each class, then a second one, ...
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(counts.cumsum() - counts, counts)
    return np.sort(order[np.argsort(turn, kind="stable")[:limit]])
