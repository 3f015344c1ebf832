import io
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from timm.data import create_transform
from torchvision import transforms
from torchvision.transforms import functional

from cutmix_zoo.data.loaders import train_loader
from cutmix_zoo.data.resident import ResidentLoader
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.data.transforms import Lighting, ToMode, _grey_levels, eval_transform, normalize, train_transform
from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import isolated_rng
from cutmix_zoo.mixing import collate_samples
from tests.conftest import random_image

SEEDS = range(8)


def pixels(image: Image.Image) -> np.ndarray:
    """(C, H, W), the layout of a tensor."""
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


@pytest.mark.parametrize("pad", [0, 2, 4])
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_padded_crop_and_flip(channels: int, mode: str, pad: int) -> None:
    """The paper's CIFAR augmentation, stated with loops over the same draws."""
    settings = DataSettings("folder", input_size=(channels, 10, 10), mean=(0.5,), std=(0.5,), pad=pad, hflip=0.3)
    transform = train_transform(settings)
    image = random_image(0, 10, 10, mode)
    outcomes = set()
    for seed in SEEDS:
        with isolated_rng(seed):
            result = transform(image)
        with isolated_rng(seed):
            top, left = (int(torch.randint(0, 2 * pad + 1, (1,))) for _ in range(2)) if pad else (0, 0)
            flip = float(torch.rand(1)) < 0.3
        expected = np.zeros((channels, 10, 10), np.uint8)
        for row in range(10):
            for column in range(10):
                y, x = row + top - pad, (9 - column if flip else column) + left - pad
                if 0 <= y < 10 and 0 <= x < 10:
                    expected[:, row, column] = pixels(image)[:, y, x]
        assert result.dtype == torch.uint8
        np.testing.assert_array_equal(result.numpy(), expected)
        outcomes.add((top, left, flip))
    assert len(outcomes) > 1


def test_random_resized_crop() -> None:
    settings = DataSettings(
        "imagenet", input_size=(3, 12, 16), crop="random_resized", scale=(0.2, 0.7), ratio=(0.6, 1.8), hflip=0.0
    )
    settings_of_pillow = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    image = random_image(1, 40, 50)
    for name, resampling in settings_of_pillow.items():
        transform = train_transform(DataSettings(**{**vars(settings), "interpolation": name}))
        for seed in SEEDS:
            with isolated_rng(seed):
                result = transform(image)
            with isolated_rng(seed):
                top, left, height, width = transforms.RandomResizedCrop.get_params(image, [0.2, 0.7], [0.6, 1.8])
            assert 0.15 < height * width / (40 * 50) < 0.75
            assert 0.5 < width / height < 2
            box = (left, top, left + width, top + height)
            np.testing.assert_array_equal(result.numpy(), pixels(image.crop(box).resize((16, 12), resampling)))


@pytest.mark.parametrize(("crop_pct", "before"), [(0.875, (13, 18)), (1.0, (12, 16))])
def test_a_squashed_image_is_cropped_at_random(crop_pct: float, before: tuple[int, int]) -> None:
    """The crop of weakly supervised localization: the image is resized whatever its aspect ratio, then cropped."""
    settings = DataSettings("imagenet", input_size=(3, 12, 16), crop="squash", crop_pct=crop_pct, hflip=0.4)
    for height, width in ((40, 21), (9, 50), (30, 40)):
        image = random_image(1, height, width)
        squashed = pixels(image.resize(before[::-1], Image.Resampling.BILINEAR))
        outcomes = set()
        for seed in SEEDS:
            with isolated_rng(seed):
                result = train_transform(settings)(image)
            with isolated_rng(seed):
                # torchvision draws no place where there is but one
                room = [there - wanted + 1 for there, wanted in zip(before, (12, 16), strict=True)]
                top, left = [int(torch.randint(0, places, (1,))) for places in room] if max(room) > 1 else (0, 0)
                flip = float(torch.rand(1)) < 0.4
            expected = squashed[:, top : top + 12, left : left + 16]
            np.testing.assert_array_equal(result.numpy(), expected[:, :, ::-1] if flip else expected)
            outcomes.add((top, left, flip))
        assert len(outcomes) > 1


