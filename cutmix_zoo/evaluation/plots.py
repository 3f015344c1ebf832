"""What the suites found, as pictures: several models in one panel, small enough for a phone. matplotlib is inside."""

from __future__ import annotations

from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from PIL import Image

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.names import shortened, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Records = Mapping[str, Mapping[str, Any] | None]
    """By the model's name: what a suite's JSON file holds; ``None`` keeps the colour of a model that has none."""
    Arrays = Mapping[str, NDArray[Any]]
    """What a suite's npz file holds."""
    Points = Iterable[tuple[float, float]]

P = ParamSpec("P")
T = TypeVar("T")

INK = "#010203"
"""The colour of text and axes: black to the eye, and to be found again by a page that has a colour of its own."""

COLOURS = ("#3a80d2", "#d2691e", "#2a9457", "#cf4458", "#8e66d0", "#15869a", "#a8703a", "#c9559a", "#7d7f22", "#7a7a7a")
"""Of the models in turn; each stands out from white and from nearly black."""

MARKERS = "os^Dv<>Pph"

_WIDTH, _HEIGHT = 3.7, 2.9  # of a panel, in inches
_TRUE, _PREDICTED = "#e8112d", "#12c23c"
_MOST_NAMES, _MOST_CAMS, _CAM_MODELS, _CAM_PIXELS = 30, 6, 4, 112
_LONGEST_NAME = 44  # in characters, of a model in a legend or a title
_LONGEST_CAM_NAME = 12  # above a map, where there are as many models as may be


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw, and write what was drawn, in the style of this file, whatever the user's matplotlibrc says.

    Raises:
        UserError: if matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install 'cutmix_zoo[plots]'") from error
    with mpl.rc_context():
        mpl.rcdefaults()
        inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
        mpl.rcParams.update(dict.fromkeys(inks, INK))
        mpl.rcParams.update(
            {
                "axes.axisbelow": True,
                "axes.facecolor": "none",
                "axes.grid": True,
                "axes.spines.right": False,
                "axes.spines.top": False,
                "figure.titlesize": 10,
                "font.sans-serif": ["DejaVu Sans"],
                "font.size": 9,
                "grid.alpha": 0.2,
                "legend.fontsize": 8.5,
                "legend.frameon": False,
                "lines.linewidth": 1.5,
                "lines.markersize": 4,
                "text.parse_math": False,  # a name may hold a dollar
            }
        )
        yield


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of this file."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plot_style():
            return draw(*args, **kwargs)

    return styled


def _figure(title: str, width: float = _WIDTH, height: float = _HEIGHT) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def _heading(what: str, name: str) -> str:
    """Write a name behind what is drawn of it, or below where the line would be too long for a figure."""
    (short,) = shortened([name], _LONGEST_NAME)
    return f"{what}: {short}" if len(what) + len(short) <= _LONGEST_NAME - 8 else f"{what}\n{short}"


def _with_short_names(of_models: Mapping[str, T], most: int = _LONGEST_NAME) -> dict[str, T]:
    return dict(zip(shortened(of_models, most), of_models.values(), strict=True))


