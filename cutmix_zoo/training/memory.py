"""How many images go through the network at a time: as many as fit into memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from accelerate.utils.memory import should_reduce_batch_size

from cutmix_zoo.errors import OneProcessError, UserError, one_line
from cutmix_zoo.training.blank_pass import blank_pass
from cutmix_zoo.training.launch import Consensus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cutmix_zoo.training.job import Job


class TooLargeError(OneProcessError):
    """Something does not fit into memory, which like a bad sample only one of several processes may meet."""


@contextmanager
def within_memory(what: str, advice: str) -> Iterator[None]:
    """Say what can be done where a GPU's memory is not enough.

    Args:
        what: does not fit then.
        advice: what to do.

    Raises:
        TooLargeError: in place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TooLargeError(f"{what} does not fit into memory: {advice}. torch says: {one_line(error)}") from error


def find_micro_batch(job: Job) -> int | None:
    """Find the largest pass that fits into the memory of every process: its whole batch, or that halved repeatedly.

    Args:
        job: what is trained; its weights, buffers and gradients are as they were afterwards.

    Returns:
        Images of a pass; None if a process does its whole batch at once.

    Raises:
        UserError: if not even one image fits.
    """
    whole = job.local_batch_size
    size = largest_that_fits(whole, lambda size: _try_pass(job, size), Consensus(job.accelerator))
    return None if size == whole else size


def largest_that_fits(whole: int, fits: Callable[[int], bool], consensus: Consensus) -> int:
    """Halve a number until it fits in all processes.

    Args:
        whole: what to begin with.
        fits: says whether so much fits in this process.
        consensus: of the processes.

    Raises:
        UserError: if 1 does not fit.
    """
    size = whole
    while consensus.highest(0 if fits(size) else 1):
        if size == 1:
            raise UserError("a single image does not fit into memory: take a smaller network or smaller images")
        size = -(-size // 2)
    return size


def _try_pass(job: Job, size: int) -> bool:
    """Go forward and backward with so many images of a batch; say whether memory was enough."""
    device = job.accelerator.device
    try:
        # room for what comes beside: the optimizer's two moments, and the gradients that processes exchange
        room = [torch.empty_like(parameter) for parameter in job.network.parameters() for _ in range(3)]
        # the bare network: one of several processes may fail, and the others would wait for it
        blank_pass(job, job.network, size)
        del room
    except torch.OutOfMemoryError:
        return False
    except RuntimeError as error:  # of libraries and of the CPU's allocator, which have no class of their own
        if not (should_reduce_batch_size(error) or "ALLOC_FAILED" in str(error)):
            raise
        return False
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True
