"""The main numbers of a report as a table: a row a model, over the seeds that it was trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutmix_zoo.evaluation.names import visible
from cutmix_zoo.evaluation.report_seeds import averages, by_recipe, differences, summary_averages

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cutmix_zoo.evaluation.report_folders import Measured
    from cutmix_zoo.evaluation.report_seeds import Difference, Repeated


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
    repeated = by_recipe(models)
    numbers = averages(repeated)
    compared = differences(repeated, numbers)["top1"]
    top1 = numbers.pop("top1")
    best, seconds = (summary_averages(repeated, key) for key in ("best_top1", "train_seconds"))
    return [
        {
            **_model(model),
            "top1": top1[place].mean,
            "top1_std": top1[place].spread,
            "best_top1": best[place].mean,
            **_difference(compared[place]),
            **_training(model, seconds[place].mean),
            **{column: found[place].mean for column, found in numbers.items()},
        }
        for place, model in enumerate(repeated)
    ]


def _model(model: Repeated) -> dict[str, str]:
    dataset, split = model.members[0].data
    return {"model": model.name, "dataset": visible(dataset), "split": visible(split)}


def _difference(found: Difference | None) -> dict[str, float | None]:
    return {"difference": found and found.mean, "difference_95": found and found.half_width}


def _training(model: Repeated, seconds: float | None) -> dict[str, Any]:
    first = model.members[0]
    return {
        "parameters": first.parameters,
        "seeds": _together(model.seeds),
        "recipe": first.recipe and visible(first.recipe.name),
        "commit": _together(member.commit for member in model.members),
        "hardware": _together(map(_hardware, model.members)),
        "hours": seconds and seconds / 3600,
    }


def _together(texts: Iterable[object]) -> str | None:
    """Write what differs side by side."""
    return visible("; ".join(dict.fromkeys(str(text) for text in texts if text is not None))) or None


def _hardware(model: Measured) -> str | None:
    return (model.summary or {}).get("device") or (model.about or {}).get("environment", {}).get("device")
