import math
from typing import Any

import pytest
import torch

from cutmix_zoo.mixing import RICAP, IdentityPlan, MixPlan, PatchPlan

from .helpers import by_tensor_operations, counted_shares, draw, generator, random_images, stated_shares, written

HEIGHT, WIDTH = 23, 17


def _patches(plan: MixPlan) -> PatchPlan:
    assert isinstance(plan, PatchPlan)
    return plan


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("batch_size", [2, 3, 4, 9])
def test_four_images_are_patched_together_around_a_point(per: str, batch_size: int) -> None:
    """Paint every pixel with image, row and column, and read where those of the mixed images come from."""
    painted = torch.stack(torch.meshgrid(*map(torch.arange, (batch_size, HEIGHT, WIDTH)), indexing="ij"), dim=1)
    for seed in range(10):
        plan = _patches(draw(RICAP(beta=0.7, per=per), batch_size, HEIGHT, WIDTH, seed=seed))
        mixed = plan.apply(painted)
        assert torch.equal(written(plan, painted), mixed)
        assert torch.equal(by_tensor_operations(plan, painted), mixed)
        for i in range(batch_size):
            h, w = plan.box[i, 0, 2:].tolist()
            top, bottom, left, right = mixed[i, :, :h], mixed[i, :, h:], slice(w), slice(w, None)
            parts = [top[..., left], top[..., right], bottom[..., left], bottom[..., right]]
            for source, (image, rows, columns) in zip(plan.sources[i], parts, strict=True):
                assert (image == source).all()
                # a crop: it was moved, but not resized or turned
                assert (rows.diff(dim=0) == 1).all()
                assert (rows.diff(dim=1) == 0).all()
                assert (columns.diff(dim=0) == 0).all()
                assert (columns.diff(dim=1) == 1).all()


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_labels_count_the_pixels(per: str, batch_size: int) -> None:
    plan = draw(RICAP(per=per), batch_size, HEIGHT, WIDTH)
    torch.testing.assert_close(counted_shares(plan), stated_shares(plan))
    assert torch.equal(plan.label_shares, plan.pixel_shares)
    targets = plan.mix_targets(torch.arange(batch_size), batch_size)
    torch.testing.assert_close(targets, counted_shares(plan))


def test_an_image_is_first_and_its_partners_are_three_others() -> None:
    partners = []
    for seed in range(200):
        sources = draw(RICAP(), 6, seed=seed).sources
        assert torch.equal(sources[:, 0], torch.arange(6))
        assert all(len(set(row)) == 4 for row in sources.tolist())
        # each place takes every image once
        assert torch.equal(sources.sort(0).values, torch.arange(6)[:, None].expand(6, 4))
        partners.append(sources[0, 1:])
    # each of five others in a fifth of 200 draws: 40, with a standard deviation of 6
    for place in torch.stack(partners, dim=1):
        assert torch.bincount(place, minlength=6).tolist() == pytest.approx([0] + [40] * 5, abs=24)


@pytest.mark.parametrize(("batch_size", "different"), [(2, 2), (3, 3), (4, 4)])
def test_in_a_small_batch_sources_repeat(batch_size: int, different: int) -> None:
    for row in draw(RICAP(), batch_size).sources.tolist():
        assert len(set(row)) == different


def test_the_point_follows_beta() -> None:
    point = _patches(RICAP(beta=0.5, per="sample").draw(10_000, 40, 1000, generator=generator())).box[:, 0, 2:]
    for axis, size in enumerate((40, 1000)):
        for whole in (0, size // 5, size // 2, size - 1):
            # rounding puts all up to half a pixel above into it; Beta(0.5, 0.5) is the arcsine law
            expected = 2 / math.pi * math.asin(math.sqrt((whole + 0.5) / size))
            # the standard deviation of a share of 10,000 draws is at most 0.005
            assert float((point[:, axis] <= whole).float().mean()) == pytest.approx(expected, abs=0.018)
    # height and width are independent: the standard deviation of a correlation is 0.01
    assert float(torch.corrcoef(point.T.double())[0, 1]) == pytest.approx(0, abs=0.035)


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_all_four_have_the_same_share_on_average(beta: float) -> None:
    shares = draw(RICAP(beta=beta, per="sample"), 10_000, 32, 48).label_shares
    # E[h w] is a quarter; the standard deviation of one is at most 0.34, so that of the mean is 0.0034
    assert shares.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.012)
    # E[h^2 w^2] = (1/4 + v)^2 with the variance v of Beta(beta, beta)
    variance = 1 / (4 * (2 * beta + 1))
    assert float(shares.square().mean()) == pytest.approx((0.25 + variance) ** 2, abs=0.01)


def test_every_crop_that_fits_is_equally_likely() -> None:
    # a large beta puts the point in the middle: of 8 x 6 pixels, 4 x 3 are cropped, from 5 x 4 places
    plan = _patches(draw(RICAP(beta=1e6, per="sample"), 4000, 8, 6))
    assert (plan.box[:, 0] == torch.tensor([0, 0, 4, 3])).all()
    for place in range(4):
        top, left = plan.crop[:, place, 0], plan.crop[:, place, 1]
        # 800 and 1000 draws each, with a standard deviation of 25 and 27
        assert torch.bincount(top, minlength=5).tolist() == pytest.approx([800] * 5, abs=105)
        assert torch.bincount(left, minlength=4).tolist() == pytest.approx([1000] * 4, abs=115)
    # places are drawn one by one
    assert float((plan.crop[:, 0, 0] == plan.crop[:, 1, 0]).float().mean()) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(("per", "distinct"), [("batch", 1), ("sample", 16)])
def test_who_shares_a_point_and_the_places(per: str, distinct: int) -> None:
    plan = _patches(draw(RICAP(beta=5.0, per=per), 16, 224, 200))
    for boxes in (plan.box, plan.crop):
        assert len({tuple(box) for box in boxes.flatten(1).tolist()}) == distinct


def test_where_the_gate_is_shut_an_image_stays_as_it_is() -> None:
    images = random_images(400, 1, HEIGHT, WIDTH)
    # the point lies within, so that nothing else leaves an image whole
    plan = draw(RICAP(beta=100.0, prob=0.25, per="sample"), 400, HEIGHT, WIDTH)
    shut = plan.label_shares[:, 0] == 1
    # the standard deviation of a share of 400 draws is 0.022
    assert float(shut.float().mean()) == pytest.approx(0.75, abs=0.08)
    assert torch.equal((plan.apply(images) == images).all(3).all(2).all(1), shut)
    assert isinstance(draw(RICAP(prob=0.0)), IdentityPlan)
    assert isinstance(draw(RICAP(), 1), IdentityPlan)


def test_there_is_no_single_partner() -> None:
    plan = draw(RICAP(), 4)
    with pytest.raises(ValueError, match="sources"):
        _ = plan.lam
    with pytest.raises(ValueError, match="sources"):
        _ = plan.partner


def test_masks_follow_their_images() -> None:
    masks = random_images(5, HEIGHT, WIDTH).long()
    plan = draw(RICAP(per="sample"), 5, HEIGHT, WIDTH)
    assert torch.equal(plan.apply_masks(masks), plan.apply(masks))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta must be a finite number above 0, got 0.0"),
        ({"prob": 1.5}, "prob must be a number from 0 to 1, got 1.5"),
        ({"per": "pair"}, "per must be one of batch, sample, got 'pair'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        RICAP(**settings)
