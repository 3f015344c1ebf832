from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from sklearn.datasets import load_iris, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import cutmix_zoo  # noqa: F401  registers the models
from cutmix_zoo.data.holdout import in_fold
from cutmix_zoo.data.settings import DataSettings, input_spec
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.classifier import Classifier
from cutmix_zoo.evaluation.probe import L2_GRID, choose_l2, features, fit_logistic, measure_probe
from cutmix_zoo.evaluation.subject import Subject
from tests.conftest import random_image

SETTINGS = DataSettings("spots", train_split="some", input_size=(1, 2, 2), mean=(0.0,), std=(1.0,), workers=0)


class Pixels(nn.Module):
    """Its features are the pixels and a constant; its classifier is of two classes and of no use."""

    num_classes = 2

    def forward_features(self, inputs: Tensor) -> Tensor:
        assert not self.training
        return inputs

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        assert pre_logits
        return nn.functional.pad(x.flatten(1), (0, 1), value=0.1)


def subject_on(dataset: Sequence[Any], network: nn.Module | None = None, **options: Any) -> Subject:
    classifier = Classifier(network or Pixels(), input_spec(SETTINGS), torch.device("cpu"))
    return Subject(classifier, dataset, SETTINGS, Accelerator(cpu=True), **options)


def spots(labels: Sequence[int], seed: int, spread: float) -> list[tuple[Image.Image, int]]:
    """Make images of 2 x 2 pixels, of which the one of the label's number is light."""
    rng = np.random.default_rng(seed)
    levels = np.clip(100 * np.eye(4)[list(labels)] + 50 + spread * rng.normal(size=(len(labels), 4)), 0, 255)
    images = [Image.fromarray(level.reshape(2, 2)) for level in levels.astype(np.uint8)]
    return list(zip(images, labels, strict=True))


def pixels_of(dataset: Sequence[tuple[Image.Image, int]]) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.array([np.asarray(image).ravel() / 255 for image, _ in dataset])
    return pixels, np.array([label for _, label in dataset])


@pytest.mark.parametrize("l2", [1e-3, 0.05, 2.0])
@pytest.mark.parametrize("kind", ["iris", "made", "two"])
def test_coefficients_are_those_of_scikit_learn(l2: float, kind: str) -> None:
    if kind == "iris":
        x, y = load_iris(return_X_y=True)
        x = StandardScaler().fit_transform(x)
    else:
        classes = 2 if kind == "two" else 5
        x, y = make_classification(200, 12, n_informative=6, n_classes=classes, random_state=0)
    num_classes = int(y.max()) + 1
    weight, bias = fit_logistic(x, y, num_classes, l2)
    if kind == "two":  # scikit-learn's regression of two classes has one weight, the difference of ours: half the norm
        oracle = LogisticRegression(C=2 / (l2 * len(x)), tol=1e-10, max_iter=10_000).fit(x, y)
        np.testing.assert_allclose(weight[1:] - weight[:1], oracle.coef_, atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(bias[1:] - bias[:1], oracle.intercept_, atol=1e-3, rtol=1e-3)
    else:
        oracle = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-10, max_iter=10_000).fit(x, y)
        np.testing.assert_allclose(weight, oracle.coef_, atol=1e-3)
        np.testing.assert_allclose(bias - bias.mean(), oracle.intercept_ - oracle.intercept_.mean(), atol=1e-3)
    assert ((x @ weight.T + bias).argmax(1) == oracle.predict(x)).all()


def test_the_fit_is_where_the_gradient_vanishes() -> None:
    x, y = make_classification(100, 6, n_informative=4, n_classes=3, random_state=1)
    weight, bias = fit_logistic(x.astype(np.float32), y, 3, 0.01)
    logits = x.astype(np.float32) @ weight.T + bias
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope = (shares - np.eye(3)[y]) / 100
    assert np.abs(slope.T @ x.astype(np.float32) + 0.01 * weight).max() < 1e-7
    assert np.abs(slope.sum(0)).max() < 1e-7
    assert (weight.dtype, bias.dtype) == (np.float64, np.float64)


