import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cutmix_zoo.data.fashion_mnist import MINI_ROOT, FashionMNIST
from cutmix_zoo.evaluation.own_corruptions import OWN_CORRUPTIONS, corrupt
from cutmix_zoo.keys import generator_for

SEVERITIES = (1, 2, 3, 4, 5)


def garments() -> Tensor:
    return torch.from_numpy(FashionMNIST(MINI_ROOT, train=False).images[:24])[:, None]


def colours() -> Tensor:
    """Smooth images with an edge, in colour and not square."""
    coarse = torch.rand(6, 3, 6, 7, generator=generator_for(1))
    images = torch.nn.functional.interpolate(coarse, (40, 50), mode="bicubic").clamp(0, 1) * 200
    images[:, :, 10:30, 20:45] += 50
    return images.to(torch.uint8)


def strength(corruption: str, severity: int) -> float:
    return OWN_CORRUPTIONS[corruption][1][severity - 1]


def plain(level: int, side: int = 100) -> Tensor:
    return torch.full((1, side, side), level, dtype=torch.uint8)


def test_there_are_eight() -> None:
    names = ["gaussian_noise", "shot_noise", "impulse_noise", "blur", "contrast", "brightness", "pixelate", "jpeg"]
    assert list(OWN_CORRUPTIONS) == names


@pytest.mark.parametrize("corruption", OWN_CORRUPTIONS)
@pytest.mark.parametrize("images", [garments(), colours()], ids=["garments", "colours"])
def test_severity_raises_the_distance_from_the_clean_image(corruption: str, images: Tensor) -> None:
    before = images.clone()
    distances = [0.0]
    for severity in SEVERITIES:
        corrupted = corrupt(images, corruption, severity, range(len(images)))
        assert (corrupted.shape, corrupted.dtype) == (images.shape, torch.uint8)
        distances.append((corrupted.double() - images.double()).square().mean().item())
    assert torch.equal(images, before)
    assert all(lower < higher for lower, higher in pairwise(distances))


@pytest.mark.parametrize("corruption", OWN_CORRUPTIONS)
@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("images", [garments(), colours()], ids=["garments", "colours"])
def test_an_image_alone_becomes_what_it_becomes_in_a_batch(corruption: str, severity: int, images: Tensor) -> None:
    places = [3 * place + 1 for place in range(len(images))]
    state = torch.get_rng_state()
    batch = corrupt(images, corruption, severity, torch.tensor(places))
    assert torch.equal(torch.get_rng_state(), state)
    layout = corrupt(images.to(memory_format=torch.channels_last), corruption, severity, places)
    assert torch.equal(layout, batch)
    for image, place, expected in zip(images, places, batch, strict=True):
        assert torch.equal(corrupt(image, corruption, severity, place), expected)


@pytest.mark.parametrize("corruption", ["gaussian_noise", "shot_noise", "impulse_noise"])
def test_noise_depends_on_the_place(corruption: str) -> None:
    image = garments()[0]
    assert not torch.equal(corrupt(image, corruption, 3, 0), corrupt(image, corruption, 3, 1))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_its_standard_deviation_on_grey(severity: int) -> None:
    levels = corrupt(plain(128), "gaussian_noise", severity, 0).double()
    std = strength("gaussian_noise", severity)
    # clipping at 0 and 255 takes a little of the strongest; 10,000 values tell the rest to 2 %
    expected = np.clip(np.random.default_rng(0).normal(128, std, 200_000), 0, 255).std()
    assert levels.mean().item() == pytest.approx(128, abs=5 * std / 100)
    assert levels.std().item() == pytest.approx(expected, rel=0.03)


def test_noise_is_the_same_but_stronger_at_a_higher_severity() -> None:
    weak, strong = (corrupt(plain(128), "gaussian_noise", severity, 0).double() - 128 for severity in (1, 2))
    ratio = strength("gaussian_noise", 2) / strength("gaussian_noise", 1)
    assert (strong - ratio * weak).abs().max() <= 0.5 * (1 + ratio)  # both are rounded


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_has_the_spread_of_photons(severity: int) -> None:
    level, photons = 100, strength("shot_noise", severity)
    corrupted = corrupt(plain(level), "shot_noise", severity, 0).double()
    rng = np.random.default_rng(0)
    expected = np.clip(rng.poisson(level / 255 * photons, 200_000) * 255 / photons, 0, 255)
    assert corrupted.mean().item() == pytest.approx(expected.mean(), rel=0.02)
    assert corrupted.std().item() == pytest.approx(expected.std(), rel=0.04)
    assert not corrupt(plain(0), "shot_noise", severity, 0).any()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_changes_its_share_to_black_and_white(severity: int) -> None:
    corrupted = corrupt(plain(100), "impulse_noise", severity, 0)
    share = strength("impulse_noise", severity)
    for level, expected in ((0, share / 2), (255, share / 2), (100, 1 - share)):
        found = (corrupted == level).double().mean().item()
        assert found == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 10_000) ** 0.5)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("images", [garments(), colours()], ids=["garments", "colours"])
