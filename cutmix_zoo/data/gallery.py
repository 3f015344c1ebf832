"""A picture of every mixing method, on images that ship with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from cutmix_zoo.data.fashion_mnist import MINI_ROOT, FashionMNIST
from cutmix_zoo.mixing import CANONICAL
from cutmix_zoo.pictures import draw_gallery

if TYPE_CHECKING:
    from pathlib import Path

_SHOWN = (35, 2, 75, 36, 30, 39)
"""Test images that are easily told apart, each of another class."""


def draw_every_method(file: Path) -> None:
    """Draw every registered method on the same few images of fashion_mnist_mini.

    Args:
        file: the picture to write; its ending names the format.

    Raises:
        UserError: if matplotlib is not installed, or does not know the file's ending.
    """
    dataset = FashionMNIST(MINI_ROOT, train=False)
    images = pad(torch.from_numpy(dataset.images[list(_SHOWN)]), (2, 2, 2, 2))
    names = [dataset.classes[dataset.targets[index]] for index in _SHOWN]
    about = "Grey test images of Fashion-MNIST, 32 x 32 pixels with a margin."
    draw_gallery(images, names, CANONICAL, file, about=about)
