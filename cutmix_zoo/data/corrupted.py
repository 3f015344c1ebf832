"""The released sets of corrupted images: ImageNet-C, CIFAR-10-C and CIFAR-100-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from cutmix_zoo.data.image_files import read_image
from cutmix_zoo.errors import UserError, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The corruptions that a mean is taken over. The sets come with four more, which were meant for choosing settings."""

SEVERITIES = (1, 2, 3, 4, 5)

CONDITIONS = tuple((corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES)
"""What the images of a set went through, in the order in which the set has them."""


class ImageNetC(Dataset[tuple[Image.Image, int]]):
    """ImageNet-C, or a set in the same folders: ``ROOT/<corruption>/<severity>/<class>/<image>``.

    All conditions follow each other: sample ``c * len(labels) + i`` is image ``i`` under ``CONDITIONS[c]``. Which
    images there are is read from the first condition; where another one lacks an image, that sample cannot be read.

    Args:
        root: the folder of the corruptions.

    Raises:
        UserError: when a corruption or severity is missing, or two have different classes.

    **Source**: Hendrycks and Dietterich, ICLR 2019.
    """

    source = "imagenet-c"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.classes = _classes(root)
        self.num_classes = len(self.classes)
        first = root.joinpath(*map(str, CONDITIONS[0]))
        images = [_images(first / name) for name in self.classes]
        self.names = [
            f"{folder}/{image}" for folder, found in zip(self.classes, images, strict=True) for image in found
        ]
        self.labels: NDArray[np.int64] = np.repeat(np.arange(self.num_classes), [len(found) for found in images])

    def __len__(self) -> int:
        return len(CONDITIONS) * len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        condition, place = divmod(index, len(self.labels))
        corruption, severity = CONDITIONS[condition]
        path = self.root / corruption / str(severity) / self.names[place]
        return read_image(path), int(self.labels[place])


def _classes(root: Path) -> tuple[str, ...]:
    """Name the class folders, which have to be the same everywhere."""
    folders = [root / corruption / str(severity) for corruption, severity in CONDITIONS]
    missing = [str(folder.relative_to(root)) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(
            f"{root} lacks {len(missing)} of {len(folders)} folders of ImageNet-C: {', '.join(missing[:10])}"
            f"{', ...' if len(missing) > 10 else ''}. Expected ROOT/<corruption>/<severity 1 to 5>/<class>/<image>"
        )
    found = [{path.name for path in folder.iterdir() if path.is_dir()} for folder in folders]
    for folder, names in zip(folders, found, strict=True):
        if names != found[0]:
            raise UserError(
                f"{folder} has other classes than {folders[0]}, so that their labels would not agree: {len(names)} and "
                f"{len(found[0])}; only one of the two has {', '.join(sorted(names ^ found[0])[:10])}"
            )
    if not found[0]:
        raise UserError(f"{folders[0]} has no class folders: expected ROOT/<corruption>/<severity>/<class>/<image>")
    return tuple(sorted(found[0]))


def _images(folder: Path) -> list[str]:
    images = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(IMG_EXTENSIONS))
    if not images:
        raise UserError(f"{folder} has no images: unpack the set again")
    return images


class CifarC(Dataset[tuple[Image.Image, int]]):
    """CIFAR-10-C or CIFAR-100-C: ``<corruption>.npy`` and ``labels.npy``, read from the disk image by image.

    All conditions follow each other: sample ``c * len(labels) + i`` is image ``i`` under ``CONDITIONS[c]``.

    Args:
        root: the folder of the files. Each file of images is (5 N, 32, 32, 3) uint8, the least severe first; N is
            10,000 in the released sets.

    Raises:
        UserError: when a file is missing, damaged, or of another shape.

    **Source**: Hendrycks and Dietterich, ICLR 2019.
    """

    source = "cifar-c"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.labels = _labels(root / "labels.npy")
        self.num_classes = int(self.labels.max()) + 1
        shape = (len(SEVERITIES) * len(self.labels), 32, 32, 3)
        self.images = [_open(root / f"{corruption}.npy") for corruption in CORRUPTIONS]
        for corruption, images in zip(CORRUPTIONS, self.images, strict=True):
            if images.shape != shape or images.dtype != np.uint8:
                raise UserError(
                    f"{root / corruption}.npy: expected {shape} uint8 to fit to labels.npy, "
                    f"got {images.shape} {images.dtype}"
                )

    def __len__(self) -> int:
        return len(CONDITIONS) * len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        condition, place = divmod(index, len(self.labels))
        file, severity = divmod(condition, len(SEVERITIES))
        pixels = self.images[file][severity * len(self.labels) + place]
        return Image.fromarray(np.array(pixels)), int(self.labels[place])

    def __reduce__(self) -> Any:
        """Let a process that this is sent to open the files itself: a memory map would be sent as its content."""
        return CifarC, (self.root,)


def _labels(path: Path) -> NDArray[np.integer[Any]]:
    """Read the labels of the images of one severity."""
    labels = np.array(_open(path))
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) % 5 or not len(labels):
        raise UserError(
            f"{path}: expected whole numbers (5 N,), one for each image of the five severities, "
            f"got {labels.shape} {labels.dtype}"
        )
    parts = labels.reshape(len(SEVERITIES), -1)
    if (parts != parts[0]).any():
        raise UserError(f"{path}: expected the same labels for each of the five severities, got others")
    return parts[0]


def _open(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise UserError(
            f"{path} is missing: CIFAR-10-C and CIFAR-100-C have labels.npy and a file for each of "
            f"{', '.join(CORRUPTIONS)}; unpack the set again"
        )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}; unpack the set again") from error


def open_corrupted(root: Path) -> ImageNetC | CifarC:
    """Open a released set of corrupted images; which one, is told from what is in the folder.

    Args:
        root: its folder.

    Raises:
        UserError: when the folder is no such set, or is incomplete.
    """
    root = root.expanduser()
    if any((root / f"{name}.npy").is_file() for name in (*CORRUPTIONS, "labels")):
        return CifarC(root)
    if any((root / name).is_dir() for name in CORRUPTIONS):
        return ImageNetC(root)
    there = sorted(path.name for path in root.iterdir())[:10] if root.is_dir() else []
    raise UserError(
        f"{root} is neither ImageNet-C nor CIFAR-10-C nor CIFAR-100-C: expected folders such as gaussian_noise/1, or "
        f"files such as gaussian_noise.npy; found {', '.join(there) or 'nothing'}"
    )
