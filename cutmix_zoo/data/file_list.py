"""Many file names and labels in little memory, which worker processes share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np


class FileList(Sequence[tuple[str, int]]):
    """A sequence of file names and labels that stays shared after a fork.

    A list of tuples does not: Python counts references in each of its objects, so that reading one copies its page of
    memory, in each worker.

    Its ``labels`` are (N,) int64.

    Args:
        samples: file names and labels.

    Example:
        >>> files = FileList([("cat/1.png", 0), ("dog/1.png", 1)])
        >>> files[1], len(files)
        (('dog/1.png', 1), 2)
    """

    def __init__(self, samples: Iterable[tuple[str, int]]) -> None:
        names, labels = [], []
        for name, label in samples:
            names.append(os.fsencode(name))
            labels.append(label)
        self._names = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)])
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[str, int]:  # type: ignore[override]  # by places alone
        place = range(len(self))[index]
        return os.fsdecode(self._names[self._ends[place] : self._ends[place + 1]]), int(self.labels[place])
