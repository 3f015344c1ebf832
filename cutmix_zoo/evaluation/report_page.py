"""The page of a report: what each suite found of each model, side by side."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.evaluation import report_html as html
from cutmix_zoo.evaluation.inline_svg import inline_svg
from cutmix_zoo.evaluation.names import public_command
from cutmix_zoo.evaluation.plots import draw_training
from cutmix_zoo.evaluation.report_records import differing_settings, suite_figures, suite_records
from cutmix_zoo.evaluation.report_seeds import averages, by_recipe, differences, summary_averages
from cutmix_zoo.evaluation.results import ResultFolder
from cutmix_zoo.evaluation.suite import Metric
from cutmix_zoo.evaluation.suites import SUITES, main_metrics
from cutmix_zoo.known import known_dataset
from cutmix_zoo.training.recipe import recipe_dict, recipe_difference
from cutmix_zoo.training.run import LEFT_TO_DATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cutmix_zoo.evaluation.paper_numbers import PaperTable
    from cutmix_zoo.evaluation.report_folders import Measured
    from cutmix_zoo.evaluation.report_seeds import Average, Difference, Repeated
    from cutmix_zoo.evaluation.suite import Suite
    from cutmix_zoo.training.settings import Recipe

    Found = Mapping[str, Mapping[str, Any]]
    """What a suite found, by the model's name."""

_NONE = "\N{EN DASH}"
_FEW_ROWS = 12  # of a table that is not folded away
_BEST_EPOCH = Metric("best_top1", "top-1 accuracy of the best epoch, chosen on these images (%)", 2, None)


def make_page(models: Sequence[Measured], command: str) -> str:
    """Make the page.

    Args:
        models: what was measured, of the same data; a column each.
        command: what makes the report again; it and the commands of the evaluations are shown as
            :func:`~cutmix_zoo.evaluation.names.public_command` writes them.

    Returns:
        HTML that needs no other file. Without matplotlib it has tables only.

    Raises:
        UserError: if a folder holds numbers that are not what the suites write.
    """
    dataset, split = models[0].data
    known = known_dataset(dataset)
    title = f"cutmix_zoo on {known.title if known else dataset}, {split}"
    parts = [html.heading(title, 1), *_overview(models)]
    if find_spec("matplotlib") is None:
        parts.append(html.paragraph("No figures: they need matplotlib (pip install matplotlib).", "soft"))
    for suite in SUITES:
        with _blaming(suite, models):
            parts += _suite(suite, models)
    parts += [*_training(models), *_recipes(models), *_environment(models), *_commands(models, command)]
    return html.page(title, "\n".join(parts))


