"""A few steps and an evaluation, and what the whole run would cost."""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from cutmix_zoo.data.resident import ResidentLoader
from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.training.checkpoint import Progress, check_optimizer
from cutmix_zoo.training.gradient import GradientGuard
from cutmix_zoo.training.launch import synchronize
from cutmix_zoo.training.loop import train_epoch
from cutmix_zoo.training.recipe import recipe_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutmix_zoo.training.checkpoint import TrainState
    from cutmix_zoo.training.job import Job
    from cutmix_zoo.training.loop import Evaluate

STEPS = 4
"""Steps that are timed after the first one, which sets things up, if an epoch has as many; with workers, more."""


class _EnoughError(Exception):
    """The steps have been taken."""


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Args:
        steps: updates of the whole run.
        first_step: seconds of the first update, which compiles and chooses algorithms.
        step: seconds of an update, with its share of loading.
        measuring: seconds of all validations, and of measuring the unmixed training images each epoch.
        validation: seconds of one validation, with its share of loading.
        checkpoint: bytes of the tensors of a checkpoint.
        memory: bytes of memory at most: of the GPU, or of the process where there is none.
    """

    steps: int
    first_step: float
    step: float
    measuring: float
    validation: float
    checkpoint: int
    memory: int

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, without what writing takes."""
        return self.first_step + (self.steps - 1) * self.step + self.measuring


def dry_run(job: Job, evaluate: Evaluate) -> Cost:
    """Train on a few batches, evaluate a few, and see whether checkpoint and export can be made.

    Args:
        job: what would be trained; afterwards its weights are others.
        evaluate: measures a network on batches.

    Raises:
        UserError: for what would end the run.
    """
    _check_export(job)
    if job.accelerator.device.type == "cuda":
        # what finding a micro-batch took is no part of a run
        torch.cuda.reset_peak_memory_stats(job.accelerator.device)
    # the first batches wait in the workers' queues already: they say nothing of how fast loading is
    ahead = 0 if isinstance(job.train_loader, ResidentLoader) else 2 * job.recipe.data.workers
    first, *steps = _time_steps(job, 1 + ahead + max(STEPS, ahead))
    image = _time_image(job, evaluate, max(STEPS, ahead)) / job.accelerator.num_processes
    epochs = job.recipe.schedule.epochs
    validations = math.ceil(epochs / job.recipe.evaluate.every) * len(job.networks)
    return Cost(
        steps=job.updates_per_epoch * epochs,
        first_step=first,
        step=statistics.mean(steps[ahead:] or steps[-1:] or [first]),
        measuring=image * (validations * job.val_loader.size + epochs * job.clean_loader.size),
        validation=image * job.val_loader.size,
        checkpoint=_checkpoint_size(job.state),
        memory=_peak_memory(job.accelerator.device),
    )


def _check_export(job: Job) -> None:
    """Export the network as it is, which nothing but the end of the run would otherwise try."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            job.export(job.network, Path(folder), {})
        except ValueError as error:
            raise UserError(f"the run could not export its model at its end: {one_line(error)}") from error


def _time_steps(job: Job, count: int) -> list[float]:
    laps = [time.perf_counter()]

    def after_step(*_: object) -> float:
        synchronize(job.accelerator.device)
        laps.append(time.perf_counter())
        if len(laps) > count:
            raise _EnoughError
        return 0.0

    guard = GradientGuard(job.recipe.optimizer.clip_norm, job.recipe.optimizer.skip_nonfinite)
    with suppress(_EnoughError):
        train_epoch(job, Progress(recipe_dict(job.recipe)), guard, tqdm(disable=True), after_step)
    guard.check()
    return [later - earlier for earlier, later in pairwise(laps)]


def _time_image(job: Job, evaluate: Evaluate, count: int) -> float:
    """Evaluate some batches, and return the seconds of an image: of the last ones, which had to be loaded meanwhile."""
    times, sizes = [], []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in islice(job.val_loader, count):
            times.append(time.perf_counter())
            sizes.append(len(labels))
            yield images, labels

    if job.accelerator.process_index >= job.val_loader.size:
        return 0.0  # one of many processes may have no image
    evaluate(job.network, batches(), prepare=job.prepare, num_classes=len(job.splits.classes))
    times.append(time.perf_counter())
    half = len(sizes) // 2
    return (times[-1] - times[half]) / sum(sizes[half:])


def _checkpoint_size(state: TrainState) -> int:
    check_optimizer(state.optimizer)
    optimizer = [value for values in state.optimizer.state_dict()["state"].values() for value in values.values()]
    networks = [state.network] if state.average is None else [state.network, state.average]
    weights = [value for network in networks for value in network.state_dict().values()]
    return sum(value.nbytes for value in [*optimizer, *weights] if isinstance(value, Tensor))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def describe_cost(cost: Cost, job: Job) -> str:
    """Write down what a run would cost.

    Args:
        cost: of the run.
        job: what would be trained.
    """
    recipe, kept = job.recipe, job.recipe.runtime.keep_checkpoints + job.recipe.runtime.keep_best
    where = "GPU" if job.accelerator.device.type == "cuda" else "process"
    epochs = f"{recipe.schedule.epochs} epochs of {job.updates_per_epoch:,} updates of {recipe.data.batch_size} images"
    step = f"{1000 * cost.step:.0f} ms an update, the first one {cost.first_step:.1f} s"
    return (
        f"{recipe.name}: {recipe.model.name} on {recipe.data.name}, {epochs}, {job.val_loader.size:,} to validate on\n"
        f"time    {_duration(cost.seconds)}: {step}; {_duration(cost.validation)} a validation\n"
        f"memory  {_size(cost.memory)} at most in each {where}\n"
        f"disk    {_size((kept + 1) * cost.checkpoint)} while it runs: checkpoints of {_size(cost.checkpoint)}\n"
        "Nothing was written."
    )


def _duration(seconds: float) -> str:
    """Write a duration.

    Example:
        >>> _duration(3.21), _duration(75), _duration(7300)
        ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _size(count: float) -> str:
    """Write a number of bytes.

    Example:
        >>> _size(700), _size(3_400_000), _size(12_000_000_000)
        ('0.0007 MB', '3.4 MB', '12 GB')
    """
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
