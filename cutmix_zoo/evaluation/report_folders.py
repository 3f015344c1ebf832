"""The folders that a report is made of: evaluations, runs, and evaluations of runs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cutmix_zoo.data.settings import validation_name
from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.evaluation.names import distinct_end, visible
from cutmix_zoo.evaluation.results import ResultFolder
from cutmix_zoo.evaluation.suites import SUITES
from cutmix_zoo.known import canonical_name
from cutmix_zoo.store import WEIGHTS_FILE, file_sha256
from cutmix_zoo.training.files import read_json
from cutmix_zoo.training.recipe import dump_recipe, load_recipe, make_recipe, public_recipe
from cutmix_zoo.training.run import RunFolder, read_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cutmix_zoo.training.settings import Recipe


@dataclass(frozen=True)
class Run:
    """What the folder of a run holds.

    Args:
        recipe: what was trained.
        metrics: the lines of ``metrics.jsonl``, one an epoch.
        summary: what ``summary.json`` holds; ``None`` if the run is not finished.
    """

    recipe: Recipe
    metrics: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] | None


@dataclass(frozen=True)
class Measured:
    """What one folder says of one model: a column of the report.

    Args:
        folder: where.
        name: what the model is called in the report, all of it visible.
        about: what ``evaluation.json`` holds; ``None`` if the folder is that of a run alone.
        records: what the suites' JSON files hold, by suite.
        run: the run that made the model, if its folder was found.
    """

    folder: Path
    name: str
    about: Mapping[str, Any] | None
    records: Mapping[str, Mapping[str, Any]]
    run: Run | None

    @cached_property
    def recipe(self) -> Recipe | None:
        """What was trained; ``None`` if it is not known, or of a version that is not understood."""
        if self.run is not None:
            return self.run.recipe
        text = None if self.about is None else self.about.get("recipe")
        try:
            return make_recipe(yaml.safe_load(text), str(self.folder)) if isinstance(text, str) else None
        except (AttributeError, TypeError, UserError, yaml.YAMLError):
            return None

    @property
    def ema_decay(self) -> float | None:
        """Of the average of the weights, if that is what the run exported; else ``None``."""
        return self.recipe.ema.decay if self.recipe else None

    @property
    def commit(self) -> str | None:
        """The commit of cutmix_zoo that trained it; ``None`` if it is not known."""
        return (self.summary or {}).get("versions", {}).get("commit")

    @property
    def recipe_text(self) -> str | None:
        """The recipe as YAML, without where things are on this machine."""
        if self.run is not None:
            return dump_recipe(public_recipe(self.run.recipe))
        return None if self.about is None else self.about.get("recipe")

    @property
    def data(self) -> tuple[str, str]:
        """Dataset and split that it was measured on."""
        if self.about is not None:
            return self.about["dataset"], self.about["split"]
        assert self.run is not None, "a folder is an evaluation or a run"
        return self.run.recipe.data.name, validation_name(self.run.recipe.data)

    @property
    def architecture(self) -> str | None:
        """The network by timm's name, without a tag."""
        about = self.about or {}
        if "architecture" in about:
            return str(about["architecture"])
        name = self.recipe.model.name if self.recipe else str(about.get("model"))
        # the name of a folder says nothing of what is in it
        return None if ":" in name or "/" in name else name.partition(".")[0]

    @property
    def parameters(self) -> int | None:
        """Number of parameters."""
        return next((source["parameters"] for source in (self.about, self.summary) if source), None)

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """The numbers of the run; ``None`` without a finished run."""
        return None if self.run is None else self.run.summary


def read_folders(folders: Sequence[Path]) -> list[Measured]:
    """Read the folders of evaluations and runs.

    The run that an evaluation is of is looked for in the same folder, in the one above, and in the one that was
    evaluated, where the weights have to be those that were measured.

    Args:
        folders: at least one; of evaluations on one split of one dataset, of runs that were validated on it, or of
            sweeps, for their finished runs.

    Returns:
        What each folder holds, under names that differ: models of one name have the ends of their folders' paths that
        tell them apart behind it, such as ``mine (a/evaluation)``.

    Raises:
        UserError: if a folder is neither, is given twice, or holds what is damaged or of other data than the first.
    """
    twice = [str(folder) for number, folder in enumerate(folders) if folder.resolve() in _resolved(folders[:number])]
    if twice:
        raise UserError(f"{twice[0]} is given twice; name each folder once.")
    everything = [_read_folder(folder) for each in folders for folder in _runs_of(each)]
    for measured in everything:
        _check_data(measured, everything[0])
    return [_told_apart(each, everything) for each in everything]


