import re
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from cutmix_zoo.evaluation.cam_plots import draw_cams
from cutmix_zoo.evaluation.figures import INK
from cutmix_zoo.evaluation.inline_svg import inline_svg
from cutmix_zoo.evaluation.plots import draw_occlusion
from tests.evaluation.synthetic_findings import make_arrays, make_record


@pytest.fixture(scope="module")
def figure() -> Figure:
    return draw_occlusion({"<model> & co": make_record("occlusion")}, "centre")


@pytest.fixture(scope="module")
def svg(figure: Figure) -> str:
    return inline_svg(figure, "first")


def test_it_is_one_element_that_keeps_its_shape(svg: str, figure: Figure) -> None:
    root = ET.fromstring(svg)
    assert root.tag == "svg"
    width, height = figure.get_size_inches()
    assert root.get("viewBox") == f"0 0 {72 * width:g} {72 * height:g}"
    assert (int(root.attrib["width"]), int(root.attrib["height"])) == (round(96 * width), round(96 * height))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "centre hidden"


def test_text_stays_text_in_the_colour_and_font_of_the_page(svg: str) -> None:
    texts = {"".join(text.itertext()): text for text in ET.fromstring(svg).iter("text")}
    assert "top-1 error (%)" in texts
    assert "<model> & co" in texts
    for text in texts.values():
        assert "fill: currentColor" in text.attrib["style"]
        assert "system-ui" in text.attrib["style"]
        assert "DejaVu" not in text.attrib["style"]
    assert INK not in svg


def test_nothing_holds_for_the_rest_of_the_page(svg: str) -> None:
    assert not list(ET.fromstring(svg).iter("style"))
    assert "metadata" not in svg
    assert "http" not in svg


def test_identifiers_are_those_that_are_used_and_differ_between_figures(svg: str, figure: Figure) -> None:
    def identifiers(text: str) -> set[str]:
        return set(re.findall(r'id="([^"]+)"', text))

    other = inline_svg(figure, "second")
    assert identifiers(svg)
    assert not identifiers(svg) & identifiers(other)
    assert identifiers(svg) == set(re.findall(r"#([a-z0-9]{8,})", svg))


def test_the_same_figure_gives_the_same_text_whatever_the_users_style(figure: Figure, svg: str) -> None:
    with mpl.rc_context({"svg.fonttype": "path", "font.sans-serif": ["Times"]}):
        assert inline_svg(figure, "first") == svg


def test_images_stand_in_the_text_pixel_by_pixel() -> None:
    svg = inline_svg(draw_cams({"model": make_arrays(count=1)}), "cams")
    assert ET.fromstring(svg).get("aria-label") == "class activation maps: true box red, predicted box green"
    images = list(ET.fromstring(svg).iter("image"))
    assert len(images) == 2
    for image in images:
        assert image.attrib["href"].startswith("data:image/png;base64,")
        assert "pixelated" in image.attrib["style"]
