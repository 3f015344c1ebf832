"""Linear probe: what a linear classifier can tell from the features of a frozen network."""

from __future__ import annotations

import sys
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch reader knows

from cutmix_zoo.checks import require, require_positive
from cutmix_zoo.data.datasets import known_labels
from cutmix_zoo.data.holdout import in_fold
from cutmix_zoo.data.sampler import balanced_subset, fixed_subset
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.findings import Findings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cutmix_zoo.evaluation.classifier import Classifier
    from cutmix_zoo.evaluation.subject import Rows, Subject

L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The strengths of the penalty that are tried."""

VALIDATION_FOLDS = 5
"""The strength is chosen on one of so many parts of the training images, each with its share of each class."""


@torch.inference_mode()
def features(classifier: Classifier, inputs: Tensor) -> Tensor:
    """Compute what the last layer of a network sees.

    Args:
        classifier: holds a network with timm's ``forward_features`` and ``forward_head(..., pre_logits=True)``.
        inputs: (B, C, H, W) normalised.

    Returns:
        (B, F) float32 on the CPU.

    Raises:
        UserError: if the network has no such methods, or does not pool its features.
    """
    network: Any = classifier.network
    name = type(network).__name__
    head = getattr(network, "forward_head", None)
    if head is None or "pre_logits" not in signature(head).parameters:
        raise UserError(
            f"{name} does not give its features: expected a network of timm, with forward_features and "
            "forward_head(..., pre_logits=True)"
        )
    found: Tensor = head(network.forward_features(inputs), pre_logits=True)
    if found.ndim != 2:
        raise UserError(f"{name} gives features of shape {tuple(found.shape)}, not (B, F): create it with pooling")
    return found.float().cpu()


def fit_logistic(
    features: NDArray[Any], labels: NDArray[Any], num_classes: int, l2: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit multinomial logistic regression.

    It minimises the mean cross-entropy plus ``l2 / 2`` times the sum of the squared weights; the bias is free.
    scikit-learn's ``C`` is ``1 / (l2 * N)``.

    Args:
        features: (N, F), finite.
        labels: (N,) whole numbers in [0, num_classes).
        num_classes: K.
        l2: strength of the penalty, above 0.

    Returns:
        Weight (K, F) and bias (K,). A class without a label has the weight 0 and the bias minus infinity.

    Raises:
        ValueError: if an argument is none of these.

    Example:
        >>> weight, bias = fit_logistic(np.array([[-1.0], [1.0]]), np.array([0, 1]), 2, l2=0.1)
        >>> (np.array([[-3.0], [2.0]]) @ weight.T + bias).argmax(1)
        array([0, 1])
    """
    require_positive("l2", l2)
    require(features.ndim == 2, f"features must be (N, F), got {features.shape}")
    require(labels.shape == features.shape[:1], f"labels must be ({len(features)},), got {labels.shape}")
    require(bool(np.isfinite(features).all()), "features must be finite")
    classes, targets = np.unique(labels, return_inverse=True)
    require(len(classes) > 0 and 0 <= classes[0] <= classes[-1] < num_classes, f"labels must be in [0, {num_classes})")
    inputs, goal = torch.from_numpy(np.asarray(features, np.float64)), torch.from_numpy(targets)
    fitted_weight = inputs.new_zeros(len(classes), inputs.shape[1], requires_grad=True)
    fitted_bias = inputs.new_zeros(len(classes), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [fitted_weight, fitted_bias],
        max_iter=1000,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(inputs, fitted_weight, fitted_bias), goal)
        value = value + l2 / 2 * fitted_weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    weight, bias = np.zeros((num_classes, inputs.shape[1])), np.full(num_classes, -np.inf)
    weight[classes], bias[classes] = fitted_weight.detach().numpy(), fitted_bias.detach().numpy()
    return weight, bias


