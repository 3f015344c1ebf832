"""How often a classifier is right: over all images, and class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch reader knows
from torch import Tensor, nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.findings import Findings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cutmix_zoo.evaluation.subject import Subject

_SUMS = 4  # hits, hits among the five, loss, images; then three sums for each class


@torch.inference_mode()
def evaluate_accuracy(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    prepare: Callable[[Tensor], Tensor],
    num_classes: int,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> dict[str, float]:
    """Measure top-1, top-5, the mean cross-entropy, balanced accuracy and macro-averaged F1 of a classifier.

    Sums, not means of batches, are added up, so the last short batch counts for what it is.

    Args:
        model: maps images to logits (B, K); it is put into evaluation mode for the measurement and back.
        batches: this process's share of the split: images (B, C, H, W) uint8 and labels (B,) int64.
        prepare: turns uint8 images into what the model takes, on its device.
        num_classes: outputs of the model, K.
        reduce: sums a float64 tensor over the processes.

    Returns:
        What :func:`scores` makes of the sums.

    Raises:
        UserError: if there is no image, or a label is not a class of the model.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(_SUMS + 3 * num_classes, dtype=torch.float64)
    for images, labels in batches:
        sums += tally(model(prepare(images)).float().cpu(), labels)
    model.train(was_training)
    sums = reduce(sums)
    if not sums[_SUMS - 1]:
        raise UserError("the split gave no image to evaluate.")
    return scores(sums)


def tally(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum up what the scores are made of; the sums of several batches may be added.

    Args:
        logits: (B, K) float32.
        labels: (B,) int64.

    Returns:
        (4 + 3 * K,) float64: images recognised, images whose label is among the five likeliest classes, their
        cross-entropy, images; then for each class its images that were recognised, its images, and what was taken for
        it.

    Raises:
        UserError: if a label is not a class of the model.
    """
    num_classes = logits.shape[1]
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise UserError(
            f"the data has a label outside the model's {num_classes} classes: {int(outside[0])}; "
            "evaluate on the dataset that the model was trained for."
        )
    taken_for = logits.argmax(1)
    right = taken_for == labels
    # topk and argmax part ties in different ways; whoever is the first is among five, too
    among_five = right | (logits.topk(min(5, num_classes)).indices == labels[:, None]).any(1)
    loss = F.cross_entropy(logits.double(), labels, reduction="sum")
    sums = torch.stack([right.sum(), among_five.sum(), loss, torch.tensor(len(labels))])
    classes = [members.bincount(minlength=num_classes) for members in (labels[right], labels, taken_for)]
    return torch.cat([sums, *classes])


def scores(sums: Tensor) -> dict[str, float]:
    """Make scores of what :func:`tally` has summed up.

    Args:
        sums: of all images, at least one.

    Returns:
        ``top1`` and ``top5`` in percent (``top5`` is of min(5, K)), ``loss`` in nats, ``count`` in images. In percent
        too, ``balanced_accuracy``: the mean of the top-1 accuracy of the classes that the split has; and ``macro_f1``:
        the mean of F1 over the classes that the split has or the model names.
    """
    top1, top5, loss, count = sums[:_SUMS].tolist()
    recognised, present, taken = sums[_SUMS:].view(3, -1)
    f1 = (2 * recognised / (present + taken))[present + taken > 0]
    return {
        "top1": 100 * top1 / count,
        "top5": 100 * top5 / count,
        "loss": loss / count,
        "balanced_accuracy": 100 * float((recognised / present)[present > 0].mean()),
        "macro_f1": 100 * float(f1.mean()),
        "count": int(count),
    }


def measure_accuracy(subject: Subject, classes: Sequence[str] | None = None) -> Findings:
    """Measure how often a classifier is right, over all images and class by class.

    Args:
        subject: what is measured; all its images are.
        classes: label names of the first classes, or of all; the others are called by their numbers.

    Returns:
        Numbers: those of :func:`scores`, ``confusion`` (K lists of K numbers of images: a row is a label, a column what
        it was taken for; ``None`` for more than 200 classes), and ``classes``. A row a class that the split has or
        the model names: ``index``, ``class``, ``count``, and in percent ``recall`` and ``precision`` (``None`` where
        there is nothing to divide by) and ``f1``.
    """
    logits, labels = (torch.from_numpy(subject.clean[key]) for key in ("logits", "labels"))
    sums = tally(logits, labels)
    num_classes = logits.shape[1]
    known = list(classes or ())
    names = known[:num_classes] + [str(number) for number in range(len(known), num_classes)]
    recognised, present, taken = sums[_SUMS:].view(3, -1).tolist()
    rows = [
        {
            "index": number,
            "class": names[number],
            "count": int(present[number]),
            "recall": _percent(recognised[number], present[number]),
            "precision": _percent(recognised[number], taken[number]),
            "f1": _percent(2 * recognised[number], present[number] + taken[number]),
        }
        for number in range(num_classes)
        if present[number] + taken[number]
    ]
    confusion = _confusion(logits, labels) if num_classes <= 200 else None
    return Findings({**scores(sums), "confusion": confusion, "classes": names}, rows)


def _confusion(logits: Tensor, labels: Tensor) -> list[list[int]]:
    num_classes = logits.shape[1]
    pairs = labels * num_classes + logits.argmax(1)
    return pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes).tolist()


def _percent(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None
