"""Set evaluations and runs side by side: ``cutmix-zoo report RUN_OR_EVAL_DIR... --output report.html``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cutmix_zoo.errors import UserError, prepare_new_file, write_errors
from cutmix_zoo.evaluation.figures import save_figures
from cutmix_zoo.evaluation.findings import csv_text
from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_page import make_page
from cutmix_zoo.evaluation.report_records import suite_figures
from cutmix_zoo.evaluation.report_table import result_rows
from cutmix_zoo.evaluation.suites import SUITES
from cutmix_zoo.training.files import write_text
from cutmix_zoo.training.launch import say

if TYPE_CHECKING:
    from collections.abc import Sequence


def report(folders: Sequence[Path], output: Path, csv: Path | None = None, plots: Path | None = None) -> None:
    """Write one page, a table and pictures of what several folders hold.

    Args:
        folders: of evaluations (``cutmix-zoo evaluate --output``), runs or sweeps, all of the same data; a column each,
            and each run of a sweep.
        output: the HTML file to write. It needs no other file and no network; without matplotlib it has tables only.
            Commands are shown in it without where things lie on this machine.
        csv: a file for the main numbers, a line a model (:func:`~cutmix_zoo.evaluation.report_table.result_rows`).
        plots: a folder for the page's figures as PNG files, but those of the training.

    Raises:
        UserError: if a folder cannot be used, the folders are of different data, a file exists already, or there are to
            be pictures without matplotlib.
    """
    files = [file for file in (output, csv) if file is not None]
    if csv is not None and csv.resolve() == output.resolve():
        raise UserError(f"{output} cannot be both the page and the table; give --csv another file.")
    for file in (*files, *([plots] if plots is not None else [])):
        prepare_new_file(file)
    models = read_folders(folders)
    given = {"--output": output, "--csv": csv, "--plots": plots}
    options = [word for option, path in given.items() if path is not None for word in (option, str(path))]
    command = shlex.join(["cutmix-zoo", "report", *map(str, folders), *options])
    drawn = SUITES if plots is not None else ()
    figures = {name: figure for suite in drawn for name, figure in suite_figures(suite, models).items()}
    texts = [make_page(models, command), csv_text(result_rows(models))]
    for file, text in zip(files, texts, strict=False):
        with write_errors(file):
            write_text(file, text)
    if plots is not None:
        with write_errors(plots):
            save_figures(figures, plots)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo report",
        description="Write one page that sets evaluations and runs side by side: numbers, tables, figures, recipes.",
        epilog="The page needs no other file. Figures need matplotlib (pip install matplotlib).",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "folders",
        nargs="+",
        type=Path,
        metavar="RUN_OR_EVAL_DIR",
        help="what cutmix-zoo evaluate --output, train or sweep has written; the first is what others differ from",
    )
    add("--output", type=Path, required=True, metavar="FILE.html", help="the page to write")
    add(
        "--csv",
        type=Path,
        metavar="FILE.csv",
        help="also write the main numbers, a line a model: runs of one recipe with several seeds are one",
    )
    add("--plots", type=Path, metavar="DIR", help="also write the figures of the suites as PNG files")
    return parser


def command(arguments: Sequence[str]) -> None:
    """Report as the command line says."""
    options = make_parser().parse_args(arguments)
    report(options.folders, options.output, options.csv, options.plots)
    for file in (options.output, options.csv, options.plots):
        if file is not None:
            say(f"wrote {file}" if file.exists() else f"no suite has figures for {file}")
