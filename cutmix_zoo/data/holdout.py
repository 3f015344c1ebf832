"""A validation split where a dataset has none: images of the training split are held out, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Subset

from cutmix_zoo.keys import Stream, generator_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Part(Subset[Any]):
    """Some samples of an indexable dataset, which still says what its classes and labels are.

    Args:
        dataset: the whole.
        indices: which of its samples.
        labels: of the whole, if they are known without reading it.
        class_to_idx: names of the classes, if it has any.
    """

    def __init__(
        self, dataset: Any, indices: Sequence[int], labels: NDArray[Any] | None, class_to_idx: dict[str, int] | None
    ) -> None:
        super().__init__(dataset, indices)
        self.targets, self.class_to_idx = None if labels is None else labels[list(indices)], class_to_idx


def held_out(labels: NDArray[Any], fraction: float) -> NDArray[np.bool_]:
    """Choose a share of every class.

    The choice is a function of the labels alone, not of a run's seed: all runs compare on the same images.

    Args:
        labels: (N,) whole numbers.
        fraction: share of each class, rounded, in (0, 1).

    Returns:
        (N,) True for what is held out.

    Example:
        >>> held_out(np.array([0] * 10 + [1] * 20), 0.2).nonzero()[0].tolist()
        [3, 9, 14, 18, 25, 28]
    """
    chosen = np.zeros(len(labels), bool)
    for members in _shuffled_classes(labels):
        chosen[members[: round(fraction * len(members))]] = True
    return chosen


def in_fold(labels: NDArray[Any], fold: int, folds: int) -> NDArray[np.bool_]:
    """Choose one of several folds, all of the same size but for one sample, and so each class in them.

    Args:
        labels: (N,) whole numbers.
        fold: which, from 0.
        folds: how many there are; every sample is in exactly one.

    Returns:
        (N,) True for what is in the fold.

    Example:
        >>> [in_fold(np.array([0, 0, 0, 1, 1, 1]), fold, 3).nonzero()[0].tolist() for fold in range(3)]
        [[2, 3], [1, 5], [0, 4]]
    """
    # dealt out one after the other, class after class
    order = np.concatenate(_shuffled_classes(labels))
    chosen = np.zeros(len(labels), bool)
    chosen[order[fold::folds]] = True
    return chosen


def _shuffled_classes(labels: NDArray[Any]) -> list[NDArray[np.intp]]:
    """Return the places of the samples of each class, in an order of its own."""
    shuffled = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = torch.randperm(len(members), generator=generator_for(Stream.HOLDOUT, int(label)))
        shuffled.append(members[order.numpy()])
    return shuffled
