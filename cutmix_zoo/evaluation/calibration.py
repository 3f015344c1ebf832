"""Calibration: whether a network is right as often as it is sure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cutmix_zoo.checks import require, require_count
from cutmix_zoo.evaluation.findings import Findings
from cutmix_zoo.keys import Stream, generator_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from cutmix_zoo.evaluation.subject import Subject

    Floats = NDArray[np.floating[Any]]

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0
_HALVINGS = 30  # of the range of the temperature's logarithm, which is 9: to 1e-8
_HALVES = 11  # names the draws of halves among those of Stream.EVALUATE


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose confidence is in (lower, upper]; the first bin has confidence 0 too.

    Args:
        lower: in [0, 1).
        upper: in (0, 1].
        count: number of predictions.
        confidence: their mean confidence; None without any.
        accuracy: the share of them that is right; None without any.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Compute probabilities (N, K) float64, which sum to one, of logits (N, K) divided by a temperature.

    Example:
        >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]])).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    exponentials = _scaled(logits, temperature)
    np.exp(exponentials, out=exponentials)
    exponentials /= exponentials.sum(1, keepdims=True)
    return exponentials


def reliability_bins(confidence: Floats, right: NDArray[np.bool_], bins: int = 15) -> list[ReliabilityBin]:
    """Sort predictions into bins of equal width by their confidence.

    Args:
        confidence: (N,) in [0, 1], the probability of the likeliest class.
        right: (N,) whether that is the class of the image.
        bins: how many.

    Raises:
        ValueError: if a confidence is outside [0, 1], there are none, or ``bins`` is below 1.

    **Source**: the intervals of Guo et al., ICML 2017, section 2, which are open below.
    """
    require_count("bins", bins)
    require(len(confidence) > 0, "expected at least one prediction, got none")
    require(
        bool(((confidence >= 0) & (confidence <= 1)).all()),
        f"confidence must be in [0, 1], got {np.min(confidence)} to {np.max(confidence)}",
    )
    edges = np.linspace(0, 1, bins + 1)
    place = np.maximum(np.searchsorted(edges, confidence, side="left") - 1, 0)
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, values, minlength=bins) for values in (confidence, right)]
    return [
        ReliabilityBin(float(lower), float(upper), int(count), *(float(one / count) if count else None for one in both))
        for lower, upper, count, *both in zip(edges[:-1], edges[1:], counts, *sums, strict=True)
    ]


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Average the distance of accuracy and confidence over the bins, weighted by their counts.

    Args:
        bins: not all empty.

    Returns:
        A fraction in [0, 1].

    **Source**: Guo et al., ICML 2017, equation 3. torchmetrics differs for a confidence on an edge: its bins are open
    above, and those of exactly 1 have a bin of their own.
    """
    total = sum(one.count for one in bins)
    return sum(
        one.count / total * abs(one.accuracy - one.confidence)
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    )


def brier_score(probabilities: Floats, labels: NDArray[np.integer[Any]]) -> float:
    """Average the squared distance of the probabilities from the truth, summed over the classes.

    Args:
        probabilities: (N, K), rows that sum to one.
        labels: (N,) in [0, K).

    Returns:
        From 0 to 2. Others divide by K, or for two classes count one of them, which gives half as much.

    **Source**: Brier, Monthly Weather Review 1950.
    """
    distance = probabilities.copy()
    distance[np.arange(len(labels)), labels] -= 1
    return float(np.square(distance).sum(1).mean())


def negative_log_likelihood(logits: Floats, labels: NDArray[np.integer[Any]], temperature: float = 1.0) -> float:
    """Average the cross-entropy, in nats, of logits (N, K) divided by a temperature and labels (N,)."""
    scaled = _scaled(logits, temperature)
    truth = np.take_along_axis(scaled, labels[:, None], 1)[:, 0]
    return float((np.log(np.exp(scaled).sum(1)) - truth).mean())


