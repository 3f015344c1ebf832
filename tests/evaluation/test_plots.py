import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.colors
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.cam_plots import draw_cams
from cutmix_zoo.evaluation.figures import COLOURS, plot_style, save_figures
from cutmix_zoo.evaluation.findings import load_arrays
from cutmix_zoo.evaluation.plots import (
    draw_box_accuracy,
    draw_budget,
    draw_confusion,
    draw_corruptions,
    draw_in_between,
    draw_occlusion,
    draw_ood,
    draw_reliability,
    draw_severity,
    draw_training,
)
from cutmix_zoo.evaluation.suites import draw_suite
from tests.evaluation.synthetic_findings import CLASSES, CORRUPTIONS, OOD_KINDS, make_arrays, make_findings, make_record

PICTURES = {
    "accuracy": {"confusion"},
    "calibration": {"reliability"},
    "localization": {"box_accuracy"},
    "adversarial": {"budget_pixel", "budget_normalized"},
    "occlusion": {"occlusion_centre", "occlusion_boundary"},
    "in_between": {"in_between_mixup", "in_between_cutmix"},
    "ood": {"ood"},
    "corruption": {"corruptions", "severity"},
    "probe": set(),
}


def _two(suite: str) -> dict[str, dict[str, Any]]:
    return {"baseline": make_record(suite, 0.8), "cutmix": make_record(suite, 0.9)}


def _curve(axis: Axes, number: int) -> list[list[float]]:
    return np.asarray(axis.lines[number].get_xydata()).tolist()


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _rows(record: Mapping[str, Any], x: str, y: str, **chosen: Any) -> list[list[float]]:
    return [[row[x], row[y]] for row in record["rows"] if all(row[key] == value for key, value in chosen.items())]


@pytest.mark.parametrize("suite", PICTURES)
def test_every_suite_has_its_pictures_narrow_enough_for_a_phone(suite: str) -> None:
    figures = draw_suite(suite, {"model": make_record(suite)})
    assert set(figures) == PICTURES[suite]
    for figure in figures.values():
        assert figure.get_size_inches()[0] <= 4.6
        assert figure.get_suptitle()


def test_pictures_of_one_model_each_are_numbered_and_those_of_all_are_not() -> None:
    assert list(draw_suite("calibration", _two("calibration"))) == ["reliability_1", "reliability_2"]
    assert list(draw_suite("occlusion", _two("occlusion"))) == ["occlusion_centre", "occlusion_boundary"]


def test_confusion_shows_the_percentages_of_each_label() -> None:
    record = make_record("accuracy")
    (axis,) = draw_confusion("model", record).axes
    counts = np.array(record["confusion"])
    expected = [[100 * value / sum(row) for value in row] for row in counts.tolist()]
    assert np.allclose(axis.images[0].get_array(), expected)
    assert [label.get_text() for label in axis.get_yticklabels()] == list(CLASSES)
    texts = {text.get_position(): text.get_text() for text in axis.texts}
    # what never happened is left empty
    assert texts == {(x, y): f"{expected[y][x]:.0f}" for y, x in np.argwhere(counts).tolist()}


def test_confusion_of_many_classes_has_neither_names_nor_numbers() -> None:
    record = {"confusion": np.eye(31, dtype=int).tolist(), "classes": [f"class {n}" for n in range(31)]}
    (axis,) = draw_confusion("model", record).axes
    assert not axis.texts
    assert "class 1" not in [label.get_text() for label in axis.get_xticklabels()]


