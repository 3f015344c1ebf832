"""CUB-200-2011: birds, their species and their boxes, from the files as they are published."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from cutmix_zoo.data.image_files import read_image
from cutmix_zoo.errors import UserError, one_line, shown
from cutmix_zoo.mixing.boxes import Box

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

T = TypeVar("T")

_FOLDER = "CUB_200_2011"
_IMAGES, _CLASSES, _LABELS = "images.txt", "classes.txt", "image_class_labels.txt"
_SPLIT, _BOXES = "train_test_split.txt", "bounding_boxes.txt"
_NUMBER = re.compile(r"^\d+\.")


class CUB200(Dataset[tuple[Image.Image, int]]):
    """Caltech-UCSD Birds-200-2011: 5,994 images to train on and 5,794 to test on, of 200 species.

    It gives (PIL image, label) and has ``classes``, ``class_to_idx`` and ``targets``. Labels follow the order of
    ``classes.txt``; names are without the number in front, such as ``Black_footed_Albatross``.

    Args:
        root: ``CUB_200_2011`` itself, or the folder that it is in.
        train: the training images, or the test images, as ``train_test_split.txt`` has it.

    Raises:
        UserError: when files are missing, hold odd lines or do not fit together.

    **Source**: Wah et al., Technical Report CNS-TR-2011-001, California Institute of Technology, 2011.
    """

    def __init__(self, root: Path, train: bool) -> None:
        folder = root / _FOLDER if (root / _FOLDER).is_dir() else root
        _check_files(folder)
        names = _read(folder / _CLASSES, str, "<class id> <name>")
        paths = _read(folder / _IMAGES, str, "<image id> <path>")
        classes = _read_for(paths, folder / _LABELS, int, "<image id> <class id>")
        in_training = _read_for(paths, folder / _SPLIT, _flag, "<image id> <1 for training, 0 for test>")
        boxes = _read_for(paths, folder / _BOXES, _box, "<image id> <x> <y> <width> <height>")
        unknown = [path for image, path in paths.items() if classes[image] not in names]
        if unknown:
            raise UserError(f"{folder / _LABELS}: {_some(unknown, len(paths))} are of classes that {_CLASSES} lacks")
        numbers = {name: number for number, name in enumerate(sorted(names))}
        images = [image for image in sorted(paths) if in_training[image] == train]
        self.paths = [folder / "images" / paths[image] for image in images]
        self._boxes = [boxes[image] for image in images]
        self.targets: NDArray[np.int64] = np.array([numbers[classes[image]] for image in images], np.int64)
        self.classes = tuple(_NUMBER.sub("", names[name]) for name in numbers)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        absent = [path.relative_to(folder) for path in self.paths if not path.is_file()]
        if absent:
            raise UserError(f"{folder}: {_some(absent, len(images))} are missing; unpack CUB_200_2011.tgz anew")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return read_image(self.paths[index]), int(self.targets[index])

    def filename(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.paths[index])

    def boxes(self, index: int) -> list[Box]:
        """Return the box of the bird, rounded outwards to whole pixels.

        The file has ``x, y, width, height`` as floating-point numbers, the first pixel at 0; columns go from
        ``floor(x)`` up to and without ``ceil(x + width)``, and rows likewise.

        Args:
            index: place in the dataset.

        Returns:
            One half-open box (top, left, bottom, right), in pixels of the image.
        """
        return [self._boxes[index]]

    def image_size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image, from the head of its file.

        Raises:
            UserError: if it cannot be read.
        """
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return image.height, image.width
        except (OSError, Image.DecompressionBombError) as error:
            raise UserError(f"cannot read image {path}: {one_line(error)}") from error


def _check_files(folder: Path) -> None:
    needed = (_IMAGES, _CLASSES, _LABELS, _SPLIT, _BOXES)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"no CUB-200-2011 in {folder}: {', '.join(missing)} missing. Set data.root to the folder {_FOLDER} that "
            "CUB_200_2011.tgz unpacks to, or to the folder that it is in"
        )


def _read(file: Path, parse: Callable[[str], T], expected: str) -> dict[int, T]:
    """Read a file of lines that begin with a number."""
    found: dict[int, T] = {}
    odd = []
    for number, line in enumerate(_lines(file), 1):
        key, _, rest = line.strip().partition(" ")
        try:
            found[int(key)] = parse(rest)
        except ValueError:
            odd.append(f"line {number}: {shown(line)}")
    if odd:
        raise UserError(f"{file}: {len(odd)} lines are not {expected}, such as {odd[0]}")
    return found


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {one_line(error)}") from error


def _read_for(images: dict[int, str], file: Path, parse: Callable[[str], T], expected: str) -> dict[int, T]:
    """Read a file that has a line for each image."""
    found = _read(file, parse, expected)
    without = [f"{image} ({path})" for image, path in images.items() if image not in found]
    if without:
        raise UserError(f"{file}: {_some(without, len(images))} have no line in it")
    return found


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def _box(text: str) -> Box:
    x, y, width, height = map(float, text.split())
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(text)
    return Box(math.floor(y), math.floor(x), math.ceil(y + height), math.ceil(x + width))


def _some(names: Sequence[Any], count: int) -> str:
    """Count images and name the first ones."""
    first = ", ".join(str(name) for name in names[:3])
    return f"{len(names)} of {count} images ({first}{', ...' if len(names) > 3 else ''})"