def test_squashed_images_can_stay_on_the_device_whatever_their_sizes() -> None:
    settings = DataSettings(
        "imagenet", input_size=(3, 8, 9), crop="squash", crop_pct=0.75, batch_size=4, workers=0, resident=True
    )
    images = [(random_image(seed, 20 + seed, 30 - 2 * seed), seed % 3) for seed in range(8)]
    options = {"collate_fn": collate_samples, "num_classes": 3, "seed": 5}
    resident = train_loader(images, settings, device=torch.device("cpu"), **options)
    streamed = train_loader(images, settings, **options)
    assert isinstance(resident, ResidentLoader)
    for epoch in range(2):
        pairs = list(zip(resident.epoch(epoch), streamed.epoch(epoch), strict=True))
        assert len(pairs) == 2
        assert all(torch.equal(mine, theirs) for pair in pairs for mine, theirs in zip(*pair, strict=True))


def test_without_any_augmentation_training_sees_what_evaluation_sees() -> None:
    settings = DataSettings("imagenet", input_size=(3, 12, 12), crop="none", hflip=0.0)
    image = random_image(2, 30, 20)
    torch.testing.assert_close(train_transform(settings)(image), eval_transform(settings)(image), rtol=0, atol=0)


def test_a_flip_that_is_certain() -> None:
    settings = DataSettings("torch/cifar10", crop="none", hflip=1.0)
    image = random_image(3, 32, 32)
    np.testing.assert_array_equal(train_transform(settings)(image).numpy(), pixels(image)[:, :, ::-1])