def test_confusion_of_a_class_without_images_is_empty_and_classes_without_names_are_numbered() -> None:
    (axis,) = draw_confusion("model", {"confusion": [[0, 0], [1, 3]], "classes": None}).axes
    assert axis.images[0].get_array().tolist() == [[0, 0], [25, 75]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1"]


def test_a_model_with_too_many_classes_for_a_confusion_matrix_has_none() -> None:
    assert draw_suite("accuracy", {"model": {**make_record("accuracy"), "confusion": None}}) == {}


def test_reliability_shows_bins_gaps_shares_and_the_three_numbers() -> None:
    record = make_record("calibration", 0.7)
    diagram, histogram = draw_reliability("model", record).axes
    bins = [row for row in record["rows"] if row["count"]]
    assert len(bins) < 15
    right, gap = diagram.containers
    assert [bar.get_height() for bar in right] == [row["accuracy"] for row in bins]
    assert [bar.get_x() + bar.get_width() / 2 for bar in right] == pytest.approx(
        [(row["lower"] + row["upper"]) / 2 for row in bins]
    )
    tops = [bar.get_y() + bar.get_height() for bar in gap]
    assert tops == pytest.approx([row["confidence"] for row in bins])
    total = sum(row["count"] for row in bins)
    assert [bar.get_height() for bar in histogram.containers[0]] == [row["count"] / total for row in bins]
    assert diagram.texts[0].get_text() == f"ECE {record['ece']:.3f}\nmean confidence 0.930\naccuracy 0.700"
    assert [line.get_xdata()[0] for line in histogram.lines] == [0.93, 0.7]


def test_budget_curves_are_solid_for_fgsm_and_dashed_for_pgd() -> None:
    records = _two("adversarial")
    figure = draw_budget(records, "pixel")
    (axis,) = figure.axes
    assert [line.get_linestyle() for line in axis.lines] == ["-", "--", "-", "--"]
    assert _curve(axis, 2) == _rows(records["cutmix"], "budget", "top1", attack="fgsm", space="pixel")
    assert _curve(axis, 3) == _rows(records["cutmix"], "budget", "top1", attack="pgd", space="pixel")
    assert axis.lines[2].get_color() == axis.lines[3].get_color() != axis.lines[0].get_color()
    assert _legend(figure) == ["baseline", "cutmix", "FGSM", "PGD"]
    assert len(draw_budget(records, "normalized").axes[0].lines) == 2  # PGD has none
    turned = {"cutmix": {**records["cutmix"], "rows": records["cutmix"]["rows"][::-1]}}
    assert _curve(draw_budget(turned, "pixel").axes[0], 0) == _curve(axis, 2)  # whatever order the budgets came in


@pytest.mark.parametrize("where", ["centre", "boundary"])
def test_occlusion_has_a_curve_a_model(where: str) -> None:
    records = _two("occlusion")
    figure = draw_occlusion(records, where)
    for number, record in enumerate(records.values()):
        assert _curve(figure.axes[0], number) == _rows(record, "side", "top1_error", where=where)
    assert _legend(figure) == ["baseline", "cutmix"]


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_in_between_is_drawn_against_the_share(mix: str) -> None:
    record = make_record("in_between")
    assert _curve(draw_in_between({"model": record}, mix).axes[0], 0) == _rows(record, "lam", "error", mix=mix)


def test_scores_of_each_set_stand_above_those_of_the_dataset_with_the_threshold() -> None:
    record = make_record("ood")
    figure = draw_ood("model", record)
    (axis,) = figure.axes
    inside, *outside = axis.patches
    histogram = record["histogram"]
    assert inside.get_data().values.tolist() == histogram["inside"]
    assert [patch.get_data().values.tolist() for patch in outside] == list(histogram["outside"].values())
    assert inside.get_data().edges.tolist() == histogram["edges"]
    assert axis.lines[0].get_xdata() == [record["threshold"]] * 2
    assert _legend(figure) == ["fashion_mnist (the dataset)", *OOD_KINDS, "threshold that keeps 95 %"]


def test_corruption_bars_are_means_over_the_severities() -> None:
    records = _two("corruption")
    (axis,) = draw_corruptions(records).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(CORRUPTIONS)
    for bars, record in zip(axis.containers, records.values(), strict=True):
        means = [np.mean([row["error"] for row in record["rows"] if row["corruption"] == name]) for name in CORRUPTIONS]
        assert [bar.get_width() for bar in bars] == pytest.approx(means)


def test_a_corruption_that_one_model_lacks_has_no_bar_of_it() -> None:
    records = _two("corruption")
    records["cutmix"]["rows"] = [row for row in records["cutmix"]["rows"] if row["corruption"] != "blur"]
    _, bars = draw_corruptions(records).axes[0].containers
    assert [np.isnan(bar.get_width()) for bar in bars] == [name == "blur" for name in CORRUPTIONS]


def test_severity_begins_with_the_clean_images_and_is_a_mean_over_the_corruptions() -> None:
    record = make_record("corruption")
    means = [np.mean([row["error"] for row in record["rows"] if row["severity"] == n]) for n in range(1, 6)]
    points = _curve(draw_severity({"model": record}).axes[0], 0)
    assert np.allclose(points, [*zip(range(6), [7.0, *means], strict=True)])


def test_box_accuracy_marks_the_best_threshold_and_that_of_the_paper() -> None:
    record = make_record("localization")
    (axis,) = draw_box_accuracy({"model": record}).axes
    curve, best, paper = axis.lines
    assert curve.get_xydata().tolist() == _rows(record, "threshold", "gt_known")
    assert best.get_xydata().tolist() == [[0.25, max(row["gt_known"] for row in record["rows"])]]
    assert list(paper.get_xdata()) == [0.15, 0.15]


def _corner(patch: Any) -> tuple[float, ...]:
    return (patch.get_y(), patch.get_x(), patch.get_y() + patch.get_height(), patch.get_x() + patch.get_width())


def test_cams_show_image_map_boxes_and_iou_of_each_model() -> None:
    arrays = {"baseline": make_arrays(0.8), "cutmix": make_arrays(0.9)}
    grid = np.array(draw_cams(arrays).axes).reshape(-1, 3)
    assert len(grid) == 6
    for number, (shown, *overlays) in enumerate(grid):
        image = arrays["cutmix"]["images"][number, 0]
        assert np.array_equal(shown.images[0].get_array(), np.stack([image] * 3, axis=2))
        for axis, each in zip(overlays, arrays.values(), strict=True):
            true, predicted = axis.patches
            assert _corner(true) == tuple(each["true_boxes"][number])
            assert _corner(predicted) == tuple(each["predicted_boxes"][number])
            assert matplotlib.colors.to_rgb(true.get_edgecolor())[0] > 0.8
            assert matplotlib.colors.to_rgb(predicted.get_edgecolor())[1] > 0.7
            assert f"IoU {each['iou'][number]:.2f}" in axis.get_title()
            assert f"class {'right' if number % 2 == 0 else 'wrong'}" in axis.get_title()
    assert grid[0, 2].get_title().startswith("cutmix\n")


def test_a_cam_is_half_image_half_map_stretched_over_it() -> None:
    arrays = make_arrays(count=1)
    arrays["images"] = np.full((1, 3, 4, 4), 100, np.uint8)
    arrays["maps"] = np.array([[[0.0, 1.0], [0.0, 1.0]]], np.float32)
    shown = draw_cams({"model": arrays}).axes[1].images[0].get_array()
    cold, hot = (np.array(mpl.colormaps["turbo"](value)[:3]) for value in (0.0, 1.0))
    assert np.allclose(shown[:, 0], 50 + 127.5 * cold, atol=1)
    assert np.allclose(shown[:, -1], 50 + 127.5 * hot, atol=1)


def test_only_images_that_all_models_have_are_shown() -> None:
    arrays = {"baseline": make_arrays(0.8), "cutmix": make_arrays(0.9)}
    arrays["cutmix"] = {key: values[2:4] for key, values in arrays["cutmix"].items()}
    first, _, overlay, *_ = draw_cams(arrays).axes
    assert np.array_equal(first.images[0].get_array()[..., 0], arrays["baseline"]["images"][2, 0])
    assert f"IoU {arrays['cutmix']['iou'][0]:.2f}" in overlay.get_title()
    arrays["cutmix"]["index"] = np.array([1001, 1002])
    assert not any(axis.images for axis in draw_cams(arrays).axes)


def test_a_large_image_is_made_smaller_and_keeps_its_coordinates() -> None:
    axis = draw_cams({"model": make_arrays(count=1, size=224)}).axes[0]
    assert axis.images[0].get_array().shape == (112, 112, 3)
    assert axis.images[0].get_extent() == [0, 224, 224, 0]


def test_maps_of_many_models_are_split_into_several_pictures() -> None:
    names = [f"model {number}" for number in range(5)]
    arrays = {name: make_arrays(count=1, size=8) for name in names}
    figures = draw_suite("localization", {name: make_record("localization") for name in names}, arrays)
    assert list(figures) == ["box_accuracy", "cams_1", "cams_2"]
    assert [len(figures[key].axes) for key in ("cams_1", "cams_2")] == [5, 2]


def test_training_curves_have_a_colour_a_model_and_leave_out_what_was_not_measured() -> None:
    runs = {
        "baseline": [{"epoch": 1, "top1": 50.0, "clean_train_top1": None}, {"epoch": 2, "top1": 60.0}],
        "cutmix": [{"epoch": 1, "top1": 40.0, "clean_train_top1": 45.0, "val_loss": 1.0, "train_loss": 2.0}],
    }
    figure = draw_training(runs)
    (axis,) = figure.axes
    assert [_curve(axis, number) for number in range(3)] == [[[1, 50], [2, 60]], [[1, 40]], [[1, 45]]]
    assert [line.get_linestyle() for line in axis.lines] == ["-", "-", "--"]
    assert axis.lines[1].get_color() == axis.lines[2].get_color() != axis.lines[0].get_color()
    assert _legend(figure) == ["baseline", "cutmix", "validation", "training images, unmixed"]
    loss = draw_training(runs, loss=True)
    assert [_curve(loss.axes[0], number) for number in range(2)] == [[[1, 1.0]], [[1, 2.0]]]
    assert _legend(loss) == ["cutmix", "validation", "training, as mixed"]


@pytest.mark.parametrize("suite", ["adversarial", "occlusion", "in_between", "corruption", "localization"])
def test_a_model_keeps_its_look_where_another_was_not_measured(suite: str) -> None:
    both, one = _two(suite), {"baseline": None, "cutmix": make_record(suite)}
    for picture, figure in draw_suite(suite, one).items():
        assert set(_legend(figure)) - {"FGSM", "PGD"} == {"cutmix"}
        expected = draw_suite(suite, both)[picture].legends[0].legend_handles[1]
        shown = figure.legends[0].legend_handles[0]
        for look in ("get_color", "get_marker", "get_facecolor"):
            assert getattr(shown, look, str)() == getattr(expected, look, str)()


def test_a_model_without_a_run_keeps_its_look_in_the_training_curves() -> None:
    figure = draw_training({"evaluated": None, "cutmix": [{"epoch": 1, "top1": 40.0}]})
    assert figure.axes[0].lines[0].get_color() == COLOURS[1]
    assert _legend(figure)[0] == "cutmix"


def test_pictures_of_one_model_each_leave_out_those_that_were_not_measured() -> None:
    assert list(draw_suite("calibration", {"baseline": None, "cutmix": make_record("calibration")})) == ["reliability"]


def _luminance(colour: str) -> float:
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)]
    return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_stands_out_from_light_and_dark_pages(colour: str) -> None:
    # 3 to 1 is what WCAG 2.1 asks of graphics
    assert 1.05 / (_luminance(colour) + 0.05) >= 3
    assert (_luminance(colour) + 0.05) / (_luminance("#14171b") + 0.05) >= 3


