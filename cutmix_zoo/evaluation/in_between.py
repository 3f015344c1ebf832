"""How often a classifier calls a mix of two images something that neither of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.findings import Findings
from cutmix_zoo.evaluation.occlusion import centre_hole, hole_sides
from cutmix_zoo.keys import Stream, generator_for
from cutmix_zoo.mixing.pairing import meet, numpy_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cutmix_zoo.evaluation.subject import Subject

MIXUP_LAMS = [step / 10 for step in range(11)]
"""The shares of the first image, for Mixup."""
_PAIRS = 4  # names the draw of draw_partners among those of Stream.EVALUATE


def check_pairs(count: int) -> None:
    """Check that there are images to make pairs of.

    Raises:
        UserError: if there are fewer than two.
    """
    if count < 2:
        raise UserError(f"images are mixed in pairs: expected at least 2, got {count}; measure on more.")


def draw_partners(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw a partner for each image: another one, and each is drawn once.

    Args:
        indices: (N,) places in the dataset, each once.

    Returns:
        (N,) the same places in another order; the same for the same ``indices``, in any process and run. None stays
        where it was, but its partner may have its label.

    Raises:
        UserError: if there are fewer than two images.
    """
    check_pairs(len(indices))
    rng = numpy_generator(generator_for(Stream.EVALUATE, _PAIRS, len(indices)))
    return indices[meet(len(indices), "batch", "derangement", rng).partner]


def mixup_pairs(first: Tensor, second: Tensor, lam: float) -> Tensor:
    """Blend images pair by pair.

    Args:
        first: (B, C, H, W) floating point; not modified. Blending commutes with normalising.
        second: (B, C, H, W); not modified.
        lam: share of the first, in [0, 1].

    Returns:
        (B, C, H, W).
    """
    return lam * first + (1 - lam) * second


def cutmix_pairs(first: Tensor, second: Tensor, side: int) -> Tensor:
    """Paste the centre of one image into the other, pair by pair.

    Args:
        first: (B, C, H, W), pasted into; not modified.
        second: (B, C, H, W), pasted from; not modified.
        side: of the square that is pasted, in pixels (:func:`~cutmix_zoo.evaluation.occlusion.centre_hole`).

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if ``side`` is negative.
    """
    height, width = first.shape[-2:]
    return torch.where(centre_hole(height, width, side).to(first.device), second, first)


def neither(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which predictions are neither of the two classes of a pair.

    Args:
        predictions: (N, M) classes, of M mixes of each pair.
        labels: (N, 2) classes of the pairs.

    Returns:
        (N, M).

    Example:
        >>> neither(np.array([[3, 1, 2]]), np.array([[1, 2]]))
        array([[ True, False, False]])
    """
    return (predictions[:, :, None] != labels[:, None, :]).all(axis=2)


def measure_in_between(subject: Subject) -> Findings:
    """Measure how often mixes of two images, from one to the other, are taken for neither of their classes.

    Args:
        subject: what is measured; each of its chosen images is the first of one pair and the second of another.

    Returns:
        A row a mix: ``mix`` (``mixup`` or ``cutmix``), ``lam`` (share of the first image), ``side`` (of the square from
        the second image, in pixels; ``None`` for Mixup), ``error`` (percent), ``count`` (pairs). Numbers: ``count``
        (images), ``pairs``, of which there are as many, ``same_class_pairs``, and in percent ``mean_error_mixup`` and
        ``mean_error_cutmix``, the means over the rows. Arrays: ``first`` and ``second``, the pairs as places in the
        dataset.

    Raises:
        UserError: if there are fewer than two images.

    **Source**: CutMix, section 4.4 and appendix E.1, figure 5b: 50,000 random pairs of ImageNet's validation images,
    Mixup, and CutMix with a square at the centre. The error is that of the paper's text, "predict neither two
    classes"; its appendix speaks of top-1 accuracy. Of pairs within a class it says nothing; we keep them.
    """
    _, height, width = subject.classifier.spec.input_size
    sides = hole_sides(height, width)
    indices = subject.chosen()
    partners = draw_partners(indices)
    samples = subject.samples(indices)
    others = subject.samples(partners)
    parts = (
        {
            "index": batch.index,
            "partner": other.index,
            "labels": torch.stack([batch.labels, other.labels], dim=1),
            "predictions": torch.stack(
                [subject.classifier.logits(mixed).argmax(1) for mixed in _mixes(first, second, sides)], dim=1
            ),
        }
        for batch, other in zip(samples, others, strict=True)
        for first, second in [(subject.classifier.to_input(batch.images), subject.classifier.to_input(other.images))]
    )
    found = subject.gather(samples, parts, "in-between")
    missed = neither(found["predictions"], found["labels"])
    kinds = [
        *(("mixup", lam, None) for lam in MIXUP_LAMS),
        *(("cutmix", float((~centre_hole(height, width, side)).double().mean()), side) for side in sides),
    ]
    rows: list[dict[str, Any]] = [
        {"mix": mix, "lam": lam, "side": side, "error": error, "count": len(missed)}
        for (mix, lam, side), error in zip(kinds, (100 * missed.sum(axis=0) / len(missed)).tolist(), strict=True)
    ]
    means = {
        f"mean_error_{mix}": float(np.mean([row["error"] for row in rows if row["mix"] == mix]))
        for mix in ("mixup", "cutmix")
    }
    same = int((found["labels"][:, 0] == found["labels"][:, 1]).sum())
    numbers = {"count": len(missed), "pairs": len(missed), "same_class_pairs": same, **means}
    return Findings(numbers, rows, {"first": found["index"], "second": found["partner"]})


def _mixes(first: Tensor, second: Tensor, sides: Sequence[int]) -> Iterator[Tensor]:
    yield from (mixup_pairs(first, second, lam) for lam in MIXUP_LAMS)
    yield from (cutmix_pairs(first, second, side) for side in sides)
