"""Datasets that fit stay on the device, decoded, and are cropped and flipped there in whole batches.

The batches are those of the streamed path bit for bit: the draws are the same, and made and applied for many images at
a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch reader knows
from torch import Tensor

from cutmix_zoo.data.settings import DataSettings, input_spec
from cutmix_zoo.keys import Stream, first_draws, seeds_for

if TYPE_CHECKING:
    from collections.abc import Generator

    from cutmix_zoo.data.sampler import KeyedBatchSampler


@dataclass(frozen=True)
class Images:
    """A decoded split.

    Args:
        pixels: (N, C, H, W) uint8, on the device.
        labels: (N,) int64, on the CPU.
    """

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class CropFlip:
    """Where images are cropped, and whether they are flipped then.

    Args:
        top: (B,) int64, first row.
        left: (B,) int64, first column.
        flip: (B,) bool.
    """

    top: Tensor
    left: Tensor
    flip: Tensor

    def at(self, part: slice) -> CropFlip:
        """Choose some of the images."""
        return CropFlip(self.top[part], self.left[part], self.flip[part])

    def to(self, device: torch.device) -> CropFlip:
        """Move it to a device."""
        return CropFlip(self.top.to(device), self.left.to(device), self.flip.to(device))

    def apply(self, pixels: Tensor, indices: Tensor, height: int, width: int) -> Tensor:
        """Crop and flip.

        Args:
            pixels: (N, C, H, W) of any dtype, on the device of the draws.
            indices: (B,) int64, which image each draw is for.
            height: of the crop.
            width: of the crop.

        Returns:
            (B, C, height, width), a copy.
        """
        channels, down, across = (torch.arange(size, device=pixels.device) for size in (pixels.shape[1], height, width))
        rows = self.top[:, None] + down
        columns = self.left[:, None] + torch.where(self.flip[:, None], across.flip(0), across)
        place = (indices[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None])
        return pixels[place]


def draw_crop_flip(seed: int, epoch: int, indices: Tensor, *, rows: int, columns: int, hflip: float) -> CropFlip:
    """Draw what torchvision's ``RandomCrop`` and ``RandomHorizontalFlip`` draw for each of some samples.

    Args:
        seed: seed of the run.
        epoch: epoch, from 0.
        indices: (B,) int64, of the samples' keys, on the CPU.
        rows: from how many first rows a crop may start, at least 1.
        columns: from how many first columns.
        hflip: probability of a flip, in [0, 1].

    Returns:
        The draws, on the CPU.
    """
    seeds = seeds_for(seed, Stream.AUGMENT, epoch, indices=indices.numpy())
    draws = [torch.from_numpy(row.astype(np.int64)) for row in first_draws(seeds, 3)]
    # where there is but one place for the crop, torchvision does not draw
    *places, flip = draws if rows > 1 or columns > 1 else (torch.zeros_like(draws[0]),) * 2 + (draws[0],)
    # of 32 bits, torch's uniform numbers in single precision take the lower 24
    uniform = (flip & 0xFFFFFF).float() / (1 << 24)
    return CropFlip(places[0] % rows, places[1] % columns, uniform < hflip)


class ResidentLoader:
    """The training batches of one process, like those of a ``TrainLoader``, of images that are on the device.

    Args:
        images: the whole training split, before it is padded.
        settings: the data section of a recipe.
        sampler: says which images are in which batch.
    """

    def __init__(self, images: Images, settings: DataSettings, sampler: KeyedBatchSampler) -> None:
        self._sampler, self._labels, self._hflip = sampler, images.labels, settings.hflip
        self._size = input_spec(settings).input_size[1:]
        self._pixels = F.pad(images.pixels, [settings.pad] * 4) if settings.crop == "pad" else images.pixels

    def __len__(self) -> int:
        """Count the steps of a whole epoch."""
        return len(self._sampler)

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Iterate over an epoch, or over the rest of it.

        Args:
            epoch: epoch, from 0.
            start_step: the first step wanted.

        Yields:
            images (B, C, H, W) uint8 on the device and labels (B,) int64 on the CPU.
        """
        rows, columns = (there - wanted + 1 for there, wanted in zip(self._pixels.shape[2:], self._size, strict=True))
        batches = list(self._sampler.batches(epoch, start_step))
        keys = torch.cat([torch.empty(0, dtype=torch.int64), *batches])
        draws = draw_crop_flip(self._sampler.seed, epoch, keys, rows=rows, columns=columns, hflip=self._hflip)
        # sent to the device at once: a copy with each batch would wait for it
        draws, indices = draws.to(self._pixels.device), (keys % len(self._labels)).to(self._pixels.device)
        start = 0
        for batch in batches:
            part = slice(start, start + len(batch))
            start = part.stop
            images = draws.at(part).apply(self._pixels, indices[part], *self._size)
            yield images, self._labels[batch % len(self._labels)]

    def close(self) -> None:
        """Do nothing: there are no workers."""
