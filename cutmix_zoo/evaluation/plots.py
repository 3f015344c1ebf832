"""What the suites found, as pictures: several models in one panel, small enough for a phone. matplotlib is inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cutmix_zoo.evaluation.figures import (
    COLOURS,
    INK,
    add_legend,
    count_whole,
    heading,
    line_sample,
    panel,
    plot_curve,
    styled,
    with_short_names,
)
from cutmix_zoo.evaluation.names import shortened, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.figure import Figure

    from cutmix_zoo.evaluation.figures import Points

    Records = Mapping[str, Mapping[str, Any] | None]
    """By the model's name: what a suite's JSON file holds; ``None`` keeps the colour of a model that has none."""

_MOST_NAMES = 30  # of classes on an axis


def _measured(records: Mapping[str, Any]) -> list[tuple[int, str, Any]]:
    """List the models that have something, with the numbers that their looks hang on."""
    return [(number, name, record) for number, (name, record) in enumerate(records.items()) if record is not None]


def _curves(title: str, records: Records, points: Callable[[Mapping[str, Any]], Points], **labels: Any) -> Figure:
    """Draw one curve a model."""
    figure = panel(title)
    axis = figure.subplots()
    lines = {name: plot_curve(axis, points(record), number) for number, name, record in _measured(records)}
    axis.set(**labels)
    add_legend(figure, lines)
    return figure


@styled
def draw_confusion(name: str, record: Mapping[str, Any]) -> Figure:
    """Draw what the images of each class were taken for, in percent of the class.

    Args:
        name: of the model.
        record: of ``accuracy``, with ``confusion``.

    Returns:
        The figure; with names and numbers where there is room for them.
    """
    counts = np.array(record["confusion"], dtype=float)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(shares)
    figure = panel(heading("confusion", name), 4.4, 4.2)
    axis = figure.subplots()
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.imshow(shares, cmap="viridis", vmin=0, vmax=100, interpolation="none")
    axis.set(xlabel="taken for", ylabel="label")
    if size <= _MOST_NAMES:
        names = shortened(record.get("classes") or map(str, range(size)), 16)
        axis.set_xticks(range(size), names, rotation=90, fontsize=8)
        axis.set_yticks(range(size), names, fontsize=8)
    if size <= 12:
        for row, column in np.ndindex(size, size):
            colour = "#101010" if shares[row, column] > 60 else "#f4f4f4"
            text = f"{shares[row, column]:.0f}"
            if counts[row, column]:
                axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
    return figure


@styled
def draw_reliability(name: str, record: Mapping[str, Any]) -> Figure:
    """Draw accuracy against confidence, bin by bin, with the gap between them, above the histogram of confidence.

    Args:
        name: of the model.
        record: of ``calibration``.
    """
    bins = [row for row in record["rows"] if row["count"]]
    lower, upper, accuracy, confidence, count = (
        np.array([row[key] for row in bins], dtype=float)
        for key in ("lower", "upper", "accuracy", "confidence", "count")
    )
    middle, width = (lower + upper) / 2, upper - lower
    figure = panel(heading("reliability", name), height=3.6)
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    right = diagram.bar(middle, accuracy, width * 0.96, color=COLOURS[0], alpha=0.6)
    gap = diagram.bar(
        middle,
        confidence - accuracy,
        width * 0.96,
        bottom=accuracy,
        fill=False,
        edgecolor=COLOURS[3],
        hatch="////",
        linewidth=0.8,
    )
    (ideal,) = diagram.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
    diagram.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    text = "\n".join(
        f"{label} {record[key]:.3f}"
        for label, key in (("ECE", "ece"), ("mean confidence", "confidence"), ("accuracy", "accuracy"))
    )
    diagram.text(0.03, 0.97, text, transform=diagram.transAxes, va="top", fontsize=8.5)
    histogram.bar(middle, count / count.sum(), width * 0.96, color=COLOURS[9])
    histogram.axvline(record["confidence"], color=COLOURS[3], linestyle="--")
    histogram.axvline(record["accuracy"], color=COLOURS[0], linestyle="--")
    histogram.set(xlabel="confidence", ylabel="share")
    add_legend(figure, {"accuracy": right, "from accuracy to confidence": gap, "perfectly calibrated": ideal})
    return figure


@styled
def draw_budget(records: Records, space: str) -> Figure:
    """Draw accuracy against the budget of an attack: FGSM solid, PGD dashed.

    Args:
        records: of ``adversarial``.
        space: in which the budget counts, ``pixel`` or ``normalized``.
    """
    figure = panel(f"under attack, budget in {visible(space)} space")
    axis = figure.subplots()
    lines: dict[str, Any] = {}
    styles: dict[str, Any] = {}
    for number, name, record in _measured(records):
        for attack, style in (("fgsm", "-"), ("pgd", "--")):
            rows = [row for row in record["rows"] if (row["attack"], row["space"]) == (attack, space)]
            if rows:
                points = sorted((row["budget"], row["top1"]) for row in rows)
                line = plot_curve(axis, points, number, linestyle=style)
                lines.setdefault(name, line)
                styles[attack.upper()] = line_sample(style)
    count_whole(axis)
    axis.set(xlabel="budget (1/255)", ylabel="top-1 accuracy (%)", ylim=(0, 100))
    add_legend(figure, {**lines, **styles})
    return figure


@styled
def draw_occlusion(records: Records, where: str) -> Figure:
    """Draw the error against the side of the hole.

    Args:
        records: of ``occlusion``.
        where: what is hidden, ``centre`` or ``boundary``.
    """
    return _curves(
        f"{where} hidden",
        records,
        lambda record: ((row["side"], row["top1_error"]) for row in record["rows"] if row["where"] == where),
        xlabel="side of the hole (pixels)",
        ylabel="top-1 error (%)",
        ylim=(0, 100),
    )


@styled
def draw_in_between(records: Records, mix: str) -> Figure:
    """Draw how often neither class is named, against the share of the first image.

    Args:
        records: of ``in_between``.
        mix: what mixes the two images, ``mixup`` or ``cutmix``.
    """
    return _curves(
        f"between two classes, {mix}",
        records,
        lambda record: ((row["lam"], row["error"]) for row in record["rows"] if row["mix"] == mix),
        xlabel="share of the first image",
        ylabel="neither class named (%)",
        xlim=(0, 1),
        ylim=(0, None),
    )


@styled
def draw_ood(name: str, record: Mapping[str, Any]) -> Figure:
    """Draw the scores of the images of the dataset and of each other set, and the threshold that keeps 95 %.

    Args:
        name: of the model.
        record: of ``ood``.
    """
    histogram = record["histogram"]
    figure = panel(heading("scores", name), height=3.0)
    axis = figure.subplots()
    style: dict[str, Any] = {"fill": True, "color": COLOURS[9], "alpha": 0.45, "linewidth": 0}
    entries: dict[str, Any] = {
        f"{record['dataset']} (the dataset)": axis.stairs(histogram["inside"], histogram["edges"], **style)
    }
    for number, (other, shares) in enumerate(histogram["outside"].items()):
        style = {"color": COLOURS[number % 9], "linestyle": ("-", "--")[number // 9 % 2], "linewidth": 1.4}
        entries[other] = axis.stairs(shares, histogram["edges"], **style)
    entries["threshold that keeps 95 %"] = axis.axvline(record["threshold"], color=INK, linestyle=":")
    axis.set(xlabel="score: log-odds of the top probability", ylabel="share of the set")
    add_legend(figure, entries)
    return figure


@styled
def draw_corruptions(records: Records) -> Figure:
    """Draw the error under each corruption, as the mean over its severities.

    Args:
        records: of ``corruption``.
    """
    measured = _measured(records)
    kinds = list(dict.fromkeys(row["corruption"] for *_, record in measured for row in record["rows"]))
    thick = 0.8 / len(measured)
    figure = panel("error under corruption", height=0.9 + len(kinds) * max(0.22, 0.11 * len(measured) + 0.05))
    axis = figure.subplots()
    axis.grid(visible=False, axis="y")
    bars = {}
    for place, (number, name, record) in enumerate(measured):
        errors = [_mean(row["error"] for row in record["rows"] if row["corruption"] == kind) for kind in kinds]
        places = np.arange(len(kinds)) + (place - (len(measured) - 1) / 2) * thick
        bars[name] = axis.barh(places, errors, thick * 0.92, color=COLOURS[number % len(COLOURS)])
    axis.set_yticks(range(len(kinds)), shortened(kinds, 20))
    axis.invert_yaxis()
    axis.set(xlabel="top-1 error (%), mean over severities", xlim=(0, 100))
    add_legend(figure, bars)
    return figure


@styled
def draw_severity(records: Records) -> Figure:
    """Draw the error against the severity, as the mean over the corruptions; severity 0 is the clean images.

    Args:
        records: of ``corruption``.
    """
    figure = _curves(
        "error against severity",
        records,
        _severities,
        xlabel="severity",
        ylabel="top-1 error (%), mean",
        ylim=(0, 100),
    )
    count_whole(figure.axes[0])
    return figure


def _severities(record: Mapping[str, Any]) -> Points:
    rows = record["rows"]
    yield 0, record["clean_error"]
    for severity in sorted({row["severity"] for row in rows}):
        yield severity, _mean(row["error"] for row in rows if row["severity"] == severity)


def _mean(values: Iterable[float]) -> float:
    """Return the mean, NaN of nothing."""
    every = list(values)
    return sum(every) / len(every) if every else float("nan")


@styled
def draw_box_accuracy(records: Records) -> Figure:
    """Draw how many boxes are right against the threshold of the map; 0.15 is the paper's.

    Args:
        records: of ``localization``.
    """
    figure = _curves(
        "boxes that are right",
        records,
        lambda record: ((row["threshold"], row["gt_known"]) for row in record["rows"]),
        xlabel="threshold of the map",
        ylabel="GT-known localization (%)",
        xlim=(0, 1),
        ylim=(0, 100),
    )
    (axis,) = figure.axes
    for line in list(axis.lines):
        line.set_marker("")
        x, y = (np.asarray(values) for values in line.get_data())
        best = int(np.argmax(y))
        axis.plot(x[best], y[best], color=line.get_color(), marker="o", markersize=6)
    axis.axvline(0.15, color=INK, linestyle=":", linewidth=1)
    axis.annotate(
        "0.15", (0.15, 1), xycoords=("data", "axes fraction"), xytext=(2, -9), textcoords="offset points", fontsize=8
    )
    return figure


@styled
def draw_training(runs: Mapping[str, Sequence[Mapping[str, Any]] | None], *, loss: bool = False) -> Figure:
    """Draw accuracy, or loss, over the epochs of several runs.

    Args:
        runs: the lines of ``metrics.jsonl``, by the model's name; ``None`` keeps the colour of one without a run.
        loss: draw the cross-entropy of the validation images, and of the training batches, mixed as they are;
            otherwise the accuracy on the validation images and on training images without mixing.
    """
    kinds = (
        {"validation": ("val_loss", "-"), "training, as mixed": ("train_loss", "--")}
        if loss
        else {"validation": ("top1", "-"), "training images, unmixed": ("clean_train_top1", "--")}
    )
    figure = panel("loss over the epochs" if loss else "accuracy over the epochs")
    axis = figure.subplots()
    lines: dict[str, Any] = {}
    styles = {kind: line_sample(style) for kind, (_, style) in kinds.items()}
    for number, name, metrics in _measured(with_short_names(runs)):
        for key, style in kinds.values():
            points = [(line["epoch"], line[key]) for line in metrics if line.get(key) is not None]
            if points:
                lines.setdefault(name, plot_curve(axis, points, number, linestyle=style, markersize=2))
    axis.set(xlabel="epoch", ylabel="cross-entropy (nats)" if loss else "top-1 accuracy (%)")
    count_whole(axis)
    add_legend(figure, {**lines, **styles})
    return figure


def draw_each(picture: str, draw: Callable[[str, Mapping[str, Any]], Figure], records: Records) -> dict[str, Figure]:
    """Draw one picture a model.

    Returns:
        By the name of the picture, with a number behind it where there are several.
    """
    figures = [draw(name, record) for _, name, record in _measured(records)]
    return {picture if len(figures) == 1 else f"{picture}_{n}": figure for n, figure in enumerate(figures, start=1)}


def draw_confusions(records: Records) -> dict[str, Figure]:
    """Draw the confusion of those models of which it is known, which it is not of a run that was not evaluated."""
    shown = {name: record for _, name, record in _measured(records) if record.get("confusion")}
    return draw_each("confusion", draw_confusion, shown)


def draw_budgets(records: Records) -> dict[str, Figure]:
    """Draw accuracy against the budget in each space that there is."""
    spaces = dict.fromkeys(row["space"] for *_, record in _measured(records) for row in record["rows"])
    return {f"budget_{space}": draw_budget(records, space) for space in spaces}
