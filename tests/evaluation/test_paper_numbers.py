from typing import Any

import numpy as np
import pytest

from cutmix_zoo.evaluation.ood_sets import PAPER_SETS
from cutmix_zoo.evaluation.paper_numbers import OOD_MEANS, OOD_SETS, PaperTable
from cutmix_zoo.evaluation.suites import SUITES

IMAGENET: dict[str, Any] = {
    "dataset": "imagenet",
    "split": "validation",
    "count": 50_000,
    "input_size": [3, 224, 224],
    "crop_pct": 0.875,
}
CIFAR100: dict[str, Any] = {
    "dataset": "torch/cifar100",
    "split": "validation",
    "count": 10_000,
    "input_size": [3, 32, 32],
    "crop_pct": 1.0,
}
CUB: dict[str, Any] = {
    "dataset": "cub200",
    "split": "validation",
    "count": 5794,
    "protocol": "paper",
    "map_size": [14, 14],
    "input_size": [224, 224],
    "resized_to": [256, 256],
}

SETTINGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "Table 3": ("accuracy", IMAGENET, "resnet50"),
    "Table 4": ("accuracy", IMAGENET, "resnet101"),
    "Table 5": ("accuracy", CIFAR100, "cifar_pyramidnet200_a240"),
    "Table 6": ("accuracy", CIFAR100, "cifar_pyramidnet110_a64"),
    "Table 7": ("accuracy", {**CIFAR100, "dataset": "torch/cifar10"}, "cifar_pyramidnet200_a240"),
    "Table 9": ("localization", CUB, "resnet50_stride16"),
    "Table 11": ("adversarial", {**IMAGENET, "fgsm_top1_at_8": 9.0}, "resnet50"),
    "Tables 12 and A2": ("ood", {**CIFAR100, "paper_sets": True}, "cifar_pyramidnet200_a240"),
}


def paper_table(suite: str, record: dict[str, Any], architecture: str | None) -> PaperTable | None:
    return SUITES[suite].paper_table(record, architecture)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_paper_has_its_table_with_baseline_and_cutmix(name: str) -> None:
    table = paper_table(*SETTINGS[name])
    assert table is not None
    assert table.name == name
    for numbers in table.rows.values():
        assert len(numbers) == len(table.columns) - 1
        assert all(0 <= number <= 100 for number in numbers)
    methods = " ".join([*table.columns, *table.rows])
    assert "Baseline" in methods
    assert "CutMix" in methods


@pytest.mark.parametrize(
    ("name", "row", "numbers"),
    [  # as the text of the paper states them again: its table 1, section 4.1 and the conclusion
        ("Table 3", "Baseline", (100 - 76.3, None)),
        ("Table 3", "CutMix", (100 - 78.6, None)),
        ("Table 5", "CutMix", (14.47, None)),
        ("Table 5", "CutMix + ShakeDrop", (13.81, None)),
        ("Table 7", "CutMix", (2.88,)),
    ],
)
def test_errors_are_those_that_the_paper_states_elsewhere_too(
    name: str, row: str, numbers: tuple[float | None, ...]
) -> None:
    table = paper_table(*SETTINGS[name])
    assert table is not None
    assert len(table.rows[row]) == len(numbers)
    assert table.rows[row][0] == pytest.approx(numbers[0], abs=0.051)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "fashion_mnist"},
        {"split": "fold 0/5 of train"},
        {"split": "0.2 of train"},  # which also has 10,000 images
        {"count": 2000},
        {"count": None},
        {"input_size": [3, 288, 288]},
    ],
)
@pytest.mark.parametrize("name", SETTINGS)
def test_other_data_has_no_table(name: str, change: dict[str, Any]) -> None:
    suite, record, architecture = SETTINGS[name]
    assert paper_table(suite, {**record, **change}, architecture) is None


@pytest.mark.parametrize("architecture", [None, "resnet34", "cifar_resnet20", ""])
@pytest.mark.parametrize("name", SETTINGS)
def test_other_networks_have_no_table(name: str, architecture: str | None) -> None:
    suite, record, _ = SETTINGS[name]
    assert paper_table(suite, record, architecture) is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Table 9", {"protocol": "wsol"}),
        ("Table 9", {"map_size": [7, 7]}),
        ("Table 11", {"fgsm_top1_at_8": None}),
        ("Tables 12 and A2", {"paper_sets": False}),
    ],
)
def test_another_protocol_has_no_table(name: str, change: dict[str, Any]) -> None:
    suite, record, architecture = SETTINGS[name]
    assert paper_table(suite, {**record, **change}, architecture) is None


def test_a_suite_that_the_paper_has_no_numbers_of_has_no_table() -> None:
    assert paper_table("calibration", IMAGENET, "resnet50") is None
    assert paper_table("occlusion", IMAGENET, "resnet50") is None


@pytest.mark.parametrize("dataset", ["cifar100", "hfds/uoft-cs/cifar100", "tfds/cifar100"])
def test_a_dataset_may_be_called_as_timm_calls_it(dataset: str) -> None:
    assert paper_table("accuracy", {**CIFAR100, "dataset": dataset}, "cifar_resnet110_bottleneck") is not None


def test_the_means_of_table_12_are_those_of_table_a2() -> None:
    assert set(OOD_SETS) == PAPER_SETS
    means = np.array(list(OOD_SETS.values())).mean(0)  # methods, metrics
    assert means.shape == (4, 3)
    assert np.abs(means - OOD_MEANS).max() <= 0.0501


def test_each_method_of_the_ood_table_has_its_three_numbers_in_turn() -> None:
    table = paper_table(*SETTINGS["Tables 12 and A2"])
    assert table is not None
    row = dict(zip(table.columns, ("LSUN (crop)", *table.rows["LSUN (crop)"]), strict=True))
    assert (row["Mixup: TNR"], row["Mixup: AUROC"], row["Mixup: accuracy"]) == OOD_SETS["LSUN (crop)"][1]
