"""Memory for a mixed batch: where the time of a copy goes, once the copy itself is fast."""

from __future__ import annotations

import math
import mmap
import os
from collections import defaultdict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing import get_sharing_strategy
from torch.utils.data import get_worker_info

from cutmix_zoo.mixing.rows import empty_in_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their size in bytes: NumPy has no bfloat16, and to copy, bits are enough."""

LARGE = 1 << 22
"""Bytes from which it matters how memory is got; NumPy asks for huge pages from here on."""

_SMALL = 1 << 18
"""Bytes up to which a tensor is sent inside a message."""

_POPULATE_WRITE = 23
"""Linux's MADV_POPULATE_WRITE (5.14 and newer), which Python's mmap does not name."""


class Output(NamedTuple):
    """A batch to be written: :attr:`array` is written into, and :meth:`tensor` hands it over."""

    array: np.ndarray
    """The batch, not initialised."""
    storage: torch.UntypedStorage | None = None
    """The shared memory behind it, if it is that."""

    def tensor(self) -> Tensor:
        """Return the batch as a tensor; nothing is copied."""
        tensor = torch.from_numpy(self.array)
        if self.storage is None:
            return tensor
        # the array maps the same memory a second time
        return torch.empty(0, dtype=tensor.dtype).set_(self.storage, 0, tensor.shape, tensor.stride())


def empty_batch(shape: Sequence[int], order: Sequence[int], dtype: DTypeLike) -> Output:
    """Allocate a batch on the CPU.

    The memory is NumPy's, which asks Linux for huge pages: of the time that a large batch takes in
    fresh memory, the faults of small pages are four fifths. In a loader worker it is shared memory
    from the start, as with torch's own collate, so that the queue need not copy it.

    Args:
        shape: of the batch.
        order: its axes from the outermost to the innermost in memory.
        dtype: NumPy's.

    Example:
        >>> empty_batch((2, 3, 4, 5), (0, 2, 3, 1), np.uint8).tensor().stride()
        (60, 1, 15, 3)
    """
    if get_worker_info() is None:
        return Output(empty_in_order(shape, order, dtype))
    flat, storage = _shared(math.prod(shape) * np.dtype(dtype).itemsize)
    inner = [shape[axis] for axis in order]
    return Output(flat.view(dtype).reshape(inner).transpose(np.argsort(order)), storage)


def empty_like(images: Tensor) -> Tensor:
    """Allocate a CPU tensor of the shape, dtype and order of axes of ``images``; see :func:`empty_batch`."""
    if images.nbytes < LARGE:
        return torch.empty_like(images)
    strides = torch.empty_like(images, device="meta").stride()
    flat = torch.from_numpy(np.empty(images.nbytes, np.uint8))
    return flat.view(images.dtype).as_strided(images.shape, strides)


def by_value(tensor: Tensor) -> Tensor:
    """Let a small tensor travel from a loader worker inside the message about it.

    A tensor in shared memory is sent as an open file, over a connection of its own, which for labels and targets costs
    more than they do. What arrives is a plain tensor. Outside a worker, on an accelerator, and where NumPy lacks the
    dtype, it stays as it is.
    """
    if get_worker_info() is None or not tensor.is_cpu or tensor.nbytes > _SMALL or tensor.dtype == torch.bfloat16:
        return tensor
    return tensor.as_subclass(_ByValue)


class _ByValue(Tensor):
    """A tensor that is pickled as its numbers."""

    # what is computed from it is a plain tensor: of another size or dtype, its numbers could not be sent like this
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return torch.from_numpy, (self.as_subclass(Tensor).numpy(),)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.as_subclass(Tensor).clone()


def _shared(size: int) -> tuple[np.ndarray, torch.UntypedStorage]:
    """Allocate shared memory: as bytes to write to, and as the storage that travels to another process."""
    # with torch's other strategy, memory of a file is moved when it is sent, and its array would not move along
    if size >= LARGE and hasattr(os, "memfd_create") and get_sharing_strategy() == "file_descriptor":
        with suppress(OSError, ValueError):  # an old kernel
            return _populated(size)
    storage = torch.UntypedStorage._new_shared(size)
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy(), storage


def _populated(size: int) -> tuple[np.ndarray, torch.UntypedStorage]:
    """Allocate shared memory all of whose pages are got in one call: half the time of a fault for each."""
    file = os.memfd_create("cutmix_zoo")
    try:
        os.ftruncate(file, size)
        view = mmap.mmap(file, size)
        view.madvise(_POPULATE_WRITE)
        storage = torch.UntypedStorage._new_shared_fd_cpu(file, size)  # type: ignore[attr-defined]
        return np.frombuffer(view, np.uint8), storage
    finally:
        os.close(file)


class Buffers:
    """Batches that are allocated once, when they are first needed, and written again and again, in turn.

    Args:
        count: number of batches of each layout.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._forget()

    def __getstate__(self) -> int:
        return self._count

    def __setstate__(self, count: int) -> None:
        self.__init__(count)  # type: ignore[misc]

    def _forget(self) -> None:
        self._process = os.getpid()
        self._batches: defaultdict[Any, deque[Output]] = defaultdict(deque)

    def next(self, shape: Sequence[int], order: Sequence[int], dtype: DTypeLike) -> Output:
        """Return a new batch of this layout, or once all are made, the oldest one; see :func:`empty_batch`."""
        if self._process != os.getpid():
            self._forget()  # a worker's memory is not its parent's
        batches = self._batches[tuple(shape), tuple(order), np.dtype(dtype)]
        if len(batches) < self._count:
            batches.append(empty_batch(shape, order, dtype))
        else:
            batches.rotate(-1)
        return batches[-1]
