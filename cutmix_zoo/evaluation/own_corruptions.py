"""Eight corruptions of our own, for data that has no released corrupted set.

They are neither those of ImageNet-C nor those of MNIST-C: their strengths are ours, and numbers on them compare with
nothing but numbers on them. Blur and pixels are sized by the side of the image, so that a severity means about the same
at 28 and at 224 pixels.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch reader knows
from PIL import Image
from torch import Tensor, stack
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from cutmix_zoo.checks import require, require_choice
from cutmix_zoo.keys import Stream, generator_for

Generators = Iterable[torch.Generator]
Corruption = Callable[[Tensor, float, Generators], Tensor]
"""Takes grey levels (B, C, H, W) float32, a strength, and a generator for each image; returns grey levels."""


def corrupt(images: Tensor, corruption: str, severity: int, index: int | Sequence[int] | Tensor) -> Tensor:
    """Corrupt images.

    Args:
        images: (C, H, W) or (B, C, H, W) uint8 with 1 or 3 channels, on the CPU; not modified.
        corruption: one of :data:`OWN_CORRUPTIONS`.
        severity: 1 to 5.
        index: place of the image in its dataset, or (B,) of them. An image's noise is a function of its place, and of
            nothing else: the same in any batch, and the same but stronger at a higher severity.

    Returns:
        uint8 of the same shape, rounded and clipped.

    Raises:
        ValueError: if an argument is none of these.
        TypeError: if the images are not uint8.

    Example:
        >>> corrupt(torch.tensor([[[10, 20]]], dtype=torch.uint8), "contrast", 3, 0)
        tensor([[[12, 18]]], dtype=torch.uint8)
    """
    require_choice("corruption", corruption, tuple(OWN_CORRUPTIONS))
    require(severity in (1, 2, 3, 4, 5), f"severity must be 1, 2, 3, 4 or 5, got {severity!r}")
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images, got {images.dtype}")
    shape = tuple(images.shape)
    require(len(shape) in (3, 4) and shape[-3] in (1, 3), f"images must be (C, H, W) or (B, C, H, W), got {shape}")
    batch = images.reshape(-1, *shape[-3:])
    places: list[int] = torch.as_tensor(index).reshape(-1).tolist()
    require(len(places) == len(batch), f"index must have a place for each of {len(batch)} images, got {len(places)}")
    apply, strengths = OWN_CORRUPTIONS[corruption]
    generators = (generator_for(Stream.EVALUATE, zlib.crc32(corruption.encode()), place) for place in places)
    corrupted = apply(batch.float(), strengths[severity - 1], generators)
    return corrupted.round().clamp(0, 255).to(torch.uint8).view(shape)


def _gaussian_noise(levels: Tensor, std: float, generators: Generators) -> Tensor:
    """Add noise of a standard deviation in grey levels."""
    return levels + std * stack([torch.randn(levels.shape[1:], generator=generator) for generator in generators])


def _shot_noise(levels: Tensor, photons: float, generators: Generators) -> Tensor:
    """Count photons, of which white has so many."""
    rates = levels * (photons / 255)
    counts = [torch.poisson(rate, generator=generator) for rate, generator in zip(rates, generators, strict=True)]
    return stack(counts) * (255 / photons)


def _impulse_noise(levels: Tensor, share: float, generators: Generators) -> Tensor:
    """Replace a share of the values, half of them by black and half by white."""
    drawn = stack([torch.rand(levels.shape[1:], generator=generator) for generator in generators])
    return levels.masked_fill(drawn < share / 2, 0).masked_fill(drawn >= 1 - share / 2, 255)


def _blur(levels: Tensor, share: float, _: Generators) -> Tensor:
    """Blur by a Gaussian whose standard deviation is a share of the shorter side; what is outside repeats the edge."""
    height, width = levels.shape[-2:]
    std = share * min(height, width)
    radius = math.ceil(3 * std)
    density = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / std).square())
    weights: list[float] = (density / density.sum()).tolist()
    padded = F.pad(levels, [radius] * 4, mode="replicate")
    return _slide(_slide(padded, weights, -1, width), weights, -2, height)


def _slide(levels: Tensor, weights: Sequence[float], dim: int, length: int) -> Tensor:
    """Convolve element by element: the last digit of torch's convolution depends on the size of the batch."""
    total = torch.zeros_like(levels.narrow(dim, 0, length))
    for place, weight in enumerate(weights):
        total += weight * levels.narrow(dim, place, length)
    return total


def _contrast(levels: Tensor, factor: float, _: Generators) -> Tensor:
    """Move all values towards the mean of their channel."""
    # in float64 the sum of grey levels is exact, whatever the order
    mean = levels.mean((-2, -1), keepdim=True, dtype=torch.float64).float()
    return mean + factor * (levels - mean)


def _brightness(levels: Tensor, shift: float, _: Generators) -> Tensor:
    """Add so many grey levels."""
    return levels + shift


def _pixelate(levels: Tensor, count: float, _: Generators) -> Tensor:
    """Make so many pixels along the shorter side, as the means of the areas that they cover."""
    height, width = levels.shape[-2:]
    scale = min(1, count / min(height, width))
    small = (round(scale * height), round(scale * width))
    return F.interpolate(F.interpolate(levels, small, mode="area"), (height, width), mode="nearest-exact")


def _jpeg(levels: Tensor, quality: float, _: Generators) -> Tensor:
    """Compress as JPEG of a quality from 1 to 95, and decompress."""
    return stack([_through_jpeg(image, int(quality)) for image in levels.to(torch.uint8)]).float()


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    to_pil_image(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as compressed:
        return pil_to_tensor(compressed)


OWN_CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (_gaussian_noise, (10, 20, 30, 45, 65)),
    "shot_noise": (_shot_noise, (120, 60, 30, 15, 8)),
    "impulse_noise": (_impulse_noise, (0.01, 0.03, 0.06, 0.12, 0.2)),
    "blur": (_blur, (0.02, 0.03, 0.045, 0.06, 0.08)),
    "contrast": (_contrast, (0.85, 0.7, 0.5, 0.35, 0.2)),
    "brightness": (_brightness, (10, 25, 45, 70, 100)),
    "pixelate": (_pixelate, (20, 16, 12, 9, 7)),
    "jpeg": (_jpeg, (50, 30, 20, 10, 5)),
}
"""What each does, and its strengths at the five severities."""
