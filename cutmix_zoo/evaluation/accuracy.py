"""Accuracy over a whole split, exact for any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch reader knows
from torch import Tensor, nn

from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@torch.inference_mode()
def evaluate_accuracy(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    prepare: Callable[[Tensor], Tensor],
    expected: int,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> dict[str, float]:
    """Measure top-1, top-5 and the mean cross-entropy of a classifier.

    Sums, not means of batches, are added up, so the last short batch counts for what it is.

    Args:
        model: maps images to logits (B, K); it is put into evaluation mode for the measurement and back.
        batches: this process's share of the split: images (B, C, H, W) uint8 and labels (B,) int64.
        prepare: turns uint8 images into what the model takes, on its device.
        expected: images of the whole split, over all processes.
        reduce: sums a float64 tensor over the processes.

    Returns:
        ``top1`` and ``top5`` in percent (``top5`` is of min(5, K)), ``loss`` in nats, ``count`` in images.

    Raises:
        UserError: if not every image was seen exactly once, or a label is not a class of the model.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    for images, labels in batches:
        logits = model(prepare(images)).float().cpu()
        outside = labels[(labels < 0) | (labels >= logits.shape[1])]
        if len(outside):
            raise UserError(
                f"the data has a label outside the model's {logits.shape[1]} classes: {int(outside[0])}; "
                "evaluate on the dataset that the model was trained for."
            )
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits.double(), labels, reduction="sum")
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, torch.tensor(len(labels))])
    model.train(was_training)
    top1, top5, loss, count = reduce(sums).tolist()
    if count != expected:
        raise UserError(
            f"evaluated {count:.0f} images of a split of {expected}: the dataset does not hold what it says."
        )
    return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "loss": loss / count, "count": int(count)}
