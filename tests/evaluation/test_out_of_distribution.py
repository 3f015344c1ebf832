import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.ood_sets import PAPER_SETS, OodSet, ood_sets
from cutmix_zoo.evaluation.out_of_distribution import (
    detection_metrics,
    log_odds,
    max_softmax,
    measure_ood,
    threshold_at_tpr95,
)
from cutmix_zoo.evaluation.subject import Subject
from tests.evaluation.subjects import lookup_subject, numbered_images

METRICS = ["tnr_at_tpr95", "auroc", "aupr_in", "aupr_out", "detection_accuracy"]
TABLE = torch.randn(256, 4, generator=torch.Generator().manual_seed(0)) * torch.linspace(8, 1, 256)[:, None]


def grey(*values: int) -> list[tuple[Image.Image, int]]:
    return [(Image.new("L", (2, 2), value), 0) for value in values]


def sets_of(**greys: range) -> dict[str, OodSet]:
    return {name: OodSet(grey(*values), "natural") for name, values in greys.items()}


def subject(table: torch.Tensor = TABLE, count: int = 50, **options: Any) -> Subject:
    return lookup_subject(table, numbered_images([0] * count), **{"batch_size": 8, **options})


def by_scikit_learn(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    scores = np.concatenate([inside, outside])
    positive = np.arange(len(scores)) < len(inside)
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    found = {
        "tnr_at_tpr95": 1 - fpr[tpr >= 0.95].min(),
        "auroc": roc_auc_score(positive, scores),
        "aupr_in": average_precision_score(positive, scores),
        "aupr_out": average_precision_score(~positive, -scores),
        "detection_accuracy": ((tpr + 1 - fpr) / 2).max(),
    }
    return {name: 100 * value for name, value in found.items()}


@pytest.mark.parametrize("levels", [1, 3, 20, 10**9])
def test_metrics_are_those_of_scikit_learn_however_many_scores_are_equal(levels: int) -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 130, size=2)
        inside, outside = (
            np.floor(levels * rng.normal(shift, 1, size)) for shift, size in zip((1, 0), sizes, strict=True)
        )
        found = detection_metrics(inside, outside)
        assert list(found) == METRICS
        assert found == pytest.approx(by_scikit_learn(inside, outside), abs=1e-9)
        assert found["detection_accuracy"] >= 50


def grid(first: int, last: int, count: int = 1) -> list[float]:
    return [number / 100 for number in range(first, last + 1)] * count


@pytest.mark.parametrize(
    ("inside", "outside", "tnr", "auroc", "accuracy"),
    [
        ([0.5] * 30, [0.5] * 20, 0, 50, 50),
        ([0.9, 0.8, 0.7, 0.4], [0.6, 0.5, 0.3, 0.2], 50, 87.5, 87.5),
        # noise that all looks the same, to a network that is less sure of 11 % of its own images
        (grid(1, 100), [0.115] * 50, 0, 89, 94.5),
        # 63 % and 39 % of the scores have saturated, the others are all lower and apart
        ([1.0] * 63 + grid(30, 66), [1.0] * 39 + grid(-60, 0), 61, 61 + 39 * 0.63 / 2, 81 - 0.5),
        ([2.0, 3.0], [0.0, 1.0], 100, 100, 100),
        ([0.0, 1.0], [2.0, 3.0], 0, 0, 50),
    ],
)
def test_metrics_that_can_be_worked_out_by_hand(
    inside: list[float], outside: list[float], tnr: float, auroc: float, accuracy: float
) -> None:
    found = detection_metrics(np.array(inside), np.array(outside))
    assert (found["tnr_at_tpr95"], found["auroc"], found["detection_accuracy"]) == pytest.approx((tnr, auroc, accuracy))


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(3, 12, 37).astype(float), rng.integers(0, 9, 23).astype(float)


def test_auroc_counts_pairs() -> None:
    inside, outside = draw(0)
    wins = [float(a > b) + 0.5 * float(a == b) for a in inside for b in outside]
    assert detection_metrics(inside, outside)["auroc"] == pytest.approx(100 * np.mean(wins), rel=1e-12)


