import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cutmix_zoo.mixing import BoxPlan, FeatureMix, IdentityPlan, MixPlan, SaliencyMix
from cutmix_zoo.mixing.pairing import meet, numpy_generator
from cutmix_zoo.mixing.saliencymix import saliency

from .helpers import by_pixels, counted_shares, draw, generator, lies_in, random_images, stated_shares


def _with_square(
    height: int, width: int, top: int, left: int, *, side: int = 5, ground: float = 20, value: float = 220
) -> Tensor:
    image = torch.full((3, height, width), float(ground))
    image[:, top : top + side, left : left + side] = value
    return image


def _peak(maps: Tensor) -> tuple[int, int]:
    return divmod(int(maps.argmax()), maps.shape[-1])


def _by_the_paper(image: Tensor) -> np.ndarray:
    """The map of an image of at most 64 pixels a side, by the logarithm, phase and average of the paper, in loops."""
    grey = image.double().sum(0).numpy()
    height, width = grey.shape
    spectrum = np.fft.fft2(grey - grey.mean())
    log = np.log(np.maximum(np.abs(spectrum), 1e-3 * np.abs(spectrum).max()))
    average = np.zeros_like(log)
    for row in range(height):
        for column in range(width):
            near = [log[(row + i) % height, (column + j) % width] for i in (-1, 0, 1) for j in (-1, 0, 1)]
            average[row, column] = sum(near) / 9
    # a floor for the average alone: an amplitude that is almost nothing must not become something
    residual = np.log(np.maximum(np.abs(spectrum), 1e-300)) - average
    raw = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    smooth = np.zeros_like(raw)
    for row in range(height):
        for column in range(width):
            for other_row in range(max(0, row - 5), min(height, row + 6)):
                for other_column in range(max(0, column - 5), min(width, column + 6)):
                    distance = (row - other_row) ** 2 + (column - other_column) ** 2
                    smooth[row, column] += math.exp(-distance / (2 * 2.5**2)) * raw[other_row, other_column]
    return smooth


@pytest.mark.parametrize("shape", [(1, 13, 9), (3, 12, 20), (5, 1, 7)])
def test_saliency_is_the_spectral_residual(shape: tuple[int, int, int]) -> None:
    image = random_images(1, *shape)
    expected = torch.from_numpy(_by_the_paper(image[0])).float()
    torch.testing.assert_close(saliency(image)[0], expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 48), (64, 64), (224, 150)])
@pytest.mark.parametrize(("ground", "value"), [(20, 220), (220, 20), (100, 104), (-1.5, 2.0)])
def test_a_square_is_found_wherever_it_is(height: int, width: int, ground: float, value: float) -> None:
    rng = np.random.default_rng(0)
    side = max(height, width) // 6
    for _ in range(15):
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        row, column = _peak(
            saliency(_with_square(height, width, top, left, side=side, ground=ground, value=value)[None])
        )
        assert top <= row < top + side
        assert left <= column < left + side


def test_a_square_is_found_in_noise() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        top, left = rng.integers(60, size=2)
        noisy = _with_square(64, 70, top, left, side=8, ground=100, value=180)
        noisy += torch.from_numpy(rng.normal(0, 15, noisy.shape))
        row, column = _peak(saliency(noisy[None]))
        assert top <= row < top + 8
        assert left <= column < left + 8


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 2), (1, 1, 9), (4, 300, 1), (3, 100, 130)])
@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, -3.3])
def test_nothing_is_salient_in_a_constant_image(shape: tuple[int, int, int], value: float) -> None:
    maps = saliency(torch.full((2, *shape), value))
    assert torch.equal(maps, torch.zeros(2, *shape[1:]))


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 2, 2), (1, 3, 1), (1, 1, 400), (3, 90, 200)])
def test_saliency_of_any_size_is_finite(shape: tuple[int, int, int]) -> None:
    maps = saliency(random_images(3, *shape))
    assert maps.shape == (3, *shape[1:])
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert (maps >= 0).all()
    assert (maps.flatten(1).amax(1) > 0).all()


def test_brightness_and_contrast_do_not_matter() -> None:
    images = random_images(4, 3, 24, 30, dtype=torch.float64)
    torch.testing.assert_close(saliency(images * 0.01 - 5), saliency(images), rtol=1e-4, atol=0)


