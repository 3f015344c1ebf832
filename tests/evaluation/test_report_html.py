from typing import Any

import pytest

from cutmix_zoo.evaluation import report_html as html
from tests.evaluation.page import Markup

NASTY = "<script>alert('1')</script> & \"quoted\""

MAKERS: dict[str, Any] = {
    "paragraph": html.paragraph,
    "bullets": lambda text: html.bullets([text]),
    "heading": html.heading,
    "preformatted": html.preformatted,
    "folded": lambda text: html.folded(text, ""),
    "cell": html.cell,
    "beside": lambda text: html.cell("1", beside=text),
    "strong": lambda text: html.cell(text, strong=True),
    "text cell": html.text_cell,
    "table": lambda text: html.table(text, [text], [(text, [])]),
    "page": lambda text: html.page(text, ""),
}


@pytest.mark.parametrize("name", MAKERS)
def test_text_is_shown_and_never_becomes_markup(name: str) -> None:
    read = Markup(MAKERS[name](NASTY))
    assert "script" not in read.tags
    assert NASTY in read.text


@pytest.mark.parametrize("name", MAKERS)
def test_control_characters_are_shown(name: str) -> None:
    text = MAKERS[name]("a\x00\x1b\x9b\udcff\uffffb")
    assert r"a\x00\x1b\x9b\udcff\uffffb" in Markup(text).text


def test_lines_stay_lines_where_text_is_shown_as_it_is() -> None:
    assert html.preformatted("a: <1>\nb:\t2") == "<pre>a: &lt;1&gt;\nb:\\t2</pre>"


def test_a_label_keeps_its_quotes() -> None:
    read = Markup(html.table(NASTY, [], []))
    assert ("aria-label", NASTY) in read.attributes


def test_a_table_has_its_headings_names_and_cells_in_order() -> None:
    read = Markup(html.table("about", ["name", "a"], [("x", [html.cell("1", beside="+1", strong=True)])]))
    tags = ["div", "table", "thead", "tr", "th", "th", "tbody", "tr", "th", "td", "b", "small"]
    assert read.tags == tags
    assert read.text == "nameax1+1"


def test_long_names_may_go_on_in_the_next_line() -> None:
    assert html.cell("a_b/c.d") == "<td>a_<wbr>b/<wbr>c.<wbr>d</td>"
    assert html.cell("93.74") == "<td>93.74</td>"


def test_a_fold_is_open_where_asked_for() -> None:
    assert html.folded("a", "<p>b</p>") == "<details><summary>a</summary><p>b</p></details>"
    assert html.folded("a", "", unfolded=True).startswith("<details open>")


def test_figures_stand_in_one_box_and_no_figures_in_none() -> None:
    assert Markup(html.figures(["<svg></svg>"] * 2)).tags == ["div", "figure", "svg", "figure", "svg"]
    assert html.figures([]) == ""


def test_a_page_is_for_phones_loads_nothing_and_runs_nothing() -> None:
    page = html.page("title", "<p>text</p>")
    read = Markup(page)
    assert page.startswith("<!DOCTYPE html>")
    assert ("content", "width=device-width, initial-scale=1") in read.attributes
    policy = next(value for _, value in read.attributes if "default-src" in value)
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert "prefers-color-scheme: dark" in page
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
