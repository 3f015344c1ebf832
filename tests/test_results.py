"""The tables of results are made of the runs that are kept beside them."""

import csv
import json
import re
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from cutmix_zoo.evaluation.findings import csv_text
from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_seeds import Average, Difference, averages, by_recipe, paired_difference
from cutmix_zoo.evaluation.report_table import result_rows
from cutmix_zoo.training.files import read_json
from cutmix_zoo.training.recipe import load_recipe, recipe_dict, recipe_difference, recipe_head
from cutmix_zoo.training.run import LEFT_TO_DATA, MAY_DIFFER
from tests.results_text import interval, marked_interval

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
TABLES = sorted(RESULTS.glob("*.csv"))
RUNS = sorted((RESULTS / "runs").glob("*/*"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
METHODS = ("baseline", "cutmix", "mixup", "cutout", "shakedrop")


def runs_of(table: Path) -> list[Path]:
    """List the runs behind a table in its order: the methods as above, each by rising seed."""
    folders = [sorted((RESULTS / "runs" / f"{table.stem}_resnet8_{method}").glob("seed=*")) for method in METHODS]
    return [run for runs in folders for run in runs]


def test_there_are_tables_and_every_run_is_in_one() -> None:
    assert TABLES
    assert sorted(run for table in TABLES for run in runs_of(table)) == RUNS


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_is_made_of_its_runs(table: Path) -> None:
    assert csv_text(result_rows(read_folders(runs_of(table)))) == table.read_text(encoding="utf-8")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.parent.name}/{run.name}")
def test_a_run_is_of_the_shipped_recipe_and_finished_it(run: Path) -> None:
    shipped, trained = load_recipe(run.parent.name), load_recipe(run / "recipe.yaml")
    assert not recipe_difference(recipe_dict(shipped), recipe_dict(trained), ("seed", *MAY_DIFFER, *LEFT_TO_DATA))
    summary = read_json(run / "summary.json")
    assert run.name == f"seed={trained.seed}"
    assert summary["epochs"] == shipped.schedule.epochs
    assert re.fullmatch(r"[0-9a-f]{40}", summary["versions"]["commit"])


def accuracy_line(row: dict[str, str]) -> str:
    """Write a row of the README's first table of a setting as it stands there."""
    spread = f" \N{PLUS-MINUS SIGN} {float(row['top1_std']):.2f}" if row["top1_std"] else ""
    difference = "\N{EN DASH}"
    if row["difference"]:
        difference = interval(Difference(float(row["difference"]), float(row["difference_95"]), 0))
    cells = [f"{float(row['top1']):.2f}{spread}", f"{float(row['best_top1']):.2f}", difference, row["seeds"]]
    return f"| `{row['recipe']}` | {' | '.join(cells)} |"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_recipes_say_what_came_of_them(table: Path) -> None:
    for row in rows_of(table):
        expected = f"{float(row['top1']):.2f} top-1 accuracy after the last epoch"
        if row["top1_std"]:
            expected += f", standard deviation {float(row['top1_std']):.2f}"
        assert recipe_head(row["recipe"])["Expected"].startswith(f"{expected} (measured, ")


SUITE_COLUMNS = {
    "ece": 4,
    "fgsm_top1_at_8": 2,
    "pgd_top1_at_8": 2,
    "occlusion_error_centre": 2,
    "occlusion_error_boundary": 2,
    "in_between_error_mixup": 2,
    "in_between_error_cutmix": 2,
    "ood_auroc": 2,
    "ood_tnr_at_tpr95": 2,
    "corruption_error": 2,
    "probe_top1": 2,
}
"""The columns that stand in the README's table of the suites, and their decimals."""


def suite_line(column: str) -> str:
    """Write the numbers of a row of the README's table of the suites; bold where the interval excludes zero."""
    decimals = SUITE_COLUMNS[column]
    first, second = suite_averages("fashion_mnist")[column]
    cells = [f"{average.mean:.{decimals}f}" for average in (first, second)]
    for setting in ("fashion_mnist", "fashion_mnist_mini"):
        difference = paired_difference(*(average.by_seed for average in suite_averages(setting)[column]))
        assert difference is not None
        assert difference.pairs == 3
        cells.append(marked_interval(difference, decimals))
    return f" | {' | '.join(cells)} |"


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_readme_has_the_rows_of_a_table_and_no_others(table: Path) -> None:
    rows = rows_of(table)
    for row in rows:
        assert accuracy_line(row) in README
    named = set(re.findall(rf"^\| `({table.stem}_resnet8_\w+)` \|", README, flags=re.MULTILINE))
    assert named == {row["recipe"] for row in rows}


@cache
def suite_averages(setting: str) -> dict[str, list[Average]]:
    methods = (sorted((RESULTS / "runs" / f"{setting}_resnet8_{name}").glob("*")) for name in METHODS[:2])
    return averages(by_recipe(read_folders([run for runs in methods for run in runs])))


@pytest.mark.parametrize("column", SUITE_COLUMNS)
def test_the_readme_has_what_the_suites_found(column: str) -> None:
    assert suite_line(column) in README


def mean_over_seeds(recipe: str, read: Callable[[Path], float]) -> float:
    return statistics.mean(read(run) for run in (RESULTS / "runs" / recipe).glob("seed=*"))


def number(suite: str, key: str) -> Callable[[Path], float]:
    return lambda run: read_json(run / f"{suite}.json")[key]


def clean_train_top1(run: Path) -> float:
    return json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["clean_train_top1"]


def under_noise(run: Path) -> float:
    rows = read_json(run / "corruption.json")["rows"]
    return statistics.mean(row["error"] for row in rows if row["corruption"] == "gaussian_noise")


def under_pgd(budget: int) -> Callable[[Path], float]:
    def read(run: Path) -> float:
        rows = read_json(run / "adversarial.json")["rows"]
        return next(row["top1"] for row in rows if (row["attack"], row["budget"]) == ("pgd", budget))

    return read


BASELINE, CUTMIX = ("fashion_mnist_resnet8_baseline", "fashion_mnist_resnet8_cutmix")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (
            "it names {:.0f} % (trained on 10,000; the baseline {:.0f} %) and {:.0f} % (trained on 60,000; the "
            "baseline {:.0f} %)",
            [
                (f"{setting}_resnet8_{method}", clean_train_top1)
                for setting in ("fashion_mnist_mini", "fashion_mnist")
                for method in ("shakedrop", "baseline")
            ],
        ),
        ("(ECE {:.3f} instead of {:.3f})", [(recipe, number("calibration", "ece")) for recipe in (CUTMIX, BASELINE)]),
        (
            "({:.3f} to {:.3f})",
            [(CUTMIX, number("calibration", f"held_out_ece_{when}")) for when in ("before", "after")],
        ),
        (
            "({:.1f} % and {:.1f} % top-1; at 2/255 {:.0f} % and {:.0f} %)",
            [(recipe, under_pgd(budget)) for budget in (8, 2) for recipe in (BASELINE, CUTMIX)],
        ),
        ("the error rises from {:.0f} % to {:.0f} %", [(recipe, under_noise) for recipe in (BASELINE, CUTMIX)]),
    ],
)
def test_the_readme_writes_of_what_was_found(text: str, numbers: list[tuple[str, Callable[[Path], float]]]) -> None:
    written = text.format(*(mean_over_seeds(recipe, read) for recipe, read in numbers))
    assert written in README.replace("\n>   ", " ").replace("\n", " ")


def test_the_picture_shows_what_is_said_of_it() -> None:
    rows = [read_json(RESULTS / "runs" / recipe / "seed=0" / "occlusion.json")["rows"] for recipe in (BASELINE, CUTMIX)]
    baseline, cutmix = ({row["side"]: row["top1_error"] for row in found if row["where"] == "centre"} for found in rows)
    assert f"the baseline errs on {baseline[14]:.0f} %, CutMix on {cutmix[14]:.0f} %" in README
    assert all(cutmix[side] >= baseline[side] - 1 for side in (24, 26, 28))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.parent.name}/{run.name}")
def test_an_evaluation_found_what_the_run_found(run: Path) -> None:
    if (run / "accuracy.json").exists():
        assert read_json(run / "accuracy.json")["top1"] == read_json(run / "summary.json")["top1"]
    else:
        assert not list(run.glob("evaluation.json"))
