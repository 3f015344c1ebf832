from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator

from cutmix_zoo.data.corrupted import CORRUPTIONS
from cutmix_zoo.data.datasets import open_split
from cutmix_zoo.data.settings import DataSettings, input_spec
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.classifier import Classifier
from cutmix_zoo.evaluation.subject import Subject
from cutmix_zoo.evaluation.suite_context import SuiteContext, SuiteSettings
from cutmix_zoo.evaluation.suites import SUITES, check_suites, main_metrics, possible_suites
from tests.evaluation.synthetic_findings import make_record


def context(settings: DataSettings, limit: int | None = 4, classes: int = 10, **told: Any) -> SuiteContext:
    spec = input_spec(settings)
    settings = replace(settings, input_size=spec.input_size, mean=spec.mean, std=spec.std)
    torch.default_generator.manual_seed(0)
    network = timm.create_model("cifar_resnet8", num_classes=classes, in_chans=spec.input_size[0])
    classifier = Classifier(network, spec, torch.device("cpu"))
    subject = Subject(classifier, open_split(settings, "val"), settings, Accelerator(cpu=True), limit=limit)
    return SuiteContext(subject, SuiteSettings(**told), None)


@pytest.fixture
def canvas(tiny_data: Path) -> DataSettings:
    return DataSettings("fashion_mnist_canvas", root=str(tiny_data), workers=0)


@pytest.fixture
def fashion(tiny_data: Path) -> DataSettings:
    return DataSettings("fashion_mnist", root=str(tiny_data), workers=0)


def test_a_dataset_with_boxes_is_localized(canvas: DataSettings) -> None:
    own = context(canvas)
    assert possible_suites(own) == list(SUITES)
    assert SUITES["localization"].measure(own).numbers["count"] == 4


def test_without_boxes_localization_is_refused_and_not_among_all(image_folder: Path) -> None:
    images = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    plain = context(DataSettings("folder", root=str(image_folder), workers=0, **images))
    assert possible_suites(plain) == [name for name in SUITES if name != "localization"]
    with pytest.raises(UserError, match="folder has no boxes: "):
        check_suites(["localization"], plain)


def test_the_protocol_of_localization_is_chosen(canvas: DataSettings) -> None:
    numbers = SUITES["localization"].measure(context(canvas, protocol="wsol")).numbers
    assert numbers["protocol"] == "wsol"
    assert "max_box_acc_v2" in numbers


def test_without_a_training_split_there_is_no_probe(image_folder: Path) -> None:
    images = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    settings = DataSettings("folder", root=str(image_folder), workers=0, **images)
    with pytest.raises(UserError, match="would be fitted on what it is measured on, train of folder"):
        check_suites(["probe"], context(replace(settings, val_split="train")))
    (image_folder / "train").rename(image_folder / "other")
    assert "probe" not in possible_suites(context(settings))
    with pytest.raises(UserError, match="no split 'train'"):
        check_suites(["probe"], context(settings))


def test_a_probe_on_a_stream_is_refused(fashion: DataSettings, webdataset_folder: Path) -> None:
    with pytest.raises(UserError, match="wds/ is a stream"):
        check_suites(["probe"], context(fashion, probe_on="wds/", probe_root=str(webdataset_folder)))


def test_of_a_stream_only_what_reads_in_order_is_possible(webdataset_folder: Path) -> None:
    images = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    stream = context(DataSettings("wds/", root=str(webdataset_folder), **images))
    assert possible_suites(stream) == ["accuracy", "calibration"]
    check_suites(["accuracy", "calibration"], stream)
    for suite in ("ood", "occlusion"):
        with pytest.raises(UserError, match=f"{suite} takes images by their places, and wds/ is a stream; a stream al"):
            check_suites(["accuracy", suite], stream)


def test_what_takes_several_classes_or_images_is_not_among_all_where_there_is_one(
    fashion: DataSettings, tmp_path: Path
) -> None:
    pair = [name for name in SUITES if name != "localization"]
    assert possible_suites(context(fashion, limit=2)) == pair
    for one in (context(fashion, limit=1), context(replace(fashion, subset=1), limit=None)):
        assert possible_suites(one) == [name for name in pair if name not in ("in_between", "probe")]
        with pytest.raises(UserError, match="images are mixed in pairs: expected at least 2, got 1; measure on more"):
            check_suites(["accuracy", "in_between"], one)
        with pytest.raises(UserError, match=r"a probe is fitted on some training images and its .* others: got 1"):
            check_suites(["probe"], one)
    alone = context(replace(fashion, only_classes=(3,)), classes=1)
    assert possible_suites(alone) == [name for name in pair if name != "ood"]
    with pytest.raises(UserError, match="the score takes two classes or more to compare, the network has 1"):
        check_suites(["ood"], alone)


@pytest.mark.parametrize(("classes", "subset"), [(1, None), (10, 1), (1, 1)])
def test_what_is_possible_can_be_measured(canvas: DataSettings, classes: int, subset: int | None) -> None:
    only = (3,) if classes == 1 else None
    data = replace(canvas, only_classes=only, subset=subset)
    small = context(data, limit=None, classes=classes, ood=("uniform", "inverted"), pgd_budgets=(1.0,))
    possible = possible_suites(small)
    assert possible
    check_suites(possible, small)
    for name in possible:
        assert SUITES[name].measure(small).numbers