def _runs_of(folder: Path) -> list[Path]:
    """List the finished runs of a sweep by its folder; any other folder is itself."""
    rows = read_sweep(folder)
    if rows is None:
        return [folder]
    runs = [folder / row["name"] for row in rows if row["summary"] is not None]
    if not runs:
        raise UserError(f"no run of the sweep in {folder} has finished.")
    return runs


def _resolved(folders: Sequence[Path]) -> list[Path]:
    return [folder.resolve() for folder in folders]


def _told_apart(measured: Measured, everything: Sequence[Measured]) -> Measured:
    others = [each.folder for each in everything if each.name == measured.name and each is not measured]
    return replace(measured, name=f"{measured.name} ({distinct_end(measured.folder, others)})") if others else measured


def _read_folder(folder: Path) -> Measured:
    file = ResultFolder(folder).about_file
    if not file.is_file():
        if not RunFolder(folder).recipe_file.is_file():
            raise UserError(
                f"{folder} is neither the folder of an evaluation ({file.name} is missing) nor of a run (recipe.yaml "
                "is missing); give what cutmix-zoo evaluate --output or cutmix-zoo train has written."
            )
        run = _read_run(RunFolder(folder))
        return Measured(folder, visible(run.recipe.name), None, {}, run)
    about = _read_object(file, _ABOUT)
    files = {suite: ResultFolder(folder).suite_file(suite) for suite in SUITES}
    records = {suite: _read_record(file) for suite, file in files.items() if file.is_file()}
    return Measured(folder, _model_name(about, folder), about, records, _find_run(folder, about))


_LOCAL = "local-dir:"
_Number = int | float
_ABOUT: dict[str, Any] = {"model": str, "dataset": str, "split": str, "parameters": int, "environment": dict}
_SUMMARY: dict[str, Any] = {"parameters": int, "best_top1": _Number, "train_seconds": _Number}


def _read_object(file: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Read a JSON object, and check what it has to have and of which type."""
    try:
        value = read_json(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}; remove it and evaluate again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no JSON object; remove it and evaluate again.")
    wrong = [key for key, kind in expected.items() if not isinstance(value.get(key), kind)]
    if wrong:
        raise UserError(f"{file} lacks {', '.join(wrong)}, or has something else there; evaluate again.")
    return value


def _read_record(file: Path) -> dict[str, Any]:
    record = _read_object(file, {"dataset": str, "split": str, "rows": list})
    if not all(isinstance(row, dict) for row in record["rows"]):
        raise UserError(f"{file} has no table of rows; remove it and evaluate again.")
    return record


def _read_run(folder: RunFolder) -> Run:
    try:
        lines = folder.metrics_file.read_text(encoding="utf-8").splitlines() if folder.metrics_file.exists() else []
        metrics = [dict(json.loads(line)) for line in lines]
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{folder.metrics_file} cannot be read: {one_line(error)}") from error
    summary = _read_object(folder.summary_file, _SUMMARY) if folder.summary_file.exists() else None
    return Run(load_recipe(folder.recipe_file), metrics, summary)


def _find_run(folder: Path, about: Mapping[str, Any]) -> Run | None:
    """Find the run that made what was evaluated."""
    for place in (folder.resolve(), folder.resolve().parent, Path(about["model"])):
        run = RunFolder(place)
        weights = run.model / WEIGHTS_FILE
        if not run.recipe_file.is_file():
            continue
        # somebody may have written the results of other weights into the folder of a run
        if file_sha256(weights) == about.get("sha256") if weights.is_file() else place == folder.resolve():
            return _read_run(run)
    return None


def _model_name(about: Mapping[str, Any], folder: Path) -> str:
    """Call a run by its recipe, as where it was not evaluated, and a folder by its name; a Hub id stays as it is."""
    model = about["model"].removeprefix(_LOCAL)
    if os.sep in model and isinstance(about.get("recipe"), str):
        found = re.search(r"^name: (\S+)$", about["recipe"], re.MULTILINE)
        return visible(found[1] if found else Path(model).name)
    is_folder = model != about["model"] or Path(model).is_absolute()
    return visible((Path(model).name or folder.name) if is_folder else model)


def _check_data(measured: Measured, first: Measured) -> None:
    """Check that a folder is of the same data as the first, in all its files."""
    heads = [measured.data, *((record["dataset"], record["split"]) for record in measured.records.values())]
    for dataset, split in heads:
        if (canonical_name(dataset), split) != (canonical_name(first.data[0]), first.data[1]):
            raise UserError(
                f"{measured.folder} is of {dataset} ({split}) and {first.folder} of {first.data[0]} "
                f"({first.data[1]}): a report compares models on the same images; make one for each."
            )