def _explain(figure: Figure, entries: Mapping[str, Any]) -> None:
    """Put a legend below the panel, a line an entry."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.17 * len(entries))
    # a label that begins with an underscore would not be shown
    names = [f" {name}" if name.startswith("_") else name for name in shortened(entries, _LONGEST_NAME)]
    figure.legend(list(entries.values()), names, loc="outside lower left", labelspacing=0.2, borderpad=0.1)


def _look(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _plot(axis: Axes, points: Points, number: int, **style: Any) -> Any:
    """Draw the curve of a model, and return what stands for it in the legend."""
    x, y = zip(*points, strict=True)
    return axis.plot(x, y, **_look(number), **style)[0]


def _style_sample(linestyle: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, linestyle=linestyle)


def _measured(records: Mapping[str, Any]) -> list[tuple[int, str, Any]]:
    """List the models that have something, with the numbers that their looks hang on."""
    return [(number, name, record) for number, (name, record) in enumerate(records.items()) if record is not None]


def _curves(title: str, records: Records, points: Callable[[Mapping[str, Any]], Points], **labels: Any) -> Figure:
    """Draw one curve a model."""
    figure = _figure(title)
    axis = figure.subplots()
    lines = {name: _plot(axis, points(record), number) for number, name, record in _measured(records)}
    axis.set(**labels)
    _explain(figure, lines)
    return figure


@_styled
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
    figure = _figure(_heading("confusion", name), 4.4, 4.2)
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


@_styled
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
    figure = _figure(_heading("reliability", name), height=3.6)
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
    _explain(figure, {"accuracy": right, "from accuracy to confidence": gap, "perfectly calibrated": ideal})
    return figure


@_styled
def draw_budget(records: Records, space: str) -> Figure:
    """Draw accuracy against the budget of an attack: FGSM solid, PGD dashed.

    Args:
        records: of ``adversarial``.
        space: in which the budget counts, ``pixel`` or ``normalized``.
    """
    figure = _figure(f"under attack, budget in {visible(space)} space")
    axis = figure.subplots()
    lines: dict[str, Any] = {}
    styles: dict[str, Any] = {}
    for number, name, record in _measured(records):
        for attack, style in (("fgsm", "-"), ("pgd", "--")):
            rows = [row for row in record["rows"] if (row["attack"], row["space"]) == (attack, space)]
            if rows:
                points = sorted((row["budget"], row["top1"]) for row in rows)
                line = _plot(axis, points, number, linestyle=style)
                lines.setdefault(name, line)
                styles[attack.upper()] = _style_sample(style)
    _count_whole(axis)
    axis.set(xlabel="budget (1/255)", ylabel="top-1 accuracy (%)", ylim=(0, 100))
    _explain(figure, {**lines, **styles})
    return figure


@_styled
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


@_styled
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


@_styled
def draw_ood(name: str, record: Mapping[str, Any]) -> Figure:
    """Draw the scores of the images of the dataset and of each other set, and the threshold that keeps 95 %.

    Args:
        name: of the model.
        record: of ``ood``.
    """
    histogram = record["histogram"]
    figure = _figure(_heading("scores", name), height=3.0)
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
    _explain(figure, entries)
    return figure


@_styled
def draw_corruptions(records: Records) -> Figure:
    """Draw the error under each corruption, as the mean over its severities.

    Args:
        records: of ``corruption``.
    """
    measured = _measured(records)
    kinds = list(dict.fromkeys(row["corruption"] for *_, record in measured for row in record["rows"]))
    thick = 0.8 / len(measured)
    figure = _figure("error under corruption", height=0.9 + len(kinds) * max(0.22, 0.11 * len(measured) + 0.05))
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
    _explain(figure, bars)
    return figure


@_styled
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
    _count_whole(figure.axes[0])
    return figure


def _count_whole(axis: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _severities(record: Mapping[str, Any]) -> Points:
    rows = record["rows"]
    yield 0, record["clean_error"]
    for severity in sorted({row["severity"] for row in rows}):
        yield severity, _mean(row["error"] for row in rows if row["severity"] == severity)


def _mean(values: Iterable[float]) -> float:
    """Return the mean, NaN of nothing."""
    every = list(values)
    return sum(every) / len(every) if every else float("nan")


@_styled
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


@_styled
def draw_cams(arrays: Mapping[str, Arrays]) -> Figure:
    """Draw images, and over each the class activation map of every model: true box red, predicted box green.

    Args:
        arrays: of ``localization``, by the model's name.

    Returns:
        A row for each of the first images that all models have, six at most.
    """
    places = [{int(index): place for place, index in enumerate(each["index"])} for each in arrays.values()]
    common = [index for index in places[0] if all(index in place for place in places)][:_MOST_CAMS]
    columns = 1 + len(arrays)
    cell = min(1.3, 4.6 / columns)
    figure = _figure(
        "class activation maps\ntrue box red, predicted box green",
        cell * columns,
        (cell + 0.36) * max(len(common), 1) + 0.6,
    )
    grid = figure.subplots(max(len(common), 1), columns, squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    first = next(iter(arrays.values()))
    for row, index in zip(grid, common, strict=False):
        place = places[0][index]
        _show(row[0], first["images"][place])
        _outline(row[0], first["true_boxes"][place], _TRUE)
        for axis, each, place_of in zip(row[1:], arrays.values(), places, strict=True):
            _draw_cam(axis, {key: values[place_of[index]] for key, values in each.items()})
    for axis, name in zip(grid[0], shortened(("input", *arrays), round(13 * cell)), strict=True):
        axis.set_title(f"{name}\n{axis.get_title()}".rstrip(), fontsize=8)
    return figure


def _draw_cam(axis: Axes, sample: Mapping[str, Any]) -> None:
    import matplotlib as mpl

    image = sample["images"]
    size = image.shape[:-3:-1]  # PIL says (width, height)
    heat = Image.fromarray(sample["maps"].astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    colours = mpl.colormaps["turbo"](np.asarray(heat).clip(0, 1))[..., :3]
    _show(axis, (0.5 * image + 0.5 * 255 * colours.transpose(2, 0, 1)).astype(np.uint8))
    _outline(axis, sample["true_boxes"], _TRUE)
    _outline(axis, sample["predicted_boxes"], _PREDICTED)
    verdict = "right" if sample["labels"] == sample["predictions"] else "wrong"
    axis.set_title(f"IoU {sample['iou']:.2f}\nclass {verdict}", fontsize=8)


def _show(axis: Axes, image: NDArray[np.uint8]) -> None:
    """Show an image (C, H, W), made smaller if it is large, in its own coordinates."""
    _, height, width = image.shape
    picture = Image.fromarray(np.broadcast_to(image, (3, height, width)).transpose(1, 2, 0).copy())
    picture.thumbnail((_CAM_PIXELS, _CAM_PIXELS))
    axis.imshow(np.asarray(picture), extent=(0, width, height, 0), interpolation="none")


def _outline(axis: Axes, box: Sequence[float], colour: str) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    top, left, bottom, right = (float(edge) for edge in box)
    box_style: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": 1.5}
    edge = [withStroke(linewidth=3, foreground="#101010")]  # a map has all colours
    axis.add_patch(Rectangle((left, top), right - left, bottom - top, path_effects=edge, **box_style))


@_styled
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
    figure = _figure("loss over the epochs" if loss else "accuracy over the epochs")
    axis = figure.subplots()
    lines: dict[str, Any] = {}
    styles = {kind: _style_sample(style) for kind, (_, style) in kinds.items()}
    for number, name, metrics in _measured(_with_short_names(runs)):
        for key, style in kinds.values():
            points = [(line["epoch"], line[key]) for line in metrics if line.get(key) is not None]
            if points:
                lines.setdefault(name, _plot(axis, points, number, linestyle=style, markersize=2))
    axis.set(xlabel="epoch", ylabel="cross-entropy (nats)" if loss else "top-1 accuracy (%)")
    _count_whole(axis)
    _explain(figure, {**lines, **styles})
    return figure


def _each(picture: str, draw: Callable[[str, Mapping[str, Any]], Figure], records: Records) -> dict[str, Figure]:
    """Draw one picture a model."""
    figures = [draw(name, record) for _, name, record in _measured(records)]
    return {picture if len(figures) == 1 else f"{picture}_{n}": figure for n, figure in enumerate(figures, start=1)}


def _draw_accuracy(records: Records) -> dict[str, Figure]:
    shown = {name: record for _, name, record in _measured(records) if record.get("confusion")}
    return _each("confusion", draw_confusion, shown)


def _draw_adversarial(records: Records) -> dict[str, Figure]:
    spaces = dict.fromkeys(row["space"] for *_, record in _measured(records) for row in record["rows"])
    return {f"budget_{space}": draw_budget(records, space) for space in spaces}


_SUITES: dict[str, Callable[[Records], dict[str, Figure]]] = {
    "accuracy": _draw_accuracy,
    "calibration": lambda records: _each("reliability", draw_reliability, records),
    "localization": lambda records: {"box_accuracy": draw_box_accuracy(records)},
    "adversarial": _draw_adversarial,
    "occlusion": lambda records: {
        f"occlusion_{where}": draw_occlusion(records, where) for where in ("centre", "boundary")
    },
    "in_between": lambda records: {f"in_between_{mix}": draw_in_between(records, mix) for mix in ("mixup", "cutmix")},
    "ood": lambda records: _each("ood", draw_ood, records),
    "corruption": lambda records: {"corruptions": draw_corruptions(records), "severity": draw_severity(records)},
}


def draw_suite(suite: str, records: Records, arrays: Mapping[str, Arrays] | None = None) -> dict[str, Figure]:
    """Draw all pictures of a suite.

    Args:
        suite: its name.
        records: what was found, by the model's name; ``None`` keeps the colour of a model of which nothing was. At
            least one has something.
        arrays: what its npz files hold, by the model's name, where there are any.

    Returns:
        Figures by names that may be files' names; none for a suite without pictures.

    Raises:
        UserError: if matplotlib is not installed.
    """
    figures = _SUITES[suite](_with_short_names(records)) if suite in _SUITES else {}
    if suite == "localization" and arrays:
        if len(arrays) > _CAM_MODELS:
            arrays = _with_short_names(arrays, _LONGEST_CAM_NAME)
        parts = [list(arrays)[start : start + _CAM_MODELS] for start in range(0, len(arrays), _CAM_MODELS)]
        for number, names in enumerate(parts, start=1):
            key = "cams" if len(parts) == 1 else f"cams_{number}"
            figures[key] = draw_cams({name: arrays[name] for name in names})
    return figures


def load_arrays(file: Path) -> Arrays:
    """Read what an npz file holds; nothing in it is executed."""
    with file.open("rb") as stream, np.load(stream) as arrays:  # NumPy leaves a file open that is no archive
        return dict(arrays)


def save_plots(folder: Path, suite: str, record: Mapping[str, Any]) -> list[Path]:
    """Draw the pictures of a suite for one model, and write them into ``plots/``.

    Args:
        folder: where the suite's findings are; ``<suite>.npz`` is read from there, if there is one.
        suite: its name.
        record: what was found.

    Returns:
        The files written.

    Raises:
        UserError: if matplotlib is not installed.
    """
    name, npz = str(record["model"]), folder / f"{suite}.npz"
    arrays = {name: load_arrays(npz)} if npz.is_file() else None
    return save_figures(draw_suite(suite, {name: record}, arrays), folder / "plots")


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures, by their names, as PNG files into a folder, which is made if it is missing.

    Returns:
        The files written.
    """
    files = []
    for name, figure in figures.items():
        file = folder / f"{name}.png"
        folder.mkdir(parents=True, exist_ok=True)
        with plot_style():
            figure.savefig(file, dpi=150)
        files.append(file)
    return files
