"""Canvases: a garment of Fashion-MNIST at some place and scale of a larger image, so that it can be localized."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from cutmix_zoo.checks import require
from cutmix_zoo.keys import Stream, generator_for
from cutmix_zoo.mixing.boxes import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutmix_zoo.data.fashion_mnist import FashionMNIST

SCALES = (0.6, 1.3)
"""Between what a garment is scaled."""
PIECES = 3
"""How many pieces of other garments lie about."""

_CANVAS = 0x56  # tells these draws from others of their stream
_TRIES = 4  # places that a piece may take
_PIECE_SIDES = (10, 16)
_PIECE_CONTRAST = (0.35, 0.6)
_OPAQUE = 16.0  # grey levels from which a garment hides what is behind it; what lies around garments is fainter


class Canvases(Dataset[tuple[Image.Image, int]]):
    """Grey images with one whole garment each, on a dim texture among pieces of other garments.

    The garment is scaled by 0.6 to 1.3 and may lie anywhere. A canvas is a function of its split, its index and the
    images of Fashion-MNIST alone, so it is the same in every run and process. Like
    :class:`~cutmix_zoo.data.fashion_mnist.FashionMNIST` it gives (PIL image of mode ``L``, label) and has ``classes``,
    ``class_to_idx`` and ``targets``.

    Args:
        source: the garments, one for each canvas.
        train: whether it is the training split; the two splits have draws of their own.
        side: height and width of a canvas, in pixels.

    Raises:
        ValueError: if a garment may be larger than the canvas.

    **Source**: ours; the paper localizes birds and ImageNet's objects.
    """

    def __init__(self, source: FashionMNIST, *, train: bool, side: int = 56) -> None:
        largest = round(max(source.images.shape[1:]) * SCALES[1])
        require(side >= largest, f"side must be at least {largest}, the side of the largest garment, got {side}")
        self.source, self.train, self.side = source, train, side
        self.classes, self.class_to_idx, self.targets = source.classes, source.class_to_idx, source.targets

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        generator = self._generator(index)
        garment, top, left = self._place(index, generator)
        canvas = self._texture(generator)
        self._strew(canvas, _tight_boxes(garment, top, left), generator)
        behind = canvas[top : top + len(garment), left : left + garment.shape[1]]
        behind *= 1 - np.minimum(garment / _OPAQUE, 1)
        behind += garment
        return Image.fromarray(canvas.clip(0, 255).astype(np.uint8)), int(self.targets[index])

    def boxes(self, index: int) -> list[Box]:
        """Return the tight box of the garment's pixels that are not 0; none if there are no such pixels.

        Args:
            index: place in the dataset.

        Returns:
            Half-open (top, left, bottom, right).
        """
        return _tight_boxes(*self._place(index, self._generator(index)))

    def image_size(self, index: int) -> tuple[int, int]:
        """Return height and width of a canvas, all of which are alike."""
        del index
        return self.side, self.side

    def _generator(self, index: int) -> torch.Generator:
        return generator_for(Stream.EVALUATE, _CANVAS, self.train, range(len(self))[index])

    def _place(self, index: int, generator: torch.Generator) -> tuple[NDArray[np.uint8], int, int]:
        """Draw scale and place of a garment; return it scaled, and where its frame begins."""
        scale, down, across = _uniform(generator, 3)
        image = Image.fromarray(self.source.images[index])
        factor = _between(SCALES, scale)
        width, height = (round(side * factor) for side in image.size)
        garment = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        return garment, _whole(down, self.side - height), _whole(across, self.side - width)

    def _texture(self, generator: torch.Generator) -> NDArray[np.float32]:
        """Draw a dim background: clouds and grain, in grey levels."""
        clouds = Image.fromarray(_uniform(generator, 8, 8)).resize((self.side, self.side), Image.Resampling.BICUBIC)
        (light,) = _uniform(generator, 1)
        texture: NDArray[np.float32] = np.asarray(clouds) * np.float32(_between((33, 55), light))
        texture += 18 * _uniform(generator, self.side, self.side)
        return texture

    def _strew(self, canvas: NDArray[np.float32], boxes: list[Box], generator: torch.Generator) -> None:
        """Put pieces of other garments onto a canvas, each where it overlaps the garment least of some places."""
        facts, places = _uniform(generator, PIECES, 5), _uniform(generator, PIECES, _TRIES, 2)
        for (which, size, contrast, down, across), tries in zip(facts, places, strict=True):
            image = self.source.images[_whole(which, len(self) - 1)]
            side = _whole(size, _PIECE_SIDES[1] - _PIECE_SIDES[0]) + _PIECE_SIDES[0]
            top, left = _whole(down, image.shape[0] - side), _whole(across, image.shape[1] - side)
            piece = image[top : top + side, left : left + side] * np.float32(_between(_PIECE_CONTRAST, contrast))
            windows = [_window(_whole(a, self.side - side), _whole(b, self.side - side), side) for a, b in tries]
            best = min(windows, key=lambda window: sum(_overlap(window, box) for box in boxes))
            behind = canvas[best.top : best.bottom, best.left : best.right]
            np.maximum(behind, piece, out=behind)


def _uniform(generator: torch.Generator, *shape: int) -> NDArray[np.float32]:
    drawn: NDArray[np.float32] = torch.rand(shape, generator=generator).numpy()
    return drawn


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * float(share)


def _whole(share: float, largest: int) -> int:
    """Turn a uniform number in [0, 1) into a whole one from 0 to ``largest``."""
    return int(share * (largest + 1))


def _window(top: int, left: int, side: int) -> Box:
    return Box(top, left, top + side, left + side)


def _overlap(first: Box, second: Box) -> int:
    """Count the pixels that two boxes share."""
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    width = min(first.right, second.right) - max(first.left, second.left)
    return max(0, height) * max(0, width)


def _tight_boxes(garment: NDArray[np.uint8], top: int, left: int) -> list[Box]:
    """Find the tight box of the pixels that are not 0 in an image whose corner is at (top, left)."""
    rows, columns = np.flatnonzero(garment.any(1)), np.flatnonzero(garment.any(0))
    if not len(rows):
        return []
    return [Box(top + int(rows[0]), left + int(columns[0]), top + int(rows[-1]) + 1, left + int(columns[-1]) + 1)]
