from typing import Any

import pytest

from cutmix_zoo.data.settings import DataSettings, InputSpec, input_spec, validation_name
from cutmix_zoo.errors import UserError
from cutmix_zoo.known import KNOWN_DATASETS


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 0, "a whole number of at least 1, got 0"),
        ("workers", -1, "at least 0, got -1"),
        ("input_size", (2, 32, 32), r"begin with 1 or 3 channels, got \(2, 32, 32\)"),
        ("input_size", (3, 32), r"three numbers: channels, height and width, got \(3, 32\)"),
        ("input_size", (3, 32, 32, 1), "three numbers"),
        ("input_size", (3, 0, 32), "have a positive height and width"),
        ("std", (0.2, 0.0, 0.2), "positive"),
        ("pad", -1, "at least 0"),
        ("scale", (0.5, 0.1), "0 < low <= high <= 1"),
        ("scale", (0.0, 0.1), "0 < low <= high <= 1"),
        ("scale", (0.5, 1.1), "0 < low <= high <= 1"),
        ("ratio", (2.0, 1.0), "0 < low <= high"),
        ("ratio", (0.0, 1.0), "0 < low <= high"),
        ("interpolation", "random", "one of nearest, bilinear, bicubic, lanczos, got 'random'"),
        ("crop", "centre", "one of pad, random_resized, squash, none, got 'centre'"),
        ("mean", (125.3, 123.0, 113.9), r"from 0 to 1, the range .* got \(125.3, 123.0, 113.9\)"),
        ("mean", (float("nan"),), r"from 0 to 1"),
        ("std", (0.5, float("nan")), r"positive, got \(0.5, nan\)"),
        ("subset", 0, "a whole number of at least 1, got 0"),
        ("only_classes", (), r"labels from 0, each of them once, got \[\]"),
        ("only_classes", (1, 2, 1), r"labels from 0, each of them once, got \[1, 2, 1\]"),
        ("only_classes", (0, -1), r"labels from 0, each of them once, got \[0, -1\]"),
        ("hflip", 1.5, "a number from 0 to 1, got 1.5"),
        ("hflip", -0.5, "a number from 0 to 1"),
        ("color_jitter", -0.1, "at least 0"),
        ("lighting", -0.1, "at least 0"),
        ("resident", "yes", "true, false or auto, got 'yes'"),
        ("crop_pct", 0.0, r"in \(0, 1\]"),
        ("crop_pct", 1.1, r"in \(0, 1\]"),
    ],
)
def test_a_value_out_of_range_names_its_key_first(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must (be )?{message}"):
        DataSettings("folder", **{key: value})


def test_a_known_dataset_completes_the_settings() -> None:
    known = KNOWN_DATASETS["cifar100"]
    assert input_spec(DataSettings("torch/cifar100")) == InputSpec(known.input_size, known.mean, known.std)


def test_what_is_set_goes_first() -> None:
    settings = DataSettings("torch/cifar100", input_size=(3, 8, 9), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert input_spec(settings) == InputSpec((3, 8, 9), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_grey_dataset_serves_three_channels() -> None:
    known = KNOWN_DATASETS["fashion_mnist"]
    spec = input_spec(DataSettings("fashion_mnist", input_size=(3, 32, 32)))
    assert spec == InputSpec((3, 32, 32), known.mean * 3, known.std * 3)


def test_an_unknown_dataset_needs_the_three_keys() -> None:
    three = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.2,) * 3}
    assert input_spec(DataSettings("folder", **three)) == InputSpec(**three)
    for key in three:
        with pytest.raises(UserError, match=r"'folder' is not in the table.*data.input_size, data.mean and data.std"):
            input_spec(DataSettings("folder", **{**three, key: None}))


@pytest.mark.parametrize("key", ["mean", "std"])
def test_one_value_for_each_channel(key: str) -> None:
    with pytest.raises(UserError, match=rf"data.{key}: expected 3 values, .* got \(0.1, 0.2\)"):
        input_spec(DataSettings("torch/cifar10", **{key: (0.1, 0.2)}))
    with pytest.raises(UserError, match=r"expected 1 values"):
        input_spec(DataSettings("torch/cifar10", input_size=(1, 32, 32)))


def test_the_name_of_what_is_evaluated_on_says_that_classes_are_missing() -> None:
    names = [
        validation_name(DataSettings("folder", only_classes=(2, 0, 5), **changes))
        for changes in ({}, {"fold": "0/5"}, {"val_fraction": 0.25})
    ]
    wholes = ("validation", "fold 0/5 of train", "0.25 of train")
    assert names == [f"{whole}, 3 classes only" for whole in wholes]


def test_the_name_of_what_is_evaluated_on_says_that_it_is_a_subset() -> None:
    assert validation_name(DataSettings("folder", subset=7)) == "validation, at most 7 images"
    both = DataSettings("folder", only_classes=(2, 0), subset=7, val_fraction=0.5)
    assert validation_name(both) == "0.5 of train, 2 classes only, at most 7 images"
