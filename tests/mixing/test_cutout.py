import math
from typing import Any

import numpy as np
import pytest
import torch

from cutmix_zoo.mixing import Cutout, ErasePlan, IdentityPlan
from tests.mixing.helpers import generator, random_images


def _draw(mix: Cutout, batch_size: int = 8, height: int = 9, width: int = 13, seed: int = 0) -> ErasePlan:
    plan = mix.draw(batch_size, height, width, generator=generator(seed))
    assert isinstance(plan, ErasePlan)
    return plan


def _papers_square(row: int, column: int, size: int, height: int, width: int) -> torch.Tensor:
    """The authors' slice as a loop over pixels: 0 in the clipped square around a pixel, 1 elsewhere."""
    kept = torch.ones(height, width)
    for y in range(height):
        for x in range(width):
            if row - size // 2 <= y < row + size // 2 and column - size // 2 <= x < column + size // 2:
                kept[y, x] = 0.0
    return kept


@pytest.mark.parametrize("size", [2, 4, 8, 40])
def test_what_is_erased_is_the_clipped_square_of_the_paper(size: int) -> None:
    height, width = 7, 9
    squares = {
        tuple(_papers_square(row, column, size, height, width).flatten().tolist())
        for row in range(height)
        for column in range(width)
    }
    kept = _draw(Cutout(size), 1000, height, width).apply(torch.ones(1000, 1, height, width))
    # some one of the 63 centres is missed by all of 1000 images once in 100,000 times
    assert {tuple(image.flatten().tolist()) for image in kept} == squares


@pytest.mark.parametrize("size", [1, 3, 5])
def test_an_odd_side_is_kept(size: int) -> None:
    boxes = _draw(Cutout(size), 500, 15, 21).boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.amax(0).tolist() == [size, size]
    # what lies off the edges is whole; the square reaches (size - 1) / 2 to each side of its centre
    off = ((boxes[:, :2] > 0) & (boxes[:, 2:] < torch.tensor([15, 21]))).all(1)
    assert (sides[off] == size).all()
    assert int(sides.amin()) == (size + 1) // 2


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_centre_is_uniform_over_the_pixels(size: int) -> None:
    height, width, draws = 3, 4, 12_000
    erased = _draw(Cutout(size, fill=(0.0,)), draws, height, width).apply(torch.ones(draws, 1, height, width)) == 0
    low, high = size // 2, size - 1 - size // 2
    for y in range(height):
        for x in range(width):
            # the centres whose square reaches this pixel, each as likely as any other
            rows = sum(row - low <= y <= row + high for row in range(height))
            columns = sum(column - low <= x <= column + high for column in range(width))
            share = rows * columns / (height * width)
            # four standard errors
            error = 4 * math.sqrt(share * (1 - share) / draws) + 1e-9
            assert float(erased[:, 0, y, x].double().mean()) == pytest.approx(share, abs=error)


def test_who_shares_a_square() -> None:
    assert len(_draw(Cutout(4), 16, 64, 64).boxes.unique(dim=0)) > 10
    assert len(_draw(Cutout(4, per="batch"), 16, 64, 64).boxes.unique(dim=0)) == 1


@pytest.mark.parametrize(("per", "batches"), [("batch", 2000), ("sample", 250)])
def test_prob_is_the_share_of_draws_that_erase(per: str, batches: int) -> None:
    mix, state = Cutout(2, prob=0.3, per=per), generator()
    images = torch.ones(8, 1, 9, 13)
    erased = torch.stack(
        [(mix.draw(8, 9, 13, generator=state).apply(images) == 0).flatten(1).any(1) for _ in range(batches)]
    )
    if per == "batch":
        assert torch.equal(erased.all(1), erased.any(1))
    # four standard errors of 2000 gates
    assert float(erased.double().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 2000))


def test_where_nothing_is_erased_the_plan_is_the_identity() -> None:
    assert isinstance(Cutout(prob=0.0).draw(8, 9, 13, generator=generator()), IdentityPlan)


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_a_single_image_is_erased_too(per: str) -> None:
    images = torch.ones(1, 3, 9, 13)
    kept = _draw(Cutout(4, per=per), 1).apply(images)
    assert 0 < int((kept == 0).sum()) <= 48


def test_labels_stay_as_they_are() -> None:
    plan, labels = _draw(Cutout(4)), torch.arange(8)
    assert torch.equal(plan.mix_targets(labels, 8), torch.eye(8))
    assert plan.label_shares.tolist() == [[1.0]] * 8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("fill", [(7.0,), (7.0, 8.0, 9.0)])
def test_the_fill_of_each_channel(fill: tuple[float, ...], dtype: torch.dtype) -> None:
    images = (random_images(8, 3, 9, 13) // 2 + 20).to(dtype)
    plan = _draw(Cutout(5, fill=fill))
    erased = plan.apply(images)
    for i, (top, left, bottom, right) in enumerate(plan.boxes.tolist()):
        expected = images[i].clone()
        for channel in range(3):
            expected[channel, top:bottom, left:right] = fill[channel % len(fill)]
        assert torch.equal(erased[i], expected)


def test_without_a_fill_floating_point_becomes_0_and_bytes_are_refused() -> None:
    plan = _draw(Cutout(5))
    assert 0.0 in plan.apply(torch.ones(8, 3, 9, 13))
    with pytest.raises(ValueError, match="fill"):
        plan.apply(torch.ones(8, 3, 9, 13, dtype=torch.uint8))


def test_a_fill_of_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="fill"):
        _draw(Cutout(5, fill=(1.0, 2.0))).apply(torch.ones(8, 3, 9, 13))


def test_a_list_becomes_a_tuple_so_that_settings_are_a_value() -> None:
    mix = Cutout(fill=[124.0, 116.0, 104.0])  # type: ignore[arg-type]
    assert mix == Cutout(fill=(124.0, 116.0, 104.0))
    assert hash(mix) == hash(Cutout(fill=(124.0, 116.0, 104.0)))


@pytest.mark.parametrize("kind", [np.array, torch.tensor, iter])
def test_a_fill_may_be_an_array_or_whatever_else_has_numbers(kind: Any) -> None:
    assert Cutout(fill=kind([124.0, 116.0, 104.0])) == Cutout(fill=(124.0, 116.0, 104.0))
    assert Cutout(fill=np.float32(7)) == Cutout(fill=(7.0,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"size": 1.5}, "size must be a whole number of at least 1, got 1.5"),
        ({"prob": 1.5}, "prob must be a number from 0 to 1, got 1.5"),
        ({"per": "pair"}, "per must be one of batch, sample, got 'pair'"),
        ({"fill": ()}, "fill must have at least one value, or be None"),
        ({"fill": "grey"}, r"fill must be finite numbers, one or one for each channel, got \('grey',\)"),
        ({"fill": np.zeros((2, 3))}, "fill must be finite numbers, one or one for each channel"),
        ({"fill": [math.inf]}, r"fill must be finite numbers, .* got \(inf,\)"),
    ],
)
def test_refused_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cutout(**settings)  # type: ignore[arg-type]