def test_a_network_without_maps_is_refused_before_anything_is_measured(canvas: DataSettings) -> None:
    own = context(canvas)
    own.subject.classifier.network.global_pool = torch.nn.Sequential(torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten())
    assert "localization" not in possible_suites(own)
    with pytest.raises(UserError, match="this network has no class activation maps: "):
        check_suites(["localization"], own)


def test_budgets_and_fill_reach_their_suites(fashion: DataSettings) -> None:
    told = context(fashion, budgets=(0.0, 3.0), pgd_budgets=(5.0,), pgd_steps=2, fill="black")
    found = SUITES["adversarial"].measure(told)
    fgsm = [row for row in found.rows if row["attack"] == "fgsm" and row["space"] == "pixel"]
    assert [row["budget"] for row in fgsm] == [0.0, 3.0]
    assert [row["budget"] for row in found.rows if row["attack"] == "pgd"] == [5.0]
    assert found.numbers["pgd_steps"] == 2
    assert SUITES["occlusion"].measure(told).numbers["fill"] == "black"


def test_sets_are_named_by_themselves_or_by_a_folder_of_them(fashion: DataSettings, image_folder: Path) -> None:
    found = SUITES["ood"].measure(context(fashion, ood=("noise=uniform", str(image_folder / "val"))))
    assert [(row["set"], row["count"]) for row in found.rows] == [("noise", 30), ("ant", 2), ("bee", 2), ("cat", 2)]
    with pytest.raises(UserError, match="--ood names ant twice"):
        SUITES["ood"].measure(context(fashion, ood=(f"ant={image_folder}", str(image_folder / "val"))))


def test_released_corruptions_are_read_from_their_folder(fashion: DataSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        check_suites(["corruption"], context(fashion, corrupted=tmp_path))
    assert SUITES["corruption"].measure(context(fashion)).numbers["source"] == "own"


def test_released_corruptions_of_other_data_are_refused_before_anything_is_measured(
    fashion: DataSettings, tmp_path: Path
) -> None:
    for name in CORRUPTIONS:
        np.save(tmp_path / f"{name}.npy", np.zeros((10, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.array([0, 9] * 5))
    with pytest.raises(UserError, match="do not mean what those of fashion_mnist mean: CIFAR-C with 10 classes"):
        check_suites(["corruption"], context(fashion, corrupted=tmp_path))


def test_a_probe_is_made_on_the_dataset_itself_or_on_another(fashion: DataSettings, image_folder: Path) -> None:
    own = SUITES["probe"].measure(context(fashion, limit=40)).numbers
    assert (own["probed_on"], own["count"], own["train_images"]) == ("fashion_mnist", 30, 40)
    with pytest.raises(UserError, match="--probe-root is the folder of --probe-on"):
        check_suites(["probe"], context(fashion, probe_root=str(image_folder)))
    other = SUITES["probe"].measure(context(fashion, 11, probe_on="folder", probe_root=str(image_folder))).numbers
    assert (other["probed_on"], other["count"], other["train_images"]) == ("folder", 6, 11)


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_reported_is_in_the_record(suite: str) -> None:
    declared = SUITES[suite]
    record = {**make_record(suite), **declared.complete(make_record(suite))}
    missing = {metric.key for metric in declared.metrics if metric.read(record) is None}
    assert missing <= {"max_box_acc", "max_box_acc_threshold", "max_box_acc_v2", "mce"}  # of other protocols and data
    for row in record["rows"]:
        assert {*declared.keys, *(declared.values or {})} <= set(row)
    assert set(declared.all_settings) <= set(record)


def test_columns_of_the_csv_file_have_names_of_their_own() -> None:
    columns = [metric.column for suite in SUITES.values() for metric in suite.metrics if metric.column]
    assert list(main_metrics()) == columns


def test_errors_are_what_is_missing_to_all() -> None:
    assert SUITES["accuracy"].complete({"top1": 93.5, "rows": []}) == {"top1_error": 6.5}


def test_images_that_were_measured_are_those_of_the_rows() -> None:
    record = {"count": 10_000, "rows": [{"attack": "fgsm", "count": 10_000}, {"attack": "pgd", "count": 2000}]}
    assert SUITES["adversarial"].complete(record) == {"images": "10,000", "pgd_images": "2,000"}
    assert SUITES["occlusion"].complete(record) == {"images": "10,000 or 2,000"}
    assert SUITES["corruption"].complete({"rows": []}) == {"images": None}


def test_a_localization_says_its_rule_and_detection_its_sets() -> None:
    assert "0.15" in SUITES["localization"].complete({"protocol": "paper"})["rule"]
    assert "MaxBoxAcc" in SUITES["localization"].complete({"protocol": "wsol"})["rule"]
    rows = [{"set": "uniform", "count": 2000}, {"set": "digits", "count": 1797}]
    assert SUITES["ood"].complete({"rows": rows}) == {"sets": "digits (1,797), uniform (2,000)"}