def test_blur_agrees_with_scipy(severity: int, images: Tensor) -> None:
    side = min(images.shape[-2:])
    std = strength("blur", severity) * side
    radius = int(np.ceil(3 * std))
    corrupted = corrupt(images, "blur", severity, range(len(images)))
    for image, blurred in zip(images.double().numpy(), corrupted.numpy(), strict=True):
        expected = [gaussian_filter(channel, std, mode="nearest", radius=radius) for channel in image]
        assert np.abs(blurred - expected).max() <= 0.501


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_keeps_the_mean_and_shrinks_the_rest(severity: int) -> None:
    images = colours()
    corrupted = corrupt(images, "contrast", severity, range(len(images))).double()
    means = images.double().mean((-2, -1), keepdim=True)
    assert (corrupted.mean((-2, -1), keepdim=True) - means).abs().max() < 0.25  # of rounding
    expected = strength("contrast", severity) * (images.double() - means)
    assert (corrupted - means - expected).abs().max() <= 0.501


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_shifts_and_clips(severity: int) -> None:
    shift = strength("brightness", severity)
    corrupted = corrupt(torch.arange(256, dtype=torch.uint8).view(1, 16, 16), "brightness", severity, 0)
    assert corrupted.flatten().tolist() == [min(255, level + shift) for level in range(256)]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_makes_few_large_pixels_of_means(severity: int) -> None:
    image = colours()[0]
    rows = strength("pixelate", severity)
    columns = round(rows * 50 / 40)
    corrupted = corrupt(image, "pixelate", severity, 0).numpy()
    # the pixel that lies at the centre of an output pixel, and the part of the image that it stands for
    row_of = ((np.arange(40) + 0.5) * rows / 40).astype(int)
    column_of = ((np.arange(50) + 0.5) * columns / 50).astype(int)
    for row, column in np.ndindex(40, 50):
        top, bottom = row_of[row] * 40 // rows, -(-(row_of[row] + 1) * 40 // rows)
        left, right = column_of[column] * 50 // columns, -(-(column_of[column] + 1) * 50 // columns)
        expected = image[:, top:bottom, left:right].double().mean((1, 2)).numpy()
        assert np.abs(corrupted[:, row, column] - expected).max() <= 0.501
    assert len(np.unique(row_of)) == rows


def test_halves_are_means_of_squares() -> None:
    side = strength("pixelate", 5)
    image = torch.randint(64, (1, side, 2 * side), generator=generator_for(2)).mul(4).to(torch.uint8)
    quarters = torch.tensor([[-4, 4], [4, -4]]).repeat(side, 2 * side)
    fine = image.clamp(4, 248).repeat_interleave(2, -2).repeat_interleave(2, -1)
    assert torch.equal(corrupt((fine + quarters).to(torch.uint8), "pixelate", 5, 0), fine)
    assert torch.equal(corrupt(image, "pixelate", 5, 0), image)  # it has no more pixels than that


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_pillows(severity: int) -> None:
    for image in (garments()[0], colours()[0]):
        pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=strength("jpeg", severity))
        with Image.open(file) as expected:
            found = corrupt(image, "jpeg", severity, 0)
            np.testing.assert_array_equal(found.permute(1, 2, 0).squeeze(-1), np.asarray(expected))


@pytest.mark.parametrize("corruption", ["blur", "pixelate"])
def test_sizes_go_with_the_side_of_the_image(corruption: str) -> None:
    coarse = torch.rand(4, 1, 9, 9, generator=generator_for(3))
    for severity in SEVERITIES:
        distances = []
        for side in (28, 224):
            images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").mul(255).clamp(0, 255)
            corrupted = corrupt(images.to(torch.uint8), corruption, severity, range(4))
            distances.append((corrupted.float() - images).square().mean().sqrt().item())
        assert distances[1] == pytest.approx(distances[0], rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("snow", 1, 0), "corruption must be one of gaussian_noise, .*got 'snow'"),
        (("blur", 0, 0), "severity must be 1, 2, 3, 4 or 5, got 0"),
        (("blur", 6, 0), "severity must be .*, got 6"),
        (("blur", 1, [0, 1]), "index must have a place for each of 1 images, got 2"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(plain(1), *arguments)


def test_what_are_no_images() -> None:
    with pytest.raises(TypeError, match=r"expected uint8 images, got torch.float32"):
        corrupt(plain(1).float(), "blur", 1, 0)
    for shape in ((4, 4), (2, 4, 4), (1, 1, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"images must be \(C, H, W\) or \(B, C, H, W\), got"):
            corrupt(torch.zeros(shape, dtype=torch.uint8), "blur", 1, 0)
