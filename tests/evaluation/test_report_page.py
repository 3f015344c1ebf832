import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.paper_numbers import OOD_SETS
from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_page import make_page
from cutmix_zoo.evaluation.report_suites import SUITES
from tests.evaluation.synthetic_findings import make_record, write_evaluation, write_run

_VOID = ("meta", "wbr")


class _Page(HTMLParser):
    """Collects tables as rows of texts, by their labels, and what else is of interest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.bold: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self._open.append(tag)
        values = dict(attrs)
        if values.get("role") == "region":
            self._rows = self.tables.setdefault(str(values["aria-label"]), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        elif tag == "small":
            self._rows[-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data
        if "b" in self._open:
            self.bold.append(data)

    def row(self, table: str, name: str) -> list[str]:
        (row,) = (row[1:] for row in self.tables[table] if row[0] == name)
        return row


def _page(*folders: Path) -> _Page:
    return _Page(make_page(read_folders(folders), "cutmix-zoo report a b --output report.html"))


def _two(folder: Path, *suites: str, **about: Any) -> tuple[Path, Path]:
    return (
        write_evaluation(folder / "a", "baseline", 0.8, suites, **about),
        write_evaluation(folder / "b", "cutmix", 0.9, suites, **about),
    )


def _change(folder: Path, suite: str, **numbers: Any) -> None:
    file = folder / f"{suite}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **numbers}))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> _Page:
    return _page(*_two(tmp_path_factory.mktemp("everything"), *SUITES))


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_has_its_section_with_the_numbers_of_the_json(everything: _Page, suite: str) -> None:
    text = SUITES[suite]
    assert text.about in everything.text
    records = [make_record(suite, skill) for skill in (0.8, 0.9)]
    compared = 0
    for metric in text.metrics:
        values = [metric.read(record) for record in records]
        if metric.key.endswith("_error") and suite == "accuracy":
            values = [100 - record[metric.key.removesuffix("_error")] for record in records]
        if None in values:
            continue
        shown = everything.row(text.title, metric.title)
        assert [float(cell.split()[0].replace("\N{MINUS SIGN}", "-")) for cell in shown] == pytest.approx(
            values, abs=0.51 * 10**-metric.decimals
        )
        compared += 1
        if metric.column:
            assert everything.row("main numbers", metric.title) == shown
    assert compared


def test_differences_are_to_the_first_and_the_best_is_bold(everything: _Page) -> None:
    (loss, better) = everything.row("Accuracy", "cross-entropy (nats)")
    assert (loss, better) == ("0.4000", "0.3000 \N{MINUS SIGN}0.1000")
    assert everything.row("Localization", "top-1 accuracy (%)") == ["72.00", "81.00 +9.00"]
    assert everything.row("Calibration", "mean confidence") == ["0.9300", "0.9300"]  # neither way is better
    assert everything.row("Adversarial attacks", "top-1 accuracy, clean (%)") == ["93.00", "93.00 0.00"]
    assert {"0.3000", "81.00"} <= set(everything.bold)
    assert not {"0.4000", "72.00", "93.00"} & set(everything.bold)


def test_settings_stand_below_the_numbers(everything: _Page) -> None:
    assert everything.row("Localization", "size of the map") == ["7 x 7", "7 x 7"]
    assert everything.row("Adversarial attacks", "pixels clipped") == ["yes", "yes"]
    assert everything.row("Adversarial attacks", "images, PGD") == ["2,000", "2,000"]
    assert everything.row("Accuracy", "images") == ["10,000", "10,000"]


def test_rows_have_a_column_a_value_and_model(everything: _Page) -> None:
    table = everything.tables["Adversarial attacks, row by row"]
    assert table[0][:3] == ["attack, space, budget", "top-1 accuracy (%): baseline", "top-1 accuracy (%): cutmix"]
    expected = [
        f"{row['top1']:.2f}"
        for skill in (0.8, 0.9)
        for row in make_record("adversarial", skill)["rows"]
        if (row["attack"], row["space"], row["budget"]) == ("pgd", "pixel", 4)
    ]
    assert everything.row("Adversarial attacks, row by row", "pgd, pixel, 4") == [*expected, "2,000", "2,000"]
    empty = everything.row("Calibration, row by row", "0, 0.06667")
    assert empty == ["0", "0", *["\N{EN DASH}"] * 4]
    assert "Localization, row by row" not in everything.tables


def test_every_picture_is_in_the_page(everything: _Page) -> None:
    labels = [value for name, value in everything.attributes if name == "aria-label"]
    expected = ["confusion: cutmix", "reliability: baseline", "boxes that are right", "centre hidden", "scores: cutmix"]
    assert set(expected) <= set(labels)
    assert everything.tags.count("svg") == everything.tags.count("figure") == 16
    assert "image" in everything.tags


def test_nothing_is_loaded_from_elsewhere(everything: _Page) -> None:
    for name, value in everything.attributes:
        if name in ("src", "href", "srcset", "action", "data"):
            assert value.startswith(("#", "data:image/png;base64,"))
    assert not {"script", "link", "iframe", "img", "object", "style.import"} & set(everything.tags)
    assert "width=device-width, initial-scale=1" in [value for _, value in everything.attributes]


def test_identifiers_are_unique(everything: _Page) -> None:
    identifiers = [value for name, value in everything.attributes if name == "id"]
    assert identifiers
    assert len(identifiers) == len(set(identifiers))


def test_environment_and_commands_are_those_of_each_evaluation(everything: _Page) -> None:
    assert everything.row("environment", "torch") == ["2.15.0", "2.15.0"]
    assert everything.row("environment", "sha256 of the weights") == ["0123456789abcdef" * 4] * 2
    assert "cutmix-zoo evaluate baseline --suite all --output a" in everything.text
    assert "cutmix-zoo report a b --output report.html" in everything.text


def test_one_model_has_neither_bold_numbers_nor_differences(tmp_path: Path) -> None:
    page = _page(write_evaluation(tmp_path / "a", suites=("occlusion",)))
    assert not page.bold
    assert "Bold" not in page.text
    assert page.row("Occlusion", "top-1 error, clean (%)") == ["7.00"]
    assert page.tables["Occlusion, row by row"][0] == ["where, side", "top-1 error (%)"]


def test_a_suite_that_a_model_lacks_is_not_shown_for_it(tmp_path: Path) -> None:
    first, second = _two(tmp_path, "probe")
    (second / "probe.json").unlink()
    page = _page(first, second)
    assert page.tables["Linear probe"][0] == ["", "baseline"]
    assert page.row("main numbers", "top-1 accuracy of the probe (%)") == ["72.00", "\N{EN DASH}"]
    assert "Calibration" not in page.text


@pytest.mark.parametrize(
    ("suite", "change", "title"),
    [("occlusion", {"fill": "black"}, "hidden pixels are"), ("calibration", {"count": 9999}, "images")],
)
def test_what_was_measured_differently_is_not_compared(
    tmp_path: Path, suite: str, change: dict[str, Any], title: str
) -> None:
    first, second = _two(tmp_path, suite)
    _change(second, suite, **change)
    page = _page(first, second)
    assert f"not measured in the same way ({title})" in page.text
    assert not page.bold
    for table in (SUITES[suite].title, "main numbers"):
        rows = [row for row in page.tables[table][1:] if row[0] != "size of the input"]
        assert not any(" " in cell for row in rows for cell in row[1:])


def test_the_paper_stands_beside_where_the_setting_is_its_own(tmp_path: Path) -> None:
    about = {"dataset": "torch/cifar100", "split": "validation", "input_size": [3, 32, 32]}
    ours = write_evaluation(tmp_path / "a", "cifar_pyramidnet200_a240.mine", suites=("accuracy", "ood"), **about)
    other = write_evaluation(tmp_path / "b", "cifar_resnet20", suites=("accuracy", "ood"), **about)
    for folder in (ours, other):
        _change(folder, "ood", paper_sets=True)
    page = _page(ours, other)
    assert page.row("Table 5", "CutMix") == ["14.47", "2.97"]
    assert page.row("Tables 12 and A2", "iSUN") == [f"{number:.1f}" for row in OOD_SETS["iSUN"] for number in row]
    assert "The setting of cifar_pyramidnet200_a240.mine." in page.text
    assert "The paper has no numbers for this setting." not in page.text
    assert "Table 5" not in _page(other).text


def test_attacks_on_imagenet_have_the_papers_number_beside_them(tmp_path: Path) -> None:
    about = {"dataset": "imagenet", "count": 50_000, "input_size": [3, 224, 224], "crop_pct": 0.875}
    page = _page(write_evaluation(tmp_path / "a", "resnet50.mine", suites=("adversarial",), **about))
    assert page.row("Table 11", "FGSM, 8/255") == ["8.2", "24.4", "11.5", "31.0"]


def test_two_settings_of_one_table_are_both_shown_as_the_paper_prints_them(tmp_path: Path) -> None:
    about = {"dataset": "torch/cifar100", "input_size": [3, 32, 32], "suites": ("accuracy",)}
    names = ("cifar_pyramidnet110_a64", "cifar_resnet110_bottleneck")
    page = _page(*(write_evaluation(tmp_path / name, name, **about) for name in names))
    table = page.tables["Table 6"]
    assert [row for row in table if row[0] == "CutMix"] == [["CutMix", "17.97", "3.83"], ["CutMix", "20.11", "4.43"]]
    page = _page(write_evaluation(tmp_path / "a", "cifar_pyramidnet200_a240", **{**about, "dataset": "cifar10"}))
    assert page.row("Table 7", "Cutout") == ["3.10"]


def test_elsewhere_the_page_says_that_the_paper_has_nothing(everything: _Page) -> None:
    assert "The CutMix paper" not in everything.text
    assert everything.text.count("The paper has no numbers for this setting.") == 4
    assert everything.text.count("Not in the paper.") == 3
    assert everything.text.count("curves of it and no numbers (figure 5") == 2


def test_a_run_that_was_not_evaluated_shows_its_last_epoch_and_its_curves(tmp_path: Path) -> None:
    page = _page(write_run(tmp_path / "one", skill=0.8), write_run(tmp_path / "two", seed=1, skill=0.9))
    top1 = [json.loads((tmp_path / name / "summary.json").read_text())["top1"] for name in ("one", "two")]
    assert page.row("Accuracy", "top-1 accuracy (%)") == [f"{top1[0]:.2f}", f"{top1[1]:.2f} +{top1[1] - top1[0]:.2f}"]
    best = page.row("main numbers", "top-1 accuracy of the best epoch, chosen on these images (%)")
    assert best[0] == f"{top1[0] + 0.25:.2f}"
    assert page.row("main numbers", "seed") == ["0", "1"]
    assert page.row("training", "training time") == ["30.0 minutes"] * 2
    assert page.row("training", "precision") == ["float32"] * 2
    assert "Of one, two: what the run found after its last epoch." in page.text
    assert page.tags.count("svg") == 2
    assert "one, two are runs of one recipe, with the seeds 0, 1." in page.text
    assert "cutmix-zoo train --config recipe.yaml" in page.text


def test_an_unfinished_run_shows_its_curves_alone(tmp_path: Path) -> None:
    page = _page(write_run(tmp_path / "one", finished=False))
    assert "Not finished: one." in page.text
    assert "training" not in page.tables
    assert page.tags.count("svg") == 2


def test_recipes_are_compared_and_shown(tmp_path: Path) -> None:
    first = write_run(tmp_path / "one", mix="null", **{"optimizer.lr": "0.05"})
    second = write_run(tmp_path / "two")
    same = write_run(tmp_path / "same", mix="null", **{"optimizer.lr": "0.05", "data.root": "/other"})
    unknown = write_evaluation(tmp_path / "unknown", suites=())
    page = _page(first, second, same, unknown)
    assert "two differs from one in:" in page.text
    assert "optimizer.lr: 0.05 -> 0.1" in page.text
    assert "mix.name: None -> cutmix" in page.text
    assert "same differs from one in nothing." in page.text
    assert "The recipe of model is not known." in page.text
    assert page.text.count("milestones:") == 3
    assert "/other" not in page.text


def test_what_a_recipe_leaves_to_the_data_is_no_difference(tmp_path: Path) -> None:
    filled_in = {"data.mean": "[0.286]", "data.std": "[0.353]", "data.input_size": "[1, 28, 28]"}
    page = _page(write_run(tmp_path / "shipped"), write_run(tmp_path / "resolved", **filled_in))
    assert "resolved differs from shipped in nothing." in page.text
    other = {**filled_in, "data.mean": "[0.5]"}
    page = _page(tmp_path / "resolved", write_run(tmp_path / "other", **other))
    assert "data.mean: [0.286] -> [0.5]" in page.text


def test_one_run_a_model_carries_no_claim(everything: _Page) -> None:
    assert "is not known from one run of each recipe." in everything.text
    assert "are runs of one recipe" not in everything.text


def test_unreadable_images_are_listed(tmp_path: Path) -> None:
    page = _page(write_evaluation(tmp_path / "a", suites=(), unreadable=["x.png: <truncated>"]))
    assert "model: 1 images could not be read" in page.text
    assert "x.png: <truncated>" in page.text


NASTY = "<img src=x onerror=alert(1)>&\"'$_$"


def test_what_the_folders_say_is_text_and_nothing_else(tmp_path: Path) -> None:
    folder = write_evaluation(
        tmp_path / "a",
        NASTY,
        suites=("accuracy", "ood", "corruption"),
        recipe=NASTY,
        command=NASTY,
        environment={NASTY: NASTY},
        unreadable=[NASTY],
        sha256=NASTY,
    )
    record = json.loads((folder / "accuracy.json").read_text())
    record["rows"][0]["class"] = record["classes"][0] = NASTY
    _change(folder, "accuracy", rows=record["rows"], classes=record["classes"])
    _change(folder, "ood", rows=[{**make_record("ood")["rows"][0], "set": NASTY}])
    _change(folder, "corruption", note=NASTY, source=NASTY)
    page = _page(folder)
    assert page.text.count(NASTY) > 10
    assert "img" not in page.tags
    assert "onerror" not in dict(page.attributes)


def test_without_matplotlib_there_are_tables_and_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = _page(write_evaluation(write_run(tmp_path / "a"), suites=tuple(SUITES)))
    assert "pip install 'cutmix_zoo[plots]'" in page.text
    assert not {"svg", "figure"} & set(page.tags)
    assert all(text.title in page.tables for text in SUITES.values())
    assert "training" in page.tables


@pytest.mark.parametrize(
    ("suite", "numbers"),
    [
        ("accuracy", {"top1": "high"}),
        ("calibration", {"rows": [{"lower": 0}]}),
        ("localization", {"protocol": "other"}),
        ("adversarial", {"rows": [{}]}),
        ("ood", {"histogram": None}),
        ("in_between", {"rows": []}),
    ],
)
def test_numbers_that_no_suite_writes_are_blamed_on_their_file(
    tmp_path: Path, suite: str, numbers: dict[str, Any]
) -> None:
    folder = write_evaluation(tmp_path / "a", suites=(suite,))
    _change(folder, suite, **numbers)
    with pytest.raises(UserError, match=rf"{suite}\.json: not what this version writes .*evaluate again"):
        _page(folder)


def test_damaged_arrays_are_blamed_on_their_file(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", suites=("localization",))
    (folder / "localization.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"localization\.npz cannot be read"):
        _page(folder)


def test_the_same_folders_make_the_same_page(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", suites=("occlusion",))
    pages = [make_page(read_folders([folder]), "command") for _ in range(2)]
    assert pages[0] == pages[1]
    assert re.search(r"<title>cutmix_zoo on Fashion-MNIST, validation</title>", pages[0])
