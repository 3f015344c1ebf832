from typing import Any

import pytest

from cutmix_zoo.evaluation.suite import Metric


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
