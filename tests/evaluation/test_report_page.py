import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.paper_numbers import OOD_SETS
from cutmix_zoo.evaluation.report_folders import read_folders
from cutmix_zoo.evaluation.report_page import make_page
from cutmix_zoo.evaluation.suites import SUITES
from tests.evaluation.page import Page
from tests.evaluation.synthetic_findings import make_record, write_evaluation, write_run


def _page(*folders: Path) -> Page:
    return Page(make_page(read_folders(folders), "cutmix-zoo report a b --output report.html"))


def _two(folder: Path, *suites: str, **about: Any) -> tuple[Path, Path]:
    return (
        write_evaluation(folder / "a", "baseline", 0.8, suites, **about),
        write_evaluation(folder / "b", "cutmix", 0.9, suites, **about),
    )


def _change(folder: Path, suite: str, **numbers: Any) -> None:
    file = folder / f"{suite}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **numbers}))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return _page(*_two(tmp_path_factory.mktemp("everything"), *SUITES))


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_has_its_section_with_the_numbers_of_the_json(everything: Page, suite: str) -> None:
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


def test_differences_are_to_the_first_and_the_best_is_bold(everything: Page) -> None:
    (loss, better) = everything.row("Accuracy", "cross-entropy (nats)")
    assert (loss, better) == ("0.4000", "0.3000 \N{MINUS SIGN}0.1000")
    assert everything.row("Localization", "top-1 accuracy (%)") == ["72.00", "81.00 +9.00"]
    assert everything.row("Calibration", "mean confidence") == ["0.9300", "0.9300"]  # neither way is better
    assert everything.row("Adversarial attacks", "top-1 accuracy, clean (%)") == ["93.00", "93.00 0.00"]
    assert {"0.3000", "81.00"} <= set(everything.bold)
    assert not {"0.4000", "72.00", "93.00"} & set(everything.bold)


def test_settings_stand_below_the_numbers(everything: Page) -> None:
    assert everything.row("Localization", "size of the map") == ["7 x 7", "7 x 7"]
    assert everything.row("Adversarial attacks", "images, PGD") == ["2,000", "2,000"]
    assert everything.row("Accuracy", "images") == ["10,000", "10,000"]


def test_rows_have_a_column_a_value_and_model(everything: Page) -> None:
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


def test_every_picture_is_in_the_page(everything: Page) -> None:
    labels = [value for name, value in everything.attributes if name == "aria-label"]
    expected = ["confusion: cutmix", "reliability: baseline", "boxes that are right", "centre hidden", "scores: cutmix"]
    assert set(expected) <= set(labels)
    assert everything.tags.count("svg") == everything.tags.count("figure") == 16
    assert "image" in everything.tags


def test_nothing_is_loaded_from_elsewhere(everything: Page) -> None:
    for name, value in everything.attributes:
        if name in ("src", "href", "srcset", "action", "data"):
            assert value.startswith(("#", "data:image/png;base64,"))
    assert not {"script", "link", "iframe", "img", "object", "style.import"} & set(everything.tags)
    assert "width=device-width, initial-scale=1" in [value for _, value in everything.attributes]


def test_identifiers_are_unique(everything: Page) -> None:
    identifiers = [value for name, value in everything.attributes if name == "id"]
    assert identifiers
    assert len(identifiers) == len(set(identifiers))


def test_environment_and_commands_are_those_of_each_evaluation(everything: Page) -> None:
    assert everything.row("environment", "torch") == ["2.15.0", "2.15.0"]
    assert everything.row("environment", "sha256 of the weights") == ["0123456789abcdef" * 4] * 2
    assert "cutmix-zoo evaluate baseline --suite all --output a" in everything.text
    assert "cutmix-zoo report a b --output report.html" in everything.text
    assert "An ellipsis" not in everything.text


def test_commands_do_not_say_where_things_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = f"cutmix-zoo evaluate {tmp_path}/model --root /elsewhere/data --output {tmp_path}/a"
    folder = write_evaluation(tmp_path / "a", suites=(), command=command)
    text = make_page(read_folders([folder]), f"cutmix-zoo report {folder} --output {tmp_path}/report.html")
    assert "cutmix-zoo evaluate model --root …/data --output a" in text
    assert "cutmix-zoo report a --output report.html" in text
    assert str(tmp_path) not in text
    assert "elsewhere" not in text
    assert "An ellipsis stands for a folder" in text


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


def test_elsewhere_the_page_says_that_the_paper_has_nothing(everything: Page) -> None:
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
    assert page.row("over seeds", "seeds") == ["0, 1"]
    assert "cutmix-zoo train --config recipe.yaml" in page.text


def test_averaged_weights_are_called_so(tmp_path: Path) -> None:
    averaged = write_run(tmp_path / "averaged", **{"ema.decay": "0.999"})
    text = "exports the exponential moving average (EMA) of its weights. Measured so: averaged (ema.decay 0.999)."
    page = _page(write_run(tmp_path / "plain"), averaged)
    assert text in page.text
    assert "Of averaged: the curves are those of the weights themselves" in page.text
    evaluated = write_evaluation(tmp_path / "a", "averaged", suites=(), recipe=(averaged / "recipe.yaml").read_text())
    assert text in _page(evaluated).text
    for folder in (tmp_path / "plain", write_evaluation(tmp_path / "b", "plain", suites=())):
        assert "EMA" not in _page(folder).text


def test_of_an_unfinished_run_no_average_was_measured(tmp_path: Path) -> None:
    page = _page(write_run(tmp_path / "one", finished=False, **{"ema.decay": "0.999"}))
    assert "Measured so" not in page.text
    assert "Of one: the curves are those of the weights themselves" in page.text


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


