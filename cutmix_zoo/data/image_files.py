"""Image files: find them in folders, and read one of them, or say what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from cutmix_zoo.errors import UserError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# a damaged file makes Pillow raise any of these; ValueError is for what is too large to be unpacked
_READ_ERRORS = (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(file: Any, name: Callable[[], object] | None = None) -> Image.Image:
    """Read an image and decode it, as its file has it: of any mode, and not turned as its EXIF data may ask.

    Args:
        file: what ``PIL.Image.open`` takes: a path, or a file that is open.
        name: says what to call it in the error, where ``file`` itself does not.

    Raises:
        UserError: if it cannot be read or decoded.
    """
    try:
        with Image.open(file) as image:
            image.load()
    except _READ_ERRORS as error:
        raise UserError(f"cannot read image {name() if name else file}: {one_line(error)}") from error
    return image


def find_images(places: Iterable[str | Path]) -> list[Path]:
    """List image files: those that are named, whatever their endings, and those in the folders that are named.

    Args:
        places: files and folders. A folder is searched with all below it for the endings of images (``.jpg``,
            ``.jpeg``, ``.png``, ``.ppm``, ``.bmp``, ``.pgm``, ``.tif``, ``.tiff``, ``.webp``, in any case); links to
            other folders are followed.

    Returns:
        The files in the order of the places, those of a folder sorted by their paths.

    Raises:
        UserError: if a place does not exist, or there is no image at all.
    """
    searched = [Path(place) for place in places]
    files: list[Path] = []
    for place in searched:
        if place.is_dir():
            files += sorted(_below(place))
        elif place.exists():
            files.append(place)
        else:
            raise UserError(f"{place} does not exist: expected an image or a folder of images")
    if not files:
        raise UserError(
            f"no images in {', '.join(map(str, searched)) or 'nothing'}: expected files that end in "
            f"{', '.join(IMG_EXTENSIONS)}, in the folders or below"
        )
    return files


def _below(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        # a link to what has been seen may lead round in circles
        folders[:] = [name for name in folders if os.path.realpath(Path(place, name)) not in seen]
        yield from (Path(place, name) for name in names if name.lower().endswith(IMG_EXTENSIONS))
