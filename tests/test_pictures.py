from pathlib import Path

import matplotlib.colors
import pytest
import torch
from matplotlib.figure import Figure

import cutmix_zoo.pictures
from cutmix_zoo.errors import UserError
from cutmix_zoo.mixing import BoxPlan, IdentityPlan
from cutmix_zoo.pictures import draw_curves, draw_mixed


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Keep what is drawn, to look into it."""
    kept: list[Figure] = []
    make = cutmix_zoo.pictures._figure
    monkeypatch.setattr(cutmix_zoo.pictures, "_figure", lambda *size: kept.append(make(*size)) or kept[-1])
    return kept


@pytest.mark.parametrize("channels", [1, 3])
def test_mixed_images_show_pixels_box_names_and_shares(channels: int, figures: list[Figure], tmp_path: Path) -> None:
    images = torch.arange(3 * channels * 8 * 10, dtype=torch.uint8).reshape(3, channels, 8, 10)
    boxes = torch.tensor([[2, 3, 6, 8], [0, 0, 0, 0], [0, 0, 8, 5]])
    plan = BoxPlan(3, 8, 10, torch.tensor([1, 2, 2]), boxes)
    file = tmp_path / "new" / "mixed.png"
    draw_mixed(images, torch.tensor([0, 1, 0]), plan, ("cat", "dog"), file, title="title", columns=2)
    assert file.read_bytes().startswith(b"\x89PNG")
    figure = figures[0]
    assert figure._suptitle is not None
    assert figure._suptitle.get_text() == "title"
    first, second, third, empty = figure.axes
    assert first.get_title() == "cat 0.75\ndog 0.25"
    assert second.get_title() == "dog 1.00"
    assert third.get_title() == "cat 1.00"  # both sources are cats
    (outline,) = first.patches
    assert (*outline.get_xy(), outline.get_width(), outline.get_height()) == (2.5, 1.5, 5, 4)
    assert not second.patches
    assert not empty.images
    shown = torch.as_tensor(first.images[0].get_array().data).reshape(8, 10, channels)
    assert torch.equal(shown, images[0].permute(1, 2, 0))


def test_no_more_than_rows_times_columns_are_drawn(figures: list[Figure], tmp_path: Path) -> None:
    images, labels = torch.zeros(9, 3, 4, 4, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64)
    draw_mixed(images, labels, IdentityPlan(9, 4, 4), ("a",), tmp_path / "a.svg", columns=2, rows=2)
    assert sum(bool(axis.images) for axis in figures[0].axes) == 4


def test_curves_draw_what_the_metrics_hold(figures: list[Figure], tmp_path: Path) -> None:
    lines = [
        {"epoch": 1, "top1": None, "clean_train_top1": 20.0, "mixed_top1": 10.0, "val_loss": None, "train_loss": 2.0},
        {"epoch": 2, "top1": 30.0, "clean_train_top1": 25.0, "mixed_top1": 15.0, "val_loss": 1.0, "train_loss": 1.5},
    ]
    draw_curves(lines, tmp_path / "curves.png", title="run")
    accuracy, loss = figures[0].axes
    curves = {line.get_label(): line for line in accuracy.lines}
    assert curves["validation"].get_xydata().tolist() == [[2, 30.0]]
    assert curves["training images, unmixed"].get_xydata().tolist() == [[1, 20.0], [2, 25.0]]
    assert curves["training batches, mixed"].get_xydata().tolist() == [[1, 10.0], [2, 15.0]]
    same = {line.get_label(): line for line in loss.lines}
    assert same["training batches, mixed"].get_xydata().tolist() == [[1, 2.0], [2, 1.5]]
    for label, line in same.items():
        assert matplotlib.colors.same_color(line.get_color(), curves[label].get_color())


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'cutmix_zoo\[plots\]'"):
        draw_curves([], tmp_path / "x.png")
