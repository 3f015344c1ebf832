"""Timing several candidates against each other in one process."""

from __future__ import annotations

import math
import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


Name = TypeVar("Name")


class Timing(NamedTuple):
    """Milliseconds of one call, over the repeats."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def interleave(
    candidates: Mapping[Name, Callable[[], object]], repeats: int, seconds: float = math.inf, calls: int = 1
) -> dict[Name, Timing]:
    """Time every candidate once a round, so that a slow moment of the machine falls on all of them alike.

    Args:
        candidates: functions without arguments, by name. A first round of all of them is not counted.
        repeats: number of rounds that count, at least 2.
        seconds: after this time no further round begins, once 3 have counted.
        calls: times that a candidate is called in its turn, of which the last is timed: caches that the candidates
            share are its own again by then.

    Returns:
        The timing of each candidate, under its name.

    Example:
        >>> sorted(interleave({"a": lambda: 1, "b": lambda: 2}, repeats=3))
        ['a', 'b']
    """
    measured: dict[Name, list[float]] = {name: [] for name in candidates}
    begin = time.perf_counter()
    for counted in range(repeats + 1):
        for name, candidate in candidates.items():
            for _ in range(calls - 1):
                candidate()
            start = time.perf_counter()
            candidate()
            measured[name].append(time.perf_counter() - start)
        if counted >= 3 and time.perf_counter() - begin >= seconds:
            break
    return {name: _summarize(values[1:]) for name, values in measured.items()}


def images_per_second(images: int, timing: Timing) -> dict[str, float]:
    """Turn the time of a number of images into their ``median``, ``low`` and ``high`` speed."""
    # a short time is a high speed
    swapped = {"median": timing.median, "low": timing.high, "high": timing.low}
    return {name: 1000 * images / milliseconds for name, milliseconds in swapped.items()}


def format_speed(speed: dict[str, float]) -> str:
    """Write a speed with its quartiles.

    Example:
        >>> format_speed({"median": 99.04, "low": 81.2, "high": 104.4})
        '99 (81.2 to 104)'
    """
    median, low, high = (
        f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in (speed["median"], speed["low"], speed["high"])
    )
    return f"{median} ({low} to {high})"


def _summarize(seconds: list[float]) -> Timing:
    low, median, high = (1000 * value for value in statistics.quantiles(seconds, n=4, method="inclusive"))
    return Timing(median, low, high)