def test_a_class_without_a_label_is_never_predicted() -> None:
    x, y = make_classification(100, 6, n_informative=4, n_classes=3, random_state=1)
    names = np.array([1, 2, 5])
    weight, bias = fit_logistic(x, names[y], 7, 0.01)
    expected, expected_bias = fit_logistic(x, y, 3, 0.01)
    np.testing.assert_array_equal(weight[names], expected)
    np.testing.assert_array_equal(bias[names], expected_bias)
    others = [0, 3, 4, 6]
    assert not weight[others].any()
    assert (bias[others] == -np.inf).all()
    only, _ = fit_logistic(x, np.full(100, 3), 7, 0.01)
    assert not only.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": 0.0}, "l2 must be a finite number above 0, got 0.0"),
        ({"features": np.zeros(4)}, r"features must be \(N, F\), got \(4,\)"),
        ({"labels": np.zeros(3, int)}, r"labels must be \(4,\), got \(3,\)"),
        ({"features": np.full((4, 2), np.nan)}, "features must be finite"),
        ({"labels": np.array([0, 1, 2, 1])}, r"labels must be in \[0, 2\)"),
        ({"labels": np.array([0, 1, -1, 1])}, r"labels must be in \[0, 2\)"),
        ({"labels": np.zeros(0, int), "features": np.zeros((0, 2))}, r"labels must be in \[0, 2\)"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {"features": np.zeros((4, 2)), "labels": np.array([0, 1, 0, 1]), "num_classes": 2, "l2": 0.1}
    with pytest.raises(ValueError, match=message):
        fit_logistic(**{**arguments, **change})


def test_the_penalty_is_chosen_on_a_fifth_of_the_images() -> None:
    x, y = make_classification(300, 40, n_informative=5, n_classes=3, flip_y=0.2, random_state=3)
    grid = (1e-4, 0.03, 1.0, 1e6)
    l2, rows = choose_l2(x, y, 3, grid)
    assert [row["l2"] for row in rows] == list(grid)
    found = [row["validation_top1"] for row in rows]
    held = in_fold(y, 0, 5)
    oracle = LogisticRegression(C=1 / (0.03 * 240), tol=1e-10).fit(x[~held], y[~held])
    assert found[1] == pytest.approx(100 * oracle.score(x[held], y[held]))
    assert all(100 / 60 * round(top1 * 60 / 100) == pytest.approx(top1) for top1 in found)  # of 60 images
    best = max(found)
    assert l2 == max(each for each, top1 in zip(grid, found, strict=True) if top1 == best)
    assert found[-1] < best
    fits: list[None] = []
    assert choose_l2(x, y, 3, grid, lambda: fits.append(None)) == (l2, rows)
    assert len(fits) == 4
    # all that are too strong to learn anything are equals
    assert choose_l2(x[:, :1] * 0, y, 3, (1.0, 5.0, 2.0))[0] == 5.0


def test_too_few_images_to_choose_on() -> None:
    with pytest.raises(UserError, match=r"fitted on some training images and its penalty chosen on others: got 1\."):
        choose_l2(np.zeros((1, 2)), np.array([1]), 2)
    choose_l2(np.zeros((2, 2)), np.array([0, 1]), 2)


def test_two_images_of_each_class_are_enough() -> None:
    labels = np.arange(40) % 20
    _, (row,) = choose_l2(np.eye(20)[labels], labels, 20, (1e-4,))
    assert row["validation_top1"] == 100.0


def test_what_can_be_told_apart_is_told_apart_whatever_the_networks_classes() -> None:
    train, test = spots([0, 1, 2, 3] * 10, 0, 5.0), spots([3, 1, 1, 2, 0, 0, 0], 1, 5.0)
    found = measure_probe(subject_on(test), subject_on(train))
    assert [row["l2"] for row in found.rows] == list(L2_GRID)
    assert all(row["validation_top1"] == 100.0 for row in found.rows)
    assert found.numbers == {
        "top1": 100.0,
        "balanced_accuracy": 100.0,
        "l2": max(L2_GRID),
        "train_images": 40,
        "count": 7,
        "unreadable": [],
        "features": 5,
        "fitted_on": "spots some",
        "probed_on": "spots",
    }


def test_numbers_are_those_of_scikit_learn_on_standardized_features() -> None:
    rng = np.random.default_rng(4)
    train, test = spots(rng.integers(4, size=200).tolist(), 5, 60.0), spots([0] * 80 + [1] * 20 + [3] * 7, 6, 60.0)
    found = measure_probe(subject_on(test, batch_size=9), subject_on(train, batch_size=11))
    (x, y), (x_test, y_test) = pixels_of(train), pixels_of(test)
    scaler = StandardScaler().fit(x)
    oracle = LogisticRegression(C=1 / (found.numbers["l2"] * 200), tol=1e-10).fit(scaler.transform(x), y)
    predictions = oracle.predict(scaler.transform(x_test))
    assert found.numbers["top1"] == pytest.approx(100 * (predictions == y_test).mean())
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(y_test, predictions)
    assert found.numbers["balanced_accuracy"] == pytest.approx(100 * expected)
    assert found.numbers["top1"] != pytest.approx(found.numbers["balanced_accuracy"])
    assert 50 < found.numbers["top1"] < 100


def test_a_class_that_the_training_part_lacks_is_wrong() -> None:
    train, test = spots([0, 1] * 10, 0, 5.0), spots([0, 1, 2, 2], 1, 5.0)
    numbers = measure_probe(subject_on(test), subject_on(train)).numbers
    assert numbers["top1"] == 50.0
    assert numbers["balanced_accuracy"] == pytest.approx(200 / 3)


def test_the_limit_is_for_the_training_images() -> None:
    train, test = spots([0, 1, 2, 3] * 25, 0, 60.0), spots([0, 1, 2, 3] * 5, 1, 60.0)
    found = measure_probe(subject_on(test, limit=3), subject_on(train, limit=30))
    assert (found.numbers["train_images"], found.numbers["count"]) == (30, 20)
    assert measure_probe(subject_on(test), subject_on(train, limit=30)) == found
    assert measure_probe(subject_on(test), subject_on(train, limit=1000)).numbers["train_images"] == 100


@dataclass
class Labelled:
    """Images whose labels are known, and some of which cannot be read; it notes which are asked for."""

    samples: Sequence[tuple[Image.Image, int]]
    damaged: frozenset[int] = frozenset()
    read: list[int] = field(default_factory=list)

    @property
    def targets(self) -> list[int]:
        return [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index in self.damaged:
            raise UserError(f"cannot read image {index}")
        self.read.append(index)
        return self.samples[index]


def test_the_training_images_are_balanced_where_labels_are_known() -> None:
    labels = [0] * 70 + [1] * 20 + [2] * 8 + [3] * 2
    train, test = Labelled(spots(labels, 0, 60.0)), spots([0, 1, 2, 3] * 5, 1, 60.0)
    found = measure_probe(subject_on(test), subject_on(train, limit=20))
    assert Counter(labels[index] for index in train.read) == {0: 6, 1: 6, 2: 6, 3: 2}
    assert found.numbers["train_images"] == 20
    again = Labelled(train.samples)
    assert measure_probe(subject_on(test), subject_on(again, limit=20)) == found
    assert again.read == train.read


def test_images_of_either_split_that_cannot_be_read_are_named() -> None:
    train = Labelled(spots([0, 1, 2, 3] * 10, 0, 5.0), frozenset({3, 20}))
    test = Labelled(spots([3, 1, 1, 2], 1, 5.0), frozenset({2}))
    with pytest.raises(UserError, match="2 of 40 images cannot be read"):
        measure_probe(subject_on(test), subject_on(train))
    numbers = measure_probe(subject_on(test, skip_unreadable=True), subject_on(train, skip_unreadable=True)).numbers
    assert (numbers["train_images"], numbers["count"]) == (38, 3)
    assert [message.rpartition(" ")[2] for message in numbers["unreadable"]] == ["20", "3", "2"]


def test_the_fits_have_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = spots([0, 1] * 5, 0, 5.0)
    measure_probe(subject_on(dataset), subject_on(dataset))
    assert f"probe: fits: 100%|██████████| {len(L2_GRID) + 1}/{len(L2_GRID) + 1}" in capsys.readouterr().err


def test_features_that_are_constant_but_for_their_rounding_say_nothing() -> None:
    class Rounded(Pixels):
        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
            # constant in training; in the evaluation it would outweigh everything else if it were scaled up
            noise = x.flatten(1)[:, :1].sub(0.3).sign() * 1e-7
            return torch.cat([super().forward_head(x, pre_logits), 1 + noise], 1)

    train, test = spots([0, 1, 2, 3] * 10, 0, 5.0), spots([0, 1, 2, 3] * 3, 1, 5.0)
    dark = [(image.point(lambda level: level // 4), label) for image, label in test]
    found = measure_probe(subject_on(test, Rounded()), subject_on(train, Rounded()))
    assert (found.numbers["top1"], found.numbers["features"]) == (100.0, 6)
    plain = measure_probe(subject_on(dark), subject_on(train))
    rounded = measure_probe(subject_on(dark, Rounded()), subject_on(train, Rounded()))
    assert rounded.numbers["top1"] == plain.numbers["top1"]


@pytest.mark.parametrize("name", ["cifar_resnet8", "vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto"])
def test_features_are_what_the_last_layer_sees(name: str) -> None:
    options = {"img_size": 32} if name.startswith("vit") else {}
    network = timm.create_model(name, num_classes=6, **options)
    settings = DataSettings("folder", input_size=(3, 32, 32), mean=(0.5,), std=(0.2,))
    classifier = Classifier(network, input_spec(settings), torch.device("cpu"))
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = features(classifier, inputs)
    assert (found.shape[1], found.dtype) == (network.get_classifier().in_features, torch.float32)
    torch.testing.assert_close(network.get_classifier()(found.clone()), network(inputs))


def test_networks_without_features_are_refused() -> None:
    class Unpooled(Pixels):
        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
            return x

    class Headless(nn.Linear):
        num_classes = 2

    class WithoutChoice(Pixels):
        def forward_head(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return x

    dataset = spots([0, 1] * 5, 0, 5.0)
    for network in (Headless(4, 2), WithoutChoice()):
        with pytest.raises(
            UserError, match=rf"{type(network).__name__} does not give its features: expected a network"
        ):
            measure_probe(subject_on(dataset, network), subject_on(dataset, network))
    with pytest.raises(UserError, match=r"Unpooled gives features of shape \(10, 1, 2, 2\), not \(B, F\): create it"):
        measure_probe(subject_on(dataset, Unpooled()), subject_on(dataset, Unpooled()))


def test_the_colours_and_sizes_of_images_are_those_that_the_network_takes() -> None:
    dataset = [(random_image(seed, 6 + seed, 5), seed % 3) for seed in range(12)]
    assert measure_probe(subject_on(dataset), subject_on(dataset)).numbers["features"] == 5
