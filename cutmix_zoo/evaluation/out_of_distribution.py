"""Out-of-distribution detection: whether a network is less sure of images that belong to none of its classes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cutmix_zoo.checks import require
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.findings import Findings
from cutmix_zoo.evaluation.ood_sets import PAPER_SETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cutmix_zoo.evaluation.ood_sets import OodSet
    from cutmix_zoo.evaluation.subject import Rows, Subject

    Floats = NDArray[np.floating[Any]]

_HISTOGRAM_BINS = 40
_IMAGES_AT_ONCE = 1000


def check_classes(count: int) -> None:
    """Check that there are classes to compare.

    Raises:
        UserError: if there are fewer than two.
    """
    if count < 2:
        raise UserError(f"the score takes two classes or more to compare, the network has {count}.")


def log_odds(logits: Floats) -> NDArray[np.float64]:
    """Score images by the log-odds of the likeliest class, the largest logit minus the logsumexp of the others.

    They rank images as the probability of the likeliest class does, but still differ where that is rounded to 1.

    Args:
        logits: (N, K) of two classes or more.

    Returns:
        (N,) float64 in nats; NaN where a logit is, or is infinite.

    Raises:
        UserError: if K is 1.

    Example:
        >>> log_odds(np.array([[3.0, 1.0], [1000.0, 0.0]])).tolist()
        [2.0, 1000.0]
    """
    check_classes(logits.shape[1])
    margins = np.where(np.isfinite(logits), logits, np.nan).astype(np.float64)
    ranked = np.sort(margins, axis=1)
    largest, second = ranked[:, -1], ranked[:, -2]
    return largest - second - np.log(np.exp(ranked[:, :-1] - second[:, None]).sum(1))


def max_softmax(logits: Floats) -> NDArray[np.float32]:
    """Score images by the probability (N,) of the likeliest class of logits (N, K), in float32.

    **Source**: the detector of Hendrycks and Gimpel, ICLR 2017, that the CutMix paper uses. In this precision many
    images of a sure network have a probability of exactly 1, whose order is lost.
    """
    return torch.from_numpy(logits).float().softmax(1).amax(1).numpy()


def threshold_at_tpr95(inside: Floats) -> float:
    """Return the highest threshold that at least 95 % of the scores (N,) reach.

    Example:
        >>> threshold_at_tpr95(np.arange(1.0, 101.0))
        6.0
    """
    kept = -(-19 * len(inside) // 20)  # whole numbers, as 0.95 is rounded
    return float(np.sort(inside)[len(inside) - kept])


def detection_metrics(inside: Floats, outside: Floats) -> dict[str, float]:
    """Measure how well scores tell images of the distribution, the positives, from others.

    Args:
        inside: (N,) scores of images of the distribution, which should be high.
        outside: (M,) scores of others, which should be low.

    Returns:
        In percent. ``tnr_at_tpr95``: others below :func:`threshold_at_tpr95`; ``auroc``: pairs of one of each in which
        the image of the distribution has the higher score, equal scores counting one half; ``aupr_in`` and
        ``aupr_out``: average precision with the images of the distribution, or the others by their negated scores, as
        positives; ``detection_accuracy``: the best mean of TPR and TNR of any threshold, at least 50.

    Raises:
        ValueError: if there is no score on one side, or one is NaN.

    **Source**: Liang et al., ICLR 2018 (ODIN), section 4.3, with ties, "95 %" and average precision as scikit-learn
    has them. The scripts around the CutMix paper count ties for the network or against it.
    """
    for side, scores in (("inside", inside), ("outside", outside)):
        require(len(scores) > 0, f"expected at least one score {side} the distribution, got none")
        require(not np.isnan(scores).any(), f"a score {side} the distribution is NaN")
    hits, alarms = _reaching(inside, outside)
    pairs = len(inside) * len(outside)
    return {
        "tnr_at_tpr95": 100 * float((outside < threshold_at_tpr95(inside)).mean()),
        "auroc": 100 * float((np.diff(alarms) * (hits[1:] + hits[:-1])).sum()) / (2 * pairs),
        "aupr_in": 100 * _average_precision(hits, alarms),
        "aupr_out": 100 * _average_precision(*_reaching(-outside, -inside)),
        "detection_accuracy": 50 + 50 * float((hits / len(inside) - alarms / len(outside)).max()),
    }


def measure_ood(subject: Subject, sets: Mapping[str, OodSet]) -> Findings:
    """Measure how well a network's confidence tells the images of its dataset from those of other sets.

    Args:
        subject: what is measured, on all images that can be read.
        sets: what to tell them from, by name; see :func:`cutmix_zoo.evaluation.ood_sets.ood_sets`.

    Returns:
        In ``rows``, for each set: ``set``, ``kind``, ``count`` in images, what :func:`detection_metrics` gives for
        :func:`log_odds`, and ``max_softmax_auroc``, the AUROC of :func:`max_softmax` in percent. In ``numbers``:
        ``in_distribution``, the number of images of the dataset; ``unreadable``, why images of the sets were left out,
        one text an image, with its set in front; ``mean`` of each metric over the sets, each counting as much as any
        other; ``mean_without_noise`` over those that are no noise, None without any; ``paper_sets``, whether the sets
        are the seven of the paper; ``threshold``, the log-odds that 95 % of the dataset reach; and ``histogram`` of the
        log-odds: ``edges`` of its bins, and the shares of images in them ``inside`` the dataset and ``outside``, by
        set.

    Raises:
        UserError: if there is no set, the network has one class only, or its logits are not finite.

    **Source**: the CutMix paper, section 4.4 and appendix E.2: plain confidence, with neither temperature nor
    perturbed inputs. Its sets have the size of the input already; here images are resized to it, which leaves such
    images as they are. ODIN leaves out the first 1,000 images of each set; here all count.
    """
    if not sets:
        raise UserError("there is no set to compare with: name one, such as uniform, or a folder of images.")
    logits = subject.clean["logits"]
    pieces = np.array_split(logits, -(-len(logits) // _IMAGES_AT_ONCE))  # in float64, all would take much memory
    inside = np.concatenate([log_odds(piece) for piece in pieces])
    inside_softmax = np.concatenate([max_softmax(piece) for piece in pieces])
    rows: list[dict[str, Any]] = []
    outside: dict[str, NDArray[np.float64]] = {}
    unreadable: list[str] = []
    for name, ood_set in sets.items():
        scores, messages = _scores(subject, ood_set, name)
        unreadable += [f"{name}: {message}" for message in messages]
        outside[name] = scores["log_odds"]
        _check_finite(outside[name], name)
        metrics = detection_metrics(inside, outside[name])
        metrics["max_softmax_auroc"] = detection_metrics(inside_softmax, scores["max_softmax"])["auroc"]
        rows.append({"set": name, "kind": ood_set.kind, "count": len(outside[name]), **metrics})
    return Findings(
        {
            "in_distribution": len(logits),
            "unreadable": unreadable,
            "mean": _mean(rows),
            "mean_without_noise": _mean([row for row in rows if row["kind"] != "noise"]),
            "paper_sets": set(sets) == PAPER_SETS,
            "threshold": threshold_at_tpr95(inside),
            "histogram": _histogram(inside, outside),
        },
        rows,
    )


def _scores(subject: Subject, ood_set: OodSet, name: str) -> tuple[Rows, tuple[str, ...]]:
    """Score the images that can be read, and say why others cannot."""
    # labels say nothing here, so any will do
    samples = subject.samples(dataset=ood_set.dataset, transform=ood_set.transform, num_classes=sys.maxsize)
    classifier = subject.classifier
    logits = ((batch.index, classifier.logits(classifier.to_input(batch.images)).numpy()) for batch in samples)
    parts = (
        {
            "index": index,
            "log_odds": torch.from_numpy(log_odds(values)),
            "max_softmax": torch.from_numpy(max_softmax(values)),
        }
        for index, values in logits
    )
    return subject.gather_readable(samples, parts, name)


def _check_finite(scores: NDArray[np.float64], name: str) -> None:
    bad = int(np.isnan(scores).sum())
    if bad:
        raise UserError(
            f"the logits of {bad} of {len(scores)} images of {name} are not finite: the weights may be damaged."
        )


def _reaching(positives: Floats, negatives: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the positives and negatives that reach each threshold: above all scores, then each score, falling."""
    scores = np.concatenate([positives, negatives])
    order = np.argsort(scores)[::-1]
    falling = scores[order]
    last = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(scores) - 1)  # of those with equal scores
    hits = np.cumsum(order < len(positives))[last]
    return np.append(0, hits), np.append(0, last + 1 - hits)


def _average_precision(hits: NDArray[np.int64], alarms: NDArray[np.int64]) -> float:
    precision = hits[1:] / (hits + alarms)[1:]
    return float((np.diff(hits) * precision).sum() / hits[-1])


def _mean(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    metrics = [name for name in (rows[0] if rows else ()) if name not in ("set", "kind", "count")]
    return {name: float(np.mean([row[name] for row in rows])) for name in metrics} or None


def _histogram(inside: NDArray[np.float64], outside: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    everything = (inside, *outside.values())
    low, high = min(scores.min() for scores in everything), max(scores.max() for scores in everything)
    # at least one nat wide, for a network that says the same of all
    edges = np.linspace(low, max(high, low + 1), _HISTOGRAM_BINS + 1)

    def shares(scores: NDArray[np.float64]) -> list[float]:
        return (np.histogram(scores, edges)[0] / len(scores)).tolist()

    return {
        "edges": edges.tolist(),
        "inside": shares(inside),
        "outside": {name: shares(scores) for name, scores in outside.items()},
    }