@contextmanager
def _blaming(suite: str, models: Sequence[Measured]) -> Iterator[None]:
    """Say which files are to blame where their numbers are not what a suite writes."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        files = ", ".join(
            str(ResultFolder(model.folder).suite_file(suite)) for model in models if suite in model.records
        )
        raise UserError(
            f"{files}: not what this version writes ({type(error).__name__}: {one_line(error)}); evaluate again."
        ) from error


def _overview(models: Sequence[Measured]) -> Iterator[str]:
    rows: list[tuple[str, list[str]]] = []
    for suite in SUITES:
        with _blaming(suite, models):
            rows += _main_numbers(suite, models)
    if any(model.summary for model in models):
        best = [_BEST_EPOCH.read(model.summary or {}) for model in models]
        rows.append((_BEST_EPOCH.title, _cells(_BEST_EPOCH, best)))
    rows.append(("parameters", [html.cell(_shown(model.parameters)) for model in models]))
    rows.append(("seed", [html.cell(_shown(model.recipe and model.recipe.seed)) for model in models]))
    yield html.table("main numbers", ["", *(model.name for model in models)], rows)
    if len(models) > 1:
        text = f"Bold: the best number of a row. Below a number: its difference to {models[0].name}."
        yield html.paragraph(text, "soft")
    yield from _averaged_weights(models)
    yield from _over_seeds(models)


def _averaged_weights(models: Sequence[Measured]) -> Iterator[str]:
    """Say whose numbers are those of averaged weights."""
    measured = [model for model in models if model.about is not None or model.summary is not None]
    with_ema = [f"{model.name} (ema.decay {model.ema_decay:g})" for model in measured if model.ema_decay is not None]
    if with_ema:
        text = "A run with ema.decay exports the exponential moving average (EMA) of its weights. Measured so:"
        yield html.paragraph(f"{text} {', '.join(with_ema)}.", "soft")


def _main_numbers(suite: str, models: Sequence[Measured]) -> Iterator[tuple[str, list[str]]]:
    records = suite_records(suite, models)
    metrics = SUITES[suite].main.values()
    return _rows(metrics, records, models, compare=not differing_settings(suite, records))


def _rows(
    metrics: Iterable[Metric], records: Found, models: Sequence[Measured], *, compare: bool
) -> Iterator[tuple[str, list[str]]]:
    """Make a row a metric, without those that no model has."""
    for metric in metrics:
        values = [metric.read(records.get(model.name, {})) for model in models]
        if any(value is not None for value in values):
            yield metric.title, _cells(metric, values, compare=compare)


def _cells(metric: Metric, values: Sequence[float | None], *, compare: bool = True) -> list[str]:
    """Make the cells of a row: the best in bold, below each the difference to the first."""
    winners = metric.winners(values) if compare else set()
    cells = []
    for place, value in enumerate(values):
        difference = ""
        if compare and place and metric.best and value is not None and values[0] is not None:
            difference = _signed(value - values[0], metric.decimals)
        text = _NONE if value is None else _minus(f"{value:.{metric.decimals}f}")
        cells.append(html.cell(text, beside=difference, strong=place in winners))
    return cells


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else _minus(text)


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _over_seeds(models: Sequence[Measured]) -> Iterator[str]:
    """Show means and spreads of what was trained with several seeds, and the pairs of runs that have one."""
    repeated = by_recipe(models)
    if len(repeated) == len(models):
        text = (
            "How much a number varies from seed to seed is not known: that takes runs of one recipe, measured alike, "
            "each with a seed of its own."
        )
        yield html.paragraph(text, "soft")
        return
    yield html.heading("Over seeds")
    numbers = averages(repeated)
    rows = [("seeds", [html.cell(", ".join(map(str, each.seeds)) or _NONE) for each in repeated])]
    shown = [(metric, numbers[column]) for column, metric in main_metrics().items()]
    for metric, found in (*shown, (_BEST_EPOCH, summary_averages(repeated, _BEST_EPOCH.key))):
        if any(each.mean is not None for each in found):
            rows.append((metric.title, [_average(metric, each) for each in found]))
    yield html.table("over seeds", ["", *(each.name for each in repeated)], rows)
    yield html.paragraph("Below a mean: the standard deviation over the seeds.", "soft")
    yield from _paired(repeated, numbers)


def _paired(repeated: Sequence[Repeated], numbers: Mapping[str, Sequence[Average]]) -> Iterator[str]:
    """Show how the models differ from the first, by the pairs of runs that have a seed in common."""
    found = differences(repeated, numbers)
    rows = [
        (metric.title, [_difference(metric, each) for each in found[column][1:]])
        for column, metric in main_metrics().items()
        if any(found[column])
    ]
    if rows:
        yield html.table("differences", ["", *(each.name for each in repeated[1:])], rows)
        text = (
            f"Difference to {repeated[0].name}: the mean over the pairs of runs with the same seed, and Student's 95 % "
            "interval. Bold: an interval without 0; where there are many, one in twenty is so by chance."
        )
        yield html.paragraph(text, "soft")
    elif len(repeated) > 1:
        text = "Too few runs with the same seeds, measured in the same way, to compare the models pair by pair."
        yield html.paragraph(text, "soft")


def _difference(metric: Metric, found: Difference | None) -> str:
    if found is None:
        return html.cell(_NONE)
    mean, low, high = (_signed(found.mean + side * found.half_width, metric.decimals) for side in (0, -1, 1))
    clear = abs(found.mean) > found.half_width
    return html.cell(mean, beside=f"{low} to {high}, {found.pairs} pairs", strong=clear)


def _average(metric: Metric, average: Average) -> str:
    mean, spread = (None if value is None else _minus(f"{value:.{metric.decimals}f}") for value in average[:2])
    return html.cell(mean or _NONE, beside="" if spread is None else f"\N{PLUS-MINUS SIGN} {spread}")


def _suite(suite: str, models: Sequence[Measured]) -> Iterator[str]:
    records, text = suite_records(suite, models), SUITES[suite]
    if not records:
        return
    columns = [model for model in models if model.name in records]
    names = [model.name for model in columns]
    yield html.heading(text.title)
    yield html.paragraph(text.about)
    differing = differing_settings(suite, records)
    if differing:
        yield html.paragraph(
            f"These models were not measured in the same way ({', '.join(differing)}): nothing is compared.", "soft"
        )
    if runs := [model.name for model in columns if suite not in model.records]:
        yield html.paragraph(f"Of {', '.join(runs)}: what the run found after its last epoch.", "soft")
    settings = [
        (title, key)
        for key, title in text.all_settings.items()
        if any(each.get(key) is not None for each in records.values())
    ]
    yield html.table(
        text.title,
        ["", *names],
        [
            *_rows(text.metrics, records, columns, compare=not differing),
            *((title, [html.cell(_shown(records[name].get(key))) for name in names]) for title, key in settings),
        ],
    )
    yield from _paper(suite, columns, records)
    yield html.figures(_inlined(suite, models))
    yield from _row_by_row(text, records)


def _shown(value: Any) -> str:
    """Write a setting or a value of a row."""
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


def _paper(suite: str, models: Sequence[Measured], records: Found) -> Iterator[str]:
    """Set the paper's numbers beside ours, where the setting is the same."""
    found: dict[str, tuple[PaperTable, list[str]]] = {}
    for model in models:
        table = SUITES[suite].paper_table(records[model.name], model.architecture)
        if table is not None:
            found.setdefault(table.about, (table, []))[1].append(model.name)
    if not found:
        yield html.paragraph(SUITES[suite].paper, "soft")
    for table, names in found.values():
        yield html.heading(f"The CutMix paper, {table.name}", 3)
        whose = "" if len(names) == len(models) else f" The setting of {', '.join(names)}."
        yield html.paragraph(table.about + whose, "soft")
        rows = [
            (name, [html.cell(f"{value:.{table.decimals}f}") for value in values])
            for name, values in table.rows.items()
        ]
        yield html.table(table.name, table.columns, rows)


