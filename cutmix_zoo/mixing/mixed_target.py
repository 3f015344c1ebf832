"""A target that keeps what was drawn, for losses that dense targets cannot serve."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from cutmix_zoo.checks import require
from cutmix_zoo.mixing.memory import by_value
from cutmix_zoo.mixing.targets import (
    LamAndPartner,
    are_masks,
    check_classes,
    check_indices,
    check_labels,
    check_values,
    mix_labels,
    mix_values,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from cutmix_zoo.mixing.plan import MixPlan


@dataclass(frozen=True, eq=False)
class MixedTarget(LamAndPartner):
    """The target of a mixed batch that keeps its labels, who was mixed with whom, and by how much.

    It goes where a target tensor goes: from a loader worker to the training process, through torch's pinning, timm's
    ``PrefetchLoader``, Accelerate's ``prepare`` and Lightning, and it travels lighter than (B, K) numbers. What
    cannot pass is a loader that slices batches, such as Accelerate's with ``dispatch_batches=True``.
    Make it with :meth:`of`.

    Example:
        >>> import torch
        >>> from cutmix_zoo.mixing import CutMix, two_term_loss
        >>> plan = CutMix().draw(4, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> target = MixedTarget.of(plan, torch.tensor([1, 2, 3, 4]), num_classes=10)
        >>> loss = two_term_loss(torch.nn.CrossEntropyLoss(reduction="none"))
        >>> loss(torch.zeros(4, 10), target.labels, target), target.dense().shape
        (tensor(2.3026), torch.Size([4, 10]))
    """

    labels: Tensor
    """Of the images before they were mixed: (B,) int64, (B, K) floating point, or (B, ...) values."""
    sources: Tensor
    """(B, M) int64: the images each mixed image is made of. Column 0 is the image itself."""
    label_shares: Tensor
    """(B, M) float32: how much the label of each source counts. Rows sum to 1."""
    boxes: Tensor
    """(B, 4) int64: the box pasted into each image (:class:`~cutmix_zoo.mixing.Box`); zeros where there is none."""
    num_classes: int | None
    """K; None where labels are values, or nobody asks for dense targets."""
    smoothing: float = 0.0
    """Label smoothing of the dense targets."""

    @classmethod
    def of(cls, plan: MixPlan, labels: Tensor, num_classes: int | None, smoothing: float = 0.0) -> Self:
        """Keep what a plan does to the labels of its batch.

        Args:
            plan: of the batch.
            labels: (B,) integers; (B, K) floating point, targets that are dense already; or with
                ``num_classes=None`` any floating-point values (B, ...).
            num_classes: K; None if labels are values, or :meth:`dense` is not needed.
            smoothing: label smoothing of integer labels in [0, 1], which :meth:`dense` applies.

        Raises:
            ValueError: if the labels do not fit (see :meth:`MixPlan.mix_targets` and :meth:`MixPlan.mix_values`), they
                are masks, or there is smoothing without classes.
        """
        size = plan.batch_size
        require(not are_masks(labels), "masks are cut and pasted like their images: mix them with plan.apply_masks")
        if num_classes is not None:
            check_labels(labels, size, num_classes, smoothing)
        else:
            check_classes(num_classes, smoothing)
            (check_values if labels.is_floating_point() else check_indices)(labels, size)
        if not labels.is_floating_point():
            labels = labels.long()
        target = cls(labels, plan.sources, plan.label_shares, plan.boxes, num_classes, smoothing)
        return target._each(by_value)

    def dense(self) -> Tensor:
        """Mix the labels: what the loader would have returned in place of this.

        Returns:
            (B, K) float32, equal to :meth:`MixPlan.mix_targets`; with ``num_classes=None`` the mixed values in
            their shape and dtype. On the device of the labels.

        Raises:
            ValueError: if labels are classes of which nobody said how many there are.
        """
        if self.num_classes is not None:
            return mix_labels(self.labels, self.sources, self.label_shares, self.num_classes, self.smoothing)
        require(self.labels.is_floating_point(), "dense targets need num_classes, and this target was made without")
        return mix_values(self.labels, self.sources, self.label_shares)

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Self:
        """Return it with all its tensors on a device, as :meth:`torch.Tensor.to` does.

        Args:
            device: where to.
            non_blocking: copy from pinned memory while the program goes on.
        """
        return self._each(lambda tensor: tensor.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return it with all its tensors in page-locked memory: torch's loaders call this with ``pin_memory=True``."""
        return self._each(lambda tensor: tensor.pin_memory())

    def __len__(self) -> int:
        return len(self.labels)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)
