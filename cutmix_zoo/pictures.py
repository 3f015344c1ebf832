"""Pictures: mixed images with their boxes and shares, and the curves of a run. matplotlib is imported inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from cutmix_zoo.mixing import MixPlan


_VALIDATION, _UNMIXED, _MIXED = "validation", "training images, unmixed", "training batches, mixed"
_COLOURS = {_VALIDATION: "tab:blue", _UNMIXED: "tab:green", _MIXED: "tab:orange"}


def _figure(width: float, height: float) -> Figure:
    """Make a figure that needs no display and leaves pyplot's global state alone."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install 'cutmix_zoo[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(file, dpi=120)
    except ValueError as error:
        raise UserError(f"cannot write {file}: {error}") from error


def draw_mixed(
    images: Tensor,
    labels: Tensor,
    plan: MixPlan,
    class_names: Sequence[str],
    file: Path,
    *,
    title: str = "",
    columns: int = 6,
    rows: int = 4,
) -> None:
    """Draw a grid of mixed images, each with its box and the label names and shares of its target.

    Args:
        images: mixed images (B, C, H, W) uint8, with one or three channels.
        labels: (B,) int64, the labels of the images before mixing.
        plan: what mixed them.
        class_names: label names, one a class.
        file: the picture to write; its ending names the format.
        title: a line above the grid.
        columns: images a row.
        rows: rows at most; the first ``rows * columns`` images are shown.

    Raises:
        UserError: if matplotlib is not installed, or does not know the file's ending.
    """
    count = min(len(images), rows * columns)
    columns = min(columns, count)
    figure = _figure(2.0 * columns, 2.25 * -(-count // columns) + 0.5)
    axes = figure.subplots(-(-count // columns), columns, squeeze=False).ravel()
    for i, axis in enumerate(axes):
        axis.axis("off")
        if i < count:
            _draw_image(axis, images[i])
            axis.set_title(_caption(plan, i, labels, class_names), fontsize=9)
            _outline(axis, plan.boxes[i].tolist())
    figure.suptitle(title)
    _save(figure, file)


def _draw_image(axis: Axes, image: Tensor) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _caption(plan: MixPlan, i: int, labels: Tensor, class_names: Sequence[str]) -> str:
    """Say what a mixed image is made of, one line a source, the own label first."""
    shares: dict[str, float] = {}
    for source, share in zip(plan.sources[i].tolist(), plan.label_shares[i].tolist(), strict=True):
        name = class_names[int(labels[source])]
        shares[name] = shares.get(name, 0.0) + share
    return "\n".join(f"{name} {share:.2f}" for name, share in shares.items() if share > 0)


def _outline(axis: Axes, box: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle

    top, left, bottom, right = box
    if bottom > top and right > left:
        # pixel centres are at whole numbers, so the edge of a half-open box is half a pixel before them
        corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
        axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#ff6600", linewidth=1.5, clip_on=False))


def draw_curves(metrics: Sequence[Mapping[str, Any]], file: Path, *, title: str = "") -> None:
    """Draw accuracy and loss over the epochs of a run.

    Args:
        metrics: the lines of ``metrics.jsonl``.
        file: the picture to write; its ending names the format.
        title: a line above the curves.

    Raises:
        UserError: if matplotlib is not installed, or does not know the file's ending.
    """
    figure = _figure(10, 4.2)
    accuracy, loss = figure.subplots(1, 2)
    _curve(accuracy, metrics, "top1", _VALIDATION)
    _curve(accuracy, metrics, "clean_train_top1", _UNMIXED)
    _curve(accuracy, metrics, "mixed_top1", _MIXED)
    _curve(loss, metrics, "val_loss", _VALIDATION)
    _curve(loss, metrics, "train_loss", _MIXED)
    for axis, name in ((accuracy, "top-1 accuracy (%)"), (loss, "cross-entropy (nats)")):
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    _save(figure, file)


def _curve(axis: Axes, metrics: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    points = [(line["epoch"], line[key]) for line in metrics if line.get(key) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label, color=_COLOURS[label])
