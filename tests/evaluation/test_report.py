import csv
from pathlib import Path

import pytest

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.report import command, make_parser, report, result_rows
from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_suites import SUITES
from tests.evaluation.synthetic_findings import make_record, write_evaluation, write_run


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        write_evaluation(tmp_path / "evaluated", "baseline", 0.8, suites=("accuracy", "calibration", "ood")),
        write_run(tmp_path / "run", seed=7),
    ]


def test_the_command_writes_page_and_table_and_says_so(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, table = tmp_path / "new" / "report.html", tmp_path / "results.csv"
    command([*map(str, folders), "--output", str(page), "--csv", str(table)])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert f"cutmix-zoo report {folders[0]} {folders[1]} --output {page}" in text
    assert capsys.readouterr().out == f"wrote {page}\nwrote {table}\n"
    with table.open(encoding="utf-8", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert first["model"] == "baseline"
    assert float(first["top1"]) == make_record("accuracy", 0.8)["top1"]
    assert float(first["ece"]) == make_record("calibration", 0.8)["ece"]
    assert float(first["ood_auroc"]) == make_record("ood", 0.8)["mean"]["auroc"]
    assert (second["recipe"], second["seed"], second["hours"], second["ece"]) == ("run", "7", "0.5", "")


def test_a_table_is_written_only_where_asked_for(folders: list[Path], tmp_path: Path) -> None:
    report(folders[1:], tmp_path / "report.html")
    assert not list(tmp_path.glob("*.csv"))


def test_a_row_says_what_was_trained_and_where(tmp_path: Path) -> None:
    folder = write_evaluation(write_run(tmp_path / "run", seed=7), suites=tuple(SUITES))
    (row,) = result_rows(read_folders([folder]))
    (alone,) = result_rows(read_folders([write_evaluation(tmp_path / "evaluated", suites=("probe",))]))
    assert {key: row[key] for key in list(row)[:10]} == {
        "model": "model",
        "dataset": "fashion_mnist",
        "split": "validation",
        "top1": make_record("accuracy")["top1"],  # as evaluated, not as the run found it
        "best_top1": pytest.approx(90 * (1 - 2.718281828**-6) + 0.25),
        "parameters": 272_186,
        "seed": 7,
        "recipe": "run",
        "hardware": "CPU, 2 threads",
        "hours": 0.5,
    }
    assert list(alone) == list(row)
    assert alone["probe_top1"] == 81.0
    assert alone["hardware"] == "CPU, 2 threads"  # of the evaluation
    assert all(alone[key] is None for key in ("top1", "best_top1", "seed", "recipe", "hours", "ece", "mce"))


def test_a_row_has_the_main_number_of_every_suite(tmp_path: Path) -> None:
    (row,) = result_rows(read_folders([write_evaluation(tmp_path / "a", suites=tuple(SUITES))]))
    for suite, text in SUITES.items():
        columns = {metric.column: metric.read(make_record(suite)) for metric in text.metrics if metric.column}
        assert columns
        assert {column: row[column] for column in columns} == columns


@pytest.mark.parametrize("existing", ["report.html", "results.csv"])
def test_nothing_is_overwritten(folders: list[Path], tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(UserError, match=rf"{existing} exists"):
        report(folders, tmp_path / "report.html", tmp_path / "results.csv")
    assert (tmp_path / existing).read_text() == "mine"
    assert len(list(tmp_path.glob("re*.*"))) == 1


def test_a_file_that_cannot_be_written_is_named(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        report(folders[1:], tmp_path / ("x" * 253))  # with the ending of a file being written, too long


@pytest.mark.parametrize("arguments", [[], ["--output", "a.html"], ["a"], ["a", "--out", "a.html"]])
def test_folders_and_output_have_to_be_given(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(arguments)
    assert "RUN_OR_EVAL_DIR" in capsys.readouterr().err
