from itertools import combinations
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from cutmix_zoo.data.gallery import draw_every_method
from cutmix_zoo.mixing import CANONICAL, IdentityPlan
from cutmix_zoo.pictures import _first_that_mixes


def test_every_method_is_shown_and_nothing_lies_over_anything(figures: list[Figure], tmp_path: Path) -> None:
    draw_every_method(tmp_path / "gallery.png")
    (figure,) = figures
    texts = {text.get_text() for text in figure.texts}
    assert set(CANONICAL) <= texts
    assert {"T-shirt/top", "Trouser", "Dress", "Sneaker", "Bag", "Ankle boot"} <= texts
    assert len(figure.axes) == 6 * (1 + len(CANONICAL))
    # six images a row that do not all look like those of the first row
    pixels = torch.stack([torch.as_tensor(axis.images[0].get_array().data) for axis in figure.axes]).unflatten(
        0, (-1, 6)
    )
    assert pixels.shape[2:] == (32, 32, 3)
    assert all(not torch.equal(row, pixels[0]) for row in pixels[1:])
    with Image.open(tmp_path / "gallery.png") as picture:
        assert max(picture.size) <= 2500
    places = [item.get_window_extent() for item in (*figure.texts, *figure.axes)]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in places)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in places)
    # lines of text may touch
    assert not any(first.padded(-0.5).overlaps(second) for first, second in combinations(places, 2))


def test_every_method_mixes_within_a_hundred_draws() -> None:
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert not [name for name, mix in CANONICAL.items() if isinstance(_first_that_mixes(mix, images), IdentityPlan)]
