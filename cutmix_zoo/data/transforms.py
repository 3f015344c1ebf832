"""From a PIL image to the uint8 tensor of a batch, and from a batch to what a network takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import ResizeKeepRatio, str_to_interp_mode
from torch import Tensor
from torchvision import transforms

from cutmix_zoo.data.settings import DataSettings, InputSpec, input_spec
from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

Transform = Callable[[Image.Image], Tensor]

# Principal components of ImageNet's colours, pixels in [0, 1], as the official CutMix code has them: the
# eigenvalues, and the eigenvectors as columns.
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


class ToMode:
    """Convert a PIL image to the mode of a number of channels; 16 bits are scaled to 8.

    Raises:
        UserError: if the image is of a mode whose white is not known, such as floating numbers.
    """

    def __init__(self, channels: int) -> None:
        self.mode = "L" if channels == 1 else "RGB"

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image in that mode."""
        if image.mode in ("I", "F"):
            kind = "32-bit whole" if image.mode == "I" else "floating"
            raise UserError(
                f"an image is of Pillow's mode {image.mode}, {kind} numbers, of which it is not known what is white: "
                "save the images with 8 bits, or as grey PNG files with 16 (an old Pillow reads those as I: update it)"
            )
        if image.mode.startswith("I;16"):
            # Pillow would clip at 255
            image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
        return image if image.mode == self.mode else image.convert(self.mode)


class Lighting:
    """Shift the colour of a uint8 image by noise along the principal components of ImageNet's colours.

    Args:
        std: standard deviation of the three coefficients.

    **Source**: Krizhevsky et al., NIPS 2012, section 4.1, with the constants of the official CutMix
    code. That code adds the shift to floats; here it is rounded to whole grey levels and the result
    clipped to [0, 255], because batches stay uint8 until they are on the device.
    """

    def __init__(self, std: float) -> None:
        self.std = std

    def __call__(self, image: Tensor) -> Tensor:
        """Return the shifted copy of a (3, H, W) uint8 image."""
        alpha = torch.randn(3) * self.std
        shift = 255 * (torch.tensor(_EIGENVECTORS) @ (alpha * torch.tensor(_EIGENVALUES)))
        return (image + shift.round().view(3, 1, 1)).clamp_(0, 255).to(torch.uint8)


def train_transform(settings: DataSettings) -> Transform:
    """Build the augmentation of training images.

    For the crops ``pad`` and ``none`` an image is first resized so that it covers the input size;
    one that has that size already stays as it is. For ``squash`` it is resized to the input size over ``crop_pct``.

    Args:
        settings: the data section of a recipe.

    Returns:
        A picklable function from a PIL image of any mode to a uint8 tensor (C, H, W). It draws from
        the global random number generators: call it inside :func:`cutmix_zoo.keys.isolated_rng`.

    Raises:
        UserError: when the input size is unknown, or ``lighting`` is asked for one channel.

    **Source**: CIFAR: the paper's padding of 4, crop and flip. ImageNet: the official code's random
    resized crop, flip, colour jitter 0.4 and lighting 0.1; its jitter works on floats and does not
    clip, torchvision's rounds and clips to 8 bits. ``squash``: the paper's appendix B, 256 x 256 and a random crop.
    """
    channels, height, width = input_spec(settings).input_size
    if settings.lighting and channels != 3:
        raise UserError(f"data.lighting: expected 0 for images with {channels} channel, got {settings.lighting}")
    size = (height, width)
    steps = _fixed_steps(settings)
    if settings.crop == "random_resized":
        interpolation = str_to_interp_mode(settings.interpolation)
        steps += [transforms.RandomResizedCrop(size, settings.scale, settings.ratio, interpolation)]
    elif settings.crop == "pad":
        steps += [transforms.RandomCrop(size, settings.pad)]
    elif settings.crop == "squash":
        steps += [transforms.RandomCrop(size)]
    if settings.hflip:
        steps += [transforms.RandomHorizontalFlip(settings.hflip)]
    if settings.color_jitter:
        steps += [transforms.ColorJitter(*[settings.color_jitter] * 3)]
    steps += [transforms.PILToTensor()]
    if settings.lighting:
        steps += [Lighting(settings.lighting)]
    return transforms.Compose(steps)


