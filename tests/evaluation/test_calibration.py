import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss
from torch.nn.functional import cross_entropy, one_hot
from torchmetrics.functional.classification import multiclass_calibration_error

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    halves,
    measure_calibration,
    negative_log_likelihood,
    reliability_bins,
    softmax,
)
from tests.evaluation.subjects import lookup_subject, numbered_images


def draw(seed: int, count: int, classes: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that have something to do with the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    logits = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    return (scale * logits).astype(np.float32), labels


def ece(confidence: Any, right: Any, bins: int = 15) -> float:
    return expected_calibration_error(reliability_bins(np.array(confidence), np.array(right, bool), bins))


def in_torchmetrics(confidence: list[float], right: list[int], bins: int) -> float:
    # three classes, the first of which is the likeliest
    probabilities = [[p, 0.6 * (1 - p), 0.4 * (1 - p)] for p in confidence]
    labels = torch.tensor([0 if hit else 1 for hit in right])
    tensor = torch.tensor(probabilities, dtype=torch.float64)
    return float(multiclass_calibration_error(tensor, labels, num_classes=3, n_bins=bins))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bins", [1, 10, 15, 20])
def test_the_error_is_that_of_torchmetrics_away_from_the_edges(seed: int, bins: int) -> None:
    logits, labels = draw(seed, 500, 4)
    probabilities = softmax(logits)
    found = ece(probabilities.max(1), probabilities.argmax(1) == labels, bins)
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=4, n_bins=bins
    )
    assert found == pytest.approx(float(expected), abs=1e-6)
    assert 0.01 < found < 0.5


@pytest.mark.parametrize(
    ("confidence", "right", "bins", "expected", "torchmetrics"),
    [
        # all are in (0.9, 1]; torchmetrics gives those at 1 a bin of their own
        ([0.95, 0.95, 1.0, 1.0], [1, 1, 0, 0], 10, 0.475, 0.525),
        # 0.5 is in (0, 0.5]; torchmetrics has it in [0.5, 1)
        ([0.5, 0.75], [1, 0], 2, 0.625, 0.125),
    ],
)
def test_an_edge_belongs_to_the_bin_below_it_unlike_in_torchmetrics(
    confidence: list[float], right: list[int], bins: int, expected: float, torchmetrics: float
) -> None:
    assert ece(confidence, right, bins) == pytest.approx(expected, abs=1e-12)
    assert in_torchmetrics(confidence, right, bins) == pytest.approx(torchmetrics, abs=1e-6)


def test_bins_are_what_a_loop_over_the_predictions_counts() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.integers(0, 17, size=200) / 16  # every second one on an edge
    right = rng.random(200) < confidence
    found = reliability_bins(confidence, right, bins=8)
    for number, one in enumerate(found):
        lower, upper = number / 8, (number + 1) / 8
        inside = [n for n in range(200) if lower < confidence[n] <= upper or confidence[n] == lower == 0]
        assert asdict(one) == {
            "lower": lower,
            "upper": upper,
            "count": len(inside),
            "confidence": pytest.approx(sum(confidence[n] for n in inside) / len(inside)),
            "accuracy": pytest.approx(sum(right[n] for n in inside) / len(inside)),
        }
    assert sum(one.count for one in found) == 200


def test_an_empty_bin_has_no_confidence_and_counts_for_nothing() -> None:
    empty, full = reliability_bins(np.array([0.75]), np.array([True]), bins=2)
    assert (empty.count, empty.confidence, empty.accuracy) == (0, None, None)
    assert (full.count, full.confidence, full.accuracy) == (1, 0.75, 1.0)
    assert expected_calibration_error([empty, full]) == 0.25


def test_the_default_is_fifteen_bins_of_equal_width() -> None:
    bins = reliability_bins(np.array([0.3]), np.array([True]))
    np.testing.assert_allclose([one.upper for one in bins], [n / 15 for n in range(1, 16)], rtol=1e-15)
    assert [one.lower for one in bins[1:]] == [one.upper for one in bins[:-1]]


