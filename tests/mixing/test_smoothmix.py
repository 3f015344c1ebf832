import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cutmix_zoo.mixing import IdentityPlan, MaskPlan, MixPlan, SmoothMix
from cutmix_zoo.mixing.pairing import meet, numpy_generator

from .helpers import by_pixels, counted_shares, draw, generator, random_images, stated_shares

HEIGHT, WIDTH = 23, 17


def _own_weights(plan: MixPlan) -> Tensor:
    assert isinstance(plan, MaskPlan)
    return plan.mask.expand(plan.batch_size, plan.height, plan.width)


@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_the_partner_has_the_weight_of_a_bell(per: str) -> None:
    plan = draw(SmoothMix(low=0.1, high=0.4, per=per), 6, HEIGHT, WIDTH, seed=3)
    rng = numpy_generator(generator(3))
    meeting = meet(6, per, "derangement", rng)
    rng.random(meeting.groups)
    sigma = rng.uniform(0.1, 0.4, size=meeting.groups)[meeting.group]
    cy, cx = (rng.random((meeting.groups, 2))[meeting.group] * [HEIGHT, WIDTH]).T
    weights = _own_weights(plan)
    for i in range(6):
        sx, sy = sigma[i] * WIDTH, sigma[i] * HEIGHT
        for row in range(HEIGHT):
            for column in range(WIDTH):
                # the middle of the pixel
                x, y = column + 0.5, row + 0.5
                k = math.exp(-((x - cx[i]) ** 2 / (2 * sx**2) + (y - cy[i]) ** 2 / (2 * sy**2)))
                assert float(weights[i, row, column]) == pytest.approx(1 - k, abs=0.5 / 256 + 1e-6)


def test_images_and_labels_are_weighted_the_same_way_round() -> None:
    images = random_images(6, 3, HEIGHT, WIDTH, dtype=torch.float64)
    plan = draw(SmoothMix(low=0.2, high=0.2, per="sample"), 6, HEIGHT, WIDTH)
    own = _own_weights(plan).double()
    expected = by_pixels(
        plan,
        images,
        lambda i, r, c: own[i, r, c] * images[i, :, r, c] + (1 - own[i, r, c]) * images[plan.partner[i], :, r, c],
    )
    torch.testing.assert_close(plan.apply(images), expected)
    # so small a spot leaves most of every image its own
    assert float(plan.lam.min()) > 0.7
    torch.testing.assert_close(counted_shares(plan), stated_shares(plan))
    torch.testing.assert_close(plan.mix_targets(torch.arange(6), 6), counted_shares(plan))


@pytest.mark.parametrize(("low", "high"), [(0.25, 0.5), (0.1, 0.3)])
def test_mean_share_of_the_partner(low: float, high: float) -> None:
    def mean_along_an_axis(sigma: np.ndarray) -> np.ndarray:
        """Integrate exp(-(x - c)**2 / (2 * sigma**2)) over x and c in [0, 1]."""
        erf = np.array([math.erf(1 / (s * math.sqrt(2))) for s in sigma])
        return sigma * math.sqrt(2 * math.pi) * erf - 2 * sigma**2 * (1 - np.exp(-1 / (2 * sigma**2)))

    sigma = np.linspace(low, high, 10_001)
    expected = float((mean_along_an_axis(sigma) ** 2).mean())
    shares = draw(SmoothMix(low=low, high=high, per="sample"), 4000, 32, 48).pixel_shares[:, 1]
    # the standard deviation of one share is 0.13, so that of the mean is 0.002
    assert float(shares.std()) < 0.14
    assert float(shares.mean()) == pytest.approx(expected, abs=0.008)
    if (low, high) == (0.25, 0.5):
        assert expected == pytest.approx(0.429, abs=0.0005)


def test_the_spot_may_be_anywhere_alike() -> None:
    weights = _own_weights(draw(SmoothMix(low=0.02, high=0.02, per="sample"), 6000, 20, 10))
    peak = weights.flatten(1).argmin(1)
    # 200 pixels, 30 draws each: a standard deviation of 5.5 for one, and of 17 or 24 for a row or column of them
    assert torch.bincount(peak // 10, minlength=20).tolist() == pytest.approx([300] * 20, abs=75)
    assert torch.bincount(peak % 10, minlength=10).tolist() == pytest.approx([600] * 10, abs=100)


@pytest.mark.parametrize(("per", "distinct"), [("batch", 1), ("pair", 4), ("sample", 8)])
def test_who_shares_a_spot(per: str, distinct: int) -> None:
    plan = draw(SmoothMix(per=per), 8)
    masks = _own_weights(plan)
    assert len({mask.numpy().tobytes() for mask in masks}) == distinct
    assert plan.mask.ndim == (2 if per == "batch" else 3)
    if per == "pair":
        assert torch.equal(masks[plan.partner], masks)


def test_where_the_gate_is_shut_an_image_stays_as_it_is() -> None:
    images = random_images(400, 1, 8, 6)
    plan = draw(SmoothMix(prob=0.25, per="sample"), 400, 8, 6)
    shut = (plan.mask == 1).all(2).all(1)
    # the standard deviation of a share of 400 draws is 0.022
    assert float(shut.float().mean()) == pytest.approx(0.75, abs=0.08)
    assert torch.equal(plan.lam == 1, shut)
    assert torch.equal(plan.apply(images)[shut], images[shut])
    assert isinstance(draw(SmoothMix(prob=0.0)), IdentityPlan)
    assert isinstance(draw(SmoothMix(), 1), IdentityPlan)


def test_masks_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="blends images"):
        draw(SmoothMix(), 4).apply_masks(torch.zeros(4, 32, 32, dtype=torch.int64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.0}, "low must be a finite number above 0, got 0.0"),
        ({"high": float("inf")}, "high must be a finite number above 0, got inf"),
        ({"low": 0.6}, "low must not be above high=0.5, got 0.6"),
        ({"prob": -0.5}, "prob must be a number from 0 to 1, got -0.5"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        SmoothMix(**settings)