def test_an_image_is_looked_at_by_itself() -> None:
    images = random_images(8, 3, 70, 50)
    alone = torch.cat([saliency(image[None]) for image in images])
    assert torch.equal(saliency(images).flatten(1).argmax(1), alone.flatten(1).argmax(1))


def _box_by_definition(lam: float, centre: tuple[int, int], size: tuple[int, int]) -> list[int]:
    half = [int(length * math.sqrt(1 - lam)) // 2 for length in size]
    first = [max(0, place - reach) for place, reach in zip(centre, half, strict=True)]
    last = [min(length, place + reach) for length, place, reach in zip(size, centre, half, strict=True)]
    return [*first, *last]


@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_the_box_lies_around_the_most_salient_pixel_of_the_partner(per: str) -> None:
    images, height, width = random_images(6, 3, 23, 37), 23, 37
    plan = draw(SaliencyMix(per=per), 6, height, width, images=images, seed=5)
    rng = numpy_generator(generator(5))
    meeting = meet(6, per, "derangement", rng)
    rng.random(meeting.groups)
    lam = rng.beta(1.0, 1.0, size=meeting.groups)[meeting.group]
    for i in range(6):
        centre = _peak(saliency(images[plan.partner[i]][None]))
        assert plan.boxes[i].tolist() == _box_by_definition(lam[i], centre, (height, width))
    expected = by_pixels(
        plan, images, lambda i, r, c: images[plan.partner[i] if lies_in(plan.boxes[i], r, c) else i, :, r, c]
    )
    assert torch.equal(plan.apply(images), expected)
    torch.testing.assert_close(counted_shares(plan), stated_shares(plan))
    assert torch.equal(plan.label_shares, plan.pixel_shares)


def test_what_stands_out_is_pasted() -> None:
    corners = [(2, 3), (2, 40), (20, 3), (20, 40)]
    images = torch.stack([_with_square(30, 50, *corner) for corner in corners])
    # a quarter of the area is pasted: 15 x 25 pixels, of which a square has 5 x 5
    plan = draw(SaliencyMix(alpha=1e6), 4, 30, 50, images=images)
    for i, partner in enumerate(plan.partner.tolist()):
        top, left = corners[partner]
        assert (plan.apply(images)[i, :, top : top + 5, left : left + 5] == 220).all()


def _equal(one: MixPlan, other: MixPlan) -> bool:
    return torch.equal(one.boxes, other.boxes) and torch.equal(one.partner, other.partner)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 45, 100), (5, 9, 7), (3, 2, 2), (3, 1, 1)])
def test_the_same_pixels_give_the_same_plan_in_any_form(shape: tuple[int, int, int]) -> None:
    images = random_images(6, *shape)
    plan = draw(SaliencyMix(per="sample"), 6, *shape[1:], images=images)
    arrays = [image.numpy().copy() for image in images]
    for array in arrays:
        array.flags.writeable = False
    forms = {
        "float32": images.float(),
        "float64": images.double(),
        "float16": images.half(),
        "int64": images.long(),
        "gradient": images.float().requires_grad_(),
        "channels last": images.contiguous(memory_format=torch.channels_last),
        "arrays": arrays,
        "arrays of float": [array.astype(np.float32) for array in arrays],
        "arrays in the order of decoders": [array.transpose(1, 2, 0).copy().transpose(2, 0, 1) for array in arrays],
        "one array": images.numpy(),
    }
    for form, same in forms.items():
        assert _equal(plan, draw(SaliencyMix(per="sample"), 6, *shape[1:], images=same)), form


def test_the_layout_of_memory_does_not_matter_to_the_bit() -> None:
    images = torch.randn(8, 17, 40, 30, dtype=torch.float64, generator=generator())
    assert torch.equal(saliency(images.contiguous(memory_format=torch.channels_last)), saliency(images))


def test_videos_are_looked_at_as_a_whole() -> None:
    images = random_images(4, 3, 16, 20)
    clips = images[:, None].repeat(1, 2, 1, 1, 1)
    assert _equal(
        draw(SaliencyMix(), 4, 16, 20, images=clips.float()), draw(SaliencyMix(), 4, 16, 20, images=images.float())
    )


