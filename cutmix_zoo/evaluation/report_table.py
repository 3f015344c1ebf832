"""The main numbers of a report as a table: a row a model, over the seeds that it was trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutmix_zoo.evaluation.names import visible
from cutmix_zoo.evaluation.report_page import suite_records
from cutmix_zoo.evaluation.report_seeds import by_recipe, paired_difference
from cutmix_zoo.evaluation.report_suites import SUITES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cutmix_zoo.evaluation.report_folders import Measured
    from cutmix_zoo.evaluation.report_seeds import Repeated


def result_rows(models: Sequence[Measured]) -> list[dict[str, Any]]:
    """List the main numbers, a row a model, all rows with the same keys.

    Runs of one recipe with different seeds are one model (:func:`~cutmix_zoo.evaluation.report_seeds.by_recipe`), and
    its numbers are their means.

    Returns:
        ``model``, ``dataset``, ``split``; ``top1`` in percent, of the weights after the last epoch if a run made them,
        ``top1_std``, its standard deviation over the seeds, and ``best_top1`` of the run's best epoch; ``difference``
        of top-1 to the first model over the seeds that both have, and ``difference_95``, half the width of its 95 %
        interval; ``parameters``; ``seeds``, ``recipe``, ``commit`` (of cutmix_zoo, with ``-dirty`` behind it if files
        had been changed), ``hardware`` and ``hours`` of a training, ``hardware`` of the evaluation where the training
        is not known; then the other main numbers of the suites. ``None`` for what is not known, or was not measured of
        every run.
    """
    numbers: dict[str, Mapping[str, float | None]] = {
        metric.column: {name: metric.read(record) for name, record in suite_records(suite, models).items()}
        for suite, text in SUITES.items()
        for metric in text.metrics
        if metric.column
    }
    repeated = by_recipe(models)
    return [_row(each, repeated[0], numbers) for each in repeated]


def _row(model: Repeated, first: Repeated, numbers: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    members, top1 = model.members, numbers["top1"]
    difference = None if model is first else paired_difference(first.by_seed(top1), model.by_seed(top1))
    dataset, split = members[0].data
    seconds = model.mean({member.name: (member.summary or {}).get("train_seconds") for member in members})
    row = {
        "model": model.name,
        "dataset": dataset,
        "split": split,
        "top1": model.mean(top1),
        "top1_std": model.spread(top1),
        "best_top1": model.mean({member.name: (member.summary or {}).get("best_top1") for member in members}),
        "difference": difference and difference.mean,
        "difference_95": difference and difference.half_width,
        "parameters": members[0].parameters,
        "seeds": _together(model.seeds),
        "recipe": members[0].recipe and members[0].recipe.name,
        "commit": _together(member.commit for member in members),
        "hardware": _together(map(_hardware, members)),
        "hours": None if seconds is None else round(seconds / 3600, 3),
        **{column: model.mean(values) for column, values in numbers.items() if column != "top1"},
    }
    return {column: visible(value) if isinstance(value, str) else value for column, value in row.items()}


def _together(texts: Iterable[object]) -> str | None:
    """Write what differs side by side."""
    return "; ".join(dict.fromkeys(str(text) for text in texts if text is not None)) or None


def _hardware(model: Measured) -> str | None:
    return (model.summary or {}).get("device") or (model.about or {}).get("environment", {}).get("device")