def choose_l2(
    features: NDArray[Any],
    labels: NDArray[Any],
    num_classes: int,
    grid: Sequence[float] = L2_GRID,
    fitted: Callable[[], object] = lambda: None,
) -> tuple[float, list[dict[str, float]]]:
    """Choose the strength of the penalty on a part of the training images, the same one in every run.

    Args:
        features: (N, F) of the training images.
        labels: (N,) of them.
        num_classes: K.
        grid: the strengths that are tried.
        fitted: called after each fit, for a progress bar.

    Returns:
        The one with the highest accuracy on one of :data:`VALIDATION_FOLDS` parts when fitted on the others, the
        strongest of equals; and for each of the grid ``l2`` and ``validation_top1`` in percent.

    Raises:
        UserError: if there are fewer than two images.
    """
    check_enough(len(labels))
    held = in_fold(labels, 0, VALIDATION_FOLDS)
    rows = []
    for l2 in grid:
        weight, bias = fit_logistic(features[~held], labels[~held], num_classes, l2)
        right = (features[held] @ weight.T + bias).argmax(1) == labels[held]
        rows.append({"l2": l2, "validation_top1": 100 * int(right.sum()) / len(right)})
        fitted()
    return max(rows, key=lambda row: (row["validation_top1"], row["l2"]))["l2"], rows


def check_enough(count: int) -> None:
    """Check that there are images to fit a probe on, and others to choose its penalty on.

    Raises:
        UserError: if there are fewer than two.
    """
    if count < 2:
        raise UserError(f"a probe is fitted on some training images and its penalty chosen on others: got {count}.")


def measure_probe(subject: Subject, train: Subject) -> Findings:
    """Fit logistic regression on the features of a frozen network, and measure it on another split.

    Features are shifted and scaled to mean 0 and standard deviation 1 over the training images, then the penalty is
    chosen (:func:`choose_l2`), then the regression is fitted on all training images. The classes may be others than the
    network's.

    Args:
        subject: the classifier and the split that is measured, all of it.
        train: the same classifier and the training split; at most ``limit`` images of it are used, which depend on
            nothing but the labels: of each class as many as of any other, as far as there are. Where the labels are not
            known before the images are read, they depend on nothing but their number.

    Returns:
        Numbers: ``top1`` and ``balanced_accuracy`` (the mean of the accuracies of the split's classes) in percent,
        ``l2``, ``train_images``, ``count`` (images measured), ``unreadable`` (why images of the two splits were left
        out, one text each), ``features`` (how many), ``fitted_on`` (dataset and split), ``probed_on`` (dataset). Rows:
        ``l2`` and ``validation_top1`` in percent.

    Raises:
        UserError: if the network does not give its features, or there are too few training images.
    """
    fitted, unfitted = _gather_features(train, _training_places(train), "probe: train")
    measured, unmeasured = _gather_features(subject, None, "probe")
    labels = fitted["labels"]
    num_classes = int(max(labels.max(), measured["labels"].max())) + 1
    mean, std = fitted["features"].mean(0, dtype=np.float64), fitted["features"].std(0, dtype=np.float64)
    # a feature that only varies by its rounding is constant
    scale = np.where(std > 1e-6 * np.abs(mean), std, 1)
    standardized = (fitted["features"] - mean) / scale
    with subject.progress(len(L2_GRID) + 1, "probe: fits", " fits") as bar:
        l2, rows = choose_l2(standardized, labels, num_classes, fitted=bar.update)
        weight, bias = fit_logistic(standardized, labels, num_classes, l2)
        bar.update()
    right = ((measured["features"] - mean) / scale @ weight.T + bias).argmax(1) == measured["labels"]
    per_class = [right[measured["labels"] == label].mean() for label in np.unique(measured["labels"])]
    numbers = {
        "top1": 100 * int(right.sum()) / len(right),
        "balanced_accuracy": float(100 * np.mean(per_class)),
        "l2": l2,
        "train_images": len(labels),
        "count": len(right),
        "unreadable": [*unfitted, *unmeasured],
        "features": len(mean),
        "fitted_on": f"{train.settings.name} {train.settings.train_split}",
        "probed_on": subject.settings.name,
    }
    return Findings(numbers, rows)


def _training_places(train: Subject) -> NDArray[np.int64]:
    labels = known_labels(train.dataset)
    return fixed_subset(train.size, train.limit) if labels is None else balanced_subset(labels, train.limit)


def _gather_features(subject: Subject, places: NDArray[np.int64] | None, name: str) -> tuple[Rows, tuple[str, ...]]:
    samples = subject.samples(places, num_classes=sys.maxsize)  # how many there are is seen afterwards
    classifier = subject.classifier
    parts = (
        {"index": index, "labels": labels, "features": features(classifier, classifier.to_input(images))}
        for index, images, labels in samples
    )
    return subject.gather_readable(samples, parts, name)
