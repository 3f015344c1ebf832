"""Fashion-MNIST and its mini version, from idx files in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torchvision.datasets
from PIL import Image
from torch.utils.data import Dataset

from cutmix_zoo.data.idx import read_idx
from cutmix_zoo.errors import UserError
from cutmix_zoo.known import KNOWN_DATASETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINI_ROOT = Path(__file__).with_name("fashion_mnist_mini")
"""The folder of fashion_mnist_mini, which ships with the package."""

_TORCHVISION_FOLDER = Path("FashionMNIST", "raw")


class FashionMNIST(Dataset[tuple[Image.Image, int]]):
    """Fashion-MNIST, read from either layout of its files.

    Like torchvision's dataset, it gives (PIL image of mode ``L``, label) and has ``classes``,
    ``class_to_idx`` and ``targets``. It also reads the layout of Debian's package dataset-fashion-mnist,
    which is that of :data:`MINI_ROOT` too.

    Args:
        root: a folder that holds either torchvision's ``FashionMNIST/raw`` or the four
            ``*-ubyte`` files themselves; each file plain or gzipped.
        train: the training set, or the test set.
        download: when the files are not there, let torchvision fetch them into ``root``.

    Raises:
        UserError: when the files are missing, damaged or do not fit together, or the download fails.
    """

    classes = KNOWN_DATASETS["fashion_mnist"].classes

    def __init__(self, root: str | Path, train: bool, *, download: bool = False) -> None:
        paths = find_files(Path(root), train=train)
        if paths is None and download:
            _download(Path(root))
            paths = find_files(Path(root), train=train)
        if paths is None:
            raise UserError(_missing(Path(root), train=train))
        images, labels = read_idx(paths[0]), read_idx(paths[1])
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise UserError(
                f"{paths[0]} and {paths[1]} do not fit together: expected (N, height, width) and (N,), "
                f"got {images.shape} and {labels.shape}"
            )
        self.images: NDArray[np.uint8] = images
        self.targets: NDArray[np.int64] = labels.astype(np.int64)
        self.class_to_idx = {name: index for index, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.targets[index])


def file_names(*, train: bool) -> tuple[str, str]:
    """Name the files of a split as Fashion-MNIST does: images, labels; without ``.gz``."""
    prefix = "train" if train else "t10k"
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def find_files(root: Path, *, train: bool) -> tuple[Path, Path] | None:
    """Find the image and label file of a split in either layout, plain before gzipped; None if one is missing."""
    for folder in (root / _TORCHVISION_FOLDER, root):
        images, labels = (_plain_or_gzipped(folder / name) for name in file_names(train=train))
        if images and labels:
            return images, labels
    return None


def _plain_or_gzipped(path: Path) -> Path | None:
    return next((file for file in (path, path.with_name(f"{path.name}.gz")) if file.is_file()), None)


def _missing(root: Path, *, train: bool) -> str:
    images, labels = file_names(train=train)
    return (
        f"no Fashion-MNIST in {root}: looked there and in {root / _TORCHVISION_FOLDER} for {images} and {labels}, "
        "plain or .gz. Either `apt-get install dataset-fashion-mnist` and set data.root to "
        "/usr/share/datasets/fashion-mnist, or set data.download to true"
    )


def _download(root: Path) -> None:
    try:
        torchvision.datasets.FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"could not download Fashion-MNIST into {root}: {error}") from error
