"""The released sets of corrupted images in their true formats, made small, and not with our own code."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# as the released sets name them, in the order of the paper's figure
NAMES = """
    gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog brightness
    contrast elastic_transform pixelate jpeg_compression
    """.split()  # noqa: SIM905  quoted, they would take a line each


def make_cifar_c(root: Path, labels: Sequence[int], level: Callable[[int, int, int], int]) -> Path:
    """Make a set whose image i has the grey level ``level(corruption, severity - 1, i)``."""
    root.mkdir(exist_ok=True)
    for corruption, name in enumerate(NAMES):
        levels = [level(corruption, severity, place) for severity in range(5) for place in range(len(labels))]
        shape = (len(levels), 32, 32, 3)
        np.save(root / f"{name}.npy", np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], shape))
    np.save(root / "labels.npy", np.array([*labels] * 5, np.uint8))
    return root


def make_imagenet_c(
    root: Path, classes: Sequence[str], files: Sequence[str], draw: Callable[[int, int, int], Image.Image]
) -> Path:
    """Make a set whose images of a class are all ``draw(corruption, severity - 1, label)``."""
    for corruption, name in enumerate(NAMES):
        for severity in range(5):
            for label, folder in enumerate(classes):
                place = root / name / str(severity + 1) / folder
                place.mkdir(parents=True)
                for file in files:
                    draw(corruption, severity, label).save(place / file, quality=100)
    return root