def test_errors_that_can_be_worked_out_by_hand() -> None:
    assert ece([1.0] * 4, [1] * 4) == 0
    assert ece([0.7] * 10, [1] * 7 + [0] * 3) == pytest.approx(0, abs=1e-12)
    assert ece([1.0] * 4, [0] * 4) == 1
    assert brier_score(np.eye(3), np.array([0, 1, 2])) == 0
    assert brier_score(np.eye(3), np.array([1, 2, 0])) == 2
    for classes in (2, 10):
        flat, labels = np.zeros((5, classes)), np.zeros(5, int)
        assert brier_score(softmax(flat), labels) == pytest.approx(1 - 1 / classes)
        assert negative_log_likelihood(flat, labels) == pytest.approx(np.log(classes))


@pytest.mark.parametrize(
    ("confidence", "bins", "message"),
    [
        ([], 15, "at least one prediction"),
        ([0.5], 0, "bins must be a whole number of at least 1, got 0"),
        ([0.5, 1.5], 15, r"confidence must be in \[0, 1\], got 0.5 to 1.5"),
        ([-0.5], 15, "confidence must be in"),
        ([float("nan")], 15, "confidence must be in"),
    ],
)
def test_what_cannot_be_binned_is_refused(confidence: list[float], bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reliability_bins(np.array(confidence), np.ones(len(confidence), bool), bins)


def test_the_brier_score_is_twice_that_of_scikit_learn_for_two_classes() -> None:
    logits, labels = draw(3, 100, 2)
    probabilities = softmax(logits)
    before = probabilities.copy()
    expected = 2 * brier_score_loss(labels, probabilities[:, 1])
    assert brier_score(probabilities, labels) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(probabilities, before)


def test_the_brier_score_of_many_classes_is_a_sum_over_them() -> None:
    logits, labels = draw(4, 50, 7)
    probabilities = softmax(logits)
    expected = [
        sum((p - (k == y)) ** 2 for k, p in enumerate(row)) for row, y in zip(probabilities, labels, strict=True)
    ]
    assert brier_score(probabilities, labels) == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_probabilities_and_likelihood_are_those_of_torch(temperature: float) -> None:
    logits, labels = draw(5, 60, 6)
    scaled = torch.from_numpy(logits).double() / temperature
    np.testing.assert_allclose(softmax(logits, temperature), scaled.softmax(1).numpy(), rtol=1e-12)
    expected = cross_entropy(scaled, torch.from_numpy(labels))
    assert negative_log_likelihood(logits, labels, temperature) == pytest.approx(float(expected), rel=1e-12)


def test_the_largest_logits_neither_overflow_nor_lose_the_likelihood() -> None:
    logits = np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32)
    assert softmax(logits, 0.01).tolist() == [[1, 0], [0, 1]]
    assert negative_log_likelihood(logits, np.array([0, 1])) == 0
    assert np.isfinite(negative_log_likelihood(logits, np.array([1, 0]), 0.01))


