"""The tables of results are made of the runs that are kept beside them."""

import csv
import re
from pathlib import Path

import pytest

from cutmix_zoo.evaluation.findings import csv_text
from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_seeds import Average, Difference, averages, by_recipe, paired_difference
from cutmix_zoo.evaluation.report_table import result_rows
from cutmix_zoo.training.files import read_json
from cutmix_zoo.training.recipe import load_recipe, recipe_dict, recipe_difference, recipe_head
from cutmix_zoo.training.run import MAY_DIFFER
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
    from_data = ("model.in_chans", "model.num_classes", "data.input_size", "data.mean", "data.std")
    assert not recipe_difference(recipe_dict(shipped), recipe_dict(trained), ("seed", *MAY_DIFFER, *from_data))
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


def suite_line(column: str, first: Average, second: Average) -> str:
    """Write the numbers of a row of the README's table of the suites; bold where the interval excludes zero."""
    assert first.mean is not None
    assert second.mean is not None
    difference = paired_difference(first.by_seed, second.by_seed)
    assert difference is not None
    decimals = SUITE_COLUMNS[column]
    text = marked_interval(difference, decimals)
    return f" | {first.mean:.{decimals}f} | {second.mean:.{decimals}f} | {text} |"


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


def suite_averages(setting: str) -> dict[str, list[Average]]:
    methods = (sorted((RESULTS / "runs" / f"{setting}_resnet8_{name}").glob("*")) for name in METHODS[:2])
    return averages(by_recipe(read_folders([run for runs in methods for run in runs])))


def suite_lines() -> dict[str, str]:
    found = suite_averages("fashion_mnist_mini")
    return {column: suite_line(column, *found[column]) for column in SUITE_COLUMNS}


@pytest.mark.parametrize(("column", "line"), suite_lines().items())
def test_the_readme_has_what_the_suites_found(column: str, line: str) -> None:
    assert line in README, column


PAIRS_AGREE_ON = {
    "occlusion_error_centre": -1,
    "in_between_error_cutmix": -1,
    "in_between_error_mixup": -1,
    "ece": 1,
    "fgsm_top1_at_8": 1,
    "ood_auroc": -1,
    "corruption_error": 1,
}
"""What the README says of the pairs on all of Fashion-MNIST, and the sign of CutMix less baseline in each of them."""


@pytest.mark.parametrize(("column", "sign"), PAIRS_AGREE_ON.items())
def test_the_readme_has_what_the_suites_found_of_the_pairs_on_all_images(column: str, sign: int) -> None:
    first, second = suite_averages("fashion_mnist")[column]
    assert first.by_seed.keys() == second.by_seed.keys() == {0, 1}  # with more, the text has to be another
    assert all(sign * (second.by_seed[seed] - value) > 0 for seed, value in first.by_seed.items())
    assert first.mean is not None
    assert second.mean is not None
    text = " and ".join(f"{average.mean:.{SUITE_COLUMNS[column]}f}" for average in (first, second))
    assert text in README


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.parent.name}/{run.name}")
def test_an_evaluation_found_what_the_run_found(run: Path) -> None:
    if (run / "accuracy.json").exists():
        assert read_json(run / "accuracy.json")["top1"] == read_json(run / "summary.json")["top1"]
    else:
        assert not list(run.glob("evaluation.json"))
