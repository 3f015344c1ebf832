import statistics
from pathlib import Path

import pytest
from scipy import stats

from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_table import result_rows
from cutmix_zoo.evaluation.suites import SUITES
from cutmix_zoo.training.files import read_json, write_json
from tests.evaluation.synthetic_findings import make_record, write_evaluation, write_run


def test_a_row_says_what_was_trained_and_where(tmp_path: Path) -> None:
    folder = write_evaluation(write_run(tmp_path / "run", seed=7), suites=tuple(SUITES))
    commit = "0123456789abcdef0123456789abcdef01234567-dirty"
    write_json(folder / "summary.json", {**read_json(folder / "summary.json"), "versions": {"commit": commit}})
    (row,) = result_rows(read_folders([folder]))
    (alone,) = result_rows(read_folders([write_evaluation(tmp_path / "evaluated", suites=("probe",))]))
    assert {key: row[key] for key in list(row)[:14]} == {
        "model": "cifar_resnet20.run",  # as timm names what the run exports
        "dataset": "fashion_mnist",
        "split": "validation",
        "top1": make_record("accuracy")["top1"],  # as evaluated, not as the run found it
        "top1_std": None,
        "best_top1": pytest.approx(90 * (1 - 2.718281828**-6) + 0.25),
        "difference": None,
        "difference_95": None,
        "parameters": 272_186,
        "seeds": "7",
        "recipe": "run",
        "commit": commit,
        "hardware": "CPU, 2 threads",
        "hours": 0.5,
    }
    assert list(alone) == list(row)
    assert alone["probe_top1"] == 81.0
    assert alone["hardware"] == "CPU, 2 threads"  # of the evaluation
    assert all(alone[key] is None for key in ("top1", "best_top1", "seeds", "recipe", "commit", "hours", "ece", "mce"))
    (earlier,) = result_rows(read_folders([write_run(tmp_path / "earlier")]))
    assert earlier["commit"] is None  # its summary does not say


def test_a_row_has_the_main_number_of_every_suite(tmp_path: Path) -> None:
    (row,) = result_rows(read_folders([write_evaluation(tmp_path / "a", suites=tuple(SUITES))]))
    for suite, text in SUITES.items():
        columns = {metric.column: metric.read(make_record(suite)) for metric in text.metrics if metric.column}
        assert columns
        assert {column: row[column] for column in columns} == columns


def write_seeds(folder: Path, name: str, top1: list[float], **overrides: str) -> list[Path]:
    """Finished runs of one recipe with the seeds 0, 1, ..., which differ in their numbers."""
    runs = []
    for seed, value in enumerate(top1):
        run = write_run(folder / f"{name}{seed}", seed=seed, name=name, **overrides)
        own = {"top1": value, "best_top1": value + seed, "train_seconds": 3600.0 * seed, "versions": {"commit": "abc"}}
        write_json(run / "summary.json", {**read_json(run / "summary.json"), **own})
        runs.append(run)
    return runs


def test_runs_with_several_seeds_are_a_row(tmp_path: Path) -> None:
    baseline, cutmix = [90.0, 91.0, 92.0], [91.0, 91.5, 93.5, 80.0]
    folders = [*write_seeds(tmp_path, "baseline", baseline, mix="null"), *write_seeds(tmp_path, "cutmix", cutmix)]
    first, second = result_rows(read_folders(folders))
    assert (first["model"], second["model"]) == ("cifar_resnet20.baseline", "cifar_resnet20.cutmix")
    assert (first["seeds"], second["seeds"]) == ("0; 1; 2", "0; 1; 2; 3")
    assert (first["top1"], first["top1_std"], first["best_top1"]) == (91.0, 1.0, 92.0)
    assert (first["difference"], first["difference_95"]) == (None, None)
    assert second["top1"] == pytest.approx(statistics.mean(cutmix))
    assert second["top1_std"] == pytest.approx(statistics.stdev(cutmix))
    interval = stats.ttest_rel(cutmix[:3], baseline).confidence_interval(0.95)  # the fourth seed has no partner
    assert second["difference"] - second["difference_95"] == pytest.approx(interval.low)
    assert second["difference"] + second["difference_95"] == pytest.approx(interval.high)
    assert (first["hours"], first["commit"], first["hardware"]) == (1.0, "abc", "CPU, 2 threads")


def test_a_number_that_a_run_lacks_has_no_mean(tmp_path: Path) -> None:
    runs = write_seeds(tmp_path, "cutmix", [90.0, 91.0, 92.0])
    for run in runs[:2]:
        write_evaluation(run, suites=("accuracy", "calibration") if run == runs[0] else ("accuracy",))
    evaluated, alone = result_rows(read_folders(runs))  # the third was not evaluated: another way of measuring
    assert (evaluated["seeds"], alone["seeds"]) == ("0; 1", "2")
    assert evaluated["ece"] is None
    assert evaluated["top1"] == make_record("accuracy")["top1"]
    assert alone["top1"] == 92.0
