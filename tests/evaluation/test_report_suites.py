from typing import Any

import pytest

from cutmix_zoo.evaluation.report_suites import SUITES, Metric, extended
from cutmix_zoo.evaluation.suites import SUITES as MEASURED
from tests.evaluation.synthetic_findings import make_record


def test_every_suite_that_can_be_measured_is_reported_and_no_other() -> None:
    assert list(SUITES) == list(MEASURED)


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_reported_is_in_the_record(suite: str) -> None:
    record, text = extended(suite, make_record(suite)), SUITES[suite]
    missing = {metric.key for metric in text.metrics if metric.read(record) is None}
    assert missing <= {"max_box_acc", "max_box_acc_threshold", "max_box_acc_v2", "mce"}  # of other protocols and data
    for row in record["rows"]:
        assert {*text.keys, *(text.values or {})} <= set(row)
    assert {key for key in text.settings if key not in record} <= {"probed_on"}  # which is added afterwards


def test_columns_of_the_csv_file_have_names_of_their_own() -> None:
    columns = [metric.column for text in SUITES.values() for metric in text.metrics if metric.column]
    assert len(columns) == len(set(columns))


@pytest.mark.parametrize(("key", "expected"), [("a", 1), ("b.c", 2.5), ("b.d", None), ("e", None), ("f.g", None)])
def test_a_number_is_found_by_its_dotted_key(key: str, expected: float | None) -> None:
    assert Metric(key, "title").read({"a": 1, "b": {"c": 2.5}, "f": None}) == expected


@pytest.mark.parametrize("value", ["1.5", True, [1.0], {}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="top1 is not a number"):
        Metric("top1", "title").read({"top1": value})


@pytest.mark.parametrize(
    ("best", "expected"), [("highest", {1}), ("lowest", {0, 3}), ("nearest to 0", {4}), (None, set())]
)
def test_the_best_are_those_that_no_other_beats(best: Any, expected: set[int]) -> None:
    assert Metric("key", "title", best=best).winners([-2.0, 3.0, None, -2.0, 0.5]) == expected


@pytest.mark.parametrize("values", [[1.0], [1.0, None], [1.0, 1.0], [None, None], []])
def test_nothing_is_the_best_where_nothing_is_to_be_compared(values: list[float | None]) -> None:
    assert Metric("key", "title", best="highest").winners(values) == set()


def test_errors_are_what_is_missing_to_all() -> None:
    record = extended("accuracy", {"top1": 93.5, "rows": []})
    assert record["top1_error"] == 6.5
    assert "top5_error" not in record


def test_images_that_were_measured_are_those_of_the_rows() -> None:
    record = {"count": 10_000, "rows": [{"attack": "fgsm", "count": 10_000}, {"attack": "pgd", "count": 2000}]}
    assert extended("adversarial", record)["images"] == "10,000"
    assert extended("adversarial", record)["pgd_images"] == "2,000"
    assert extended("occlusion", record)["images"] == "10,000 or 2,000"
    assert extended("corruption", {"rows": []})["images"] is None
    assert extended("adversarial", record)["count"] == 10_000


def test_a_localization_says_its_rule_and_detection_its_sets() -> None:
    assert "0.15" in extended("localization", {"protocol": "paper", "rows": []})["rule"]
    assert "MaxBoxAcc" in extended("localization", {"protocol": "wsol", "rows": []})["rule"]
    rows = [{"set": "uniform", "count": 2000}, {"set": "digits", "count": 1797}]
    assert extended("ood", {"rows": rows})["sets"] == "digits (1,797), uniform (2,000)"
