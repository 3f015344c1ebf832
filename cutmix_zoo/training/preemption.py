"""Being told to stop: signals become a request that the loop honours between two steps."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a run to stop: a scheduler or a launcher, and Ctrl-C."""


class StopRequest:
    """What a run has been asked for from outside, if anything."""

    signal: signal.Signals | None = None
    """The signal that asked to stop."""

    def until(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate until a stop is asked for."""
        for item in items:
            if self.signal is not None:
                return
            yield item


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the signals that would end the process into a request, inside the block.

    A second Ctrl-C interrupts at once. A signal that is ignored stays so. Only the main thread can do this; in
    another one nothing is requested and signals do what they did.

    Yields:
        The request, which a signal fills in.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    replaced: dict[int, Any] = {}

    def take(number: int, _: Any) -> None:
        if request.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        request.signal = signal.Signals(number)
        with suppress(OSError):  # nobody may be there to read it
            os.write(2, f"\n{request.signal.name}: stopping and saving after this step\n".encode())

    for asked in SIGNALS:
        if signal.getsignal(asked) is not signal.SIG_IGN:
            # None stands for a handler that Python knows nothing of, and cannot put back
            replaced[asked] = signal.signal(asked, take) or signal.SIG_DFL
    try:
        yield request
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def stop_with_launcher() -> None:
    """Let the kernel send SIGTERM when the parent process dies (Linux).

    ``accelerate launch`` of one process keeps a signal to itself, and dies of it; nobody else would tell.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