def _inlined(suite: str, models: Sequence[Measured]) -> Iterator[str]:
    if find_spec("matplotlib") is not None:
        for picture, figure in suite_figures(suite, models).items():
            yield inline_svg(figure, f"{suite} {picture}")


def _row_by_row(text: Suite, records: Found) -> Iterator[str]:
    """Make the table of all rows, with a column for each value of each model."""
    if not text.values:
        return
    keyed = {
        name: {tuple(row[key] for key in text.keys): row for row in record["rows"]} for name, record in records.items()
    }
    keys = list(dict.fromkeys(key for rows in keyed.values() for key in rows))
    if not keys:
        return
    columns = [(value, title, name) for value, title in text.values.items() for name in keyed]
    headings = [title if len(keyed) == 1 else f"{title}: {name}" for _, title, name in columns]
    rows = [
        (
            ", ".join(map(_shown, key)),
            [html.cell(_row_value(keyed[name].get(key, {}).get(value), title)) for value, title, name in columns],
        )
        for key in keys
    ]
    table = html.table(f"{text.title}, row by row", [", ".join(text.keys), *headings], rows)
    yield html.folded(f"{text.title}: {len(rows)} rows", table, unfolded=len(rows) <= _FEW_ROWS)


def _row_value(value: Any, title: str) -> str:
    return f"{value:.2f}" if isinstance(value, float) and "(%)" in title else _shown(value)


_RUN_ROWS = {
    "epochs": "epochs",
    "best_epoch": "best epoch",
    "images_per_second": "training images a second",
    "device": "device",
    "processes": "processes",
    "precision": "precision",
}


