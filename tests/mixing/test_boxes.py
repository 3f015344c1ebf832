from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutmix_zoo.mixing import CutMix
from cutmix_zoo.mixing.boxes import Box, box_areas, clipped_boxes, inside_boxes
from tests.mixing.helpers import mean_clipped_share


def test_box_area_and_field_order() -> None:
    box = Box(1, 2, 4, 7)
    assert (box.top, box.left, box.bottom, box.right) == (1, 2, 4, 7)
    assert box_areas(torch.tensor([box, Box(3, 3, 3, 9)])).tolist() == [15, 0]


@pytest.mark.parametrize(
    ("lam", "centre", "expected"),
    [
        (0.75, (16, 10), (8, 0, 24, 20)),  # 32 x 40: sides 16 and 20
        (0.75, (0, 39), (0, 29, 8, 40)),  # clipped on two sides
        (0.0, (16, 20), (0, 0, 32, 40)),  # everything
        (1.0, (16, 20), (16, 20, 16, 20)),  # nothing
        (1 - (3.5 / 32) ** 2, (5, 7), (4, 5, 6, 9)),  # the odd side 3 loses a pixel, 4.375 becomes 4
    ],
)
def test_clipped_boxes_by_hand(lam: float, centre: tuple[int, int], expected: tuple[int, ...]) -> None:
    boxes = clipped_boxes(torch.tensor([lam], dtype=torch.float64), torch.tensor([centre]), 32, 40)
    assert boxes.dtype == torch.int64
    assert boxes.tolist() == [list(expected)]


def test_clipped_boxes_follow_the_official_rule_one_by_one() -> None:
    rng = np.random.default_rng(0)
    height, width, count = 27, 40, 500
    lam, rows, columns = rng.beta(1, 1, count), rng.integers(height, size=count), rng.integers(width, size=count)
    boxes = clipped_boxes(torch.from_numpy(lam), torch.from_numpy(np.stack([rows, columns], 1)), height, width)
    for i in range(count):
        ratio = np.sqrt(1.0 - lam[i])
        cut_height, cut_width = int(height * ratio), int(width * ratio)
        expected = [
            np.clip(rows[i] - cut_height // 2, 0, height),
            np.clip(columns[i] - cut_width // 2, 0, width),
            np.clip(rows[i] + cut_height // 2, 0, height),
            np.clip(columns[i] + cut_width // 2, 0, width),
        ]
        assert boxes[i].tolist() == expected


@given(
    lam=st.floats(0, 1),
    position=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_boxes_lie_in_the_image(lam: float, position: tuple[float, float], height: int, width: int) -> None:
    lams, where = torch.tensor([lam], dtype=torch.float64), torch.tensor([position], dtype=torch.float64)
    centre = (where * torch.tensor([height, width])).long()
    for boxes in (inside_boxes(lams, where, height, width), clipped_boxes(lams, centre, height, width)):
        box = Box(*boxes[0].tolist())
        assert 0 <= box.top <= box.bottom <= height
        assert 0 <= box.left <= box.right <= width
    inside = Box(*inside_boxes(lams, where, height, width)[0].tolist())
    assert abs((inside.bottom - inside.top) - height * (1 - lam) ** 0.5) <= 0.5 + 1e-9
    assert abs((inside.right - inside.left) - width * (1 - lam) ** 0.5) <= 0.5 + 1e-9


def test_mean_pasted_share_is_documented() -> None:
    small, large = (f"{mean_clipped_share(size):.3f}" for size in (32, 224))
    assert f"covers {small} of a 32 x 32 image and {large} of a" in str(clipped_boxes.__doc__)
    share = f"mean pasted share is {small} at 32 px and {large} at 224 px"
    assert share in str(CutMix.__doc__)
    assert share in " ".join((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("size", [32, 224])
def test_mean_pasted_share(size: int) -> None:
    clipped_share = mean_clipped_share(size)
    generator = torch.Generator().manual_seed(0)
    lam = torch.rand(200_000, dtype=torch.float64, generator=generator)
    position = torch.rand(200_000, 2, dtype=torch.float64, generator=generator)
    clipped = clipped_boxes(lam, (position * size).long(), size, size)
    inside = inside_boxes(lam, position, size, size)
    # the standard error of both means is below 0.0007
    assert float(box_areas(clipped).double().mean()) / size**2 == pytest.approx(clipped_share, abs=0.002)
    assert float(box_areas(inside).double().mean()) / size**2 == pytest.approx(0.5, abs=0.002)


def test_inside_boxes_stand_everywhere_equally_often() -> None:
    count = 60_000
    position = torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lam = torch.full((count,), 0.75, dtype=torch.float64)
    top, left, _, _ = inside_boxes(lam, position, 8, 6).unbind(1)
    # sides 4 and 3: five rows and four columns to stand in
    for places, start in ((5, top), (4, left)):
        frequency = start.bincount().double() / count
        assert frequency.tolist() == pytest.approx([1 / places] * places, abs=0.01)


@pytest.mark.parametrize("lam", [-0.1, 1.5, float("nan")])
def test_lambdas_are_shares(lam: float) -> None:
    lams = torch.tensor([0.5, lam], dtype=torch.float64)
    for make in (
        lambda: clipped_boxes(lams, torch.zeros(2, 2, dtype=torch.int64), 8, 9),
        lambda: inside_boxes(lams, torch.zeros(2, 2, dtype=torch.float64), 8, 9),
    ):
        with pytest.raises(ValueError, match=rf"^lam must lie within \[0, 1\], got \[0.5, {lam}\]"):
            make()


@pytest.mark.parametrize("centre", [(8, 0), (0, 9), (-1, 0)])
def test_centres_lie_in_the_image(centre: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"^centre must lie within the image of 8 x 9 pixels, got \[\["):
        clipped_boxes(torch.tensor([0.5]), torch.tensor([centre]), 8, 9)


@pytest.mark.parametrize("position", [(1.0, 0.0), (0.0, -0.1)])
def test_positions_lie_between_the_first_and_the_last_place(position: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"^position must lie within \[0, 1\), got \[\["):
        inside_boxes(torch.tensor([0.5]), torch.tensor([position]), 8, 9)
