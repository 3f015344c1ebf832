from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.colors
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from cutmix_zoo.errors import UserError
from cutmix_zoo.mixing import BoxPlan, CutMix, IdentityPlan, MixPlan, Mixup, OneOf
from cutmix_zoo.pictures import draw_curves, draw_gallery, draw_mixed


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
    assert torch.equal(_shown(first).reshape(8, 10, channels), images[0].permute(1, 2, 0))


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


def _shown(axis: Axes) -> torch.Tensor:
    (image,) = axis.images
    return torch.as_tensor(image.get_array().data)


@dataclass(frozen=True)
class _Given:
    """Hands out the plans that it was given.

    The rest of the docstring is not for the picture.
    """

    plans: tuple[MixPlan, ...]
    seen: list[Any]

    def draw(self, *shape: int, generator: torch.Generator, **context: Any) -> MixPlan:
        self.seen.append((shape, context))
        return self.plans[len(self.seen) - 1]


def test_the_gallery_shows_whose_every_pixel_and_label_is(figures: list[Figure], tmp_path: Path) -> None:
    images = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    images[:, :2] = torch.tensor([0, 255], dtype=torch.uint8)[:, None]
    plan = BoxPlan(3, 8, 8, torch.tensor([1, 2, 2]), torch.tensor([[4, 0, 8, 4], [0, 0, 8, 8], [0, 0, 8, 5]]))
    given = _Given((IdentityPlan(3, 8, 8), plan), [])
    never = CutMix(prob=0.0)
    file = tmp_path / "new" / "gallery.png"
    draw_gallery(images, ("hat", "tie", "sock"), {"given": given, "never": never}, file, about="Small things.")
    assert file.read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    axes = figure.axes
    assert len(axes) == 9
    unmixed = torch.stack([_shown(axis) for axis in axes[:3]])
    # an image has one hue, from black to white, and no other image has a colour of it
    colours = [{tuple(pixel) for pixel in image.reshape(-1, 3).tolist()} for image in unmixed]
    assert [len(own) for own in colours] == [3, 3, 3]
    assert not set.intersection(*colours)
    hues = matplotlib.colors.rgb_to_hsv(unmixed.numpy() / 255)[..., 0]
    assert [float(hue.max() - hue.min()) for hue in hues] == pytest.approx([0, 0, 0], abs=0.01)
    # the first plan mixes nothing and is passed over; the draw has all that a method may ask for
    mixed = torch.stack([_shown(axis) for axis in axes[3:6]])
    assert torch.equal(mixed, plan.apply(unmixed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    (shape, context), _ = given.seen
    assert shape == (3, 8, 8)
    assert torch.equal(context["images"], unmixed.permute(0, 3, 1, 2))
    assert (context["progress"], context["map_sizes"]) == (0.75, ((8, 8),) * 5)
    # where nothing is ever mixed, the images stand as they are
    assert torch.equal(torch.stack([_shown(axis) for axis in axes[6:]]), unmixed)
    texts = [text.get_text() for text in figure.texts]
    for text in ("given", "Hands out the plans that it was given.", "never", "CutMix(prob=0.0)"):
        assert text in texts
    assert not any("rest of the docstring" in text for text in texts)
    assert "Small things. Each has a tint" in " ".join(texts)
    below = [(text.get_text(), text.get_color()) for text in figure.texts if text.get_ha() == "center"]
    assert [text for text, _ in below] == [
        *("hat", "tie", "sock"),
        *("hat 0.75", "tie 0.25", "sock 1.00", "sock 1.00"),
        *("hat", "tie", "sock"),
    ]
    # a name is written in the colour of its image's black
    inks = {text.split()[0]: matplotlib.colors.to_rgb(colour) for text, colour in below}
    for name, image in zip(inks, unmixed, strict=True):
        assert inks[name] == pytest.approx((image[0, 0] / 255).tolist(), abs=0.01)


def test_the_gallery_writes_settings_as_python_without_defaults(figures: list[Figure], tmp_path: Path) -> None:
    mix = OneOf([Mixup(0.2), CutMix(minmax=(0.2, 0.5))], weights=[1.0, 3.0], per="sample")
    draw_gallery(torch.zeros(2, 8, 8, dtype=torch.uint8), ("a", "b"), {"mine": mix}, tmp_path / "a.png")
    written = " ".join(text.get_text() for text in figures[0].texts if text.get_family() == ["monospace"])
    assert written.startswith("OneOf(mixes=(Mixup(alpha=0.2), CutMix(minmax=(0.2, 0.5))),")
    assert eval(written) == mix


def test_the_gallery_of_many_methods_stays_small(figures: list[Figure], tmp_path: Path) -> None:
    mixes = {f"mix{number}": CutMix() for number in range(25)}
    draw_gallery(torch.zeros(2, 8, 8, dtype=torch.uint8), ("a", "b"), mixes, tmp_path / "a.png")
    assert len(figures[0].axes) == 2 * 26
    with Image.open(tmp_path / "a.png") as picture:
        assert max(picture.size) == 2400


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        draw_curves([], tmp_path / "x.png")
    with pytest.raises(UserError, match="matplotlib"):
        draw_gallery(torch.zeros(2, 8, 8, dtype=torch.uint8), ("a", "b"), {}, tmp_path / "x.png")


@pytest.mark.parametrize(("count", "columns"), [(0, 6), (2, 0)])
def test_a_picture_of_nothing_is_refused(count: int, columns: int, tmp_path: Path) -> None:
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UserError, match=f"needs at least one image, got {count} images for 4 rows of {columns}: give"):
        draw_mixed(images[:count], labels, IdentityPlan(2, 4, 4), ("a",), tmp_path / "a.png", columns=columns)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    for place in (tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(UserError, match=f"cannot write {place}: "):
            draw_curves([{"epoch": 0, "top1": 1.0, "train_loss": 1.0}], place)