def test_swapping_the_two_sides_mirrors_auroc_and_negated_scores_swap_the_precisions() -> None:
    inside, outside = draw(1)
    found, swapped = detection_metrics(inside, outside), detection_metrics(outside, inside)
    assert swapped["auroc"] == pytest.approx(100 - found["auroc"])
    negated = detection_metrics(-outside, -inside)
    assert (negated["aupr_in"], negated["aupr_out"]) == (found["aupr_out"], found["aupr_in"])


def test_only_the_order_of_the_scores_counts() -> None:
    inside, outside = draw(2)
    expected = detection_metrics(inside, outside)
    for change in (np.exp, lambda scores: scores**3 - 1e6, lambda scores: np.where(scores > 10, np.inf, scores)):
        changed = change(np.minimum(inside, 11)), change(outside)
        assert detection_metrics(*changed) == expected
    assert detection_metrics(inside[::-1], np.sort(outside)) == expected


@pytest.mark.parametrize("count", [1, 7, 19, 20, 21, 30, 40, 99, 100])
def test_the_threshold_is_the_highest_that_keeps_95_percent(count: int) -> None:
    scores = np.random.default_rng(count).permutation(count).astype(float)
    found = threshold_at_tpr95(scores)
    reached = [int((scores >= candidate).sum()) for candidate in scores]
    assert found == max(s for s, kept in zip(scores, reached, strict=True) if 100 * kept >= 95 * count)


@pytest.mark.parametrize("side", [0, 1])
def test_scores_that_are_missing_or_not_numbers_are_refused(side: int) -> None:
    name = ("inside", "outside")[side]
    for scores, message in (([], "at least one score"), ([1.0, np.nan], "is NaN")):
        sides = [np.array([1.0, 2.0]), np.array([0.0, 1.0])]
        sides[side] = np.array(scores)
        with pytest.raises(ValueError, match=message) as caught:
            detection_metrics(*sides)
        assert f"{name} the distribution" in str(caught.value)


