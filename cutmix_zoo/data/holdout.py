"""Parts of a dataset: some of its classes, or a validation split where it has none, held out class by class."""

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

    Where the whole has ``boxes``, ``corners``, ``image_size`` or ``filename``, the part has them too.

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

    def __getattr__(self, name: str) -> Any:
        if name not in ("boxes", "corners", "image_size", "filename"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        of_whole = getattr(self.dataset, name)
        return lambda index: of_whole(self.indices[index])


class OnlyClasses(Part):
    """The samples of some classes, which are numbered anew.

    Args:
        dataset: the whole.
        classes: labels of the whole; the place of each is its new label.
        labels: of the whole.
        class_to_idx: names of the whole's classes, if it has any.

    Example:
        >>> part = OnlyClasses([("a", 0), ("b", 1), ("c", 2)], (2, 0), np.arange(3), None)
        >>> list(part), part.targets.tolist()
        ([('a', 1), ('c', 0)], [1, 0])
    """

    def __init__(
        self, dataset: Any, classes: Sequence[int], labels: NDArray[Any], class_to_idx: dict[str, int] | None
    ) -> None:
        kept = np.flatnonzero(np.isin(labels, classes)).tolist()
        self._new = {label: new for new, label in enumerate(classes)}
        names = {name: self._new[label] for name, label in (class_to_idx or {}).items() if label in self._new}
        renumbered = np.array([self._new.get(label, -1) for label in labels.tolist()])
        super().__init__(dataset, kept, renumbered, names or None)

    def __getitem__(self, index: int) -> Any:
        image, label = self.dataset[self.indices[index]]
        return image, self._new[int(label)]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        # torch's own would ask the whole, whose labels are others
        return [self[index] for index in indices]


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
    values, counts = np.unique(labels, return_counts=True)
    # one sort: to look for each class in turn takes seconds where there are thousands
    classes = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts))[:-1]
    shuffled = []
    for label, members in zip(values, classes, strict=True):
        order = torch.randperm(len(members), generator=generator_for(Stream.HOLDOUT, int(label)))
        shuffled.append(members[order.numpy()])
    return shuffled
