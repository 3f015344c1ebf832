"""How often a classifier is right on images of which only the centre, or only what surrounds it, can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.checks import require, require_choice
from cutmix_zoo.evaluation.findings import Findings
from cutmix_zoo.mixing.boxes import Box, window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutmix_zoo.evaluation.subject import Subject

Where = Literal["centre", "boundary"]
"""What is hidden: the hole at the centre, or everything around it."""

Fill = Literal["mean", "black"]
"""What is put there: the mean colour, which is zero for the network, or black pixels."""


def centre_hole(height: int, width: int, side: int) -> Tensor:
    """Mark a square at the centre of an image; where it is larger than the image, as much of it as there is room for.

    Where it cannot be centred exactly, it lies half a pixel to the top or the left.

    Args:
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        side: side of the square, in pixels, at least 0.

    Returns:
        (height, width) bool, True inside.

    Raises:
        ValueError: if ``side`` is negative.

    Example:
        >>> centre_hole(3, 4, 1).int()
        tensor([[0, 0, 0, 0],
                [0, 1, 0, 0],
                [0, 0, 0, 0]], dtype=torch.int32)
    """
    require(side >= 0, f"side must be at least 0, got {side}")
    rows, columns = min(side, height), min(side, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[window(Box(top, left, top + rows, left + columns))] = True
    return hole


def hole_sides(height: int, width: int) -> list[int]:
    """Choose the sides of a series of holes, from 0 to the longer side of the image in about 14 equal steps.

    Example:
        >>> hole_sides(28, 28)
        [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28]
        >>> hole_sides(224, 224)[:3]
        [0, 16, 32]
    """
    longest = max(height, width)
    return [*range(0, longest, max(1, round(longest / 14))), longest]


def occlude(inputs: Tensor, side: int, where: Where = "centre", value: float | Tensor = 0.0) -> Tensor:
    """Hide the square hole at the centre, or everything around it.

    Args:
        inputs: (B, C, H, W) floating point, normalised; not modified.
        side: side of the hole, in pixels (:func:`centre_hole`).
        where: which of the two is hidden.
        value: what is put there, a number or (C, 1, 1).

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if ``side`` is negative or ``where`` unknown.

    **Source**: CutMix, section 4.4 and appendix E.1.
    """
    require_choice("where", where, get_args(Where))
    height, width = inputs.shape[-2:]
    hole = centre_hole(height, width, side).to(inputs.device)
    filling = torch.as_tensor(value, dtype=inputs.dtype, device=inputs.device)
    return torch.where(hole if where == "centre" else ~hole, filling, inputs)


def measure_occlusion(subject: Subject, *, fill: Fill = "mean") -> Findings:
    """Measure top-1 error with growing holes, once with the hole hidden and once with all but the hole.

    Args:
        subject: what is measured, on its chosen images.
        fill: ``mean`` hides behind zeros of the normalised input, the mean colour; ``black`` behind black pixels.

    Returns:
        A row a kind of hole: ``where`` (``centre`` or ``boundary``: what is hidden), ``side`` (of the hole, in
        pixels), ``top1_error`` (percent), ``count``. Numbers: ``fill``, ``count``, and in percent ``clean_error``,
        and ``mean_error_centre`` and ``mean_error_boundary``, the means over the sides.

    Raises:
        ValueError: if ``fill`` is unknown.

    **Source**: CutMix, section 4.4 and appendix E.1, figure 5a: holes of 0 to 224 pixels filled with zeros. The paper
    says neither in which steps nor whether zero is the mean colour (which we take: its Cutout trains on that) or black.
    A hole with sharp edges looks like what Cutout and CutMix train on, and shows the network something new as well as
    hiding something: Marcu, arXiv 2211.13734, finds such measurements biased.
    """
    require_choice("fill", fill, get_args(Fill))
    classifier = subject.classifier
    channels, height, width = classifier.spec.input_size
    black = classifier.normalize(torch.zeros(channels, 1, 1, device=classifier.device))
    value = black if fill == "black" else 0.0
    series = [(where, side) for where in get_args(Where) for side in hole_sides(height, width)]
    samples = subject.samples(subject.chosen())
    parts = (
        {
            "index": batch.index,
            "labels": batch.labels,
            "predictions": torch.stack(
                [classifier.logits(occlude(inputs, side, where, value)).argmax(1) for where, side in series], dim=1
            ),
        }
        for batch in samples
        for inputs in [classifier.to_input(batch.images)]
    )
    found = subject.gather(samples, parts, "occlusion")
    missed: NDArray[np.bool_] = found["predictions"] != found["labels"][:, None]
    errors = (100 * missed.sum(axis=0) / len(missed)).tolist()
    rows: list[dict[str, Any]] = [
        {"where": where, "side": side, "top1_error": error, "count": len(missed)}
        for (where, side), error in zip(series, errors, strict=True)
    ]
    means = {
        f"mean_error_{where}": float(np.mean([row["top1_error"] for row in rows if row["where"] == where]))
        for where in get_args(Where)
    }
    return Findings({"fill": fill, "count": len(missed), "clean_error": errors[0], **means}, rows)