def test_log_odds_are_those_of_the_likeliest_class() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (100, 6)).astype(np.float32)
    before = logits.copy()
    likeliest = torch.from_numpy(logits).double().softmax(1).amax(1)
    found = log_odds(logits)
    np.testing.assert_allclose(found, likeliest.logit().numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(logits, before)
    assert (np.argsort(found) == np.argsort(likeliest.numpy())).all()
    assert found.dtype == np.float64


def test_log_odds_tell_apart_what_softmax_rounds_to_one() -> None:
    logits = np.array([[40.0, 0.0], [50.0, 0.0], [3e38, -3e38]], np.float32)
    assert max_softmax(logits).tolist() == [1, 1, 1]
    assert log_odds(logits).tolist() == [40, 50, pytest.approx(6e38)]
    # the others share the rest: ln(exp(100) / (2 exp(90)))
    assert log_odds(np.array([[90.0, 100.0, 90.0]])) == pytest.approx([10 - np.log(2)], rel=1e-12)
    assert log_odds(np.array([[5.0, 5.0]])).tolist() == [0]


def test_log_odds_are_nan_where_a_logit_is_no_number() -> None:
    logits = np.array([[np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0], [2.0, 1.0]])
    np.testing.assert_array_equal(log_odds(logits), [np.nan, np.nan, np.nan, 1.0])


def test_one_class_has_no_log_odds() -> None:
    with pytest.raises(UserError, match="two classes or more to compare, the network has 1"):
        log_odds(np.zeros((3, 1)))
    with pytest.raises(UserError, match="the network has 1"):
        measure_ood(subject(TABLE[:, :1]), sets_of(other=range(3)))


def test_max_softmax_is_that_of_torch_in_float32() -> None:
    logits = np.random.default_rng(0).normal(0, 8, (50, 6)).astype(np.float32)
    found = max_softmax(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.exp(logits - logits.max(1, keepdims=True)).sum(1) ** -1.0, rtol=1e-6)


def measure(measured: Subject, sets: dict[str, OodSet]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = measure_ood(measured, sets)
    json.dumps([found.numbers, found.rows], allow_nan=False)
    return dict(found.numbers), [dict(row) for row in found.rows]


def test_rows_are_the_metrics_of_each_set() -> None:
    numbers, rows = measure(subject(), sets_of(near=range(60, 90), far=range(200, 256)))
    inside = TABLE[:50].numpy()
    assert numbers["in_distribution"] == 50
    assert numbers["threshold"] == threshold_at_tpr95(log_odds(inside))
    for row, (name, logits) in zip(rows, {"near": TABLE[60:90], "far": TABLE[200:]}.items(), strict=True):
        outside = logits.numpy()
        expected = by_scikit_learn(log_odds(inside), log_odds(outside))
        softmax = by_scikit_learn(max_softmax(inside), max_softmax(outside))
        assert list(row) == ["set", "kind", "count", *METRICS, "max_softmax_auroc"]
        assert (row["set"], row["kind"], row["count"]) == (name, "natural", len(outside))
        assert {key: row[key] for key in METRICS} == pytest.approx(expected, abs=1e-9)
        assert row["max_softmax_auroc"] == pytest.approx(softmax["auroc"], abs=1e-9)
    assert rows[1]["auroc"] > rows[0]["auroc"] + 10
    assert numbers["mean"] == numbers["mean_without_noise"]
    assert numbers["mean"] == {
        key: pytest.approx((rows[0][key] + rows[1][key]) / 2) for key in [*METRICS, "max_softmax_auroc"]
    }


def test_saturated_softmax_loses_what_the_log_odds_keep() -> None:
    table = torch.tensor([[40.0, 0.0]] * 20 + [[30.0, 0.0]] * 20)
    _, (row,) = measure(subject(table, 20), sets_of(other=range(20, 40)))
    assert (row["auroc"], row["max_softmax_auroc"]) == (100, 50)


def test_noise_has_a_mean_without_it() -> None:
    sets = sets_of(a=range(60, 90), b=range(100, 130))
    noisy = {**sets, "b": replace(sets["b"], kind="noise")}
    numbers, rows = measure(subject(), noisy)
    assert [row["kind"] for row in rows] == ["natural", "noise"]
    assert numbers["mean_without_noise"] == {key: rows[0][key] for key in numbers["mean"]} != numbers["mean"]
    assert measure(subject(), {"b": noisy["b"]})[0]["mean_without_noise"] is None


def test_the_sets_of_the_paper_are_known_by_their_names() -> None:
    paper = (
        "TinyImageNet (crop)",
        "TinyImageNet (resize)",
        "LSUN (crop)",
        "LSUN (resize)",
        "iSUN",
        "uniform",
        "gaussian",
    )
    assert set(paper) == PAPER_SETS
    sets = {name: OodSet(grey(100, 101), "natural") for name in paper}
    assert measure(subject(), sets)[0]["paper_sets"] is True
    assert measure(subject(), {**sets, "more": sets["iSUN"]})[0]["paper_sets"] is False
    del sets["iSUN"]
    assert measure(subject(), sets)[0]["paper_sets"] is False


def test_the_histogram_counts_every_image_in_common_bins() -> None:
    numbers, _ = measure(subject(), sets_of(near=range(60, 90), far=range(200, 256)))
    histogram = numbers["histogram"]
    edges = histogram["edges"]
    scores = {
        name: log_odds(TABLE[part].numpy())
        for name, part in {"in": slice(50), "near": slice(60, 90), "far": slice(200, 256)}.items()
    }
    everything = np.concatenate(list(scores.values()))
    assert len(edges) == 41
    assert (edges[0], edges[-1]) == (everything.min(), everything.max())
    np.testing.assert_allclose(np.diff(edges), (edges[-1] - edges[0]) / 40)
    assert list(histogram["outside"]) == ["near", "far"]
    for name, shares in {"in": histogram["inside"], **histogram["outside"]}.items():
        assert sum(shares) == pytest.approx(1)
        for number, share in enumerate(shares):
            inside = [s for s in scores[name] if edges[number] <= s and (s < edges[number + 1] or number == 39)]
            assert share == pytest.approx(len(inside) / len(scores[name]))


def test_a_network_that_says_the_same_of_all_has_a_histogram_too() -> None:
    numbers, (row,) = measure(subject(torch.ones(256, 3)), sets_of(other=range(10)))
    edges = numbers["histogram"]["edges"]
    assert edges[-1] - edges[0] == pytest.approx(1)
    assert numbers["histogram"]["inside"][0] == numbers["histogram"]["outside"]["other"][0] == 1
    assert (row["tnr_at_tpr95"], row["auroc"], row["detection_accuracy"]) == (0, 50, 50)


def test_labels_do_not_count_and_a_set_may_have_a_transform_of_its_own() -> None:
    labelled = [(image, 1000) for image, _ in grey(7, 8)]
    other = OodSet(labelled, "natural", lambda image: torch.full((1, 2, 2), 250, dtype=torch.uint8))
    numbers, _ = measure(subject(), {"other": other, "same": OodSet(grey(250, 250), "natural")})
    assert numbers["histogram"]["outside"]["other"] == numbers["histogram"]["outside"]["same"]


def test_more_images_than_are_scored_at_once() -> None:
    dataset = grey(*range(256)) * 5
    numbers, _ = measure(lookup_subject(TABLE, dataset), sets_of(other=range(3)))
    assert numbers["in_distribution"] == 1280
    assert numbers["threshold"] == threshold_at_tpr95(np.tile(log_odds(TABLE.numpy()), 5))


@pytest.mark.parametrize(("place", "name"), [(3, "folder"), (100, "other")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused_with_the_name_of_their_set(place: int, name: str, value: float) -> None:
    table = TABLE.clone()
    table[place, 1] = value
    with pytest.raises(UserError, match=f"the logits of 1 of .* images of {name} are not finite"):
        measure_ood(subject(table), sets_of(fine=range(60, 70), other=range(95, 105)))


def test_images_of_a_set_that_cannot_be_read_are_named_with_their_set(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(60, 70)]
    for number, file in enumerate(files):
        Image.new("L", (2, 2), 60 + number).save(file)
    files[3].write_bytes(b"no image")
    sets = ood_sets({"some": str(tmp_path)}, subject()) | sets_of(other=range(200, 256))
    with pytest.raises(UserError, match=r"1 of 10 images cannot be read: .*63\.png.* --skip-unreadable"):
        measure_ood(subject(), sets)
    numbers, rows = measure(subject(skip_unreadable=True), sets)
    (message,) = numbers["unreadable"]
    assert message.startswith(f"some: cannot read image {files[3]}")
    assert [row["count"] for row in rows] == [9, 56]
    assert measure(subject(), sets_of(other=range(200, 256)))[0]["unreadable"] == []


def test_without_sets_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(UserError, match="no set to compare with: name one"):
        measure_ood(subject(), {})


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_processes_finds_the_same(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = sets_of(near=range(60, 91), far=range(200, 225))
    expected = measure(subject(), sets)
    places = [
        SimpleNamespace(process_index=n, num_processes=world_size, is_main_process=n == 0) for n in range(world_size)
    ]
    # each goes through its own share first; then each is handed the shares of all
    shares: dict[int, list[Any]] = {}
    for place in places:
        own = shares.setdefault(place.process_index, [])
        monkeypatch.setattr("accelerate.utils.gather_object", lambda share, own=own: own.append(share) or share)
        with monkeypatch.context() as patch:
            patch.setattr("cutmix_zoo.evaluation.subject._check_complete", lambda *_: None)
            measure(replace(subject(), accelerator=place), sets)
    for place in places:
        gathered = ([one for part in parts for one in part] for parts in zip(*shares.values(), strict=True))
        monkeypatch.setattr("accelerate.utils.gather_object", lambda _, gathered=gathered: next(gathered))
        assert measure(replace(subject(), accelerator=place), sets) == expected
