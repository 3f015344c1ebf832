"""Child processes that start at once: they are forked from a server that has imported everything already.

Not from the test itself, whose autograd may have started threads, which do not survive a fork.
"""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.training.test_faults"])


def start(work: Callable[[], object]) -> BaseProcess:
    """Start a child that does some work, which can be pickled, and leaves with status 0, or 1 after an exception."""
    process = _SERVER.Process(target=_child, args=(work,))
    process.start()
    return process


def start_ranks(work: Callable[[], object], world_size: int = 2) -> list[BaseProcess]:
    """Start the processes of a distributed launch on the CPU, as a launcher would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = [{**launch, "RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"} for rank in range(world_size)]
    processes = [_SERVER.Process(target=_ranked, args=(work, place)) for place in places]
    for process in processes:
        process.start()
    return processes


def wait(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Return how processes left; None for one that had to be killed."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    return codes


def _child(work: Callable[[], object]) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # the workers of its loaders are its own, as everywhere
    try:
        work()
    except BaseException:  # noqa: BLE001 (whatever went wrong is shown)
        traceback.print_exc()
        os._exit(1)


def _ranked(work: Callable[[], object], place: dict[str, object]) -> None:
    os.environ.update({key: str(value) for key, value in place.items()})
    _child(work)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