@pytest.mark.parametrize(("margin", "right"), [(4.0, 60), (1.0, 60), (0.5, 95), (3.0, 75)])
def test_the_temperature_of_one_margin_is_known(margin: float, right: int) -> None:
    logits = np.tile([margin, 0.0], (100, 1)).astype(np.float32)
    labels = np.array([0] * right + [1] * (100 - right))
    # the best probability of the first class is its share
    expected = margin / np.log(right / (100 - right))
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_the_temperature_minimises_the_likelihood_as_scipy_does(seed: int) -> None:
    logits, labels = draw(seed, 200, 5, scale=0.3 * 4**seed)
    best = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, labels, np.exp(log_t)),
        bounds=np.log([LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)
    assert fit_temperature(2 * logits, labels) == pytest.approx(2 * found, rel=1e-7)


def test_a_temperature_without_an_optimum_is_a_bound() -> None:
    eye = np.eye(4, dtype=np.float32)
    everything, nothing = np.arange(4), (np.arange(4) + 1) % 4
    for scale in (1e-3, 1.0, 1e3, 1e30):
        assert fit_temperature(scale * eye, everything) == LOWEST_TEMPERATURE
        assert fit_temperature(scale * eye, nothing) == HIGHEST_TEMPERATURE
    assert fit_temperature(eye[:1], everything[:1]) == LOWEST_TEMPERATURE
    assert fit_temperature(np.full((3, 5), 7, np.float32), np.arange(3)) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_halves_are_disjoint_and_depend_on_the_number_alone(count: int) -> None:
    fit, rest = halves(count)
    assert (len(fit), len(rest)) == (count // 2, count - count // 2)
    assert sorted([*fit, *rest]) == list(range(count))
    assert all((np.diff(half) > 0).all() for half in (fit, rest))
    again = halves(count)
    assert all(np.array_equal(*pair) for pair in zip(again, (fit, rest), strict=True))


def test_halves_are_neither_the_first_images_nor_every_second_one() -> None:
    fit, _ = halves(1000)
    assert 200 < (fit < 500).sum() < 300
    assert 200 < (fit % 2 == 0).sum() < 300


def measure(logits: np.ndarray, labels: Any, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = measure_calibration(lookup_subject(torch.from_numpy(logits), numbered_images(labels), **options))
    json.dumps([found.numbers, found.rows], allow_nan=False)
    return dict(found.numbers), [dict(row) for row in found.rows]


def test_all_numbers_of_a_network_that_is_too_sure() -> None:
    logits, labels = draw(6, 200, 4, scale=6.0)
    numbers, rows = measure(logits, labels)
    tensor, truth = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    confidence, named = tensor.softmax(1).max(1)
    assert numbers["count"] == sum(row["count"] for row in rows) == 200
    assert numbers["confidence"] == pytest.approx(float(confidence.mean()))
    assert numbers["accuracy"] == pytest.approx(float((named == truth).double().mean()))
    assert numbers["confidence_minus_accuracy"] == numbers["confidence"] - numbers["accuracy"] > 0.1
    assert numbers["nll"] == pytest.approx(float(cross_entropy(tensor, truth)))
    assert numbers["brier"] == pytest.approx(float(((tensor.softmax(1) - one_hot(truth)) ** 2).sum(1).mean()))
    expected = multiclass_calibration_error(tensor.softmax(1), truth, num_classes=4, n_bins=15)
    assert numbers["ece"] == pytest.approx(float(expected), abs=1e-6)
    assert [list(row) for row in rows] == [["lower", "upper", "count", "confidence", "accuracy"]] * 15

    fit, rest = halves(200)
    temperature = fit_temperature(logits[fit], labels[fit])
    assert numbers["temperature"] == temperature > 2
    for when, divisor in (("before", 1.0), ("after", temperature)):
        held_out = tensor[rest] / divisor
        expected = multiclass_calibration_error(held_out.softmax(1), truth[rest], num_classes=4, n_bins=15)
        assert numbers[f"held_out_ece_{when}"] == pytest.approx(float(expected), abs=1e-6)
        assert numbers[f"held_out_nll_{when}"] == pytest.approx(float(cross_entropy(held_out, truth[rest])))
    assert numbers["held_out_ece_after"] < numbers["held_out_ece_before"] / 2
    assert numbers["held_out_nll_after"] < numbers["held_out_nll_before"] / 1.5


def test_a_network_that_is_not_sure_enough_has_the_other_sign_and_a_temperature_below_one() -> None:
    logits, labels = draw(7, 200, 4, scale=0.3)
    numbers, _ = measure(logits, labels)
    assert numbers["confidence_minus_accuracy"] < -0.1
    assert numbers["temperature"] < 0.5
    assert numbers["held_out_ece_after"] < numbers["held_out_ece_before"]


def test_batches_change_nothing() -> None:
    logits, labels = draw(8, 60, 3)
    assert measure(logits, labels, batch_size=7) == measure(logits, labels, batch_size=60)


def test_one_image_has_no_halves() -> None:
    numbers, _ = measure(np.array([[0.0, np.log(3)]], np.float32), [1])
    held_out = [numbers[key] for key in numbers if key.startswith("held_out")]
    assert [numbers["temperature"], *held_out] == [None] * 5
    assert numbers["confidence"] == pytest.approx(0.75)
    assert numbers["ece"] == pytest.approx(0.25)


@pytest.mark.parametrize("labels", [[0, 1], [1, 0]])
def test_two_images_that_are_both_right_or_both_wrong_give_finite_numbers(labels: list[int]) -> None:
    numbers, _ = measure(np.array([[9.0, 0.0], [0.0, 9.0]], np.float32), labels)
    assert all(np.isfinite(value) for value in numbers.values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="the logits of 1 of 2 images of folder are not finite"):
        measure(np.array([[0.0, 1.0], [value, 0.0]], np.float32), [0, 0])
