"""What the suites found of several models, side by side: records, and the figures made of them."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.evaluation.findings import load_arrays
from cutmix_zoo.evaluation.results import ResultFolder
from cutmix_zoo.evaluation.suites import SUITES, draw_suite
from cutmix_zoo.training.settings import VALIDATED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from cutmix_zoo.evaluation.findings import Arrays
    from cutmix_zoo.evaluation.report_folders import Measured


def suite_records(suite: str, models: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Collect what a suite found, by the model's name, with what follows from it.

    The accuracy of a model that was not evaluated is what its run found after the last epoch.
    """
    records = {model.name: _record(suite, model) for model in models}
    return {
        name: {**record, **SUITES[suite].complete(record)} for name, record in records.items() if record is not None
    }


def _record(suite: str, model: Measured) -> Mapping[str, Any] | None:
    if suite == "accuracy" and model.about is None and model.summary is not None:
        return _accuracy_of_run(model, model.summary)
    return model.records.get(suite)


def _accuracy_of_run(model: Measured, summary: Mapping[str, Any]) -> dict[str, Any]:
    names = {"val_loss": "loss", "val_images": "count"}
    numbers = {names.get(key, key): summary.get(key) for key in (*VALIDATED, "val_images")}
    assert model.run is not None, "a summary is that of a run"
    data = model.run.recipe.data
    prepared = {"input_size": list(input_spec(data).input_size), "crop_pct": data.crop_pct}
    return {"model": model.name, "dataset": data.name, "split": model.data[1], **prepared, **numbers, "rows": []}


def differing_settings(suite: str, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name the settings in which models were not measured alike, by what the report calls them."""
    return [
        title
        for key, title in SUITES[suite].all_settings.items()
        if len({repr(record.get(key)) for record in records.values()}) > 1
    ]


def suite_figures(suite: str, models: Sequence[Measured]) -> dict[str, Figure]:
    """Draw the figures of a suite, with all models in each where that can be.

    Returns:
        Figures by names that may be files' names; none where no model was measured.

    Raises:
        UserError: if matplotlib is not installed, or a file of a model cannot be read.
    """
    records = suite_records(suite, models)
    if not records:
        return {}
    files = {model.name: ResultFolder(model.folder).arrays_file(suite) for model in models if model.name in records}
    arrays = {name: _arrays(file) for name, file in files.items() if file.is_file()}
    with_gaps = {model.name: records.get(model.name) for model in models}
    return draw_suite(suite, with_gaps, arrays)


def _arrays(file: Path) -> Arrays:
    try:
        return load_arrays(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}; evaluate again.") from error
