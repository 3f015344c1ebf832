"""When a checkpoint is due, and what is kept."""

from __future__ import annotations

import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from cutmix_zoo.errors import Preempted
from cutmix_zoo.training.checkpoint import check_optimizer, prune_checkpoints, save_checkpoint
from cutmix_zoo.training.files import write_lines
from cutmix_zoo.training.launch import Consensus, gather_from_processes, on_main
from cutmix_zoo.training.run import writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from cutmix_zoo.training.checkpoint import Progress
    from cutmix_zoo.training.job import Job
    from cutmix_zoo.training.preemption import StopRequest
    from cutmix_zoo.training.run import RunFolder

_GO_ON, _SAVE, _STOP = range(3)


class Saver:
    """Write a run's checkpoints: where the recipe asks for them, and before the run stops.

    Args:
        job: what is trained.
        folder: the run's folder.
        stop: whether the run has been asked to stop.
        check: is called before a checkpoint is written; raises if the weights are of no use.
    """

    def __init__(self, job: Job, folder: RunFolder, stop: StopRequest, check: Callable[[], None]) -> None:
        self._job, self._folder, self._stop, self._check = job, folder, stop, check
        self._consensus = Consensus(job.accelerator)
        self._saved_at = time.monotonic()
        self._knows_optimizer = False

    def after_step(self, progress: Progress, sums: Tensor) -> float:
        """Save within an epoch if that is due, and stop if that was requested.

        Args:
            progress: where the run is.
            sums: what this process has added up in this epoch.

        Returns:
            The seconds that saving took.

        Raises:
            Preempted: if a stop was requested of any process; the checkpoint is written.
            UserError: if the disk does not take it, or the optimizer's state cannot be saved.
        """
        if not self._knows_optimizer:  # it has a state from its first step on
            check_optimizer(self._job.torch_optimizer)
            self._knows_optimizer = True
        decision = self._consensus.highest(self._due(progress))
        began = time.perf_counter()
        if decision != _GO_ON:
            progress.sums = gather_from_processes(self._job.accelerator, sums)
            self._save(progress)
        if decision == _STOP:
            self._leave(progress)
        return time.perf_counter() - began

    def save_alone(self, progress: Progress) -> None:
        """Save in the main process after an error, without the others, which may be gone."""
        if self._job.accelerator.is_main_process:
            self._write(progress)

    def stop_if_asked(self, progress: Progress) -> None:
        """Save and stop, if that was requested; all processes have to ask.

        Args:
            progress: where the run is, with what the processes have added up in this epoch.

        Raises:
            Preempted: if a stop was requested of any process; the checkpoint is written.
        """
        if self._consensus.highest(_STOP if self._stop.signal else _GO_ON):
            self._save(progress)
            self._leave(progress)

    def after_epoch(self, progress: Progress) -> None:
        """Save at the end of an epoch."""
        self._save(progress)
        line = {key: value for key, value in progress.metrics[-1].items() if value is not None}
        self._job.accelerator.log(line, step=progress.epoch)

    def _due(self, progress: Progress) -> int:
        if self._stop.signal:
            return _STOP
        runtime = self._job.recipe.runtime
        by_steps = runtime.checkpoint_every_steps is not None and progress.step % runtime.checkpoint_every_steps == 0
        # every process has a clock of its own, and one early enough decides for all
        by_time = (
            runtime.checkpoint_every_minutes is not None
            and time.monotonic() - self._saved_at >= 60 * runtime.checkpoint_every_minutes
        )
        return _SAVE if by_steps or by_time else _GO_ON

    def _save(self, progress: Progress) -> None:
        self._check()
        on_main(self._job.accelerator, partial(self._write, progress))
        self._saved_at = time.monotonic()

    def _write(self, progress: Progress) -> None:
        recipe, checkpoints = self._job.recipe, self._folder.checkpoints
        with writing(self._folder):
            if not progress.step:
                write_lines(self._folder.metrics_file, progress.metrics)
            save_checkpoint(checkpoints, progress, self._job.state)
            best = progress.best_epochs(recipe.evaluate.best_by)[: recipe.runtime.keep_best]
            prune_checkpoints(checkpoints, recipe.runtime.keep_checkpoints, [f"epoch-{epoch:04d}" for epoch in best])

    def _leave(self, progress: Progress) -> None:
        number = self._stop.signal
        raise Preempted(
            f"stopped by {number.name if number else 'another process'} in epoch {progress.epoch + 1} after step "
            f"{progress.step}, saved as {self._folder.checkpoints / progress.name}; --resume auto goes on from there.",
            number or signal.SIGTERM,
        )