def resident_transform(settings: DataSettings) -> Transform:
    """Build what :func:`train_transform` does before it draws, for every crop but ``random_resized``.

    Args:
        settings: the data section of a recipe.

    Returns:
        A picklable function from a PIL image of any mode to a uint8 tensor (C, H, W); it is deterministic.
    """
    return transforms.Compose([*_fixed_steps(settings), transforms.PILToTensor()])


def _fixed_steps(settings: DataSettings) -> list[Any]:
    channels, height, width = input_spec(settings).input_size
    steps: list[Any] = [ToMode(channels)]
    if settings.crop == "squash":
        steps += [transforms.Resize(size_before_crop(settings), str_to_interp_mode(settings.interpolation))]
    elif settings.crop != "random_resized":
        steps += [_cover((height, width), settings.interpolation)]
    if settings.crop == "none":
        steps += [transforms.CenterCrop((height, width))]
    return steps


def eval_transform(settings: DataSettings) -> Transform:
    """Build the transform of evaluation: resize to cover the input size over ``crop_pct``, then crop the centre.

    Args:
        settings: the data section of a recipe.

    Returns:
        A picklable function from a PIL image of any mode to a uint8 tensor (C, H, W); it is deterministic.

    Raises:
        UserError: when the input size is unknown.

    **Source**: timm's evaluation transform with ``crop_mode="center"``.
    """
    channels, height, width = input_spec(settings).input_size
    cover = _cover(size_before_crop(settings), settings.interpolation)
    return transforms.Compose(
        [ToMode(channels), cover, transforms.CenterCrop((height, width)), transforms.PILToTensor()]
    )


def size_before_crop(settings: DataSettings) -> tuple[int, int]:
    """Return height and width of which ``crop_pct`` is the input size."""
    _, height, width = input_spec(settings).input_size
    return math.floor(height / settings.crop_pct), math.floor(width / settings.crop_pct)


def _cover(size: tuple[int, int], interpolation: str) -> Any:
    """Resize so that the image covers (height, width), keeping its aspect ratio; as timm does."""
    if size[0] == size[1]:
        return transforms.Resize(size[0], str_to_interp_mode(interpolation))
    return ResizeKeepRatio(size, interpolation=interpolation)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn pixels into what a network takes, on whatever device they are.

    Args:
        images: (..., C, H, W), values in [0, 255], uint8 or floating; not modified.
        mean: mean of each channel, pixels scaled to [0, 1].
        std: standard deviation of each channel, pixels scaled to [0, 1].

    Returns:
        float32 tensor of the same shape and memory format.

    Example:
        >>> normalize(torch.tensor([[[0, 255]]], dtype=torch.uint8), mean=(0.5,), std=(0.25,))
        tensor([[[-2.,  2.]]])
    """
    shift, scale = (_grey_levels(tuple(values), images.device) for values in (mean, std))
    return images.to(torch.float32, copy=True).sub_(shift).div_(scale)


@lru_cache
def _grey_levels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Keep the constants on their device: sending them with each batch would make the host wait for it."""
    # whoever asks first may be in inference mode, and others need gradients
    with torch.inference_mode(mode=False):
        return torch.tensor(values, dtype=torch.float32, device=device).mul_(255).view(-1, 1, 1)


def to_input(images: Tensor, spec: InputSpec, device: torch.device, *, channels_last: bool) -> Tensor:
    """Move a uint8 batch to its device and turn it into what a network takes.

    Args:
        images: (B, C, H, W) uint8; not modified.
        spec: mean and standard deviation of the network's input.
        device: where the network is.
        channels_last: whether the result lies in channels-last memory.

    Returns:
        (B, C, H, W) float32 on the device.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = normalize(images.to(device, non_blocking=True), spec.mean, spec.std)
    return images.contiguous(memory_format=layout)
