"""The label side: dense targets, the two-term loss, and the accuracy on a mixed batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutmix_zoo.checks import require_count, require_fraction

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutmix_zoo.mixing.plan import MixPlan


def mix_labels(labels: Tensor, sources: Tensor, shares: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Spread each image's label shares over the classes.

    Labels are smoothed as timm smooths them (``1 - e + e/K`` on the class, ``e/K`` elsewhere) and
    then mixed; as both are linear, the order does not matter. Sources of the same class add up.

    Args:
        labels: (B,) integer labels in ``[0, num_classes)``, on any device; or (B, K) floating point: soft
            labels, or the zeros and ones of several labels an image, which are mixed as they are.
        sources: (B, M) int64, which images each mixed image is made of.
        shares: (B, M) float32, how much each of them counts; rows sum to 1.
        num_classes: K.
        smoothing: e, in [0, 1]; for integer labels.

    Returns:
        (B, K) float32 on the labels' device; rows of integer labels sum to 1.

    Raises:
        ValueError: if the labels are not one integer or one row of K numbers an image, one of them is outside
            the classes, or ``smoothing`` is asked for with rows, of which nobody knows whether they were
            smoothed before. The range is checked where that is free: not on an accelerator, and not inside
            ``torch.compile``.

    Example:
        >>> mix_labels(torch.tensor([0, 2]), torch.tensor([[0, 1], [1, 0]]),
        ...            torch.tensor([[0.75, 0.25], [1.0, 0.0]]), num_classes=3)
        tensor([[0.7500, 0.0000, 0.2500],
                [0.0000, 0.0000, 1.0000]])
    """
    require_fraction("smoothing", smoothing)
    require_count("num_classes", num_classes)
    if labels.is_floating_point():
        _check_dense(labels, len(sources), num_classes, smoothing)
        return mix_values(labels.float(), sources, shares)
    _check_labels(labels, len(sources), num_classes)
    sources, shares = sources.to(labels.device), shares.to(labels.device)
    targets = torch.full((len(sources), num_classes), smoothing / num_classes, device=labels.device)
    # one column at a time: within a column no two values meet, so the sums have one order on every device
    for source, share in zip(sources.unbind(1), shares.unbind(1), strict=True):
        targets.scatter_add_(1, labels[source].long().unsqueeze(1), share.unsqueeze(1) * (1.0 - smoothing))
    return targets


def mix_values(values: Tensor, sources: Tensor, shares: Tensor) -> Tensor:
    """Average what is a number: regression targets, soft labels, sample weights.

    Args:
        values: (B, ...) floating point, on any device.
        sources: (B, M) int64, which images each mixed image is made of.
        shares: (B, M) float32, how much each of them counts.

    Returns:
        ``sum_m shares[:, m] * values[sources[:, m]]``, in the same shape, dtype and device.

    Raises:
        ValueError: if the values are not floating point, or not one for each image.

    Example:
        >>> mix_values(torch.tensor([8.0, 4.0]), torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0.75, 0.25], [1, 0]]))
        tensor([7., 4.])
    """
    if not values.is_floating_point() or values.ndim < 1 or len(values) != len(sources):
        raise ValueError(
            f"values must be floating point, one for each of the {len(sources)} images of the plan, "
            f"got {values.dtype} of shape {tuple(values.shape)}"
        )
    sources, shares = sources.to(values.device), shares.to(values.device)
    # half precision would round shares: accumulate in float32
    total = torch.zeros_like(values, dtype=torch.promote_types(values.dtype, torch.float32))
    for source, share in zip(sources.unbind(1), shares.unbind(1), strict=True):
        total += share.view(-1, *[1] * (values.ndim - 1)) * values[source]
    return total.to(values.dtype)


def _check_dense(targets: Tensor, batch_size: int, num_classes: int, smoothing: float) -> None:
    if targets.shape != (batch_size, num_classes):
        raise ValueError(
            f"floating-point labels must be {batch_size} rows of {num_classes} numbers, one for each class, "
            f"got shape {tuple(targets.shape)}: mix other values with mix_values"
        )
    if smoothing > 0:
        raise ValueError("smoothing is for integer labels: dense targets may be smooth already, so smooth them before")


def _check_labels(labels: Tensor, batch_size: int, num_classes: int) -> None:
    if labels.shape != (batch_size,):
        raise ValueError(
            f"labels must be {batch_size} integers, one for each image of the plan, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"label {low if low < 0 else high} is outside [0, {num_classes}): "
            "set num_classes to the number of classes of the dataset"
        )


def two_term_loss(criterion: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, MixPlan], Tensor]:
    """Turn a criterion on hard labels into a loss for mixed batches.

    The loss is the mean over the batch of ``sum_m share_m * criterion(logits, labels of source m)``. For
    cross-entropy it equals that of the mixed target; for a loss that is not linear in its
    target (focal, a thresholded BCE) the two differ, and this one is CutMix's.

    Args:
        criterion: takes logits (B, K) and labels (B,) and returns one loss for each image (B,): a
            criterion with ``reduction="none"``, class weights and its own label smoothing included.

    Returns:
        A function of logits (B, K), labels (B,) and the batch's plan that returns a scalar.

    Raises:
        ValueError: from the returned function, if the criterion does not give one loss for each image.

    **Source**: Yun et al., CutMix (ICCV 2019); the authors' code mixes the loss, the paper the labels.

    Example:
        >>> from cutmix_zoo.mixing import CutMix
        >>> loss = two_term_loss(torch.nn.CrossEntropyLoss(reduction="none"))
        >>> plan = CutMix().draw(4, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> loss(torch.zeros(4, 10), torch.tensor([1, 2, 3, 4]), plan)
        tensor(2.3026)
    """

    def loss(logits: Tensor, labels: Tensor, plan: MixPlan) -> Tensor:
        total = logits.new_zeros(())
        shares, sources = plan.label_shares.to(logits.device), plan.sources.to(labels.device)
        for source, share in zip(sources.unbind(1), shares.unbind(1), strict=True):
            losses = criterion(logits, labels[source])
            if losses.shape != share.shape:
                raise ValueError(
                    f"the criterion must give one loss for each of the {len(share)} images, "
                    f"got shape {tuple(losses.shape)}: build it with reduction='none'"
                )
            total = total + (share * losses).mean()
        return total

    return loss


def mixed_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Measure top-1 on mixed images: a prediction is right when no class has a larger target share.

    Where two classes share the lead, both are right.

    Args:
        logits: (B, K).
        targets: (B, K) mixed targets.

    Returns:
        A scalar float32 tensor in percent, on the logits' device.

    Example:
        >>> mixed_accuracy(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[0.6, 0.4], [0.4, 0.6]]))
        tensor(50.)
    """
    chosen = targets.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
    return (chosen == targets.amax(1)).float().mean() * 100
