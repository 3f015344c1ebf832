"""Collates: samples become a batch, and a mixing plan is applied while it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from timm.data import FastCollateMixup

from cutmix_zoo.checks import require_whole
from cutmix_zoo.mixing.drawing import PlanSource
from cutmix_zoo.mixing.memory import Buffers, by_value, empty_batch
from cutmix_zoo.mixing.plan import IdentityPlan
from cutmix_zoo.mixing.rows import batch_order
from cutmix_zoo.mixing.samples import read_samples
from cutmix_zoo.mixing.targets import IGNORE_INDEX
from cutmix_zoo.mixing.timm_args import settings_from_timm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cutmix_zoo.mixing.method import MixMethod
    from cutmix_zoo.mixing.samples import Sample


def collate_samples(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Stack samples into a batch, unmixed, keeping the layout of their memory.

    Images that lie in memory as height, width, channel (what timm's transforms give) become a
    ``channels_last`` batch. In a loader worker the batch is written straight into shared memory.

    Args:
        samples: tuples of image, label and perhaps a key, which is dropped
            (:data:`~cutmix_zoo.mixing.samples.Sample`).

    Returns:
        images (B, C, H, W) in the samples' dtype, and labels: (B,) int64, (B, ...) float32 or masks (B, H, W).

    Raises:
        ValueError: if there is no sample, or the images or labels differ in shape or dtype.
        TypeError: if a sample is something else.

    Example:
        >>> import numpy as np, torch
        >>> images, labels = collate_samples([(np.zeros((32, 32, 3), np.uint8).transpose(2, 0, 1), 7)] * 4)
        >>> images.shape, images.is_contiguous(memory_format=torch.channels_last), labels
        (torch.Size([4, 3, 32, 32]), True, tensor([7, 7, 7, 7]))
    """
    batch = read_samples(samples)
    first = batch.images[0]
    output = empty_batch((len(batch.images), *first.shape), batch_order(first), first.dtype)
    IdentityPlan(*batch.shape).write(batch.images, output.array)
    return output.tensor(), by_value(batch.labels)


