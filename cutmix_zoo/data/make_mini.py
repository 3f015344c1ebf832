"""Make fashion_mnist_mini, bit for bit, from a folder of Fashion-MNIST.

    apt-get install dataset-fashion-mnist
    python -m cutmix_zoo.data.make_mini --source /usr/share/datasets/fashion-mnist --output DIR

Of each class it keeps the first 1,000 training and the first 200 test images, in the order of the
original files. The bytes of the gzipped files are those of zlib's own compressor; zlib-ng, which
some systems have in its place, packs the same images differently.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cutmix_zoo.data.fashion_mnist import FashionMNIST, file_names
from cutmix_zoo.data.idx import write_idx
from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def first_of_each_class(labels: NDArray[np.int64], per_class: int) -> NDArray[np.int64]:
    """Choose the first samples of each class.

    Args:
        labels: (N,) int64.
        per_class: how many of each class.

    Returns:
        Their indices, ascending, int64.

    Raises:
        UserError: when a class has fewer.
    """
    chosen = []
    for label in np.unique(labels):
        indices = np.flatnonzero(labels == label)
        if len(indices) < per_class:
            raise UserError(f"expected {per_class} images of class {label}, got {len(indices)}")
        chosen.append(indices[:per_class])
    return np.sort(np.concatenate(chosen))


def make_mini(source: Path, output: Path, *, train_per_class: int = 1000, test_per_class: int = 200) -> None:
    """Write the four files of the mini set.

    Args:
        source: a folder of Fashion-MNIST in either layout.
        output: the folder to write to; it is made if it is missing.
        train_per_class: training images of each class.
        test_per_class: test images of each class.

    Raises:
        UserError: when the source is no Fashion-MNIST, or is too small.
    """
    output.mkdir(parents=True, exist_ok=True)
    for train, per_class in ((True, train_per_class), (False, test_per_class)):
        full = FashionMNIST(source, train=train)
        chosen = first_of_each_class(full.targets, per_class)
        images, labels = file_names(train=train)
        write_idx(output / f"{images}.gz", full.images[chosen])
        write_idx(output / f"{labels}.gz", full.targets[chosen].astype(np.uint8))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make fashion_mnist_mini from a folder of Fashion-MNIST.")
    parser.add_argument("--source", type=Path, required=True, help="folder of Fashion-MNIST, in either layout")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the four files to")
    options = parser.parse_args(arguments)
    try:
        make_mini(options.source, options.output)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
