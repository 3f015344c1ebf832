"""Pictures: mixed images with their boxes and shares, and the curves of a run. matplotlib is imported inside."""

from __future__ import annotations

import inspect
from colorsys import hsv_to_rgb
from dataclasses import fields, is_dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cutmix_zoo.errors import UserError
from cutmix_zoo.mixing import IdentityPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from cutmix_zoo.mixing import MixMethod, MixPlan
    from cutmix_zoo.mixing.method import Context


_VALIDATION, _UNMIXED, _MIXED = "validation", "training images, unmixed", "training batches, mixed"
_COLOURS = {_VALIDATION: "tab:blue", _UNMIXED: "tab:green", _MIXED: "tab:orange"}


def _figure(width: float, height: float) -> Figure:
    """Make a figure that needs no display and leaves pyplot's global state alone."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, file: Path, *, most_pixels: float = float("inf")) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=min(120, most_pixels / max(figure.get_size_inches())))
    except (OSError, ValueError) as error:
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
        UserError: if there is no image to show, matplotlib is not installed or does not know the file's ending, or the
            file cannot be written.
    """
    count = min(len(images), rows * columns)
    if count < 1:
        raise UserError(
            f"a picture needs at least one image, got {len(images)} images for {rows} rows of {columns}: give a batch "
            "that is not empty, and rows and columns of at least 1"
        )
    columns = min(columns, count)
    figure = _figure(2.0 * columns, 2.25 * -(-count // columns) + 0.5)
    axes = figure.subplots(-(-count // columns), columns, squeeze=False).ravel()
    for i, axis in enumerate(axes):
        axis.axis("off")
        if i < count:
            _draw_image(axis, images[i])
            axis.set_title(_caption(plan, i, labels, class_names), fontsize=9)
            _outline(axis, plan.boxes[i].tolist())
    figure.suptitle(title, wrap=True)
    _save(figure, file)


def _draw_image(axis: Axes, image: Tensor) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _caption(plan: MixPlan, i: int, labels: Tensor, class_names: Sequence[str]) -> str:
    """Say what a mixed image is made of, one line a class, the own label first."""
    shares: dict[str, float] = {}
    for source, share in _label_shares(plan, i).items():
        name = class_names[int(labels[source])]
        shares[name] = shares.get(name, 0.0) + share
    return "\n".join(f"{name} {share:.2f}" for name, share in shares.items())


def _label_shares(plan: MixPlan, i: int) -> dict[int, float]:
    """Say how much the label of each source counts in the target of image i, without those that would read 0.00."""
    shares: dict[int, float] = {}
    for source, share in zip(plan.sources[i].tolist(), plan.label_shares[i].tolist(), strict=True):
        shares[source] = shares.get(source, 0.0) + share
    return {source: share for source, share in shares.items() if share >= 0.005}


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
        UserError: if matplotlib is not installed or does not know the file's ending, or the file cannot be written.
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
    figure.suptitle(title, wrap=True)
    _save(figure, file)


def _curve(axis: Axes, metrics: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    points = [(line["epoch"], line[key]) for line in metrics if line.get(key) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label, color=_COLOURS[label])


_SIDE, _CELL, _LEFT, _LINE, _GAP = 0.8, 1.15, 3.4, 0.13, 0.16
"""Of the gallery, in inches: an image, a column, what stands beside the images, a line of text, between two rows."""

_MOST_PIXELS = 2400
"""A side of the gallery at most."""


class _Row(NamedTuple):
    """A row of the gallery: images, and what stands beside them."""

    name: str
    what: list[str]
    settings: list[str]
    images: Tensor
    plan: MixPlan

    @property
    def height(self) -> float:
        """Of the row in inches."""
        below = max(len(_label_shares(self.plan, i)) for i in range(len(self.images)))
        beside = 1.5 + len(self.what) + len(self.settings)
        return max(_SIDE + below * _LINE, beside * _LINE) + _GAP


def draw_gallery(
    images: Tensor, names: Sequence[str], mixes: Mapping[str, MixMethod], file: Path, *, about: str = ""
) -> None:
    """Draw what each of several methods makes of the same images: one row a method, below the unmixed images.

    Each image gets a tint of its own, its background as well, so that one sees whose every pixel is. Under a mixed
    image stands what its target is made of, in the same tints. The plan that is shown is the first that mixes.

    Args:
        images: grey images (B, H, W) uint8, at least two.
        names: what each of them shows, in a word or two.
        mixes: methods by their names.
        file: the picture to write; its ending names the format.
        about: a sentence that says what the images are.

    Raises:
        UserError: if matplotlib is not installed or does not know the file's ending, or the file cannot be written.
    """
    tinted, inks = _tint(images)
    about = (
        f"{about} Each has a tint of its own here, to show from which image a pixel comes. Under a mixed image: how "
        "much each label counts in its target. Schedules are drawn at three quarters of a run."
    )
    rows = [_Row("unmixed", _lines(about), [], tinted, IdentityPlan(*images.shape))]
    for name, mix in mixes.items():
        plan = _first_that_mixes(mix, tinted)
        what = (inspect.getdoc(type(mix)) or "").partition("\n")[0]
        rows.append(_Row(name, _lines(what), _lines(changed_settings(mix)), plan.apply(tinted), plan))
    top = 0.6
    figure = _figure(_LEFT + _CELL * len(images), top + sum(row.height for row in rows))
    figure.set_layout_engine("none")  # every place is known
    _write(figure, _GAP, 0.2, "The mixing methods of cutmix_zoo", fontsize=13, weight="bold")
    for row in rows:
        _draw_row(figure, row, top, names, inks)
        top += row.height
    _save(figure, file, most_pixels=_MOST_PIXELS)


def _lines(text: str) -> list[str]:
    return wrap(text, 46)


def _tint(images: Tensor) -> tuple[Tensor, list[Any]]:
    """Give each grey image a hue, the paler the whiter: (B, 3, H, W) uint8, and the colour of its black."""
    hues = [number / len(images) for number in range(len(images))]
    dark, pale = (torch.tensor([hsv_to_rgb(hue, *rest) for hue in hues]) for rest in ((0.9, 0.55), (0.25, 1.0)))
    tinted = torch.lerp(dark[:, :, None, None], pale[:, :, None, None], images[:, None] / 255)
    return (255 * tinted).round().to(torch.uint8), dark.tolist()


def _first_that_mixes(mix: MixMethod, images: Tensor) -> MixPlan:
    """Draw until something is mixed, with all that a method may ask for; identity if a hundred draws mix nothing."""
    size, _, height, width = images.shape
    generator = torch.Generator().manual_seed(0)
    context: Context = {"progress": 0.75, "images": images, "map_sizes": ((height, width),) * 5}
    plans = (mix.draw(size, height, width, generator=generator, **context) for _ in range(100))
    return next((plan for plan in plans if not isinstance(plan, IdentityPlan)), IdentityPlan(size, height, width))


def changed_settings(value: object) -> str:
    """Write a mixing method as the Python that makes it, without the settings that are the default.

    Example:
        >>> from cutmix_zoo.mixing import CutMix
        >>> changed_settings(CutMix(alpha=1.0, prob=0.5))
        'CutMix(prob=0.5)'
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(changed_settings, value))}{',' * (len(value) == 1)})"
    if not is_dataclass(value):
        return repr(value)
    values = {field.name: (getattr(value, field.name), field.default) for field in fields(value)}
    given = [f"{name}={changed_settings(item)}" for name, (item, default) in values.items() if item != default]
    return f"{type(value).__name__}({', '.join(given)})"


def _draw_row(figure: Figure, row: _Row, top: float, names: Sequence[str], inks: Sequence[Any]) -> None:
    """Draw a row, ``top`` inches below the figure's upper edge."""
    _write(figure, _GAP, top, row.name, fontsize=10, weight="bold")
    for number, line in enumerate(row.what, start=1):
        _write(figure, _GAP, top + (number + 0.5) * _LINE, line)
    for number, line in enumerate(row.settings, start=1 + len(row.what)):
        _write(figure, _GAP, top + (number + 0.5) * _LINE, line, fontsize=6, family="monospace")
    width, height = figure.get_size_inches()
    for i, image in enumerate(row.images):
        left = _LEFT + _CELL * i
        axis = figure.add_axes((left / width, 1 - (top + _SIDE) / height, _SIDE / width, _SIDE / height))
        axis.axis("off")
        _draw_image(axis, image)
        below = top + _SIDE + 0.03
        for source, share in _label_shares(row.plan, i).items():
            text = names[source] if isinstance(row.plan, IdentityPlan) else f"{names[source]} {share:.2f}"
            _write(figure, left + _SIDE / 2, below, text, color=inks[source], ha="center")
            below += _LINE


def _write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    """Write a line of text, with its place in inches from the figure's upper left corner."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, **{"fontsize": 7, "va": "top", **style})
