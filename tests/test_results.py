"""The tables of results are made of the runs that are kept beside them."""

import re
from pathlib import Path

import pytest

from cutmix_zoo.evaluation.findings import csv_text
from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_table import result_rows
from cutmix_zoo.training.files import read_json
from cutmix_zoo.training.recipe import load_recipe, recipe_dict, recipe_difference
from cutmix_zoo.training.run import MAY_DIFFER

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
TABLES = sorted(RESULTS.glob("*.csv"))
METHODS = ("baseline", "cutmix", "mixup", "cutout", "shakedrop")


def runs_of(table: Path) -> list[Path]:
    """List the runs behind a table in its order: the methods as above, each by rising seed."""
    folders = [sorted((RESULTS / "runs" / f"{table.stem}_resnet8_{method}").glob("seed=*")) for method in METHODS]
    return [run for runs in folders for run in runs]


def test_there_are_tables_and_every_run_is_in_one() -> None:
    assert TABLES
    assert sorted(run for table in TABLES for run in runs_of(table)) == sorted((RESULTS / "runs").glob("*/*"))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_is_made_of_its_runs(table: Path) -> None:
    assert csv_text(result_rows(read_folders(runs_of(table)))) == table.read_text(encoding="utf-8")


@pytest.mark.parametrize("run", sorted((RESULTS / "runs").glob("*/*")), ids=lambda run: f"{run.parent.name}/{run.name}")
def test_a_run_is_of_the_shipped_recipe_and_finished_it(run: Path) -> None:
    shipped, trained = load_recipe(run.parent.name), load_recipe(run / "recipe.yaml")
    from_data = ("model.in_chans", "model.num_classes", "data.input_size", "data.mean", "data.std")
    assert not recipe_difference(recipe_dict(shipped), recipe_dict(trained), ("seed", *MAY_DIFFER, *from_data))
    summary = read_json(run / "summary.json")
    assert run.name == f"seed={trained.seed}"
    assert summary["epochs"] == shipped.schedule.epochs
    assert re.fullmatch(r"[0-9a-f]{40}", summary["versions"]["commit"])
