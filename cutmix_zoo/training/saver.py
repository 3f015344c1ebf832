"""When a checkpoint is due, and what is kept."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from cutmix_zoo.errors import Preempted
from cutmix_zoo.training.checkpoint import prune_checkpoints, save_checkpoint
from cutmix_zoo.training.files import write_lines
from cutmix_zoo.training.launch import Consensus, gather_from_processes
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

    def after_step(self, progress: Progress, sums: Tensor) -> None:
        """Save within an epoch if that is due, and stop if that was requested.

        Args:
            progress: where the run is.
            sums: what this process has added up in this epoch.

        Raises:
            Preempted: if a stop was requested of any process; the checkpoint is written.
            UserError: if the disk does not take it.
        """
        decision = self._consensus.highest(self._due(progress))
        if decision != _GO_ON:
            progress.sums = gather_from_processes(self._job.accelerator, sums)
            self._save(progress)
        if decision == _STOP:
            self._leave(progress)

    def after_epoch(self, progress: Progress) -> None:
        """Save at the end of an epoch, and stop if that was requested and there are more.

        Raises:
            Preempted: if a stop was requested of any process.
        """
        if self._job.accelerator.is_main_process:
            with writing(self._folder):
                write_lines(self._folder.metrics_file, progress.metrics)
        self._save(progress)
        line = {key: value for key, value in progress.metrics[-1].items() if value is not None}
        self._job.accelerator.log(line, step=progress.epoch)
        stop = self._consensus.highest(_STOP if self._stop.signal else _GO_ON)
        if stop and not self._job.is_over(progress):
            self._leave(progress)

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
        job, runtime = self._job, self._job.recipe.runtime
        if job.accelerator.is_main_process:
            with writing(self._folder):
                save_checkpoint(self._folder.checkpoints, progress, job.state)
                best = progress.best_epochs(job.recipe.evaluate.best_by)[: runtime.keep_best]
                names = [f"epoch-{epoch:04d}" for epoch in best]
                prune_checkpoints(self._folder.checkpoints, runtime.keep_checkpoints, names)
        self._saved_at = time.monotonic()
        job.accelerator.wait_for_everyone()

    def _leave(self, progress: Progress) -> None:
        number = self._stop.signal
        raise Preempted(
            f"stopped by {number.name if number else 'another process'} in epoch {progress.epoch + 1} after step "
            f"{progress.step}, saved as {self._folder.checkpoints / progress.name}; --resume auto goes on from there.",
            number or signal.SIGTERM,
        )
