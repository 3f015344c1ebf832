from typing import Any

import pytest
import torch
from torch import Tensor

from cutmix_zoo.mixing import GridMix, IdentityPlan, MaskPlan, MixPlan
from cutmix_zoo.mixing.pairing import meet, numpy_generator

from .helpers import by_pixels, counted_shares, draw, generator, random_images, stated_shares


def _own_cells(plan: MixPlan, cells: int) -> Tensor:
    """(B, cells, cells): whose each cell is, read from the first pixel in it; all pixels in it must agree."""
    assert isinstance(plan, MaskPlan)
    masks = plan.mask.expand(plan.batch_size, plan.height, plan.width)
    own = torch.zeros(plan.batch_size, cells, cells, dtype=torch.bool)
    for i in range(cells):
        for j in range(cells):
            # a pixel is in the cell in which its upper left corner is
            rows = [row for row in range(plan.height) if i * plan.height <= row * cells < (i + 1) * plan.height]
            columns = [
                column for column in range(plan.width) if j * plan.width <= column * cells < (j + 1) * plan.width
            ]
            block = masks[:, rows][:, :, columns].flatten(1)
            assert torch.equal(block.all(1), block.any(1))
            own[:, i, j] = block[:, 0]
    return own


@pytest.mark.parametrize(("height", "width", "cells"), [(32, 32, 4), (12, 21, 3), (23, 17, 4), (9, 5, 5), (6, 6, 1)])
@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_cells_are_taken_whole_as_many_as_lambda_says(height: int, width: int, cells: int, per: str) -> None:
    plan = draw(GridMix(cells=cells, per=per), 8, height, width, seed=2)
    rng = numpy_generator(generator(2))
    meeting = meet(8, per, "derangement", rng)
    rng.random(meeting.groups)
    lam = rng.beta(1.0, 1.0, size=meeting.groups)[meeting.group]
    own = _own_cells(plan, cells)
    assert (~own).sum((1, 2)).tolist() == [round((1 - value) * cells * cells) for value in lam]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (23, 17), (2, 3), (1, 1)])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_each_pixel_is_of_one_image_and_labels_count_them(height: int, width: int, per: str) -> None:
    images = random_images(6, 3, height, width)
    plan = draw(GridMix(per=per), 6, height, width)
    mask = plan.mask.expand(6, height, width)
    expected = by_pixels(plan, images, lambda i, r, c: images[i if mask[i, r, c] else plan.partner[i], :, r, c])
    assert torch.equal(plan.apply(images), expected)
    torch.testing.assert_close(counted_shares(plan), stated_shares(plan))
    assert torch.equal(plan.label_shares, plan.pixel_shares)


def test_the_number_of_cells_follows_lambda_and_all_are_alike() -> None:
    own = _own_cells(draw(GridMix(per="sample"), 8000, 8, 8), 4)
    # with a uniform lambda, 0 and 16 of 16 cells have a chance of 1/32, all between of 1/16: 250 and 500 of 8000,
    # with a standard deviation of 16 and 22
    counts = torch.bincount((~own).sum((1, 2)), minlength=17).tolist()
    assert counts == pytest.approx([250] + [500] * 15 + [250], abs=90)
    # each cell is the partner's in half of all; the standard deviation of that share is 0.0056
    assert own.float().mean(0).flatten().tolist() == pytest.approx([0.5] * 16, abs=0.022)
    # given five of sixteen, two cells are the partner's together with probability (5 * 4) / (16 * 15) = 0.083: about
    # 500 images have five, and of 120 pairs of cells the mean is what it must be, so a single one is looked at:
    # its standard deviation is 0.012
    five = ~own[(~own).sum((1, 2)) == 5].flatten(1)
    for one, other in [(0, 1), (0, 5), (3, 12)]:
        assert float((five[:, one] & five[:, other]).float().mean()) == pytest.approx(1 / 12, abs=0.05)


def test_alpha_draws_lambda_to_the_middle() -> None:
    shares = draw(GridMix(cells=10, alpha=50.0, per="sample"), 2000, 20, 20).lam
    # Beta(50, 50) has a standard deviation of 1 / (2 * sqrt(101)) = 0.0498, and rounding adds 0.003 to it
    assert float(shares.std()) == pytest.approx(0.05, abs=0.004)
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.006)


@pytest.mark.parametrize(("per", "distinct"), [("batch", 1), ("pair", 4), ("sample", 8)])
def test_who_shares_the_cells(per: str, distinct: int) -> None:
    plan = draw(GridMix(cells=8, alpha=10.0, per=per), 8)
    masks = plan.mask.expand(8, 32, 32)
    assert len({mask.numpy().tobytes() for mask in masks}) == distinct
    assert plan.mask.ndim == (2 if per == "batch" else 3)
    if per == "pair":
        assert torch.equal(masks[plan.partner], masks)


def test_where_the_gate_is_shut_an_image_stays_as_it_is() -> None:
    plan = draw(GridMix(alpha=100.0, prob=0.25, per="sample"), 400, 8, 8)
    shut = plan.mask.all(2).all(1)
    # the standard deviation of a share of 400 draws is 0.022
    assert float(shut.float().mean()) == pytest.approx(0.75, abs=0.08)
    assert torch.equal(plan.lam == 1, shut)
    assert isinstance(draw(GridMix(prob=0.0)), IdentityPlan)
    assert isinstance(draw(GridMix(), 1), IdentityPlan)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cells": 0}, "cells must be a whole number of at least 1, got 0"),
        ({"cells": 2.5}, "cells must be a whole number of at least 1, got 2.5"),
        ({"alpha": 0.0}, "alpha must be a finite number above 0, got 0.0"),
        ({"pairing": "roll"}, "pairing must be one of derangement, permutation, reverse, got 'roll'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        GridMix(**settings)
