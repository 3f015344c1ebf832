"""A matplotlib figure as SVG that stands in a page: its text and axes take the page's colour."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from cutmix_zoo.evaluation.figures import INK, plot_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS_TO_PIXELS = 96 / 72  # CSS pixels


def inline_svg(figure: Figure, key: str) -> str:
    """Turn a figure into an ``<svg>`` element for an HTML page.

    What is drawn in :data:`~cutmix_zoo.evaluation.figures.INK` takes the colour of the text around it, text stays text
    in the reader's own font, and the background is left out.

    Args:
        figure: its title becomes the picture's label for those who do not see it.
        key: unlike those of the page's other figures, as identifiers within the SVG hang on it.

    Returns:
        The element; the same for the same figure and key.
    """
    import matplotlib as mpl

    text = io.StringIO()
    with plot_style(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(text, format="svg", facecolor="none", metadata={"Date": None})
    root = ET.fromstring(text.getvalue())
    for element in list(root):
        if element.tag.endswith("}metadata"):
            root.remove(element)
    _plain_names(root)
    for defs in root.iter("defs"):
        for style in defs.findall("style"):  # it would hold for the whole page
            defs.remove(style)
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text.getvalue()))
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    width, height = figure.get_size_inches() * 72 * _POINTS_TO_PIXELS
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width:.0f}",
        "height": f"{height:.0f}",
        "role": "img",
        "aria-label": figure.get_suptitle().replace("\n", ": "),
    }
    svg = re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode"))
    return svg.replace(INK, "currentColor").replace("'DejaVu Sans'", "system-ui")


def _plain_names(root: ET.Element) -> None:
    """Take the namespaces away, which HTML knows by itself."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
