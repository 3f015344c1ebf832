import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cutmix_zoo.mixing import FMix, IdentityPlan, MaskPlan
from cutmix_zoo.mixing.fmix import low_frequency_noise
from cutmix_zoo.mixing.pairing import meet, numpy_generator

from .helpers import by_pixels, counted_shares, draw, generator, random_images, stated_shares

HEIGHT, WIDTH = 23, 17


def _mean_power(height: int, width: int, decay_power: float, draws: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = [low_frequency_noise(height, width, decay_power, rng) for _ in range(draws)]
    return (np.abs(np.fft.fft2(noise)) ** 2).mean(0)


@pytest.mark.parametrize("decay_power", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (12, 33), (17, 8)])
def test_the_spectrum_falls_as_a_power_of_the_frequency(height: int, width: int, decay_power: float) -> None:
    power = _mean_power(height, width, decay_power)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    expected = np.maximum(frequency, 1 / max(height, width)) ** (-2 * decay_power)
    ratio = power / expected
    ratio /= ratio.mean()
    # the mean of 400 squares of complex normal numbers has a standard deviation of 0.05, and of 0.07 where they
    # are real; the largest of a thousand such is within four and a half of them
    assert ratio == pytest.approx(np.ones_like(ratio), abs=0.33)
    # no direction is preferred; along an edge of the half spectrum of real numbers it is easily lost
    along_height, along_width, elsewhere = ratio[1:, 0].mean(), ratio[0, 1:].mean(), ratio[1:, 1:].mean()
    assert along_height == pytest.approx(elsewhere, abs=0.06)
    assert along_width == pytest.approx(elsewhere, abs=0.06)


def test_noise_may_have_a_single_row_or_column() -> None:
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 6), (7, 1)]:
        noise = low_frequency_noise(height, width, 3.0, rng)
        assert noise.shape == (height, width)
        assert np.isfinite(noise).all()
    assert np.isfinite(low_frequency_noise(64, 64, 1000.0, rng)).all()


def test_the_share_of_pixels_is_the_lambda_drawn() -> None:
    plan = draw(FMix(per="sample"), 12, HEIGHT, WIDTH, seed=4)
    rng = numpy_generator(generator(4))
    meet(12, "sample", "derangement", rng)
    rng.random(12)
    kept = [round(lam * HEIGHT * WIDTH) for lam in rng.beta(1.0, 1.0, size=12)]
    assert plan.mask.sum((1, 2)).tolist() == kept
    assert plan.lam.tolist() == pytest.approx([count / (HEIGHT * WIDTH) for count in kept])


def test_the_highest_values_are_kept() -> None:
    plan = draw(FMix(), 2, HEIGHT, WIDTH, seed=1)
    rng = numpy_generator(generator(1))
    meet(2, "batch", "derangement", rng)
    rng.random(1)
    rng.beta(1.0, 1.0, size=1)
    noise = low_frequency_noise(HEIGHT, WIDTH, 3.0, rng)
    mask = plan.mask.numpy()
    assert 0 < mask.sum() < mask.size
    assert noise[mask].min() > noise[~mask].max()


@pytest.mark.parametrize(
    ("alpha", "cdf"),
    [
        (0.5, lambda x: 2 / math.pi * math.asin(math.sqrt(x))),
        (1.0, lambda x: x),
        (2.0, lambda x: x * x * (3 - 2 * x)),
    ],
)
def test_lam_follows_beta(alpha: float, cdf: Callable[[float], float]) -> None:
    lam = draw(FMix(alpha=alpha, per="sample"), 3000, 20, 30).lam
    for point in (0.2, 0.5, 0.8):
        # the standard deviation of a share of 3000 draws is at most 0.0091; half a pixel is worth 0.001
        assert float((lam <= point + 0.5 / 600).float().mean()) == pytest.approx(cdf(point), abs=0.03)


@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_each_pixel_is_of_one_image(per: str) -> None:
    images = random_images(6, 3, HEIGHT, WIDTH)
    plan = draw(FMix(per=per), 6, HEIGHT, WIDTH)
    assert isinstance(plan, MaskPlan)
    mask = plan.mask.expand(6, HEIGHT, WIDTH)
    expected = by_pixels(plan, images, lambda i, r, c: images[i if mask[i, r, c] else plan.partner[i], :, r, c])
    assert torch.equal(plan.apply(images), expected)
    torch.testing.assert_close(counted_shares(plan), stated_shares(plan))
    assert torch.equal(plan.label_shares, plan.pixel_shares)


def _disagreement(masks: torch.Tensor) -> float:
    """Share of neighbours in a row that are not of the same image, relative to what independent pixels would have."""
    share = masks.double().mean((1, 2), keepdim=True)
    independent = (2 * share * (1 - share)).mean()
    return float((masks[:, :, 1:] != masks[:, :, :-1]).double().mean() / independent)


def test_regions_are_large_and_the_power_makes_them_larger() -> None:
    white = torch.rand(50, 64, 64, generator=generator()) < 0.5
    ours = [draw(FMix(decay_power=power, per="sample"), 50, 64, 64).mask for power in (1e-6, 1.0, 2.0, 3.0)]
    none, weak, middle, strong = map(_disagreement, ours)
    assert _disagreement(white) == pytest.approx(1, abs=0.02)
    assert none == pytest.approx(1, abs=0.02)
    # 0.06, 0.10 and 0.51 of what white noise has, a tenth more or less from draw to draw
    assert strong < 0.8 * middle
    assert middle < 0.3 * weak
    assert weak < 0.6


def test_the_mask_has_no_direction() -> None:
    masks = draw(FMix(per="sample"), 300, 48, 48).mask
    rows, columns = _disagreement(masks), _disagreement(masks.mT)
    # the ratio of the two has a standard deviation of 0.03
    assert rows == pytest.approx(columns, rel=0.12)


@pytest.mark.parametrize(("per", "distinct"), [("batch", 1), ("pair", 4), ("sample", 8)])
def test_who_shares_a_mask(per: str, distinct: int) -> None:
    plan = draw(FMix(per=per), 8)
    masks = plan.mask.expand(8, 32, 32)
    assert len({mask.numpy().tobytes() for mask in masks}) == distinct
    assert plan.mask.ndim == (2 if per == "batch" else 3)
    if per == "pair":
        assert torch.equal(masks[plan.partner], masks)


def test_where_the_gate_is_shut_an_image_stays_as_it_is() -> None:
    plan = draw(FMix(alpha=100.0, prob=0.25, per="sample"), 400, 8, 8)
    shut = plan.mask.all(2).all(1)
    # the standard deviation of a share of 400 draws is 0.022
    assert float(shut.float().mean()) == pytest.approx(0.75, abs=0.08)
    assert torch.equal(plan.lam == 1, shut)
    assert isinstance(draw(FMix(prob=0.0)), IdentityPlan)
    assert isinstance(draw(FMix(), 1), IdentityPlan)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a finite number above 0, got 0.0"),
        ({"decay_power": -1.0}, "decay_power must be a finite number above 0, got -1.0"),
        ({"per": "elem"}, "per must be one of batch, pair, sample, got 'elem'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        FMix(**settings)