def test_mean_pasted_share() -> None:
    """Against the definition of the box, with draws of NumPy's own."""
    images = torch.stack([_with_square(40, 30, 3, 18), _with_square(40, 30, 30, 4)] * 500)
    plan = draw(SaliencyMix(alpha=0.8, per="sample", pairing="reverse"), 1000, 40, 30, images=images)
    shares = plan.pixel_shares[:, 1]
    rng, expected = np.random.default_rng(1), []
    for image in images[:2]:
        centre = _peak(saliency(image[None]))
        for lam in rng.beta(0.8, 0.8, size=5000):
            top, left, bottom, right = _box_by_definition(lam, centre, (40, 30))
            expected.append((bottom - top) * (right - left) / 1200)
    # the standard deviation of one share is 0.14, so that of the mean of 1000 is 0.0045, and of 10,000 a third of it
    assert float(shares.std()) < 0.15
    assert float(shares.mean()) == pytest.approx(np.mean(expected), abs=0.02)


@pytest.mark.parametrize(("per", "sizes"), [("batch", [1]), ("pair", [2, 3, 4]), ("sample", [5, 6, 7, 8])])
def test_lambda_is_shared_but_not_the_place(per: str, sizes: list[int]) -> None:
    # squares so far inside that no box is clipped, each elsewhere
    images = torch.stack([_with_square(200, 300, 80 + 4 * i, 110 + 8 * i, side=9) for i in range(8)])
    plan = draw(SaliencyMix(alpha=20.0, per=per), 8, 200, 300, images=images)
    sides = plan.boxes[:, 2:] - plan.boxes[:, :2]
    middle = (plan.boxes[:, 2:] + plan.boxes[:, :2]) // 2
    # different lambdas may be rounded to the same sides
    assert len({tuple(side) for side in sides.tolist()}) in sizes
    if per == "pair":
        assert torch.equal(sides[plan.partner], sides)
    assert len({tuple(centre) for centre in middle.tolist()}) == 8


def test_where_the_gate_is_shut_an_image_stays_as_it_is() -> None:
    images = random_images(400, 1, 12, 10)
    plan = draw(SaliencyMix(alpha=100.0, prob=0.25, per="sample"), 400, 12, 10, images=images)
    shut = plan.lam == 1
    # the standard deviation of a share of 400 draws is 0.022
    assert float(shut.float().mean()) == pytest.approx(0.75, abs=0.08)
    assert torch.equal((plan.apply(images) == images).all(3).all(2).all(1), shut)


@pytest.mark.parametrize(("settings", "batch_size"), [({"prob": 0.0}, 4), ({}, 1)])
def test_where_nothing_is_mixed_the_plan_is_the_identity(settings: dict[str, Any], batch_size: int) -> None:
    assert isinstance(draw(SaliencyMix(**settings), batch_size, 8, 6), IdentityPlan)


@pytest.mark.parametrize("settings", [{}, {"prob": 0.0}])
def test_it_says_so_when_it_sees_no_images(settings: dict[str, Any]) -> None:
    """Whatever is drawn, so that it is found at once."""
    with pytest.raises(ValueError, match="draw with images=images"):
        SaliencyMix(**settings).draw(4, 8, 8, generator=generator())
    with pytest.raises(ValueError, match="mix must not look at images beyond depth 0"):
        draw(FeatureMix(SaliencyMix(**settings), depths=(1,)), 4, 8, 8)
    assert isinstance(draw(FeatureMix(SaliencyMix(), depths=(0,)), 4, 8, 8), BoxPlan)


@pytest.mark.parametrize("shape", [(3, 3, 8, 6), (4, 3, 6, 8)])
def test_images_that_do_not_fit(shape: tuple[int, ...]) -> None:
    for images in (random_images(*shape), list(random_images(*shape).numpy())):
        with pytest.raises(
            ValueError, match=r"images must be 4 of 8 x 6 pixels \(height x width\).*, got [34] of \[\("
        ):
            draw(SaliencyMix(), 4, 8, 6, images=images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a finite number above 0, got 0.0"),
        ({"per": "pair", "pairing": "permutation"}, "per='pair' needs mutual pairs"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        SaliencyMix(**settings)
