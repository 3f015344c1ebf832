from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from cutmix_zoo.mixing import IdentityPlan, MixPlan, PatchPlan, ResizeMix

from .helpers import by_tensor_operations, counted_shares, draw, generator, random_images, stated_shares, written

HEIGHT, WIDTH = 23, 17


def _resized_by_pillow(image: Tensor, height: int, width: int) -> Tensor:
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in image.numpy()]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))


def _sides(plan: MixPlan) -> Tensor:
    return plan.boxes[:, 2:] - plan.boxes[:, :2]


@pytest.mark.parametrize("law", ["side", "area"])
@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_the_whole_partner_is_pasted_smaller(law: str, per: str) -> None:
    images = random_images(6, 3, HEIGHT, WIDTH, dtype=torch.float32)
    plan = draw(ResizeMix(law=law, per=per), 6, HEIGHT, WIDTH)
    mixed = plan.apply(images)
    for i, (top, left, bottom, right) in enumerate(plan.boxes.tolist()):
        size = (bottom - top, right - left)
        partner = images[plan.partner[i]]
        expected = images[i].clone()
        expected[:, top:bottom, left:right] = interpolate(partner[None], size=size, mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(mixed[i], expected)
        # Pillow's own code for the same filter
        torch.testing.assert_close(
            mixed[i, :, top:bottom, left:right], _resized_by_pillow(partner, *size), atol=1e-3, rtol=0
        )


def test_every_way_of_applying_gives_the_same_bytes() -> None:
    images = random_images(6, 3, HEIGHT, WIDTH)
    plan = draw(ResizeMix(per="sample"), 6, HEIGHT, WIDTH)
    assert torch.equal(written(plan, images), plan.apply(images))
    assert torch.equal(by_tensor_operations(plan, images), plan.apply(images))


@pytest.mark.parametrize(("law", "value", "ratio"), [("side", 0.3, 0.3), ("area", 0.36, 0.8)])
def test_height_and_width_shrink_alike(law: str, value: float, ratio: float) -> None:
    plan = draw(ResizeMix(law=law, low=value, high=value, per="sample"), 8, 40, 20)
    assert _sides(plan).tolist() == [[40 * ratio, 20 * ratio]] * 8


def test_sides_are_rounded_to_the_nearest_pixel() -> None:
    # 0.3 of 9 x 5 pixels is 2.7 x 1.5, and 0.7 is 6.3 x 3.5; halves go to the even number
    for ratio, sides in ((0.3, [3, 2]), (0.7, [6, 4])):
        assert _sides(draw(ResizeMix(low=ratio, high=ratio, per="sample"), 8, 9, 5)).tolist() == [sides] * 8


@pytest.mark.parametrize("settings", [{"low": 0.0, "high": 0.0}, {"law": "area", "low": 1.0, "high": 1.0}])
def test_at_least_one_pixel_is_pasted(settings: dict[str, Any]) -> None:
    plan = draw(ResizeMix(per="sample", **settings), 8, 9, 5)
    assert _sides(plan).tolist() == [[1, 1]] * 8
    torch.testing.assert_close(plan.lam, torch.full((8,), 44 / 45))


def test_the_whole_image_may_be_pasted() -> None:
    images = random_images(4, 3, HEIGHT, WIDTH)
    plan = draw(ResizeMix(low=1.0, high=1.0), 4, HEIGHT, WIDTH)
    assert torch.equal(plan.apply(images), images[plan.partner])


def test_a_uniform_ratio_of_the_sides() -> None:
    plan = ResizeMix(per="sample").draw(10_000, 1000, 1000, generator=generator())
    ratio = _sides(plan)[:, 0] / 1000
    for point in (0.1, 0.2, 0.45, 0.7, 0.8):
        # the standard deviation of a share of 10,000 draws is at most 0.005, and a pixel is worth 0.001
        assert float((ratio <= point).float().mean()) == pytest.approx((point - 0.1) / 0.7, abs=0.018)
    # E[tau ** 2] of U(0.1, 0.8); the standard deviation of one is 0.19, so that of the mean is 0.0019
    assert float(plan.pixel_shares[:, 1].mean()) == pytest.approx((0.8**3 - 0.1**3) / (3 * 0.7), abs=0.007)


@pytest.mark.parametrize(("alpha", "cdf"), [(1.0, lambda x: x), (2.0, lambda x: x * x * (3 - 2 * x))])
def test_a_beta_share_of_the_area(alpha: float, cdf: Any) -> None:
    mix = ResizeMix(law="area", low=0.2, high=0.6, alpha=alpha, per="sample")
    plan = mix.draw(10_000, 1000, 1000, generator=generator())
    for point in (0.1, 0.3, 0.5, 0.8):
        # the standard deviation of a share of 10,000 draws is at most 0.005
        share = float((plan.lam <= 0.2 + 0.4 * point).float().mean())
        assert share == pytest.approx(cdf(point), abs=0.018)


def test_every_place_inside_is_equally_likely() -> None:
    plan = draw(ResizeMix(low=0.5, high=0.5, per="sample"), 9000, 16, 4)
    top, left = plan.boxes[:, 0], plan.boxes[:, 1]
    # nine rows to begin at, three columns: about 1000 and 3000 draws each, with a standard deviation of 30 and 45
    assert torch.bincount(top, minlength=9).tolist() == pytest.approx([1000] * 9, abs=120)
    assert torch.bincount(left, minlength=3).tolist() == pytest.approx([3000] * 3, abs=180)


@pytest.mark.parametrize("law", ["side", "area"])
def test_labels_count_the_pixels(law: str) -> None:
    plan = draw(ResizeMix(law=law, per="sample"), 12, HEIGHT, WIDTH)
    torch.testing.assert_close(counted_shares(plan), stated_shares(plan))
    assert torch.equal(plan.label_shares, plan.pixel_shares)


@pytest.mark.parametrize(("per", "distinct"), [("batch", 1), ("pair", 8), ("sample", 16)])
def test_who_shares_a_size_and_a_place(per: str, distinct: int) -> None:
    plan = draw(ResizeMix(per=per), 16, 224, 224)
    assert len({tuple(box) for box in plan.boxes.tolist()}) == distinct
    if per == "pair":
        assert torch.equal(plan.boxes[plan.partner], plan.boxes)


def test_where_the_gate_is_shut_an_image_stays_as_it_is() -> None:
    images = random_images(400, 1, HEIGHT, WIDTH)
    plan = draw(ResizeMix(prob=0.25, per="sample"), 400, HEIGHT, WIDTH)
    shut = plan.lam == 1
    # the standard deviation of a share of 400 draws is 0.022
    assert float(shut.float().mean()) == pytest.approx(0.75, abs=0.08)
    assert torch.equal((plan.apply(images) == images).all(3).all(2).all(1), shut)
    assert isinstance(draw(ResizeMix(prob=0.0)), IdentityPlan)
    assert isinstance(draw(ResizeMix(), 1), IdentityPlan)


@pytest.mark.parametrize("settings", [{"pairing": "permutation"}, {"pairing": "reverse"}, {"per": "pair"}])
def test_an_image_that_meets_itself_stays_as_it_is(settings: dict[str, Any]) -> None:
    images = random_images(5, 1, HEIGHT, WIDTH)
    alone = 0
    for seed in range(20):
        plan = draw(ResizeMix(**settings), 5, HEIGHT, WIDTH, seed=seed)
        itself = plan.partner == torch.arange(5)
        assert torch.equal((plan.apply(images) == images).all(3).all(2).all(1), itself)
        assert torch.equal(plan.lam == 1, itself)
        alone += int(itself.sum())
    assert alone > 0


def test_masks_are_reduced_by_the_nearest_pixel() -> None:
    plan = draw(ResizeMix(low=0.5, high=0.5), 2, 4, 4)
    assert isinstance(plan, PatchPlan)
    masks = torch.arange(32).view(2, 4, 4)
    top, left = plan.boxes[0, :2].tolist()
    # the middle of each of 2 x 2 pixels is a corner of four, of which the last is taken
    expected = masks.clone()
    expected[:, top : top + 2, left : left + 2] = masks[plan.partner][:, 1::2, 1::2]
    assert torch.equal(plan.apply_masks(masks), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"law": "lam"}, "law must be one of side, area, got 'lam'"),
        ({"low": -0.1}, "low must be a number from 0 to 1, got -0.1"),
        ({"high": 1.1}, "high must be a number from 0 to 1, got 1.1"),
        ({"low": 0.9}, "low must not be above high=0.8, got 0.9"),
        ({"alpha": 0.0}, "alpha must be a finite number above 0, got 0.0"),
        ({"prob": 2.0}, "prob must be a number from 0 to 1, got 2.0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ResizeMix(**settings)