class MixCollate(FastCollateMixup):
    """Collate samples for a timm loader and mix them while the batch is written.

    ``timm.data.create_loader(..., collate_fn=MixCollate(CutMix(), num_classes))`` and timm's train
    loop take it for their own ``FastCollateMixup``, and ``loader.mixup_enabled = False`` reaches workers
    that are already running. The samples' arrays are only read; a batch is new memory each time,
    written in the samples' dtype and layout (see :func:`collate_samples`).

    When the samples carry a :class:`~cutmix_zoo.keys.SampleKey`, the plan is a function of (seed, epoch,
    step, rank): see :func:`~cutmix_zoo.mixing.drawing.plan_for`. Otherwise it is drawn from a generator of the
    collate's own (when that is seeded: :class:`~cutmix_zoo.mixing.drawing.PlanSource`), and the global generators are
    not touched. To repeat a run in one process, make a new collate.

    On the first batch that is mixed, each method inside ``mix`` is tried on two of its images, so that one that cannot
    mix such data is refused then, and not when it is first drawn.

    Args:
        mix: the method; any but those that mix inside the network.
        num_classes: K; or None where labels are no classes: floating-point values, or masks, which are cut and
            pasted as their images are.
        smoothing: label smoothing in [0, 1] of labels that are one class an image, applied to unmixed batches too.
            For all other labels it must be 0: for masks, give it to the loss.
        seed: the run's seed.
        rank: this process among those that train together.
        epochs: length of the run, which scheduled methods need to know; where samples carry no keys, then call
            :meth:`set_epoch`.
        keep_plan: return a :class:`~cutmix_zoo.mixing.MixedTarget` in place of dense targets.
        ignore_index: the class of mask pixels that the method erases.
        reuse: number of buffers of each batch shape through which each process goes round; 0 for new memory each
            time. A batch of images is then overwritten when the process that made it makes its ``reuse``-th one of
            that shape after it, so it must be used up, or copied to a device, by then. With loader workers, of which
            each runs ahead by ``prefetch_factor`` batches, that is at least ``prefetch_factor + 2``. Of an iterable
            dataset it is at least ``prefetch_factor * num_workers + 2``: workers that have samples left also take
            over the batches of those that have none. Buffers are kept, so where batches have many shapes, there are
            that many times as many.

    Raises:
        ValueError: if a number is out of range or no whole one, there is smoothing without classes, or ``mix`` mixes
            inside the network.
        TypeError: if ``mix`` is no mixing method.

    Example:
        >>> import numpy as np
        >>> from cutmix_zoo.mixing import CutMix
        >>> collate = MixCollate(CutMix(), num_classes=10, smoothing=0.1)
        >>> images, targets = collate([(np.zeros((3, 32, 32), np.uint8), 7)] * 4)
        >>> images.shape, targets.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 10]))
    """

    # The constructor of FastCollateMixup is not called: its settings describe methods of its own.
    def __init__(  # noqa: PLR0913 (each is a setting of its own)
        self,
        mix: MixMethod,
        num_classes: int | None,
        smoothing: float = 0.0,
        *,
        seed: int = 0,
        rank: int = 0,
        epochs: int | None = None,
        keep_plan: bool = False,
        ignore_index: int = IGNORE_INDEX,
        reuse: int = 0,
    ) -> None:
        self.plans = PlanSource(mix, num_classes, smoothing, seed, rank, epochs, keep_plan, ignore_index)
        require_whole("reuse", reuse, lowest=0)
        self._buffers = Buffers(reuse) if reuse else None

    @classmethod
    def from_timm(
        cls, *, label_smoothing: float = 0.0, num_classes: int = 1000, multi_label: bool = False, **mixing: Any
    ) -> Self:
        """Make the collate that stands for ``FastCollateMixup(**mixup_args)``.

        Args:
            label_smoothing: here 0 unless asked for; timm's own default is 0.1.
            num_classes: K.
            multi_label: labels are rows of K zeros and ones, which are recognised without this as well.
            mixing: timm's other arguments; see :func:`~cutmix_zoo.mixing.timm_args.method_from_timm`.

        Raises:
            ValueError: if timm's arguments do not fit, or rows of several labels were to be smoothed.
        """
        settings = settings_from_timm(
            label_smoothing=label_smoothing, num_classes=num_classes, multi_label=multi_label, **mixing
        )
        return cls(*settings)

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed: one switch for this process and all its loader workers."""
        return self.plans.enabled

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        self.plans.enabled = enabled

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0, for scheduled methods and samples without keys.

        Raises:
            ValueError: if the run has no such epoch.
        """
        self.plans.set_epoch(epoch)

    def __call__(self, batch: Sequence[Sample], _: object = None) -> tuple[Tensor, Any]:
        """Collate and mix samples.

        Args:
            batch: tuples of image, label and perhaps a key (:data:`~cutmix_zoo.mixing.samples.Sample`).

        Returns:
            images (B, C, H, W) in the samples' dtype, and targets: (B, K) float32, or as ``num_classes`` and
            ``keep_plan`` say.

        Raises:
            ValueError: if there is no sample, the images differ in shape or dtype, a label does not fit, or from
                the first batch, a method cannot mix it.
            TypeError: if a sample is something else.
        """
        read = read_samples(batch)
        plan = self.plans.draw(*read.shape, images=read.images, key=read.key)
        first = read.images[0]
        layout = ((len(read.images), *first.shape), batch_order(first), first.dtype)
        output = empty_batch(*layout) if self._buffers is None else self._buffers.next(*layout)
        plan.write(read.images, output.array)
        target = self.plans.target(plan, read.labels)
        self.plans.try_once([read.images], read.labels)
        return output.tensor(), target
