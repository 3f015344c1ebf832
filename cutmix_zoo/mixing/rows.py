"""Writing a batch on the CPU in blocks of images that stay in the cache.

Samples that were not stacked yet are a sequence of arrays; a batch is one array. Both are indexed alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike

Samples = Sequence[np.ndarray] | np.ndarray
"""B arrays (..., height, width) of one shape and dtype, stacked or not."""


def blocks(rows: Sequence[int], out: np.ndarray, size: int) -> Iterator[Sequence[int]]:
    """Split ``rows`` of ``out`` into blocks of at most ``size`` bytes, or of one image.

    Example:
        >>> [len(block) for block in blocks(range(5), np.empty((5, 100_000), np.uint8), size=200_000)]
        [2, 2, 1]
    """
    size = max(1, size // max(1, out[0].nbytes))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def stack(samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
    """Copy the samples ``rows`` into ``out[rows]``."""
    if isinstance(samples, np.ndarray) and isinstance(rows, range):
        part = slice(rows.start, rows.stop, rows.step)
        out[part] = samples[part]
        return
    for i in rows:
        out[i] = samples[i]


def gather(samples: Samples, rows: Sequence[int]) -> np.ndarray:
    """Return the samples ``rows`` as one array (n, ...), in the memory order of a sample; one alone is not copied."""
    if len(rows) == 1:
        return samples[rows[0]][None]
    first = samples[0]
    order = batch_order(first)
    if isinstance(samples, np.ndarray):
        return samples.transpose(order).take(rows, axis=0).transpose(np.argsort(order))
    gathered = empty_in_order((len(rows), *first.shape), order, first.dtype)
    for row, i in zip(gathered, rows, strict=True):
        row[...] = samples[i]
    return gathered


def empty_in_order(shape: Sequence[int], order: Sequence[int], dtype: DTypeLike) -> np.ndarray:
    """Allocate an array whose axes lie in memory in ``order``, from the outermost to the innermost."""
    return np.empty([shape[axis] for axis in order], dtype).transpose(np.argsort(order))


def batch_order(sample: np.ndarray) -> tuple[int, ...]:
    """Return the axes of a batch of such samples, from the outermost to the innermost in memory.

    Example:
        >>> batch_order(np.zeros((32, 32, 3)).transpose(2, 0, 1))
        (0, 2, 3, 1)
    """
    return (0, *sorted(range(1, sample.ndim + 1), key=lambda axis: -abs(sample.strides[axis - 1])))
