"""From a method to each batch's plan and target: keyed in our own runs, from a generator of its own elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch.utils.data import get_worker_info

from cutmix_zoo.checks import require, require_count, require_whole
from cutmix_zoo.keys import SampleKey, Stream, generator_for
from cutmix_zoo.mixing.compose import check_method
from cutmix_zoo.mixing.feature import needs_network
from cutmix_zoo.mixing.memory import by_value
from cutmix_zoo.mixing.mixed_target import MixedTarget
from cutmix_zoo.mixing.plan import IdentityPlan, MixPlan
from cutmix_zoo.mixing.targets import IGNORE_INDEX, check_classes, mix_by_kind
from cutmix_zoo.mixing.trial import try_methods

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cutmix_zoo.mixing.method import Context, Images, MixMethod


_UNKNOWN = -1
"""The epoch until somebody says it."""


def plan_for(
    mix: MixMethod,
    batch_size: int,
    height: int,
    width: int,
    *,
    seed: int,
    epoch: int,
    step: int,
    rank: int,
    **context: Unpack[Context],
) -> MixPlan:
    """Draw the plan that belongs to one step of a run: the collate and the device path draw the same one.

    Args:
        mix: the method.
        batch_size: number of images on this rank.
        height: height of the images in pixels.
        width: width of the images in pixels.
        seed: the run's seed.
        epoch: epoch, from 0.
        step: step within the epoch, from 0.
        rank: this process among those that train together.
        context: what else the method needs (:class:`~cutmix_zoo.mixing.method.Context`).
    """
    generator = generator_for(seed, Stream.MIX, epoch, step, rank)
    return mix.draw(batch_size, height, width, generator=generator, **context)


@dataclass(eq=False)
class PlanSource:
    """Draws the plans of batch after batch, and mixes their labels: what a collate and a transform have in common.

    With a :class:`~cutmix_zoo.keys.SampleKey`, a plan is a function of (seed, epoch, step, rank): see
    :func:`plan_for`. Without one it is drawn from a generator of this object's own, and the global generators are not
    touched. That generator is seeded once for each seed that it meets, the loader worker's or without workers
    ``torch.initial_seed()``: whoever seeds torch again with the same number does not restart the draws, and whoever
    goes back to an earlier number, after another one, replays them from their start.

    What is set later, by :attr:`enabled` and :meth:`set_epoch`, reaches loader workers that are already running. The
    settings, and what is raised for them, are those of :class:`~cutmix_zoo.mixing.MixCollate`.
    """

    mix: MixMethod
    num_classes: int | None = None
    smoothing: float = 0.0
    seed: int = 0
    rank: int = 0
    epochs: int | None = None
    keep_plan: bool = False
    ignore_index: int = IGNORE_INDEX

    def __post_init__(self) -> None:
        check_method("mix", self.mix)
        require(
            not needs_network(self.mix),
            f"{self.mix} mixes inside the network, which neither collate nor transform has: use mix_features",
        )
        check_classes(self.num_classes, self.smoothing)
        require_whole("seed", self.seed)
        require_whole("rank", self.rank, lowest=0)
        require_whole("ignore_index", self.ignore_index)
        if self.epochs is not None:
            require_count("epochs", self.epochs)
        self._enabled = torch.ones((), dtype=torch.bool).share_memory_()
        self._epoch = torch.full((), _UNKNOWN).share_memory_()
        self._own: tuple[int, torch.Generator] | None = None
        self._tried = False

    def __getstate__(self) -> dict[str, Any]:
        # a generator's state does not survive the way to a spawned worker, which starts its own anyway
        return {**self.__dict__, "_own": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # a copy that did not go to a worker has memory of its own, and workers of its own to reach
        self._enabled.share_memory_()
        self._epoch.share_memory_()

    @property
    def enabled(self) -> bool:
        """Whether batches are mixed: one switch for this process and all its loader workers."""
        return bool(self._enabled)

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled.fill_(enabled)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0, where samples carry no keys that say it.

        Raises:
            ValueError: if the run has no such epoch.
        """
        require_whole("epoch", epoch, lowest=0)
        if self.epochs is not None:
            require(epoch < self.epochs, f"epoch must be below epochs={self.epochs}, got {epoch}")
        self._epoch.fill_(epoch)

    def draw(
        self, batch_size: int, height: int, width: int, *, images: Images, key: SampleKey | None = None
    ) -> MixPlan:
        """Draw the plan of the next batch.

        Args:
            batch_size: number of images.
            height: height of the images in pixels.
            width: width of the images in pixels.
            images: what will be mixed.
            key: of one of the samples, where they have keys.
        """
        if not self.enabled:
            return IdentityPlan(batch_size, height, width)
        context: Context = {"images": images}
        epoch = int(self._epoch) if key is None else key.epoch
        if self.epochs is not None and epoch != _UNKNOWN:
            context["progress"] = min(epoch / self.epochs, 1.0)
        shape = (batch_size, height, width)
        if key is None:
            return self.mix.draw(*shape, generator=self._own_generator(), **context)
        return plan_for(self.mix, *shape, seed=self.seed, epoch=key.epoch, step=key.step, rank=self.rank, **context)

    def target(self, plan: MixPlan, labels: Tensor) -> Tensor | MixedTarget:
        """Mix the labels of a batch (:func:`~cutmix_zoo.mixing.targets.mix_by_kind`); a small target travels by value.

        Args:
            plan: of the batch.
            labels: of its images.

        Raises:
            ValueError: if the labels do not fit.
        """
        if self.keep_plan:
            return MixedTarget.of(plan, labels, self.num_classes, self.smoothing)
        return by_value(mix_by_kind(plan, labels, self.num_classes, self.smoothing, self.ignore_index))

    def try_once(self, images: Sequence[Images], labels: Tensor) -> None:
        """Try all methods on the first batch that is mixed (:func:`~cutmix_zoo.mixing.trial.try_methods`).

        Args:
            images: of the batch, those that are mixed alike.
            labels: of the batch.

        Raises:
            ValueError: if a method cannot mix such a batch.
        """
        if self.enabled and not self._tried:
            try_methods(self.mix, images, labels, self.ignore_index)
            self._tried = True

    def _own_generator(self) -> torch.Generator:
        worker = get_worker_info()
        origin = torch.initial_seed() if worker is None else worker.seed
        # In a worker this object is a copy, perhaps of one that was used before: it must not go on from there.
        if self._own is None or self._own[0] != origin:
            self._own = origin, generator_for(origin, Stream.MIX, self.seed, self.rank)
        return self._own[1]
