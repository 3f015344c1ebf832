"""Images of other distributions: folders of them, and what can be made without any files."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import PILToTensor

from cutmix_zoo.data.datasets import need_labels, open_split
from cutmix_zoo.data.image_files import find_images, read_image
from cutmix_zoo.data.keyed import read_sample
from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.data.transforms import Transform, eval_transform
from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import Stream, generator_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cutmix_zoo.evaluation.subject import Subject

Sample = tuple[Image.Image, int]
"""An image, and 0 for a label."""

NOISE_IMAGES = 10_000
"""As many as ODIN makes of each noise; as many as the dataset has, if that has fewer."""

ODIN_FOLDERS = {
    "Imagenet": "TinyImageNet (crop)",
    "Imagenet_resize": "TinyImageNet (resize)",
    "LSUN": "LSUN (crop)",
    "LSUN_resize": "LSUN (resize)",
    "iSUN": "iSUN",
}
"""The folders of the archives that ODIN's authors offer, and what the CutMix paper calls them."""

PAPER_SETS = frozenset({*ODIN_FOLDERS.values(), "uniform", "gaussian"})
"""The seven sets of the CutMix paper."""

# name what is drawn among the draws of Stream.EVALUATE
_UNIFORM, _GAUSSIAN, _SHUFFLED = 21, 22, 23
# datasets, without the library they come from, that are of digits themselves
_OF_DIGITS = ("mnist", "qmnist", "emnist", "usps", "svhn", "svhn_cropped")


@dataclass(frozen=True)
class OodSet:
    """Images of another distribution.

    Args:
        dataset: indexable, gives (PIL image, label); the labels do not count.
        kind: ``natural``: photographs, drawings, writing; ``noise``: drawn at random; ``made``: of the images of the
            dataset that is measured.
        transform: from a PIL image to uint8 (C, H, W); ``None`` for the one that the classifier asks for.
    """

    dataset: Any
    kind: Literal["natural", "noise", "made"]
    transform: Transform | None = None


def ood_sets(specs: Mapping[str, str] | None, subject: Subject) -> dict[str, OodSet]:
    """Open sets of images that a network has not been trained on.

    Noise is made as ODIN makes it, in the size of the input: ``uniform`` on [0, 1], and ``gaussian`` with mean 0.5 and
    standard deviation 1, clipped to [0, 1]. It is rounded to whole grey levels, as all images are uint8 until they are
    on the device. ``shuffled`` and ``inverted`` are the dataset's own images as the network takes them, the pixels of
    each permuted, or each value v made 255 - v. ``digits`` are the 1,797 of scikit-learn, scaled up. With
    ``data.only_classes`` there is ``held_out_classes``: the images of the classes that it leaves out, of the split that
    a run is evaluated on.

    Args:
        specs: by name, a folder that is searched for images with all below it, or one of the words above; a folder of
            such a name is written ``./uniform``. ``None`` for all words that are possible, but ``digits`` where
            the dataset is one of digits, or with a warning where scikit-learn is missing.
        subject: whose dataset, input size and transform are taken.

    Returns:
        The sets by the same names. Their random numbers are those of each image's place, the same at each opening.

    Raises:
        UserError: if a folder does not exist or has no images, scikit-learn is missing for ``digits``, or no classes
            are left out for ``held_out_classes``.

    **Source**: Liang et al., ICLR 2018 (ODIN), for the noise, with values that are seeded.
    """
    if specs is None:
        specs = {word: word for word in _MADE if _is_default(word, subject)}
    return {name: _MADE[spec](subject) if spec in _MADE else _folder(spec) for name, spec in specs.items()}


