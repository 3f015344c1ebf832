"""Child processes that start at once: they are forked from a server that has imported everything already.

Not from the test itself, whose autograd may have started threads, which do not survive a fork.
"""

import itertools
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.training.test_faults"])
# below those that systems deal out by themselves, and others for each process of pytest-xdist
_PORTS = itertools.count(20_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


def start(work: Callable[[], object]) -> BaseProcess:
    """Start a child that does some work, which can be pickled, and leaves with status 0, or 1 after an exception."""
    process = _SERVER.Process(target=_child, args=(work,))
    process.start()
    return process


def start_ranks(work: Callable[[], object], world_size: int = 2) -> list[BaseProcess]:
    """Start the processes of a distributed launch on the CPU, as a launcher would."""
    port = next(filter(_is_free, _PORTS))
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


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) != 0


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
