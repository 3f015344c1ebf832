import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_seeds import (
    Repeated,
    averages,
    by_recipe,
    differences,
    paired_difference,
    student_quantile,
)
from cutmix_zoo.training.files import read_json, write_json
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


def test_a_network_whose_architecture_is_not_known_is_called_by_its_recipe(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed=seed, name="mine", **{"model.name": "hf-hub:a/b"}) for seed in (0, 1)]
    assert [each.name for each in grouped(*runs)] == ["mine"]


@pytest.mark.parametrize("change", [{"schedule.epochs": "13"}, {"mix.alpha": "0.5"}, {"ema.decay": "0.9"}])
def test_another_recipe_is_another_model(tmp_path: Path, change: dict[str, str]) -> None:
    assert len(grouped(write_run(tmp_path / "a", seed=0), write_run(tmp_path / "b", seed=1, **change))) == 2


def test_recipes_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"lr={lr}", name="same", **{"optimizer.lr": lr}) for lr in ("0.1", "0.2")]
    assert [each.name for each in grouped(*runs)] == ["same (lr=0.1)", "same (lr=0.2)"]


def test_a_seed_that_comes_twice_is_not_taken_for_another(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1), ("c", 1))]
    assert [repeated.seeds for repeated in grouped(*runs)] == [(0,), (1,), (1,)]


def test_what_is_no_run_is_alone(tmp_path: Path) -> None:
    folders = [write_evaluation(tmp_path / name, "resnet50.cutmix_in1k", suites=()) for name in "ab"]
    repeated = grouped(*folders)
    assert [each.seeds for each in repeated] == [(), ()]


@pytest.mark.parametrize("about", [{"input_size": [1, 56, 56]}, {"crop_pct": 0.5}])
def test_what_was_measured_otherwise_is_not_taken_together(tmp_path: Path, about: dict[str, Any]) -> None:
    first = write_evaluation(write_run(tmp_path / "a", seed=0), suites=())
    second = write_evaluation(write_run(tmp_path / "b", seed=1), suites=(), **about)
    assert len(grouped(first, second)) == 2
    assert len(grouped(first, write_run(tmp_path / "c", seed=2))) == 2  # a run alone was validated, not evaluated


def test_folders_of_ones_own_are_what_their_places_say(tmp_path: Path) -> None:
    pets, cars = (
        write_run(tmp_path / place, seed=seed, **{"data.name": "folder", "data.root": f"/data/{place}"})
        for seed, place in enumerate(("pets", "cars"))
    )
    assert len(grouped(pets, cars)) == 2
    known = [write_run(tmp_path / f"known{seed}", seed=seed, **{"data.root": f"/data/{seed}"}) for seed in (0, 1)]
    assert len(grouped(*known)) == 1


@pytest.mark.parametrize("change", [{"mixed_precision": "bf16"}, {"processes": 4}])
def test_what_was_trained_otherwise_is_not_taken_together(tmp_path: Path, change: dict[str, Any]) -> None:
    runs = [write_run(tmp_path / f"run{seed}", seed=seed) for seed in (0, 1)]
    write_json(runs[1] / "summary.json", {**read_json(runs[1] / "summary.json"), **change})
    assert len(grouped(*runs)) == 2


def test_best_epochs_by_other_numbers_are_not_averaged(tmp_path: Path) -> None:
    changes = [{"evaluate.best_by": name} for name in ("top1", "val_loss")]
    assert len(grouped(*(write_run(tmp_path / f"run{n}", seed=n, **change) for n, change in enumerate(changes)))) == 2


def test_a_number_that_a_run_lacks_has_no_mean_and_no_spread(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run{seed}", seed=seed, skill=0.8 + seed / 100) for seed in range(3)]
    (whole,) = averages(grouped(*runs))["top1"]
    top1 = {seed: read_json(run / "summary.json")["top1"] for seed, run in enumerate(runs)}
    assert whole.by_seed == top1
    assert whole.mean == pytest.approx(statistics.mean(top1.values()))
    assert whole.spread == pytest.approx(statistics.stdev(top1.values()))
    (runs[1] / "metrics.jsonl").unlink()
    summary = read_json(runs[1] / "summary.json")
    write_json(runs[1] / "summary.json", {key: value for key, value in summary.items() if key not in ("top1",)})
    (part,) = averages(grouped(*runs))["top1"]
    assert part == (None, None, {0: top1[0], 2: top1[2]})


def test_runs_that_were_not_measured_alike_have_no_mean(tmp_path: Path) -> None:
    folders = [write_evaluation(write_run(tmp_path / f"run{n}", seed=n), suites=("occlusion", "ood")) for n in (0, 1)]
    alike = averages(grouped(*folders))
    assert alike["occlusion_error_centre"][0].mean is not None
    file = folders[1] / "occlusion.json"
    write_json(file, {**read_json(file), "fill": "black"})
    different = averages(grouped(*folders))
    assert different["occlusion_error_centre"] == [(None, None, {})]
    assert different["ood_auroc"] == alike["ood_auroc"]


def test_models_that_were_not_measured_alike_are_not_compared(tmp_path: Path) -> None:
    def compared(**about: Any) -> list[Any]:
        folders = []
        for name, changes, how in (("a", {"mix": "null"}, {}), ("b", {}, about)):
            for seed in (0, 1):
                run = write_run(tmp_path / f"{name}{seed}", seed=seed, **changes)
                folders.append(write_evaluation(run, suites=("accuracy",), **how))
        models = grouped(*folders)
        return differences(models, averages(models))["top1"]

    first, second = compared()
    assert first is None
    assert second == (0, 0, 2)
    assert compared(input_size=[1, 56, 56]) == [None, None]


def test_every_main_number_is_compared_pair_by_pair_where_it_was_measured_alike(tmp_path: Path) -> None:
    folders = []
    for name, changes, skills in (("a", {"mix": "null"}, (0.8, 0.82, 0.81)), ("b", {}, (0.85, 0.88, 0.86))):
        for seed, skill in enumerate(skills):
            run = write_run(tmp_path / f"{name}{seed}", seed=seed, **changes)
            folders.append(write_evaluation(run, skill=skill, suites=("occlusion", "ood")))
    for folder in folders[3:]:
        write_json(folder / "occlusion.json", {**read_json(folder / "occlusion.json"), "fill": "black"})
    models = grouped(*folders)
    numbers = averages(models)
    found = differences(models, numbers)
    assert found.keys() == numbers.keys()
    first, second = (list(each.by_seed.values()) for each in numbers["ood_auroc"])
    interval = stats.ttest_rel(second, first).confidence_interval(0.95)
    auroc = found["ood_auroc"][1]
    assert auroc is not None
    assert (auroc.mean - auroc.half_width, auroc.mean + auroc.half_width) == pytest.approx(tuple(interval))
    assert found["occlusion_error_centre"] == [None, None]


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