@pytest.mark.parametrize("name", ["costs $5$ and $", "_private", "<b>&amp;", "x" * 300])
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    figure = draw_occlusion({name: make_record("occlusion")}, "centre")
    (shown,) = _legend(figure)
    assert len(shown) <= 44
    assert shown.strip()[:5] == name[:5]
    with plot_style():
        figure.savefig(tmp_path / "a.png")


def test_control_characters_are_drawn_as_they_are_escaped(tmp_path: Path) -> None:
    control, shown = "\x00\n\x1b\ud800\uffff", r"\x00\n\x1b\ud800\uffff"
    record = {**make_record("accuracy"), "classes": [f"{n}{control[:2]}" for n in range(10)]}
    confusion = draw_confusion(control, record)
    (axis,) = confusion.axes
    assert confusion.get_suptitle() == f"confusion: {shown}"
    assert axis.get_yticklabels()[3].get_text() == r"3\x00\n"
    budget = draw_budget({control: {"rows": [{**make_record("adversarial")["rows"][0], "space": control}]}}, control)
    assert budget.get_suptitle() == f"under attack, budget in {shown} space"
    assert _legend(budget) == [shown, "FGSM"]
    for figure in (confusion, budget):
        with plot_style():
            figure.savefig(tmp_path / "a.png")


