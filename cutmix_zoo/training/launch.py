"""From a launcher's environment to an Accelerator, with the traps of launching made loud."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tqdm import tqdm

from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from accelerate import Accelerator
    from torch import Tensor

T = TypeVar("T")


_IN_PARTS = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG")
"""What of Accelerate spreads a network over processes, as the launcher's environment names it."""


PATIENCE = timedelta(hours=1)
"""How long processes wait for one that downloads, lists a folder or writes; torch would give up after ten minutes."""


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether ``accelerate launch`` has started this process."""
    return "ACCELERATE_MIXED_PRECISION" in environment


def launch_command(processes: int, precision: str, cpu_threads: int | None = None) -> str:
    """Write the launcher's part of a command that runs on one machine, whatever the user's default configuration is.

    Args:
        processes: how many.
        precision: Accelerate's name for it.
        cpu_threads: of each process on the CPU; ``None`` for a GPU each.

    Example:
        >>> launch_command(1, "no", 2).partition(" --num_machines")[0]
        'accelerate launch --cpu --num_processes 1'
        >>> launch_command(4, "bf16")
        'accelerate launch --multi_gpu --num_processes 4 --num_machines 1 --mixed_precision bf16 --dynamo_backend no'
    """
    several, on_cpu = processes > 1, cpu_threads is not None
    options = [
        # with --cpu the launcher starts one process, whatever it is asked for
        *(["--multi_gpu"] if several else ["--cpu"] if on_cpu else []),
        f"--num_processes {processes} --num_machines 1 --mixed_precision {precision} --dynamo_backend no",
        *([f"--num_cpu_threads_per_process {cpu_threads}"] if on_cpu else []),
        *(["--main_process_port 0"] if several and on_cpu else []),
    ]
    return f"{'ACCELERATE_USE_CPU=true ' if several and on_cpu else ''}accelerate launch {' '.join(options)}"


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a launch that asked for several processes and started one, for a network in parts, or to compile it.

    ``accelerate launch --cpu --num_processes 2`` does the first: it sets the rendezvous address for several
    processes and no rank, and starts a single one. The second is what FSDP and its like do, often by the user's
    default configuration; checkpoints, averages and exports are of whole networks.

    Raises:
        UserError: with what to do instead.
    """
    for name in _IN_PARTS:
        if environment.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise UserError(
                f"accelerate was asked for {name}, and networks are trained whole in each process here: leave it out "
                "of the command, or choose another configuration than that of `accelerate config` with --config_file."
            )
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise UserError(
            f"accelerate was asked to compile with {backend}, which no run would have on record: launch with "
            f"--dynamo_backend no (what compiles in a recipe is runtime.compile: {backend.lower()})."
        )
    if is_launched(environment) and "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment:
        raise UserError(
            "accelerate was asked for several processes but started only this one, as it does with --cpu or "
            f"without --multi_gpu. For 2 processes on the CPU: {launch_command(2, 'no', 1)} -m MODULE ... "
            "(For one process: unset MASTER_ADDR.)"
        )


def make_accelerator(trackers: tuple[str, ...] = (), folder: Path | None = None) -> Accelerator:
    """Make the Accelerator of this process: on the CPU where there is no CUDA device.

    Args:
        trackers: names of Accelerate's trackers to log with.
        folder: where trackers write; ``None`` logs nothing, and only looks whether the packages are there.

    Raises:
        UserError: if a tracker's package is missing, the launch is one that :func:`check_launch` refuses, or fp16 is
            asked for without a GPU.
    """
    check_launch()
    for tracker in trackers:
        _need_tracker(tracker)
    # imported here: it takes a second, which what only asks for the process's rank need not wait for
    from accelerate import Accelerator
    from accelerate.utils import (
        DistributedDataParallelKwargs,
        GradientAccumulationPlugin,
        InitProcessGroupKwargs,
        ProjectConfiguration,
    )

    log_with = list(trackers) if trackers and folder else None
    places = ProjectConfiguration(str(folder), str(folder / "tensorboard")) if folder else None
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        log_with=log_with,
        project_config=places,
        # else the environment could have each loss divided, of which the loop knows nothing
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE),
            # training does not read running statistics; the loop shares them at the end of an epoch
            DistributedDataParallelKwargs(broadcast_buffers=False),
        ],
    )
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "fp16":
        raise UserError("fp16 needs a GPU, and Accelerate ignores it without one: use --mixed_precision bf16 or no.")
    # else each process would believe to be the only one, and all would write into one folder
    assert accelerator.num_processes == process_count()
    return accelerator


def leave() -> None:
    """End the exchange with the other processes of the launch, if there are any, when all work is done."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def process_count() -> int:
    """Count the processes of the launch, before there is an Accelerator too."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Tell whether this is the only process of its launch, or the one of rank 0; before there is an Accelerator too."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print something, once a launch."""
    if is_first_process():
        print(text, flush=True)  # noqa: T201


def progress_bar(accelerator: Accelerator, **options: Any) -> tqdm[Any]:
    """Make a progress bar, which the main process alone shows.

    Args:
        accelerator: this process's place in the launch.
        options: of tqdm.
    """
    # a log file gets a line now and then, a terminal a moving bar
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(disable=not accelerator.is_main_process, mininterval=interval, dynamic_ncols=True, **options)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given, which a clock that is read before would miss."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sum_over_processes(accelerator: Accelerator, sums: Tensor) -> Tensor:
    """Add a CPU tensor up over the processes of a launch.

    Args:
        accelerator: this process's place in the launch.
        sums: this process's share.

    Returns:
        The sum, on the CPU of every process.
    """
    return accelerator.reduce(sums.to(accelerator.device)).cpu()


def gather_from_processes(accelerator: Accelerator, values: Tensor) -> list[list[float]]:
    """Collect the numbers (N,) of every process, in the order of their ranks."""
    return accelerator.gather(values.to(accelerator.device)[None]).tolist()


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Let the main process do something, such as what touches the disk, and tell the others what came of it.

    Args:
        accelerator: this process's place in the launch.
        work: is called in the main process; all others wait.

    Returns:
        What it returned, in every process.

    Raises:
        UserError: if it raised one, in every process.
    """
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = error
    value, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    result: T = value
    return result


@contextmanager
def one_process_first(accelerator: Accelerator) -> Iterator[None]:
    """Let the main process do something before the others, and then the first of each machine.

    So a dataset is downloaded once, whether or not the machines share a disk.
    """
    with accelerator.main_process_first(), accelerator.local_main_process_first():
        yield


class Consensus:
    """Let all processes of a launch take the same decision, at the same step.

    Processes exchange one integer on the CPU, which does not wait for a GPU.

    Args:
        accelerator: this process's place in the launch.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._group: Any = (
            torch.distributed.new_group(backend="gloo", timeout=PATIENCE) if accelerator.num_processes > 1 else None
        )

    def highest(self, value: int) -> int:
        """Return the highest of the values that the processes bring; all have to bring one."""
        if self._group is None:
            return value
        values = torch.tensor(value)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, self._group)
        return int(values)


def _need_tracker(name: str) -> None:
    try:
        import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise UserError(f"runtime.trackers names {name}, which is not installed: pip install {name}") from error