def find_ood_folders(root: Path) -> dict[str, str]:
    """List the folders of a folder as sets, by their names, or the paper's names for those of ODIN's archives.

    Args:
        root: such as a folder with ODIN's ``Imagenet``, ``Imagenet_resize``, ``LSUN``, ``LSUN_resize`` and ``iSUN``.

    Returns:
        For :func:`ood_sets`: names, and folders.

    Raises:
        UserError: if there are no folders.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder: expected one that holds a folder of images for each set.")
    folders = sorted(path for path in root.absolute().iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UserError(f"no folders in {root}: expected one for each set; write NAME={root} if it is a set itself.")
    return {ODIN_FOLDERS.get(path.name, path.name): str(path) for path in folders}


@dataclass(frozen=True)
class _Noise(Dataset[Sample]):
    """Noise, by a function of the size and the place of an image."""

    count: int
    size: tuple[int, int, int]
    draw: Callable[[tuple[int, int, int], int], Tensor]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return _to_image((self.draw(self.size, index) * 255).round().to(torch.uint8)), 0


@dataclass(frozen=True)
class _Changed(Dataset[Sample]):
    """Images as a network takes them, changed by a function of (C, H, W) uint8 and the place of an image."""

    dataset: Any
    transform: Transform
    change: Callable[[Tensor, int], Tensor]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        image, _ = read_sample(self.dataset, index)
        return _to_image(self.change(self.transform(image), index)), 0


@dataclass(frozen=True)
class _Files(Dataset[Sample]):
    files: Sequence[Path]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return read_image(self.files[index]), 0


@dataclass(frozen=True)
class _Digits(Dataset[Sample]):
    images: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Image.fromarray(self.images[index]), 0


def _to_image(pixels: Tensor) -> Image.Image:
    """Turn (C, H, W) uint8 into an image, which PILToTensor turns back."""
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def _uniform_pixels(size: tuple[int, int, int], index: int) -> Tensor:
    return torch.rand(size, generator=generator_for(Stream.EVALUATE, _UNIFORM, index))


def _gaussian_pixels(size: tuple[int, int, int], index: int) -> Tensor:
    return (torch.randn(size, generator=generator_for(Stream.EVALUATE, _GAUSSIAN, index)) + 0.5).clamp(0, 1)


def _shuffle(image: Tensor, index: int) -> Tensor:
    pixels = image.flatten(1)
    order = torch.randperm(pixels.shape[1], generator=generator_for(Stream.EVALUATE, _SHUFFLED, index))
    return pixels[:, order].view_as(image)


def _invert(image: Tensor, _: int) -> Tensor:
    return 255 - image


def _folder(place: str) -> OodSet:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise UserError(f"{place} is no folder of images: expected one, or one of the words {', '.join(_MADE)}.")
    return OodSet(_Files(find_images([folder])), "natural")


def _noise(subject: Subject, draw: Callable[[tuple[int, int, int], int], Tensor]) -> OodSet:
    count = min(NOISE_IMAGES, len(subject.dataset))
    return OodSet(_Noise(count, input_spec(subject.settings).input_size, draw), "noise", PILToTensor())


def _changed(subject: Subject, change: Callable[[Tensor, int], Tensor]) -> OodSet:
    return OodSet(_Changed(subject.dataset, eval_transform(subject.settings), change), "made", PILToTensor())


def _digits(_: Subject) -> OodSet:
    try:
        load_digits = importlib.import_module("sklearn.datasets").load_digits
    except ImportError as error:
        raise UserError("digits come from a package that is not installed: pip install scikit-learn") from error
    return OodSet(_Digits(np.round(load_digits().images * (255 / 16)).astype(np.uint8)), "natural")


def _has_digits() -> bool:
    if importlib.util.find_spec("sklearn") is None:
        warnings.warn(
            "the set digits is left out, and averages over the sets are without it: pip install scikit-learn",
            stacklevel=2,
        )
        return False
    return True


def _held_out_classes(subject: Subject) -> OodSet:
    settings = subject.settings
    if settings.only_classes is None:
        raise UserError("no classes are held out: set data.only_classes to those that the network was trained on.")
    whole = replace(settings, only_classes=None, subset=None)
    labels = need_labels(open_split(whole, "val"), whole, "its classes are not known", "name the sets to compare with")
    others = sorted({int(label) for label in labels} - set(settings.only_classes))
    if not others:
        raise UserError(f"data.only_classes leaves out no class of {settings.name}.")
    return OodSet(open_split(replace(settings, only_classes=tuple(others)), "val"), "natural")


_MADE: dict[str, Callable[[Subject], OodSet]] = {
    "uniform": lambda subject: _noise(subject, _uniform_pixels),
    "gaussian": lambda subject: _noise(subject, _gaussian_pixels),
    "shuffled": lambda subject: _changed(subject, _shuffle),
    "inverted": lambda subject: _changed(subject, _invert),
    "digits": _digits,
    "held_out_classes": _held_out_classes,
}


OOD_WORDS = tuple(_MADE)
"""The sets that need no folder."""


def _is_default(word: str, subject: Subject) -> bool:
    if word == "digits":
        return subject.settings.name.lower().rpartition("/")[2] not in _OF_DIGITS and _has_digits()
    return word != "held_out_classes" or subject.settings.only_classes is not None