@pytest.mark.parametrize("draw", [draw_reliability, draw_ood])
def test_a_title_is_not_wider_than_its_picture(draw: Any) -> None:
    record = make_record("ood" if draw is draw_ood else "calibration")
    for name in ("cifar_resnet20.cutmix_fmnist_augmented_long"[:length] for length in range(20, 45, 4)):
        figure = draw(name, record)
        with plot_style():
            figure.draw_without_rendering()
        extent = figure._suptitle.get_window_extent()
        assert extent.x0 >= 0
        assert extent.x1 <= figure.bbox.width
        assert name in figure.get_suptitle()


LONG = tuple(f"{'a_long_name_' * 8}{which}{'_and_so_on' * 8}" for which in ("one", "two", "three"))


@pytest.mark.parametrize("suite", ["adversarial", "occlusion", "corruption"])
def test_long_names_that_differ_go_on_to_differ_in_legends(suite: str) -> None:
    for figure in draw_suite(suite, {name: make_record(suite) for name in LONG}).values():
        names = _legend(figure)[: len(LONG)]
        assert len(set(names)) == len(LONG)
        assert all(len(name) <= 44 for name in names)


@pytest.mark.parametrize("suite", ["accuracy", "calibration", "ood"])
def test_long_names_that_differ_go_on_to_differ_in_titles(suite: str) -> None:
    figures = draw_suite(suite, {name: make_record(suite) for name in LONG}).values()
    names = {figure.get_suptitle().partition("\n")[2] for figure in figures}  # there is no room for more
    assert len(names) == len(LONG)
    assert all(len(name) <= 44 for name in names)


