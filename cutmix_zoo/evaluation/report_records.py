"""What the suites found of several models, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.evaluation.report_suites import INPUT, SUITES, extended
from cutmix_zoo.training.settings import VALIDATED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cutmix_zoo.evaluation.report_folders import Measured


def suite_records(suite: str, models: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Collect what a suite found, by the model's name, with what follows from it.

    The accuracy of a model that was not evaluated is what its run found after the last epoch.
    """
    records = {model.name: _record(suite, model) for model in models}
    return {name: extended(suite, record) for name, record in records.items() if record is not None}


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
        for key, title in {**SUITES[suite].settings, **INPUT}.items()
        if len({repr(record.get(key)) for record in records.values()}) > 1
    ]
