"""The boxes of ImageNet: its XML annotations beside an opened split."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from xml.etree import ElementTree

from cutmix_zoo.data.datasets import class_to_idx, is_random_access, known_labels
from cutmix_zoo.data.holdout import Part
from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.mixing.boxes import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

Corners: TypeAlias = tuple[int, int, int, int]
"""``ymin``, ``xmin``, ``ymax``, ``xmax``."""

_WNID = re.compile(r"n\d{8}")


class Annotated(Part):
    """A whole dataset, and the boxes of its images.

    Args:
        dataset: the dataset.
        files: the XML file of each image.
        classes: the WordNet id of each image's class; None for one that is not known.
    """

    def __init__(self, dataset: Any, files: Sequence[Path], classes: Sequence[str | None]) -> None:
        super().__init__(dataset, range(len(dataset)), known_labels(dataset), class_to_idx(dataset))
        self._files, self._classes = files, classes
        self._annotations: dict[int, Annotation] = {}

    def boxes(self, index: int) -> list[Box]:
        """Return the boxes of the objects of the image's own class; of all objects if that is not known.

        The first pixel is at 0, and ``xmax`` and ``ymax`` are the last column and row: a box of a whole image of 500
        columns goes from 0 to 499 in the released files. What lies outside the image is cut off.

        Args:
            index: place in the dataset.

        Returns:
            Half-open (top, left, bottom, right), in pixels of the image that was annotated, whose size is
            :meth:`image_size`.

        Raises:
            UserError: if the file is not such an annotation, or has no object of that class.
        """
        height, width = self.image_size(index)
        return [
            Box(top, left, min(bottom + 1, height), min(right + 1, width))
            for top, left, bottom, right in self.corners(index)
        ]

    def corners(self, index: int) -> list[Corners]:
        """Return the numbers of the same boxes as the file has them, which wsolevaluation takes.

        Args:
            index: place in the dataset.

        Returns:
            ``ymin``, ``xmin``, ``ymax``, ``xmax``, cut off at 0 and at the height or width.

        Raises:
            UserError: as :meth:`boxes`.
        """
        annotation, wanted = self._annotation(index), self._classes[index]
        corners = [each for name, each in annotation.objects if wanted in (None, name)]
        if not corners:
            raise UserError(f"{self._files[index]} has no object{f' of class {wanted}' if wanted else ''}")
        return corners

    def image_size(self, index: int) -> tuple[int, int]:
        """Return height and width of the image that was annotated, which a copy of it need not have any more.

        Raises:
            UserError: if the file is not such an annotation.
        """
        return self._annotation(index).size

    def _annotation(self, index: int) -> Annotation:
        if index not in self._annotations:
            self._annotations[index] = read_annotation(self._files[index])
        return self._annotations[index]


class Annotation(NamedTuple):
    """What an XML file says of an image."""

    size: tuple[int, int]
    """Height and width."""
    objects: list[tuple[str, Corners]]
    """The name of each object, and its numbers, cut off at 0 and at the height or width."""


def with_boxes(dataset: Any, folder: Path) -> Annotated:
    """Put the boxes of ImageNet's annotations beside the images of an opened split.

    Args:
        dataset: what :func:`~cutmix_zoo.data.datasets.open_split` returned: a folder of images, or a part of one.
        folder: holds a file such as ``ILSVRC2012_val_00000001.xml`` for each image, named like it, at any depth.

    Returns:
        The dataset, with ``boxes``, ``corners`` and ``image_size``; each file is read once, when it is needed.

    Raises:
        UserError: if the images have no names, or images have no annotation.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: expected the one that holds ImageNet's XML annotations")
    if not is_random_access(dataset) or not hasattr(dataset, "filename"):
        raise UserError("only images from files can be matched with annotations: set data.name to imagenet or folder")
    names = [Path(dataset.filename(index)) for index in range(len(dataset))]
    annotations = _find_annotations(folder)
    missing = [name.stem for name in names if name.stem not in annotations]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} images have no annotation in {folder} or below, such as "
            f"{', '.join(f'{stem}.xml' for stem in missing[:3])}; ILSVRC2012_bbox_val_v3.tgz has those of the "
            "validation split"
        )
    classes = [name.parent.name if _WNID.fullmatch(name.parent.name) else None for name in names]
    return Annotated(dataset, [annotations[name.stem] for name in names], classes)


def read_annotation(file: Path) -> Annotation:
    """Read an XML file in the format of PASCAL VOC.

    Args:
        file: with a ``size`` and for each ``object`` a ``name`` and a ``bndbox``.

    Raises:
        UserError: if it cannot be read, is not like that, or a box has no pixel in the image.
    """
    try:
        root = ElementTree.parse(file).getroot()
        height, width = _whole(root, "size/height"), _whole(root, "size/width")
        objects = [(_text(entry, "name"), _corners(entry, height, width)) for entry in root.iter("object")]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file} is not an annotation of an image: {one_line(error)}") from error
    return Annotation((height, width), objects)


def _corners(entry: ElementTree.Element, height: int, width: int) -> Corners:
    top, left, bottom, right = (_whole(entry, f"bndbox/{key}") for key in ("ymin", "xmin", "ymax", "xmax"))
    if not (max(top, 0) <= min(bottom, height - 1) and max(left, 0) <= min(right, width - 1)):
        raise ValueError(f"the box {left}, {top}, {right}, {bottom} has no pixel in {width} x {height}")
    return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


def _whole(entry: ElementTree.Element, path: str) -> int:
    return round(float(_text(entry, path)))


def _text(entry: ElementTree.Element, path: str) -> str:
    text = entry.findtext(path)
    if text is None:
        raise ValueError(f"{entry.tag} has no {path}")
    return text.strip()


def _find_annotations(folder: Path) -> dict[str, Path]:
    """Find the XML files below a folder by what they are called."""
    # of several of one name the first by its path
    return {file.stem: file for file in sorted(folder.rglob("*.xml"), reverse=True)}
