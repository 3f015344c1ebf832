"""The label side: dense targets, the two-term loss, and the accuracy on a mixed batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.checks import require, require_count, require_fraction

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutmix_zoo.mixing.plan import MixPlan


IGNORE_INDEX = 255
"""The class of mask pixels that count for nothing, as in VOC and Cityscapes."""


class Mixed(Protocol):
    """What knows how a batch was mixed: a plan, or a :class:`~cutmix_zoo.mixing.MixedTarget`."""

    @property
    def sources(self) -> Tensor:
        """(B, M) int64: the images each mixed image is made of. Column 0 is the image itself."""

    @property
    def label_shares(self) -> Tensor:
        """(B, M) float32: how much the label of each source counts. Rows sum to 1."""


class LamAndPartner:
    """The names that two sources have in the paper, for whatever knows its ``sources`` and ``label_shares``."""

    @property
    def lam(self: Mixed) -> Tensor:
        """(B,) float32: the label share of this image (the paper's lambda).

        Raises:
            ValueError: if an image may have more than two sources.
        """
        _require_two_sources("lam", self.sources)
        return self.label_shares[:, 0]

    @property
    def partner(self: Mixed) -> Tensor:
        """(B,) int64: the other source of each image; without a meaning where ``lam`` is 1.

        Raises:
            ValueError: if an image may have more than two sources.
        """
        sources = self.sources
        _require_two_sources("partner", sources)
        return sources[:, -1]


def _require_two_sources(name: str, sources: Tensor) -> None:
    if sources.shape[1] > 2:
        raise ValueError(
            f"{name} is for plans of two sources, this one has {sources.shape[1]}: use sources and label_shares"
        )


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
    check_labels(labels, len(sources), num_classes, smoothing)
    if labels.is_floating_point():
        return mix_values(labels.float(), sources, shares)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.from_numpy(_spread(labels.numpy(), sources.numpy(), shares.numpy(), num_classes, smoothing))
    sources, shares = sources.to(labels.device), shares.to(labels.device) * (1.0 - smoothing)
    targets = torch.full((len(sources), num_classes), smoothing / num_classes, device=labels.device)
    # one column at a time: within a column no two values meet, so the sums have one order on every device
    for source, share in zip(sources.unbind(1), shares.unbind(1), strict=True):
        targets.scatter_add_(1, labels[source].long().unsqueeze(1), share.unsqueeze(1))
    return targets


def _spread(
    labels: np.ndarray, sources: np.ndarray, shares: np.ndarray, num_classes: int, smoothing: float
) -> np.ndarray:
    """Do the same on the CPU, where for so few numbers it takes NumPy a third of the time."""
    targets = np.full((len(sources), num_classes), smoothing / num_classes, np.float32)
    rows = np.arange(len(sources))
    for column in range(sources.shape[1]):
        targets[rows, labels[sources[:, column]]] += shares[:, column] * np.float32(1.0 - smoothing)
    return targets


def mix_values(values: Tensor, sources: Tensor, shares: Tensor) -> Tensor:
    """Average what is a number: regression targets, soft labels, sample weights.

    Args:
        values: (B, ...) floating point, on any device. Half precision is summed in float32.
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
    check_values(values, len(sources))
    sources, shares = sources.to(values.device), shares.to(values.device)
    # half precision would round shares: accumulate in float32
    total = torch.zeros_like(values, dtype=torch.promote_types(values.dtype, torch.float32))
    for source, share in zip(sources.unbind(1), shares.unbind(1), strict=True):
        total += share.view(-1, *[1] * (values.ndim - 1)) * values[source]
    return total.to(values.dtype)


def mix_by_kind(
    plan: MixPlan, labels: Tensor, num_classes: int | None, smoothing: float = 0.0, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Mix the labels of a batch as their kind asks for.

    Args:
        plan: of the batch.
        labels: (B,) integers: classes; (B, ..., height, width) integers: class masks, cut and pasted like the images,
            where what the plan erases becomes ``ignore_index``; floating point: dense targets (B, K), or with
            ``num_classes=None`` any values (B, ...) of the whole image: no maps of the images' size, and with more
            than three dimensions no maps of another.
        num_classes: K; or None where there are no classes to spread over.
        smoothing: label smoothing of one integer label an image, in [0, 1]; 0 for all other labels.
        ignore_index: the class of mask pixels that the plan erases.

    Returns:
        (B, K) float32, mixed masks in their dtype, or mixed values in their dtype.

    Raises:
        ValueError: if the labels do not fit, or there is smoothing with masks; see :meth:`MixPlan.mix_targets`,
            :meth:`MixPlan.mix_values` and :meth:`MixPlan.apply_masks`.
    """
    if are_masks(labels):
        require(
            smoothing == 0,
            f"smoothing is for one label an image, got smoothing={smoothing} with masks of shape "
            f"{tuple(labels.shape)}: leave it to the loss, such as CrossEntropyLoss(label_smoothing={smoothing})",
        )
        return plan.apply_masks(labels, ignore_index)
    if num_classes is None:
        if not labels.is_floating_point():
            raise ValueError("num_classes must be given where labels are classes")
        if labels.ndim > 2 and labels.shape[-2:] == (plan.height, plan.width):
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} are maps of the images' size, of which an average over the "
                "whole image would fit no pixel: mix them as further images, with plan.apply or MixTransform"
            )
        if labels.ndim > 3:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} look like maps of another size than the images' "
                f"{plan.height} x {plan.width}, of which an average over the whole image would fit no place: resize "
                "them to the images' and mix them as further images, with plan.apply or MixTransform; or if they are "
                "values of the whole image, flatten them to (B, N)"
            )
        return plan.mix_values(labels)
    return plan.mix_targets(labels, num_classes, smoothing)


def are_masks(labels: Tensor) -> bool:
    """Tell whether labels are class masks: integers with a height and a width."""
    return labels.ndim > 2 and not labels.is_floating_point()


def check_classes(num_classes: int | None, smoothing: float) -> None:
    """Raise ValueError unless the number of classes and the smoothing are in range and go together."""
    require_fraction("smoothing", smoothing)
    if num_classes is not None:
        require_count("num_classes", num_classes)
    else:
        require(smoothing == 0, f"smoothing needs num_classes, got smoothing={smoothing} without")


def check_labels(labels: Tensor, batch_size: int, num_classes: int, smoothing: float) -> None:
    """Raise ValueError unless labels fit a plan and the classes; see :func:`mix_labels`."""
    check_classes(num_classes, smoothing)
    if labels.is_floating_point():
        _check_dense(labels, batch_size, num_classes, smoothing)
    else:
        check_indices(labels, batch_size)
        _check_range(labels, num_classes)


def check_values(values: Tensor, batch_size: int) -> None:
    """Raise ValueError unless there is a floating-point value for each image."""
    if not values.is_floating_point() or values.ndim < 1 or len(values) != batch_size:
        raise ValueError(
            f"values must be floating point, one for each of the {batch_size} images of the plan, "
            f"got {values.dtype} of shape {tuple(values.shape)}"
        )


def check_indices(labels: Tensor, batch_size: int) -> None:
    """Raise ValueError unless labels are one integer for each image."""
    if labels.shape != (batch_size,) or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be {batch_size} integers, one for each image of the plan, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}: give several labels an image as floating-point "
            "rows of zeros and ones"
        )


def _check_dense(targets: Tensor, batch_size: int, num_classes: int, smoothing: float) -> None:
    if targets.shape != (batch_size, num_classes):
        raise ValueError(
            f"floating-point labels must be {batch_size} rows of {num_classes} numbers, one for each class, "
            f"got shape {tuple(targets.shape)}: mix other values with mix_values (num_classes=None)"
        )
    if smoothing > 0:
        raise ValueError("smoothing is for integer labels: dense targets may be smooth already, so smooth them before")


def _check_range(labels: Tensor, num_classes: int) -> None:
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    numbers = labels.numpy()
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"label {low if low < 0 else high} is outside [0, {num_classes}): "
            "set num_classes to the number of classes of the dataset"
        )


def two_term_loss(criterion: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Mixed], Tensor]:
    """Turn a criterion on hard labels into a loss for mixed batches.

    The loss is the mean over the batch of ``sum_m share_m * criterion(logits, labels of source m)``. For losses that
    are linear in their target (cross-entropy, also with class weights; BCE) it equals that of the mixed target. For the
    squared error the two differ by a constant, and so have the same gradient. For others (a sigmoid focal
    loss, a thresholded BCE) they differ, and this one is CutMix's.

    Args:
        criterion: takes logits (B, K) and labels and returns one loss for each image (B,): a criterion with
            ``reduction="none"``, class weights and its own label smoothing included. With class weights, mind that
            the mean is over images, while torch's ``reduction="mean"`` divides by the sum of the weights.

    Returns:
        A function of logits (B, K), labels of the images before mixing, (B,) or whatever the criterion takes, and the
        batch's plan or :class:`~cutmix_zoo.mixing.MixedTarget`. It returns a scalar.

    Raises:
        ValueError: from the returned function, if the criterion does not give one loss for each image; or if a
            MixedTarget asks for label smoothing, which would be forgotten or, with a criterion that smooths, be
            meant twice.

    **Source**: Yun et al., CutMix (ICCV 2019); the authors' code mixes the loss, the paper the labels.

    Example:
        >>> from cutmix_zoo.mixing import CutMix
        >>> loss = two_term_loss(torch.nn.CrossEntropyLoss(reduction="none"))
        >>> plan = CutMix().draw(4, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> loss(torch.zeros(4, 10), torch.tensor([1, 2, 3, 4]), plan)
        tensor(2.3026)
    """

    def loss(logits: Tensor, labels: Tensor, mixed: Mixed) -> Tensor:
        smoothing = getattr(mixed, "smoothing", 0.0)
        require(
            smoothing == 0,
            f"the target asks for label smoothing {smoothing}, which a criterion on hard labels does not see: "
            "leave smoothing to the criterion (label_smoothing=...) and make the target without",
        )
        total = logits.new_zeros(())
        shares, sources = mixed.label_shares.to(logits.device), mixed.sources.to(labels.device)
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

    Where two classes share the lead, both are right. So with several labels an image, a prediction is right when it
    names any label of an unmixed image, and after mixing one of those with the largest share: a label of both
    images, if there is one.

    Args:
        logits: (B, K).
        targets: (B, K) mixed targets.

    Returns:
        A scalar float32 tensor in percent, on the logits' device.

    Raises:
        ValueError: if the two differ in shape.

    Example:
        >>> mixed_accuracy(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[0.6, 0.4], [0.4, 0.6]]))
        tensor(50.)
    """
    require(
        logits.ndim == 2 and logits.shape == targets.shape,
        f"logits and targets must be (B, K), got {tuple(logits.shape)} and {tuple(targets.shape)}",
    )
    chosen = targets.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
    return (chosen == targets.amax(1)).float().mean() * 100
