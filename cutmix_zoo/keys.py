"""Keyed randomness: a random number is a function of what it is for, never of what was drawn before.

A run names each of its draws by integers (the run's seed, a :class:`Stream`, the epoch, the step,
the rank, the sample) and turns the name into a seed. Nothing needs to be saved to resume, and the
number of loader workers cannot change a result.
"""

from __future__ import annotations

import operator
import random
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

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
    EVALUATE = 8
    """What an evaluation draws, such as noise; independent of any run's seed."""


def _splitmix64(x: Any) -> Any:
    """Scramble 64 bits of a number or an array (Steele, Lea and Flood, OOPSLA 2014, SplittableRandom's finalizer)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def seed_for(*parts: SupportsIndex) -> int:
    """Turn the name of a draw into a seed.

    Args:
        parts: integers, Python's or NumPy's, that name the draw, such as ``seed, Stream.AUGMENT, epoch, index``. Their
            order counts; negative ones are taken modulo 2**64.

    Returns:
        An integer in ``[0, 2**63)``, the same on every machine and Python version.

    Example:
        >>> seed_for(1, 2) == seed_for(1, 2), seed_for(1, 2) == seed_for(2, 1)
        (True, False)
    """
    state = len(parts)
    for part in parts:
        state = _splitmix64(state ^ _splitmix64(operator.index(part) & _MASK))
    return state >> 1


def generator_for(*parts: SupportsIndex) -> torch.Generator:
    """Make a CPU generator whose stream is a function of ``parts`` alone (see :func:`seed_for`).

    Example:
        >>> a, b = (torch.rand(3, generator=generator_for(7, Stream.MIX, 0, 12)) for _ in range(2))
        >>> torch.equal(a, b)
        True
    """
    return torch.Generator().manual_seed(seed_for(*parts))


def seeds_for(*parts: SupportsIndex, indices: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Turn the names of many draws, of which only the last part differs, into seeds: ``seed_for(*parts, index)``.

    Example:
        >>> seeds_for(7, 1, indices=np.arange(3)).tolist() == [seed_for(7, 1, index) for index in range(3)]
        True
    """
    state: Any = len(parts) + 1
    for part in (*(operator.index(part) & _MASK for part in parts), indices.astype(np.uint64)):
        state = _splitmix64(state ^ _splitmix64(part))
    seeds: NDArray[np.uint64] = state >> np.uint64(1)
    return seeds


def first_draws(seeds: NDArray[np.uint64], count: int) -> NDArray[np.uint32]:
    """Draw the first numbers of torch's CPU generator for many seeds at once, as if each had been set in turn.

    What :func:`isolated_rng` and a transform draw one sample at a time is drawn here for all samples of an epoch, in
    less time than a thousand take there.

    Args:
        seeds: (N,) of any size; like the generator, this takes 32 bits of them.
        count: how many numbers of each, at most 227.

    Returns:
        (count, N) uniform in [0, 2**32): what ``torch.randint`` takes modulo its range, and of what ``torch.rand``
        takes the lower 24 bits.

    **Source**: Matsumoto and Nishita, Mersenne Twister, ACM TOMACS 1998, with the seeding of their code of 2002.

    Example:
        >>> seed = seed_for(1, 2)
        >>> generator = torch.Generator().manual_seed(seed)
        >>> torch.randint(1000, (2,), generator=generator).tolist() == [
        ...     int(draw) % 1000 for draw in first_draws(np.array([seed], np.uint64), 2)[:, 0]
        ... ]
        True
    """
    assert count <= 624 - 397
    word: Any = seeds.astype(np.uint32)
    kept = {0: word}  # of the 624 words of a state, those that the first numbers are made of
    for place in range(1, 397 + count):
        word = (word ^ (word >> 30)) * np.uint32(1812433253) + np.uint32(place)
        if place <= count or place >= 397:
            kept[place] = word
    draws = np.empty((count, len(seeds)), np.uint32)
    for place in range(count):
        mixed = (kept[place] & 0x80000000) | (kept[place + 1] & 0x7FFFFFFF)
        drawn = kept[place + 397] ^ (mixed >> 1) ^ ((mixed & 1) * np.uint32(0x9908B0DF))
        drawn ^= drawn >> 11
        drawn ^= (drawn << 7) & 0x9D2C5680
        drawn ^= (drawn << 15) & 0xEFC60000
        draws[place] = drawn ^ (drawn >> 18)
    return draws


@contextmanager
def isolated_rng(*parts: SupportsIndex, restore: bool = True) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global CPU generators inside the block; restore them after it.

    For code that knows no other randomness than the global one, such as image transforms and the
    initialisation of layers.

    Args:
        parts: integers that name the draw (see :func:`seed_for`).
        restore: ``False`` leaves the generators as they are after the block, which takes a tenth of the time: for a
            loader's worker, where nobody else draws from them.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated_rng(1, Stream.AUGMENT, 0, 5):
        ...     _ = torch.rand(1), random.random(), np.random.rand()
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    seed = seed_for(*parts)
    if restore:
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
        if restore:
            random.setstate(saved_python)
            np.random.set_state(saved_numpy)
            torch.default_generator.set_state(saved_torch)
