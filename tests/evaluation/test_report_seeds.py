from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_seeds import Repeated, by_recipe, paired_difference, student_quantile
from tests.evaluation.synthetic_findings import write_evaluation, write_run


def grouped(*folders: Path) -> list[Repeated]:
    return by_recipe(read_folders(folders))


def test_runs_of_one_recipe_are_taken_together_whatever_their_names_and_places(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", seed=2, name="cutmix")
    other = write_run(tmp_path / "b", seed=0, name="baseline", mix="null")
    second = write_run(tmp_path / "c", seed=1, name="again", **{"data.root": "/else/where"})
    cutmix, baseline = grouped(first, other, second)
    assert cutmix.seeds == (1, 2)
    assert [member.folder for member in cutmix.members] == [second, first]
    assert cutmix.name == "cifar_resnet20.again"  # of the run with the lowest seed
    assert baseline.seeds == (0,)
    assert baseline.name == "cifar_resnet20.baseline"


@pytest.mark.parametrize("change", [{"schedule.epochs": "13"}, {"mix.alpha": "0.5"}, {"ema.decay": "0.9"}])
def test_another_recipe_is_another_model(tmp_path: Path, change: dict[str, str]) -> None:
    assert len(grouped(write_run(tmp_path / "a", seed=0), write_run(tmp_path / "b", seed=1, **change))) == 2


def test_a_seed_that_comes_twice_is_not_taken_for_another(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1), ("c", 1))]
    assert [repeated.seeds for repeated in grouped(*runs)] == [(0,), (1,), (1,)]


def test_what_is_no_run_is_alone(tmp_path: Path) -> None:
    folders = [write_evaluation(tmp_path / name, "resnet50.cutmix_in1k", suites=()) for name in "ab"]
    repeated = grouped(*folders)
    assert [each.seeds for each in repeated] == [(), ()]
    assert repeated[0].by_seed({repeated[0].members[0].name: 1.0}) == {}


@pytest.mark.parametrize("about", [{"input_size": [1, 56, 56]}, {"crop_pct": 0.5}])
def test_what_was_measured_otherwise_is_not_taken_together(tmp_path: Path, about: dict[str, Any]) -> None:
    first = write_evaluation(write_run(tmp_path / "a", seed=0), suites=())
    second = write_evaluation(write_run(tmp_path / "b", seed=1), suites=(), **about)
    assert len(grouped(first, second)) == 2
    assert len(grouped(first, write_run(tmp_path / "c", seed=2))) == 2  # a run alone was validated, not evaluated


def test_numbers_are_those_of_the_members_by_seed(tmp_path: Path) -> None:
    (repeated,) = grouped(*(write_run(tmp_path / name, seed=seed) for seed, name in enumerate("abc")))
    assert repeated.by_seed({"a": 1.0, "b": None, "c": 3.0, "d": 4.0}) == {0: 1.0, 2: 3.0}


def test_a_paired_difference_is_that_of_the_paired_t_test() -> None:
    first, second = [90.1, 90.4, 89.7, 90.0], [90.9, 90.6, 90.8, 90.1]
    seeds = [3, 1, 0, 7]
    found = paired_difference(dict(zip(seeds, first, strict=True)), {9: 0.0, **dict(zip(seeds, second, strict=True))})
    assert found is not None
    interval = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert found.pairs == 4
    assert found.mean - found.half_width == pytest.approx(interval.low)
    assert found.mean + found.half_width == pytest.approx(interval.high)


def test_one_pair_says_nothing_of_the_spread() -> None:
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 2.0, 2: 2.0}) is None
    assert paired_difference({}, {}) is None


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 100])
def test_quantiles_of_student(degrees: int) -> None:
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-6)