def test_color_jitter() -> None:
    """The official ranges and random order, with Pillow's own enhancers."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    settings = DataSettings("torch/cifar10", crop="none", hflip=0.0, color_jitter=0.4)
    image = random_image(4, 32, 32)
    orders = set()
    for seed in SEEDS:
        with isolated_rng(seed):
            result = train_transform(settings)(image)
        with isolated_rng(seed):
            order = [step for step in torch.randperm(4).tolist() if step < 3]  # the fourth would be the hue
            factors = [float(torch.empty(1).uniform_(0.6, 1.4)) for _ in range(3)]
        expected = image
        for step in order:
            expected = enhancers[step](expected).enhance(factors[step])
        np.testing.assert_array_equal(result.numpy(), pixels(expected))
        orders.add(tuple(order))
    assert len(orders) > 1


def test_lighting_adds_one_colour_along_the_principal_components() -> None:
    values = (0.2175, 0.0188, 0.0045)
    vectors = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
    np.testing.assert_allclose(np.array(vectors).T @ np.array(vectors), np.eye(3), atol=2e-4)
    image = functional.pil_to_tensor(random_image(5, 6, 7))
    before = image.clone()
    shifts = []
    for seed in SEEDS:
        with isolated_rng(seed):
            result = Lighting(0.5)(image)
        with isolated_rng(seed):
            alpha = (0.5 * torch.randn(3)).tolist()
        assert result.dtype == torch.uint8
        for channel in range(3):
            shift = round(255 * sum(vectors[channel][k] * alpha[k] * values[k] for k in range(3)))
            expected = [[min(255, max(0, int(pixel) + shift)) for pixel in row] for row in before[channel]]
            assert result[channel].tolist() == expected
            shifts.append(shift)
    assert torch.equal(image, before)
    assert len(set(shifts)) > 4


def test_lighting_is_the_last_step_and_for_three_channels() -> None:
    settings = DataSettings("torch/cifar10", crop="none", hflip=0.0, lighting=0.5)
    image = random_image(6, 32, 32)
    with isolated_rng(1):
        result = train_transform(settings)(image)
    with isolated_rng(1):
        expected = Lighting(0.5)(functional.pil_to_tensor(image))
    assert torch.equal(result, expected)
    with pytest.raises(UserError, match=r"data.lighting: expected 0 for images with 1 channel, got 0.1"):
        train_transform(DataSettings("fashion_mnist", lighting=0.1))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("size", [(24, 24), (20, 28)])
def test_evaluation_is_timms(size: tuple[int, int], crop_pct: float, interpolation: str) -> None:
    settings = DataSettings(
        "imagenet", input_size=(3, *size), crop_pct=crop_pct, interpolation=interpolation, crop="random_resized"
    )
    theirs = create_transform(
        (3, *size), use_prefetcher=True, crop_pct=crop_pct, interpolation=interpolation, crop_mode="center"
    )
    for height, width in ((24, 24), (60, 40), (33, 71), (10, 12)):
        image = random_image(height, height, width)
        result = eval_transform(settings)(image)
        assert result.shape == (3, *size)
        assert torch.equal(result, theirs(image))


def test_images_of_the_input_size_are_left_alone() -> None:
    for size in ((28, 28), (20, 30)):
        settings = DataSettings("fashion_mnist", input_size=(1, *size), hflip=0.0, pad=0)
        image = random_image(7, *size, "L")
        for transform in (train_transform(settings), eval_transform(settings)):
            np.testing.assert_array_equal(transform(image).numpy(), pixels(image))


@pytest.mark.parametrize("crop", ["pad", "random_resized", "squash", "none"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_becomes_the_input_size(channels: int, mode: str, crop: str) -> None:
    settings = DataSettings("fashion_mnist", input_size=(channels, 12, 18), crop=crop)
    for transform in (train_transform(settings), eval_transform(settings)):
        result = transform(random_image(8, 33, 15).convert(mode))
        assert (result.shape, result.dtype) == ((channels, 12, 18), torch.uint8)


@pytest.mark.parametrize("file", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_to_eight(channels: int, file: str) -> None:
    """All values, as whole numbers of Python's: a file of 16 bits has its white at 65,535."""
    values = np.arange(65_536).reshape(256, 256)
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, file)
    with Image.open(buffer) as image:
        assert image.mode.startswith("I;16")
        converted = ToMode(channels)(image)
    assert converted.mode == ("L" if channels == 1 else "RGB")
    expected = [(2 * value + 257) // 514 for value in range(65_536)]  # the nearest 257th part
    assert all(channel.ravel().tolist() == expected for channel in pixels(converted))
    settings = DataSettings("fashion_mnist", input_size=(channels, 256, 256), hflip=0.0, pad=0)
    for transform in (train_transform(settings), eval_transform(settings)):
        np.testing.assert_array_equal(transform(image), pixels(converted))


def test_the_order_of_the_two_bytes_is_that_of_the_mode() -> None:
    for mode, content in (("I;16", b"\x01\x80"), ("I;16B", b"\x80\x01")):
        assert ToMode(1)(Image.frombytes(mode, (1, 1), content)).getpixel((0, 0)) == 128


@pytest.mark.parametrize(("mode", "kind"), [("I", "32-bit whole"), ("F", "floating")])
def test_numbers_without_a_known_white_are_refused(mode: str, kind: str) -> None:
    for channels in (1, 3):
        with pytest.raises(UserError, match=rf"Pillow's mode {mode}, {kind} numbers, .*: save the images with 8 bits"):
            ToMode(channels)(Image.new(mode, (2, 2), 300))


def test_transforms_draw_from_the_seeded_generators_alone_and_can_be_pickled() -> None:
    settings = DataSettings("torch/cifar10", crop="random_resized", color_jitter=0.4, lighting=0.1)
    transform, image = train_transform(settings), random_image(9, 40, 40)
    with isolated_rng(5):
        first = transform(image)
    random.seed(1)
    with isolated_rng(5):
        assert torch.equal(pickle.loads(pickle.dumps(transform))(image), first)
    assert torch.equal(pickle.loads(pickle.dumps(eval_transform(settings)))(image), eval_transform(settings)(image))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_normalize_is_torchvisions(dtype: torch.dtype) -> None:
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    images = torch.stack([functional.pil_to_tensor(random_image(seed, 5, 6)) for seed in range(3)])
    images = images.to(dtype).to(memory_format=torch.channels_last)
    before = images.clone()
    result = normalize(images, mean, std)
    expected = torch.stack([functional.normalize(image.to(torch.float32) / 255, mean, std) for image in images])
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(images, before)


def test_normalize_may_be_used_for_inference_first_and_then_for_gradients() -> None:
    _grey_levels.cache_clear()
    with torch.inference_mode():
        normalize(torch.ones(1, 2, 2), (0.5,), (0.25,))
    images = torch.ones(1, 2, 2, requires_grad=True)
    normalize(images, (0.5,), (0.25,)).sum().backward()
    torch.testing.assert_close(images.grad, torch.full((1, 2, 2), 1 / (0.25 * 255)))
