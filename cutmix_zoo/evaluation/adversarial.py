"""How often a classifier is right on images that were changed, within a budget, so as to mislead it."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cutmix_zoo.checks import require, require_count, require_positive
from cutmix_zoo.evaluation.findings import Findings, percent
from cutmix_zoo.keys import Stream, generator_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from cutmix_zoo.evaluation.classifier import Classifier
    from cutmix_zoo.evaluation.samples import Batch
    from cutmix_zoo.evaluation.subject import Subject

    Classify = Callable[[Tensor], Tensor]
    """From pixels (B, C, H, W) to logits (B, K), with gradients."""

BUDGETS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Of FGSM, in 1/255."""

PGD_BUDGETS = (0.0, 2.0, 8.0)
"""Of PGD, in 1/255."""

PGD_STEPS = 10
"""As many gradients, one after the other."""

_START = 3  # names the draws of random_start among those of Stream.EVALUATE


class _Condition(NamedTuple):
    """What an attack may do."""

    attack: str
    space: str
    budget: float


def fgsm_direction(classify: Classify, pixels: Tensor, labels: Tensor) -> Tensor:
    """Find the direction in which each pixel raises the loss of the true label.

    Neither the parameters' gradients nor their ``requires_grad`` are touched. Nothing is computed in half precision,
    whatever surrounds the call: small gradients would underflow, and have no sign.

    Args:
        classify: from pixels to logits (B, K), in evaluation mode.
        pixels: (B, C, H, W) floating point; not modified.
        labels: (B,) int64, the true ones, on the same device.

    Returns:
        (B, C, H, W): -1, 0 or 1, the sign of the gradient of the cross-entropy.

    **Source**: Goodfellow et al., arXiv 1412.6572, section 4.
    """
    with torch.enable_grad(), torch.autocast(pixels.device.type, enabled=False):
        leaf = pixels.detach().requires_grad_()
        # the sum, so that the gradient of an image does not shrink with the batch that it is in
        loss = nn.functional.cross_entropy(classify(leaf), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient.sign()


def fgsm(pixels: Tensor, direction: Tensor, eps: float, *, clip: bool = True) -> Tensor:
    """Move every pixel by ``eps``, the fast gradient sign method.

    Args:
        pixels: (B, C, H, W); not modified.
        direction: (B, C, H, W), of :func:`fgsm_direction`; one serves every ``eps``.
        eps: how far, in the units of the pixels, at least 0.
        clip: whether the result is clipped to [0, 1].

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if ``eps`` is negative or not finite.

    **Source**: CutMix, equation 3 in appendix E.1, which does not clip.

    Example:
        >>> fgsm(torch.tensor([0.5, 0.9]), torch.tensor([-1.0, 1.0]), 0.25)
        tensor([0.2500, 1.0000])
    """
    _check_budgets("eps", [eps])
    moved = pixels + eps * direction
    return moved.clamp(0, 1) if clip else moved


def random_start(pixels: Tensor, index: Tensor, eps: float) -> Tensor:
    """Move every pixel by a random amount in [-eps, eps].

    Args:
        pixels: (B, C, H, W); not modified.
        index: (B,) int64, places in the dataset: an image's noise is a function of its own alone. Noise of another
            ``eps`` is the same, scaled.
        eps: in the units of the pixels.

    Returns:
        (B, C, H, W), not clipped.
    """
    places = index.tolist()
    noise = [torch.rand(pixels.shape[1:], generator=generator_for(Stream.EVALUATE, _START, place)) for place in places]
    return pixels + eps * (2 * torch.stack(noise) - 1).to(pixels)


def pgd(
    classify: Classify,
    pixels: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = PGD_STEPS,
    step_size: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Follow :func:`fgsm_direction` in small steps without leaving a ball nor [0, 1]: projected gradient descent.

    Args:
        classify: from pixels to logits (B, K), in evaluation mode.
        pixels: (B, C, H, W) floating point in [0, 1]; not modified.
        labels: (B,) int64, the true ones, on the same device.
        eps: radius of the ball: how far a pixel may move, in the units of the pixels, at least 0.
        steps: number of steps, each of them one gradient.
        step_size: in the units of the pixels; ``None`` for 2/255, or 2.5 * eps / steps where that is less. The two
            meet at 8/255 in ten steps.
        start: (B, C, H, W) where to begin, such as :func:`random_start`, brought into the ball first; ``None`` for
            the pixels themselves.

    Returns:
        (B, C, H, W), where the last step leads.

    Raises:
        ValueError: if ``eps`` is negative or not finite, or ``steps`` or ``step_size`` is not above 0.

    **Source**: Madry et al., ICLR 2018, arXiv 1706.06083.
    """
    _check_budgets("eps", [eps])
    require_count("steps", steps)
    if step_size is None:
        step_size = min(2 / 255, 2.5 * eps / steps)
    else:
        require_positive("step_size", step_size)
    lowest, highest = (pixels - eps).clamp(0, 1), (pixels + eps).clamp(0, 1)
    moved = (pixels if start is None else start).clamp(lowest, highest)
    for _ in range(steps):
        moved = (moved + step_size * fgsm_direction(classify, moved, labels)).clamp(lowest, highest)
    return moved


def measure_adversarial(
    subject: Subject,
    *,
    budgets: Sequence[float] = BUDGETS,
    pgd_budgets: Sequence[float] = PGD_BUDGETS,
    pgd_steps: int = PGD_STEPS,
) -> Findings:
    """Measure top-1 accuracy under FGSM and PGD, which know the network and aim away from the true label.

    All images count, also those that are not recognised to begin with. FGSM is made on every image, in two spaces:
    on pixels, which are clipped to [0, 1], and on what the network takes, where the same number means less and nothing
    is clipped. PGD takes a gradient for every step; it is made on the chosen images, in pixel space, from a random
    start.

    Args:
        subject: what is measured.
        budgets: how far FGSM moves a value, in 1/255 of the space's unit.
        pgd_budgets: how far PGD may move a value, in 1/255; empty to leave PGD out.
        pgd_steps: number of steps of :func:`pgd`.

    Returns:
        A row a condition: ``attack`` (``fgsm`` or ``pgd``), ``space`` (``pixel`` or ``normalized``), ``budget`` (in
        1/255), ``top1`` (percent), ``count``. A budget of 0 is the accuracy on the same images unchanged. Numbers:
        ``clean_top1`` (every image), ``fgsm_top1_at_8`` and ``pgd_top1_at_8`` (pixel space; ``None`` if 8 is not among
        the budgets), ``pgd_steps``.

    Raises:
        ValueError: if a budget is negative or not finite, or ``pgd_steps`` is not above 0.

    **Source**: CutMix, section 4.4 and appendix E.1, table 11: FGSM with 8/255 on ImageNet. The paper says neither in
    which space nor whether it clips, and both change the numbers. Nor has it PGD, which stands beside FGSM here because
    resistance to FGSM, that of CutMix too, is in part gradient masking: one step misses nearby images that are not
    recognised, and more steps find them (Athalye et al., arXiv 1802.00420).
    """
    _check_budgets("budgets", budgets)
    _check_budgets("pgd_budgets", pgd_budgets)
    require_count("pgd_steps", pgd_steps)
    classifier, clean, everything = subject.classifier, subject.clean, subject.chosen(limited=False)
    single = [_Condition("fgsm", space, budget) for space in ("pixel", "normalized") for budget in budgets]
    iterated = [_Condition("pgd", "pixel", budget) for budget in pgd_budgets]
    rows = [
        *_rows(subject, everything, single, partial(_fgsm_inputs, classifier)),
        *_rows(subject, subject.chosen(), iterated, partial(_pgd_inputs, classifier, pgd_steps)),
    ]
    at_8 = {row["attack"]: row["top1"] for row in rows if row["space"] == "pixel" and row["budget"] == 8}
    numbers = {
        "clean_top1": percent(clean["logits"].argmax(1) == clean["labels"]),
        "fgsm_top1_at_8": at_8.get("fgsm"),
        "pgd_top1_at_8": at_8.get("pgd"),
        "pgd_steps": pgd_steps,
    }
    return Findings(numbers, rows)


def _rows(
    subject: Subject,
    indices: NDArray[np.int64],
    conditions: Sequence[_Condition],
    attack: Callable[[Batch, Sequence[_Condition]], Iterator[Tensor]],
) -> list[dict[str, Any]]:
    """Measure under each condition; ``attack`` makes the inputs of a batch under those that change anything."""
    chosen = np.isin(subject.clean["index"], indices)
    labels = subject.clean["labels"][chosen]
    predictions = dict.fromkeys(conditions, subject.clean["logits"][chosen].argmax(1))
    changing = [condition for condition in conditions if condition.budget > 0]
    if changing:
        samples = subject.samples(indices)
        parts = (
            {
                "index": batch.index,
                "predictions": torch.stack(
                    [subject.classifier.logits(inputs).argmax(1) for inputs in attack(batch, changing)], dim=1
                ),
            }
            for batch in samples
        )
        found = subject.gather(samples, parts, changing[0].attack)
        predictions.update(zip(changing, found["predictions"].T, strict=True))
    return [
        {**condition._asdict(), "top1": percent(predictions[condition] == labels), "count": len(labels)}
        for condition in conditions
    ]


def _fgsm_inputs(classifier: Classifier, batch: Batch, conditions: Sequence[_Condition]) -> Iterator[Tensor]:
    pixels, labels = classifier.to_pixels(batch.images), batch.labels.to(classifier.device)
    # normalising keeps the sign of a gradient, so that one direction serves both spaces
    direction = fgsm_direction(partial(_classify, classifier), pixels, labels)
    inputs = classifier.normalize(pixels)
    for condition in conditions:
        eps = condition.budget / 255
        if condition.space == "pixel":
            yield classifier.normalize(fgsm(pixels, direction, eps))
        else:
            yield fgsm(inputs, direction, eps, clip=False)


def _pgd_inputs(classifier: Classifier, steps: int, batch: Batch, conditions: Sequence[_Condition]) -> Iterator[Tensor]:
    pixels, labels = classifier.to_pixels(batch.images), batch.labels.to(classifier.device)
    for condition in conditions:
        eps = condition.budget / 255
        start = random_start(pixels, batch.index, eps)
        moved = pgd(partial(_classify, classifier), pixels, labels, eps, steps=steps, start=start)
        yield classifier.normalize(moved)


def _classify(classifier: Classifier, pixels: Tensor) -> Tensor:
    logits: Tensor = classifier.network(classifier.normalize(pixels))
    return logits


def _check_budgets(name: str, budgets: Sequence[float]) -> None:
    for budget in budgets:
        require(0 <= budget < math.inf, f"{name} must be finite and at least 0, got {budget!r}")
