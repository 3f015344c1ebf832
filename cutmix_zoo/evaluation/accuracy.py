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
    num_classes: int,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> dict[str, float]:
    """Measure top-1, top-5, the mean cross-entropy, balanced accuracy and macro-averaged F1 of a classifier.

    Sums, not means of batches, are added up, so the last short batch counts for what it is.

    Args:
        model: maps images to logits (B, K); it is put into evaluation mode for the measurement and back.
        batches: this process's share of the split: images (B, C, H, W) uint8 and labels (B,) int64.
        prepare: turns uint8 images into what the model takes, on its device.
        expected: images of the whole split, over all processes.
        num_classes: outputs of the model, K.
        reduce: sums a float64 tensor over the processes.

    Returns:
        ``top1`` and ``top5`` in percent (``top5`` is of min(5, K)), ``loss`` in nats, ``count`` in images. In percent
        too, ``balanced_accuracy``: the mean of the top-1 accuracy of the classes that the split has; and ``macro_f1``:
        the mean of F1 over the classes that the split has or the model names.

    Raises:
        UserError: if not every image was seen exactly once, or a label is not a class of the model.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    # for each class: images of it that were recognised, all images of it, all images taken for it
    classes = torch.zeros(3, num_classes, dtype=torch.float64)
    for images, labels in batches:
        logits = model(prepare(images)).float().cpu()
        outside = labels[(labels < 0) | (labels >= num_classes)]
        if len(outside):
            raise UserError(
                f"the data has a label outside the model's {num_classes} classes: {int(outside[0])}; "
                "evaluate on the dataset that the model was trained for."
            )
        ranked_classes = logits.topk(min(5, num_classes)).indices
        ranked = ranked_classes == labels[:, None]
        loss = F.cross_entropy(logits.double(), labels, reduction="sum")
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, torch.tensor(len(labels))])
        taken_for = ranked_classes[:, 0]
        for row, members in enumerate((labels[ranked[:, 0]], labels, taken_for)):
            classes[row] += members.bincount(minlength=num_classes)
    model.train(was_training)
    total = reduce(torch.cat([sums, classes.flatten()]))
    top1, top5, loss, count = total[:4].tolist()
    recognised, present, taken = total[4:].view(3, num_classes)
    if count != expected:
        raise UserError(
            f"evaluated {count:.0f} images of a split of {expected}: the dataset does not hold what it says."
        )
    f1 = (2 * recognised / (present + taken))[present + taken > 0]
    return {
        "top1": 100 * top1 / count,
        "top5": 100 * top5 / count,
        "loss": loss / count,
        "balanced_accuracy": 100 * float((recognised / present)[present > 0].mean()),
        "macro_f1": 100 * float(f1.mean()),
        "count": int(count),
    }