def test_one_run_a_model_carries_no_claim(everything: Page) -> None:
    assert "is not known: that takes runs of one recipe" in everything.text
    assert "over seeds" not in everything.tables


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


CONTROL = "\x00\x01\n\x1b[31m\x85\udcff\uffff"
SHOWN = r"\x00\x01\n\x1b[31m\x85\udcff\uffff"


def test_control_characters_are_shown_and_break_nothing(tmp_path: Path) -> None:
    folder = write_evaluation(
        write_run(tmp_path / "a", name=f'"{SHOWN}"'),
        f"model {CONTROL}",
        suites=("accuracy", "adversarial", "ood", "corruption", "localization"),
        command=f"evaluate '{CONTROL}'",
        environment={CONTROL: CONTROL},
        unreadable=[CONTROL],
    )
    accuracy, ood, corruption = (make_record(suite) for suite in ("accuracy", "ood", "corruption"))
    accuracy["rows"][0]["class"] = accuracy["classes"][0] = f"class {CONTROL}"
    ood["histogram"]["outside"][f"set {CONTROL}"] = ood["histogram"]["outside"].pop("digits")
    corruption["rows"][0]["corruption"] = f"kind {CONTROL}"
    _change(folder, "accuracy", rows=accuracy["rows"], classes=accuracy["classes"])
    _change(folder, "ood", histogram=ood["histogram"])
    _change(folder, "corruption", rows=corruption["rows"], note=CONTROL)
    attacks = [{**row, "space": "space \x01"} for row in make_record("adversarial")["rows"]]
    _change(folder, "adversarial", rows=attacks)
    text = make_page(read_folders([folder]), "command")
    text.encode("utf-8")
    assert not set(re.findall(r"[\x00-\x1f\x7f-\x9f]", text)) - {"\n"}
    page = Page(text)
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert f"confusion: model {SHOWN}" in labels
    assert r"under attack, budget in space \x01 space" in labels
    assert f"set {SHOWN}" in page.text
    assert page.tables["main numbers"][0] == ["", f"model {SHOWN}"]
    assert page.text.count(SHOWN) > 10


def test_models_of_one_long_name_are_told_apart_in_figures_too(tmp_path: Path) -> None:
    place = "a_folder_with_a_long_name"
    folders = [
        write_evaluation(tmp_path / which / place / place, "cifar_resnet20.cutmix_fmnist", suites=("occlusion",))
        for which in ("first", "second")
    ]
    page = _page(*folders)
    names = [f"cifar_resnet20.cutmix_fmnist ({which}/{place}/{place})" for which in ("first", "second")]
    assert page.tables["main numbers"][0] == ["", *names]
    assert {text.partition("(")[2][0] for text in page.drawn if "…" in text} == {"f", "s"}


def test_without_matplotlib_there_are_tables_and_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = _page(write_evaluation(write_run(tmp_path / "a"), suites=tuple(SUITES)))
    assert "pip install matplotlib" in page.text
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


def test_runs_with_several_seeds_are_summed_up(tmp_path: Path) -> None:
    skills = {"baseline": (0.8, 0.82, 0.81), "cutmix": (0.85, 0.88, 0.86)}
    changes = {"baseline": {"mix": "null"}, "cutmix": {}}
    runs = {
        name: [
            write_run(tmp_path / f"{name}{seed}", seed=seed, skill=skill, name=name, **changes[name])
            for seed, skill in enumerate(values)
        ]
        for name, values in skills.items()
    }
    page = _page(*runs["baseline"], *runs["cutmix"])
    assert page.tables["over seeds"][0] == ["", "cifar_resnet20.baseline", "cifar_resnet20.cutmix"]
    assert page.row("over seeds", "seeds") == ["0, 1, 2"] * 2
    top1 = {
        name: [json.loads((run / "summary.json").read_text())["top1"] for run in folders]
        for name, folders in runs.items()
    }
    shown = [
        f"{statistics.mean(values):.2f} \N{PLUS-MINUS SIGN} {statistics.stdev(values):.2f}" for values in top1.values()
    ]
    assert page.row("over seeds", "top-1 accuracy (%)") == shown
    best = page.row("over seeds", "top-1 accuracy of the best epoch, chosen on these images (%)")
    assert best[0].startswith(f"{statistics.mean(top1['baseline']) + 0.25:.2f} ")
    test = stats.ttest_rel(top1["cutmix"], top1["baseline"])
    low, high = test.confidence_interval(0.95)
    mean = statistics.mean(top1["cutmix"]) - statistics.mean(top1["baseline"])
    assert page.tables["differences"][0] == ["", "cifar_resnet20.cutmix"]
    assert page.row("differences", "top-1 accuracy (%)") == [f"+{mean:.2f} +{low:.2f} to +{high:.2f}, 3 pairs"]
    everything = _page(*runs["cutmix"], *runs["baseline"][:1])
    assert "differences" not in everything.tables
    assert "Too few runs with the same seeds, measured in the same way" in everything.text


@pytest.mark.parametrize(("other", "strong"), [((0.86, 0.88, 0.87), True), ((0.90, 0.79, 0.81), False)])
def test_a_difference_is_bold_where_its_interval_has_no_0_in_it(
    tmp_path: Path, other: tuple[float, ...], strong: bool
) -> None:
    first = [write_run(tmp_path / f"a{i}", seed=i, skill=0.80 + 0.01 * i, mix="null") for i in range(3)]
    second = [write_run(tmp_path / f"b{i}", seed=i, skill=skill) for i, skill in enumerate(other)]
    page = _page(*first, *second)
    (difference,) = page.row("differences", "top-1 accuracy (%)")
    assert (difference.split()[0] in page.bold) == strong