def test_long_names_differ_over_the_pictures_of_maps_and_in_training_curves() -> None:
    names = [f"{name}{number}{'x' * 30}" for name in LONG for number in range(2)]
    figures = draw_suite(
        "localization",
        {name: make_record("localization") for name in names},
        {name: make_arrays(count=1, size=8) for name in names},
    )
    titles = [axis.get_title().partition("\n")[0] for key in ("cams_1", "cams_2") for axis in figures[key].axes]
    assert len(set(titles) - {"input"}) == 6
    figure = draw_training({name: [{"epoch": 1, "top1": 50.0}] for name in LONG})
    assert len(set(_legend(figure)[:3])) == 3


def test_the_users_own_style_does_not_count_and_is_left_alone() -> None:
    with mpl.rc_context({"font.size": 30, "axes.grid": False}):
        figure = draw_occlusion({"model": make_record("occlusion")}, "centre")
        assert mpl.rcParams["font.size"] == 30
    assert figure.axes[0].xaxis.label.get_fontsize() == 9


def test_pictures_are_written_on_white_into_a_folder_that_is_made(tmp_path: Path) -> None:
    arrays = {"model": make_findings("localization").arrays}
    files = save_figures(draw_suite("localization", {"model": make_record("localization")}, arrays), tmp_path / "plots")
    assert sorted(files) == sorted((tmp_path / "plots").iterdir())
    assert {file.name for file in files} == {"box_accuracy.png", "cams.png"}
    for file in files:
        with Image.open(file) as picture:
            assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_arrays_are_read_back_and_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", index=np.arange(3))
    assert load_arrays(tmp_path / "good.npz")["index"].tolist() == [0, 1, 2]
    np.savez(tmp_path / "bad.npz", index=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_arrays(tmp_path / "bad.npz")


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        draw_suite("occlusion", {"model": make_record("occlusion")})
