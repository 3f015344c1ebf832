import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluate import EvaluateOptions, evaluate
from cutmix_zoo.evaluation.report import command, make_parser, report
from cutmix_zoo.evaluation.suite_context import SuiteSettings
from cutmix_zoo.evaluation.suites import SUITES
from cutmix_zoo.models import export_model
from cutmix_zoo.train import train
from cutmix_zoo.training.recipe import load_recipe
from tests.evaluation.page import Page
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
    assert "cutmix-zoo report …/evaluated …/run --output …/report.html --csv …/results.csv" in text
    assert capsys.readouterr().out == f"wrote {page}\nwrote {table}\n"
    with table.open(encoding="utf-8", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert first["model"] == "baseline"
    assert float(first["top1"]) == make_record("accuracy", 0.8)["top1"]
    assert float(first["ece"]) == make_record("calibration", 0.8)["ece"]
    assert float(first["ood_auroc"]) == make_record("ood", 0.8)["mean"]["auroc"]
    assert (second["recipe"], second["seeds"], second["hours"], second["ece"]) == ("run", "7", "0.5", "")


def test_a_table_is_written_only_where_asked_for(folders: list[Path], tmp_path: Path) -> None:
    report(folders[1:], tmp_path / "report.html")
    assert not list(tmp_path.glob("*.csv"))


def test_a_table_can_be_written_whatever_the_names(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", "model \x00\udcff", suites=(), dataset="data\udcff")
    report([folder], tmp_path / "report.html", tmp_path / "results.csv")
    (row,) = csv.DictReader((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines())
    assert (row["model"], row["dataset"]) == (r"model \x00\udcff", r"data\udcff")


def test_pictures_are_those_of_the_page(folders: list[Path], tmp_path: Path) -> None:
    command([*map(str, folders), "--output", str(tmp_path / "report.html"), "--plots", str(tmp_path / "plots")])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    files = list((tmp_path / "plots").iterdir())
    assert {file.name for file in files} == {"confusion.png", "reliability.png", "ood.png"}
    training = 2
    assert len(files) == page.count("<svg") - training
    for file in files:
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 200


def test_where_no_suite_has_figures_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    command([str(run), "--output", str(tmp_path / "report.html"), "--plots", str(tmp_path / "plots")])
    assert f"no suite has figures for {tmp_path / 'plots'}" in capsys.readouterr().out
    assert not (tmp_path / "plots").exists()


def test_page_and_table_are_two_files(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be both the page and the table"):
        report(folders, tmp_path / "report.html", tmp_path / "." / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_pictures_need_matplotlib(folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        report(folders, tmp_path / "report.html", plots=tmp_path / "plots")
    assert not (tmp_path / "report.html").exists()


def test_a_folder_of_pictures_that_cannot_be_written_is_named(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(figures: object, folder: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("cutmix_zoo.evaluation.report.save_figures", fail)
    with pytest.raises(UserError, match=r"cannot write .*plots: disk full"):
        report(folders[1:], tmp_path / "report.html", plots=tmp_path / "plots")


@pytest.mark.parametrize("existing", ["report.html", "results.csv", "results.png"])
def test_nothing_is_overwritten(folders: list[Path], tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(UserError, match=f"{existing} exists"):
        report(folders, tmp_path / "report.html", tmp_path / "results.csv", tmp_path / "results.png")
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


MAIN_NUMBERS = {
    "accuracy": {"top1": "top1"},
    "calibration": {"ece": "ece"},
    "localization": {"top1_loc": "top1_loc", "gt_known": "gt_known"},
    "adversarial": {"fgsm_top1_at_8": "fgsm_top1_at_8", "pgd_top1_at_8": "pgd_top1_at_8"},
    "occlusion": {
        "occlusion_error_centre": "mean_error_centre",
        "occlusion_error_boundary": "mean_error_boundary",
    },
    "in_between": {
        "in_between_error_mixup": "mean_error_mixup",
        "in_between_error_cutmix": "mean_error_cutmix",
    },
    "ood": {"ood_auroc": "mean.auroc", "ood_tnr_at_tpr95": "mean.tnr_at_tpr95"},
    "corruption": {"corruption_error": "mean_error"},
    "probe": {"probe_top1": "top1"},
}
"""What the columns of the table are called in the JSON files."""


def _number(record: Any, key: str) -> float:
    for part in key.split("."):
        record = record[part]
    return record


def _shown(cell: str) -> float:
    return float(cell.partition(" ")[0].replace("\N{MINUS SIGN}", "-"))


def test_what_is_really_measured_goes_through(
    tiny_options: dict[str, str], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every suite, of a run and of a network that was only exported."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # pictures take longer than all the rest
    changes = {"schedule.epochs": "1", "ema.decay": "0.5"}
    train(load_recipe("quickstart", {**tiny_options, **changes}), tmp_path / "run")
    torch.default_generator.manual_seed(1)
    network = timm.create_model("cifar_resnet8", num_classes=10, in_chans=1)
    config = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.3,), "interpolation": "bilinear", "crop_pct": 1.0}
    export_model(network, tmp_path / "exported", data_config=config, label_names=None, provenance={})
    suites = SuiteSettings(budgets=(0.0, 8.0), ood=("uniform", "shuffled"))
    options = EvaluateOptions(root=str(tiny_data), workers=0, samples=8, img_size=16, suites=suites)
    folders = [tmp_path / "evaluated" / name for name in ("run", "exported")]
    for folder in folders:
        found = evaluate(str(tmp_path / folder.name), "fashion_mnist_canvas", None, folder, options)
        assert set(found) == set(SUITES)
    report(folders, tmp_path / "report.html", tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    for suite, columns in MAIN_NUMBERS.items():
        text = SUITES[suite]
        assert text.about in page.text
        records = [json.loads((folder / f"{suite}.json").read_text()) for folder in folders]
        titles = {metric.column: (metric.title, 0.51 * 10**-metric.decimals) for metric in text.metrics}
        for column, key in columns.items():
            numbers, (title, rounding) = [_number(record, key) for record in records], titles[column]
            assert [float(row[column]) for row in rows] == numbers
            for table in ("main numbers", text.title):
                assert [_shown(cell) for cell in page.row(table, title)] == pytest.approx(numbers, abs=rounding)
        if text.values:
            assert len(page.tables[f"{text.title}, row by row"]) == 1 + len(records[0]["rows"])
    assert page.tables["main numbers"][0] == ["", "quickstart", "exported"]
    assert page.tables["training"][0] == ["", "quickstart"]
    assert "Measured so: quickstart (ema.decay 0.5)." in page.text
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert rows[0]["commit"] == summary["versions"].get("commit", "")
    assert (rows[0]["recipe"], rows[1]["recipe"], rows[1]["commit"]) == ("quickstart", "", "")
    assert str(tmp_path) not in page.text
