"""Learning rates as functions of the update, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler

from cutmix_zoo.errors import UserError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from cutmix_zoo.training.settings import ScheduleSettings


class MultiStep(Scheduler):
    """Multiply the learning rate by ``gamma`` from each milestone on.

    timm's own multistep lowers the rate one epoch before its milestone; here the update that a milestone
    names is the first with the lower rate, as in the CutMix authors' code (epochs 150 and 225 of 300).

    Args:
        optimizer: whose parameter groups' ``lr`` are set.
        milestones: updates, counted from 0, rising.
        gamma: factor at each milestone.
        warmup: updates of a linear rise from ``warmup_lr``.
        warmup_lr: learning rate of update 0 where there is a warm-up.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        milestones: Sequence[int],
        gamma: float,
        warmup: int = 0,
        warmup_lr: float = 0.0,
    ) -> None:
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self.milestones, self.gamma, self.warmup, self.warmup_lr = list(milestones), gamma, warmup, warmup_lr

    def _get_lr(self, t: int) -> list[float]:
        if t < self.warmup:
            return [self.warmup_lr + (base - self.warmup_lr) * t / self.warmup for base in self.base_values]
        return [base * self.gamma ** bisect_right(self.milestones, t) for base in self.base_values]


def make_schedule(settings: ScheduleSettings, optimizer: torch.optim.Optimizer, updates_per_epoch: int) -> Scheduler:
    """Make the schedule of a run.

    Args:
        settings: the recipe's ``schedule`` section.
        optimizer: whose learning rates it sets.
        updates_per_epoch: optimizer updates an epoch.

    Returns:
        A timm scheduler; call ``step_update(update)`` before each update, counted from 0 over the run.

    Raises:
        UserError: if timm has no such schedule, it does not take the recipe's arguments, or does not end with the run.
    """
    warmup = round(settings.warmup_epochs * updates_per_epoch)
    if settings.name not in ("multistep", "constant"):
        gamma = {"decay_rate": settings.gamma} if settings.name == "step" else {}
        try:
            schedule, length = create_scheduler_v2(
                optimizer,
                sched=settings.name,
                num_epochs=settings.epochs,
                min_lr=settings.min_lr,
                warmup_lr=settings.warmup_lr,
                warmup_epochs=settings.warmup_epochs,
                step_on_epochs=False,
                updates_per_epoch=updates_per_epoch,
                **gamma,
                **settings.args,
            )
        except (AssertionError, TypeError, ValueError) as error:
            raise UserError(
                f"cannot make schedule {settings.name!r} with {settings.args or 'no arguments'}: {one_line(error)}"
            ) from error
        if length != settings.epochs:
            raise UserError(
                f"schedule.args {settings.args} make a schedule of {length:g} epochs, and the run has "
                f"{settings.epochs}: leave out what lengthens it, such as cycle_limit, cooldown_epochs, warmup_prefix."
            )
        return schedule
    fractions = settings.milestones if settings.name == "multistep" else ()
    # a fraction such as 0.1 of 300 is 30.000000000000004 in floating point, and must still be 30
    epochs = [math.ceil(fraction * settings.epochs - 1e-9) for fraction in fractions]
    milestones = [epoch * updates_per_epoch for epoch in epochs]
    return MultiStep(optimizer, milestones, settings.gamma, warmup, settings.warmup_lr)
