"""What a browser makes of a report: it is laid out for laptops and phones, loads nothing and complains of nothing."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cutmix_zoo.evaluation.report import report
from cutmix_zoo.evaluation.suites import SUITES
from tests.evaluation.synthetic_findings import write_evaluation, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

WIDTHS = (360, 1280)
FIGURES = 18  # of all suites for two models, and of their training

# a window of the browser is at least 500 pixels wide, a frame may be as narrow as a phone
_MEASURE = """
<script>
const found = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, root = page.documentElement;
  for (const part of page.querySelectorAll("details")) part.open = true;
  const outside = [...page.querySelectorAll("svg, table, pre, p, h1")].filter(each => {
    const box = each.closest(".scroll") || each;
    return box.getBoundingClientRect().right > root.clientWidth + 0.5;
  });
  found[frame.width] = {
    scroll: root.scrollWidth,
    width: frame.contentWindow.innerWidth,
    tables: page.querySelectorAll("table").length,
    figures: [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width),
    outside: outside.map(each => each.outerHTML.slice(0, 200)),
    ink: getComputedStyle(page.body).color,
    text: getComputedStyle(page.querySelector("svg text")).fill,
    font: Math.min(...[...page.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height)),
  };
}
document.title = JSON.stringify(found);
</script>
"""


def _run(url: Path, folder: Path, *flags: str) -> tuple[str, str]:
    """Load a page without a window; return the document as it stands then, and what the browser logged."""
    assert CHROMIUM is not None
    arguments = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}", "--no-first-run"),
        *("--disable-background-networking", "--disable-sync", "--window-size=1400,1000", *flags, "--dump-dom"),
    ]
    done = subprocess.run([*arguments, url.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    long = f"<img src=x onerror=console.error(1)>{'_a_long_name' * 8}"
    folders = [
        write_evaluation(write_run(folder / "a", mix="null"), "baseline", 0.8, tuple(SUITES)),
        write_evaluation(write_run(folder / "b"), long, 0.9, tuple(SUITES)),
    ]
    report(folders, folder / "report.html")
    return folder / "report.html"


def _measure(page: Path, folder: Path, *flags: str) -> dict[str, dict[str, Any]]:
    source = html.escape(page.read_text(encoding="utf-8"))
    frames = "".join(f'<iframe width="{width}" height="800" srcdoc="{source}"></iframe>' for width in WIDTHS)
    around = folder / "around.html"
    script = _MEASURE.replace("<script>", "<script>onload = () => {").replace("</script>", "};</script>")
    around.write_text(f"<!DOCTYPE html><title></title>{frames}{script}", encoding="utf-8")
    document, _ = _run(around, folder, *flags)
    title = re.search(r"<title>(.*?)</title>", document)
    assert title is not None
    return json.loads(html.unescape(title[1]))


@needs_browser
def test_it_is_laid_out_for_laptops_and_phones(page: Path, tmp_path: Path) -> None:
    found = _measure(page, tmp_path)
    assert list(found) == [str(width) for width in WIDTHS]
    for width, measured in found.items():
        assert measured["width"] == int(width)
        assert measured["scroll"] <= measured["width"]
        assert measured["outside"] == []
        assert measured["tables"] > 2 * len(SUITES)
        assert len(measured["figures"]) == FIGURES
        assert all(250 < drawn <= int(width) for drawn in measured["figures"])
        assert measured["font"] >= 8
        assert measured["text"] == measured["ink"]  # figures are written in the page's colour


@needs_browser
def test_it_is_dark_where_the_reader_wants_it_dark(page: Path, tmp_path: Path) -> None:
    def brightness(found: dict[str, dict[str, Any]], key: str) -> float:
        return sum(map(float, re.findall(r"\d+", found["360"][key]))) / 3

    light, dark = (_measure(page, tmp_path, f"--blink-settings=preferredColorScheme={n}") for n in (1, 0))
    for key in ("ink", "text"):
        assert brightness(light, key) < 60
        assert brightness(dark, key) > 200


@needs_browser
def test_the_browser_loads_it_from_a_file_without_complaint(page: Path, tmp_path: Path) -> None:
    control = tmp_path / "control.html"
    control.write_text("<script>console.error('so it would look')</script>")
    assert "so it would look" in _complaints(_run(control, tmp_path)[1])[0]
    document, log = _run(page, tmp_path)
    assert document.count("<svg") == FIGURES
    assert document.count("<table>") > 2 * len(SUITES)
    assert _complaints(log) == []


def _complaints(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]