def _training(models: Sequence[Measured]) -> Iterator[str]:
    runs = {model.name: model.run for model in models if model.run is not None}
    if not runs:
        return
    yield html.heading("Training")
    yield html.paragraph("The runs that made these models, epoch by epoch. Batches are mixed as the recipe says.")
    if unfinished := [name for name, run in runs.items() if run.summary is None]:
        yield html.paragraph(f"Not finished: {', '.join(unfinished)}.", "soft")
    if with_ema := [name for name, run in runs.items() if run.recipe.ema.decay is not None]:
        text = "the curves are those of the weights themselves, and the numbers elsewhere those of their average (EMA)."
        yield html.paragraph(f"Of {', '.join(with_ema)}: {text}", "soft")
    summaries = [_described(run.summary) for run in runs.values()]
    rows = [
        (title, [html.cell(_shown(summary.get(key))) for summary in summaries])
        for key, title in _RUN_ROWS.items()
        if any(key in summary for summary in summaries)
    ]
    if any(summaries):
        time = [html.cell(_hours(summary.get("train_seconds"))) for summary in summaries]
        rows.insert(0, ("training time", time))
        yield html.table("training", ["", *runs], rows)
    curves = {model.name: (model.run and model.run.metrics) or None for model in models}
    if any(curves.values()) and find_spec("matplotlib") is not None:
        pictures = (draw_training(curves), draw_training(curves, loss=True))
        yield html.figures(inline_svg(figure, f"training {number}") for number, figure in enumerate(pictures))


def _described(summary: Mapping[str, Any] | None) -> dict[str, Any]:
    if summary is None:
        return {}
    precision = summary.get("mixed_precision")
    return {**summary, "precision": "float32" if precision == "no" else precision}


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return _NONE
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.1f} minutes"


def _value(recipe: Recipe, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def _recipes(models: Sequence[Measured]) -> Iterator[str]:
    yield html.heading("Recipes")
    first = models[0]
    for model in models[1:]:
        if first.recipe is None or model.recipe is None:
            continue
        left_out = [key for key in LEFT_TO_DATA if None in (_value(first.recipe, key), _value(model.recipe, key))]
        ignored = ("name", "data.root", *left_out)
        lines = recipe_difference(recipe_dict(first.recipe), recipe_dict(model.recipe), ignored)
        yield html.paragraph(f"{model.name} differs from {first.name} in{':' if lines else ' nothing.'}")
        if lines:
            yield html.bullets(lines)
    for model in models:
        if model.recipe_text is None:
            yield html.paragraph(f"The recipe of {model.name} is not known.", "soft")
        else:
            yield html.folded(f"recipe of {model.name}", html.preformatted(model.recipe_text))


def _environment(models: Sequence[Measured]) -> Iterator[str]:
    evaluated = [(model, model.about) for model in models if model.about is not None]
    if not evaluated:
        return
    yield html.heading("Environment of the evaluations")
    environments = [about.get("environment", {}) for _, about in evaluated]
    keys = dict.fromkeys(key for environment in environments for key in environment)
    rows = [(key, [html.text_cell(_shown(environment.get(key))) for environment in environments]) for key in keys]
    rows.append(("sha256 of the weights", [html.text_cell(_shown(about.get("sha256"))) for _, about in evaluated]))
    yield html.table("environment", ["", *(model.name for model, _ in evaluated)], rows)
    for model, about in evaluated:
        unreadable = about.get("unreadable") or []
        if unreadable:
            yield html.folded(f"{model.name}: {len(unreadable)} images could not be read", html.bullets(unreadable))


def _commands(models: Sequence[Measured], command: str) -> Iterator[str]:
    yield html.heading("To make these numbers again")
    if any(model.run for model in models):
        yield html.paragraph("Each recipe above is also the recipe.yaml of its run; with it in a file:", "soft")
        yield html.preformatted("cutmix-zoo train --config recipe.yaml")
    lines = [str(model.about["command"]) for model in models if model.about and model.about.get("command")]
    text = "\n".join(map(public_command, [*lines, command]))
    yield html.preformatted(text)
    if "…/" in text:
        yield html.paragraph("An ellipsis stands for a folder of the machine on which it was run.", "soft")
