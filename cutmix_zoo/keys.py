"""Keyed randomness: a random number is a function of what it is for, never of what was drawn before.

A run names each of its draws by integers (the run's seed, a :class:`Stream`, the epoch, the step,
the rank, the sample) and turns the name into a seed. Nothing needs to be saved to resume, and the
number of loader workers cannot change a result.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_MASK = (1 << 64) - 1


class SampleKey(NamedTuple):
    """Where one training sample stands in a run: what our samplers yield instead of a bare index."""

    epoch: int
    """Epoch, from 0."""
    step: int
    """Step within the epoch, from 0; all samples of one batch share it."""
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """Position in the dataset."""


class Stream(IntEnum):
    """What a draw is for. The values are part of every seed, so they are never reused or renumbered."""

    INIT = 1
    """Initial weights."""
    SHUFFLE = 2
    """The order of an epoch."""
    AUGMENT = 3
    """Crop, flip and the like, one sample at a time."""
    MIX = 4
    """Mixing plans, one batch at a time."""
    MODEL = 5
    """Dropout, drop path and other noise inside the model."""
    SUBSET = 6
    """Fixed subsets, such as the images behind ``clean_train_top1``."""
    HOLDOUT = 7
    """Validation images that are held out of a training split; independent of the run's seed."""


def _splitmix64(x: int) -> int:
    """Scramble 64 bits (Steele, Lea and Flood, OOPSLA 2014, the finalizer of SplittableRandom)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def seed_for(*parts: int) -> int:
    """Turn the name of a draw into a seed.

    Args:
        parts: integers that name the draw, such as ``seed, Stream.AUGMENT, epoch, index``. Their
            order counts; negative ones are taken modulo 2**64.

    Returns:
        An integer in ``[0, 2**63)``, the same on every machine and Python version.

    Example:
        >>> seed_for(1, 2) == seed_for(1, 2), seed_for(1, 2) == seed_for(2, 1)
        (True, False)
    """
    state = len(parts)
    for part in parts:
        state = _splitmix64(state ^ _splitmix64(part & _MASK))
    return state >> 1


def generator_for(*parts: int) -> torch.Generator:
    """Make a CPU generator whose stream is a function of ``parts`` alone (see :func:`seed_for`).

    Example:
        >>> a, b = (torch.rand(3, generator=generator_for(7, Stream.MIX, 0, 12)) for _ in range(2))
        >>> torch.equal(a, b)
        True
    """
    return torch.Generator().manual_seed(seed_for(*parts))


@contextmanager
def isolated_rng(*parts: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global CPU generators inside the block; restore them after it.

    For code that knows no other randomness than the global one, such as image transforms and the
    initialisation of layers.

    Args:
        parts: integers that name the draw (see :func:`seed_for`).

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated_rng(1, Stream.AUGMENT, 0, 5):
        ...     _ = torch.rand(1), random.random(), np.random.rand()
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    seed = seed_for(*parts)
    saved_python, saved_numpy = random.getstate(), np.random.get_state()
    saved_torch = torch.default_generator.get_state()
    random.seed(seed)
    # NumPy's generator and torch's are the same algorithm and take 32 bits: give them different ones
    np.random.seed(seed >> 31)
    # not torch.manual_seed: it also visits every accelerator, which costs a hundred times as much
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(saved_python)
        np.random.set_state(saved_numpy)
        torch.default_generator.set_state(saved_torch)
