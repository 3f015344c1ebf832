"""Class activation maps as a picture: a row an image, a column a model. matplotlib is inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cutmix_zoo.evaluation.figures import panel, styled, with_short_names
from cutmix_zoo.evaluation.names import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from cutmix_zoo.evaluation.findings import Arrays

_TRUE, _PREDICTED = "#e8112d", "#12c23c"
_MOST_IMAGES, _MOST_MODELS, _PIXELS = 6, 4, 112
_LONGEST_NAME = 12  # above a map, where there are as many models as may be


@styled
def draw_cams(arrays: Mapping[str, Arrays]) -> Figure:
    """Draw images, and over each the class activation map of every model: true box red, predicted box green.

    Args:
        arrays: of ``localization``, by the model's name.

    Returns:
        A row for each of the first images that all models have, six at most.
    """
    places = [{int(index): place for place, index in enumerate(each["index"])} for each in arrays.values()]
    common = [index for index in places[0] if all(index in place for place in places)][:_MOST_IMAGES]
    columns = 1 + len(arrays)
    cell = min(1.3, 4.6 / columns)
    figure = panel(
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
    picture.thumbnail((_PIXELS, _PIXELS))
    axis.imshow(np.asarray(picture), extent=(0, width, height, 0), interpolation="none")


def _outline(axis: Axes, box: Sequence[float], colour: str) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    top, left, bottom, right = (float(edge) for edge in box)
    box_style: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": 1.5}
    edge = [withStroke(linewidth=3, foreground="#101010")]  # a map has all colours
    axis.add_patch(Rectangle((left, top), right - left, bottom - top, path_effects=edge, **box_style))


def draw_all_cams(arrays: Mapping[str, Arrays]) -> dict[str, Figure]:
    """Draw the maps of however many models, four in a figure.

    Args:
        arrays: of ``localization``, by the model's name.

    Returns:
        Figures by names that may be files' names.
    """
    if len(arrays) > _MOST_MODELS:
        arrays = with_short_names(arrays, _LONGEST_NAME)
    parts = [list(arrays)[start : start + _MOST_MODELS] for start in range(0, len(arrays), _MOST_MODELS)]
    return {
        "cams" if len(parts) == 1 else f"cams_{number}": draw_cams({name: arrays[name] for name in names})
        for number, names in enumerate(parts, start=1)
    }
