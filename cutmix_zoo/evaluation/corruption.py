"""How well a classifier does on corrupted images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from timm.data import ImageNetInfo
from torch import Tensor
from torchvision import transforms

from cutmix_zoo.checks import require
from cutmix_zoo.data.corrupted import CONDITIONS, CORRUPTIONS, SEVERITIES, CifarC, ImageNetC, open_corrupted
from cutmix_zoo.data.datasets import class_names, class_to_idx
from cutmix_zoo.data.sampler import fixed_subset
from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.data.transforms import ToMode
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.findings import Findings, percent
from cutmix_zoo.evaluation.own_corruptions import OWN_CORRUPTIONS, corrupt
from cutmix_zoo.known import KNOWN_DATASETS, known_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from cutmix_zoo.evaluation.subject import Subject

ALEXNET_ERRORS: Mapping[str, float] = dict(
    zip(
        CORRUPTIONS,
        (
            *(88.6428, 89.4468, 92.2640),
            *(81.9880, 82.6268, 78.5948, 79.8360),
            *(86.6816, 82.6572, 81.9324, 56.4592),
            *(85.3204, 64.6056, 71.7840, 60.6500),
        ),
        strict=True,
    )
)
"""Top-1 error of AlexNet on ImageNet-C in percent, the mean over the severities: of noise, blur, weather, digital."""

_IMAGENET_CLASSES = 1000


class _Measured(NamedTuple):
    """The errors, on how many images, and why others were left out."""

    rows: list[dict[str, Any]]
    images: int
    unreadable: tuple[str, ...] = ()


def mean_corruption_error(errors: Mapping[str, float]) -> float:
    """Compute ImageNet-C's mCE, the mean of the errors relative to AlexNet's.

    Args:
        errors: for each of the 15 corruptions the top-1 error in percent, the mean over the five severities.

    Returns:
        Percent: 100 is as bad as AlexNet.

    Raises:
        ValueError: if a corruption is missing, or is none of the 15.

    **Source**: Hendrycks and Dietterich, ICLR 2019, section 4.1, with the errors of AlexNet that its authors use.

    Example:
        >>> mean_corruption_error(ALEXNET_ERRORS)
        100.0
    """
    missing, unknown = sorted(set(CORRUPTIONS) - set(errors)), sorted(set(errors) - set(CORRUPTIONS))
    require(not missing, f"errors must have all 15 corruptions, missing are {', '.join(missing)}")
    require(not unknown, f"errors must have the 15 corruptions of ImageNet-C alone, got {', '.join(unknown)}")
    return float(np.mean([100 * errors[name] / ALEXNET_ERRORS[name] for name in CORRUPTIONS]))


def measure_corruption(subject: Subject, root: Path | None = None) -> Findings:
    """Measure the top-1 error on corrupted images.

    Args:
        subject: what is measured. Its ``limit`` counts: at most so many images of each corruption and severity, and the
            same ones of each.
        root: folder of ImageNet-C, CIFAR-10-C or CIFAR-100-C as released, see :func:`open_released`; ``None`` to
            corrupt the subject's own images by :mod:`~cutmix_zoo.evaluation.own_corruptions`.

    Returns:
        Rows with ``corruption``, ``severity`` (1 to 5), ``error`` (percent) and ``count`` (images). Numbers: ``source``
        (``imagenet-c``, ``cifar-c`` or ``own``), ``count`` (images, each of which is corrupted in all ways),
        ``unreadable`` (why images of the set were left out, one text each), ``clean_error`` (percent, of the subject's
        own images, ``limit`` of them), ``mean_error`` (percent, the mean of the rows), for ImageNet-C's 1000 classes
        ``mce`` (percent, see :func:`mean_corruption_error`), and a ``note`` where a number must not be taken for
        another.

    Raises:
        UserError: as :func:`open_released`, or if the images of the set are smaller than the classifier's input.

    **Source**: Hendrycks and Dietterich, ICLR 2019. The images of ImageNet-C are 224 x 224 already, and are cropped
    and not resized, as in the authors' code; others resize them to 256 first, and get other numbers.
    """
    released = None if root is None else open_released(root, subject)
    rows, images, unreadable = _measure_own(subject) if released is None else _measure_released(subject, released)
    numbers = {
        "source": "own" if released is None else released.source,
        "count": images,
        "unreadable": list(unreadable),
        "clean_error": _clean_error(subject),
        "mean_error": float(np.mean([row["error"] for row in rows])),
    }
    if released is None:
        numbers["note"] = "own corruptions, neither ImageNet-C nor MNIST-C"
    elif isinstance(released, ImageNetC):
        if released.num_classes == _IMAGENET_CLASSES:
            numbers["mce"] = mean_corruption_error(_over_severities(rows))
        else:
            numbers["note"] = f"{released.num_classes} classes, not the 1000 of ImageNet-C: no mCE"
    return Findings(numbers, rows)


def open_released(root: Path, subject: Subject) -> ImageNetC | CifarC:
    """Open a released set of corrupted images, in which the labels mean what they mean in the data of a subject.

    Args:
        root: folder of ImageNet-C, CIFAR-10-C or CIFAR-100-C.
        subject: what is to be measured on it.

    Raises:
        UserError: if the folder is no such set or is incomplete, its classes are not as many as the classifier's, or
            they are others than those of the subject's dataset. CIFAR-C has no names of its classes: the dataset must
            have those of CIFAR-10 or CIFAR-100. The folders of ImageNet-C are compared with those of the dataset, which
            for ImageNet itself are known, and are not compared if the dataset does not name its classes.
    """
    released = open_corrupted(root)
    if released.num_classes != subject.classifier.num_classes:
        raise UserError(
            f"{released.root} has {released.num_classes} classes and the model has {subject.classifier.num_classes}: "
            "take the corrupted set of the data that the model was trained for."
        )
    why = _odd_folders(released, subject) if isinstance(released, ImageNetC) else _odd_names(released, subject)
    if why:
        raise UserError(
            f"the labels of {released.root} do not mean what those of {subject.settings.name} mean: {why}; take the "
            "corrupted set of the data that is evaluated."
        )
    return released


def _odd_names(released: CifarC, subject: Subject) -> str | None:
    """Say why a dataset is not the one that CIFAR-C, which names no classes, was made of."""
    names = class_names(subject.dataset, subject.settings)
    cifar = [KNOWN_DATASETS[name] for name in ("cifar10", "cifar100")]
    if any(known.num_classes == released.num_classes and known.classes == names for known in cifar):
        return None
    return f"CIFAR-C with {released.num_classes} classes, and no dataset with the names of CIFAR's"


def _odd_folders(released: ImageNetC, subject: Subject) -> str | None:
    """Say which classes of a dataset do not have the same label in the folders of ImageNet-C."""
    labels = _labels_of_folders(subject)
    odd = [name for name, label in labels.items() if released.classes[label : label + 1] != (name,)]
    if not odd:
        return None
    such = ", ".join(sorted(odd)[:3])
    return f"{len(odd)} of {len(labels)} classes have another place or no folder there, such as {such}"


def _labels_of_folders(subject: Subject) -> Mapping[str, int]:
    """Return the labels of a dataset's classes by the names of their folders; empty if they are not known."""
    labels, data = class_to_idx(subject.dataset) or {}, subject.settings
    known = known_dataset(data.name)
    whole = data.only_classes is None and len(set(labels.values())) in (0, _IMAGENET_CLASSES)
    if known is not None and known.name == "imagenet" and whole:
        # some readers have the classes' descriptions instead
        return {wnid: label for label, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    return labels


def _over_severities(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {
        name: float(np.mean([row["error"] for row in rows if row["corruption"] == name]))
        for name in dict.fromkeys(row["corruption"] for row in rows)
    }


def _clean_error(subject: Subject) -> float:
    wrong = subject.clean["logits"].argmax(1) != subject.clean["labels"]
    return percent(wrong[np.isin(subject.clean["index"], subject.chosen())])


def _measure_own(subject: Subject) -> _Measured:
    conditions = [(corruption, severity) for corruption in OWN_CORRUPTIONS for severity in SEVERITIES]
    samples = subject.samples(subject.chosen())

    def parts() -> Iterator[dict[str, Tensor]]:
        for index, images, labels in samples:
            corrupted = (corrupt(images, *condition, index) for condition in conditions)
            wrong = [_is_wrong(subject, images, labels) for images in corrupted]
            yield {"index": index, "wrong": torch.stack(wrong, 1)}

    wrong = subject.gather(samples, parts(), "corruption")["wrong"]
    return _Measured([_row(*condition, wrong[:, place]) for place, condition in enumerate(conditions)], len(wrong))


def _measure_released(subject: Subject, released: ImageNetC | CifarC) -> _Measured:
    transform = _CropOnly(input_spec(subject.settings).input_size) if isinstance(released, ImageNetC) else None
    size = len(released.labels)
    places = fixed_subset(size, subject.limit)
    indices = (size * np.arange(len(CONDITIONS))[:, None] + places).ravel()
    samples = subject.samples(indices, dataset=released, transform=transform)
    parts = ({"index": index, "wrong": _is_wrong(subject, images, labels)} for index, images, labels in samples)
    found, unreadable = subject.gather_readable(samples, parts, "corruption")
    condition_of = found["index"] // size
    empty = [name for place, name in enumerate(CONDITIONS) if not (condition_of == place).any()]
    if empty:
        raise UserError(f"no image of {empty[0][0]} at severity {empty[0][1]} can be read in {released.root}")
    rows = [_row(*name, found["wrong"][condition_of == place]) for place, name in enumerate(CONDITIONS)]
    return _Measured(rows, len(np.unique(found["index"] % size)), unreadable)


def _is_wrong(subject: Subject, images: Tensor, labels: Tensor) -> Tensor:
    classifier = subject.classifier
    return classifier.logits(classifier.to_input(images)).argmax(1) != labels


def _row(corruption: str, severity: int, wrong: NDArray[np.bool_]) -> dict[str, Any]:
    return {"corruption": corruption, "severity": severity, "error": percent(wrong), "count": len(wrong)}


class _CropOnly:
    """Crop the centre, without resizing."""

    def __init__(self, input_size: tuple[int, int, int]) -> None:
        channels, self.height, self.width = input_size
        crop = transforms.CenterCrop((self.height, self.width))
        self.steps = transforms.Compose([ToMode(channels), crop, transforms.PILToTensor()])

    def __call__(self, image: Image.Image) -> Tensor:
        if image.height < self.height or image.width < self.width:
            raise UserError(
                f"the model takes {self.height} x {self.width} pixels and ImageNet-C has {image.height} x "
                f"{image.width}, which are not to be resized: measure a model with an input of that size or less"
            )
        return self.steps(image)