def fit_temperature(logits: Floats, labels: NDArray[np.integer[Any]]) -> float:
    """Find the temperature that the logits are to be divided by for the least negative log-likelihood.

    The log-likelihood is concave in one over the temperature: halving a range by the sign of the slope finds its only
    optimum.

    Args:
        logits: (N, K) of at least one image, finite.
        labels: (N,) in [0, K).

    Returns:
        From ``LOWEST_TEMPERATURE`` to ``HIGHEST_TEMPERATURE``. It is the lowest if every image is recognised, since
        then being surer is always better; the highest if it is best to know nothing; and 1 if all logits of each image
        are equal, where no temperature changes anything.

    **Source**: Guo et al., ICML 2017, section 4.2, who minimise by other means.
    """
    margins = logits.astype(np.float64) - np.take_along_axis(logits, labels[:, None], 1)
    if not margins.any():
        return 1.0
    lowest, highest = low, high = np.log([LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        slope = np.einsum("nk,nk->n", softmax(margins, np.exp(middle)), margins).mean()
        low, high = (low, middle) if slope <= 0 else (middle, high)
    if low == lowest:
        return LOWEST_TEMPERATURE
    return HIGHEST_TEMPERATURE if high == highest else float(np.exp((low + high) / 2))


def halves(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split images into two halves that depend on nothing but their number.

    Args:
        count: number of images.

    Returns:
        Places in rising order, to fit on and to measure on. If ``count`` is odd, the second half has one more.
    """
    order = torch.randperm(count, generator=generator_for(Stream.EVALUATE, _HALVES, count)).numpy()
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def measure_calibration(subject: Subject) -> Findings:
    """Measure how far a network's confidence is from its accuracy, and whether a temperature mends that.

    The temperature is fitted on one half of the images; what it does is measured on the other.

    Args:
        subject: what is measured, on all images that can be read.

    Returns:
        In ``numbers``: ``ece``, ``confidence``, ``accuracy`` and ``confidence_minus_accuracy`` as fractions (below 0:
        less sure than right), ``brier`` (from 0 to 2) and ``nll`` (nats) of all images; ``temperature``; and
        ``held_out_ece_before``, ``held_out_ece_after``, ``held_out_nll_before`` and ``held_out_nll_after``, of the half
        that the temperature was not fitted on; ``count`` in images. With a single image there are no halves, and the
        temperature and what is held out are None. In ``rows``: the 15 bins of the reliability diagram.

    **Source**: Guo et al., ICML 2017. It is not in the CutMix paper. Theirs is float32; here logits are float32 and all
    that is computed of them float64.
    """
    logits, labels = subject.clean["logits"], subject.clean["labels"]
    probabilities = softmax(logits)
    bins = _bins(logits, labels)
    confidence = float(probabilities.max(1).mean())
    accuracy = float((logits.argmax(1) == labels).mean())
    return Findings(
        {
            "ece": expected_calibration_error(bins),
            "brier": brier_score(probabilities, labels),
            "nll": negative_log_likelihood(logits, labels),
            "confidence": confidence,
            "accuracy": accuracy,
            "confidence_minus_accuracy": confidence - accuracy,
            **_effect_of_temperature(logits, labels),
            "count": len(labels),
        },
        rows=[asdict(one) for one in bins],
    )


def _effect_of_temperature(logits: Floats, labels: NDArray[np.int64]) -> dict[str, float | None]:
    fit, rest = halves(len(labels))
    if not len(fit):
        names = (f"held_out_{measure}_{when}" for measure in ("ece", "nll") for when in ("before", "after"))
        return dict.fromkeys(("temperature", *names))
    temperature = fit_temperature(logits[fit], labels[fit])
    held_out = logits[rest], labels[rest]
    return {
        "temperature": temperature,
        "held_out_ece_before": expected_calibration_error(_bins(*held_out)),
        "held_out_ece_after": expected_calibration_error(_bins(*held_out, temperature)),
        "held_out_nll_before": negative_log_likelihood(*held_out),
        "held_out_nll_after": negative_log_likelihood(*held_out, temperature),
    }


def _bins(logits: Floats, labels: NDArray[np.int64], temperature: float = 1.0) -> list[ReliabilityBin]:
    # of the logits, not of the probabilities, which may be rounded to the same
    right = logits.argmax(1) == labels
    return reliability_bins(softmax(logits, temperature).max(1), right)


def _scaled(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Shift each row so that its largest logit is 0, where exponentials cannot overflow, and divide it."""
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(1, keepdims=True)
    scaled /= temperature
    return scaled
