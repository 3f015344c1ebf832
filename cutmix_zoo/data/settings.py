"""What a recipe says about its data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cutmix_zoo.checks import require, require_choice, require_count, require_fraction
from cutmix_zoo.errors import UserError
from cutmix_zoo.known import known_dataset

Crop = Literal["pad", "random_resized", "squash", "none"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class DataSettings:
    """The ``data`` section of a recipe.

    Args:
        name: ``fashion_mnist_mini`` (ships with the package), ``fashion_mnist``, ``fashion_mnist_canvas`` (its
            garments on larger images), ``cub200``, ``folder`` (images under ROOT/SPLIT/CLASS), ``imagenet`` (such a
            folder), or a name with a prefix that ``timm.data.create_dataset`` takes: ``torch/cifar100``, ``hfds/...``,
            ``wds/...``.
        root: folder of the dataset; for hfds, hfids and tfds its cache. fashion_mnist_mini needs none;
            fashion_mnist_canvas takes the garments of fashion_mnist_mini without one. With ``val_fraction`` or
            ``fold``, the folders of the classes may lie in it directly, with nothing below them.
        download: fetch the dataset into ``root`` if it is missing and its source allows it.
        train_split: split to train on; for a folder, the subfolder.
        val_split: split to evaluate on; for a folder, the subfolder. timm's synonyms of it are tried too.
        val_fraction: hold out this share of every class of the training split and evaluate on it, where there is no
            split to evaluate on; 0 for none. The same images in every run.
        fold: such as ``0/5``: evaluate on the first of five such parts and train on the others.
        only_classes: keep only the images of these classes, by their labels, which become 0, 1, ... in the order given;
            done before anything is held out or a subset chosen. ``None`` for all.
        subset: use only so many images of each split, the same ones in every run, to try things out; ``None`` for all.
        input_key: field of the image (hfds, hfids, tfds, wds), for wds the ending of its file, or several such as
            ``png;webp``, after which ``jpg`` is tried too; ``None`` takes the reader's own default.
        target_key: field of the label (hfds, hfids, tfds, wds); ``None`` takes the reader's own default.
        input_size: (channels, height, width) that the network gets; ``None`` takes what is known of the dataset.
        mean: mean of each channel, pixels scaled to [0, 1]; ``None`` takes what is known of the dataset.
        std: standard deviation of each channel, pixels scaled to [0, 1]; ``None`` takes what is known.
        batch_size: images per optimizer step, over all processes together.
        balanced: let each class come as often as any other in an epoch, which stays as long: images of small classes
            come several times, each time augmented otherwise, and of large classes others come in each epoch.
        workers: loader processes of each training process; 0 loads in the training process itself.
        resident: keep the decoded images of a split on the device and crop and flip whole batches there; the batches
            are the same. ``auto``: where that is possible and a split takes at most 1 GiB; ``false``: never;
            ``true``: whatever it takes. It is possible for images of one size with ``crop: pad`` or ``none``, and of
            any size with ``squash``, without colour noise, mixed on the device, and not for streams.
        crop: training crop. ``pad``: zero padding, then a random crop, as for CIFAR; ``random_resized``: a
            random area and aspect ratio, as for ImageNet; ``squash``: the whole image is resized, whatever its aspect
            ratio, to the input size over ``crop_pct``, then a random crop, as for weakly supervised localization;
            ``none``: the centre.
        pad: pixels of zero padding on each side, for ``crop: pad``.
        scale: range of the cropped share of the area, for ``crop: random_resized``.
        ratio: range of the crop's width over its height, for ``crop: random_resized``.
        hflip: probability of a horizontal flip in training.
        color_jitter: largest relative change of brightness, contrast and saturation in training.
        lighting: standard deviation of AlexNet's colour noise in training, for three channels; the
            official ImageNet code has 0.1.
        interpolation: how images are resized.
        crop_pct: share of the resized image's side that evaluation and ``crop: squash`` keep; 0.875 is ImageNet's 224
            of 256.

    Raises:
        ValueError: if a number is out of range.
    """

    name: str
    root: str | None = None
    download: bool = False
    train_split: str = "train"
    val_split: str = "validation"
    val_fraction: float = 0.0
    fold: str | None = None
    only_classes: tuple[int, ...] | None = None
    subset: int | None = None
    input_key: str | None = None
    target_key: str | None = None
    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_size: int = 128
    balanced: bool = False
    workers: int = 2
    resident: bool | Literal["auto"] = "auto"
    crop: Crop = "pad"
    pad: int = 4
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    color_jitter: float = 0.0
    lighting: float = 0.0
    interpolation: Interpolation = "bilinear"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        size = self.input_size or (1, 1, 1)
        require(len(size) == 3, f"input_size must be three numbers: channels, height and width, got {size}")
        require(size[0] in (1, 3), f"input_size must begin with 1 or 3 channels, got {size}")
        require(min(size) >= 1, f"input_size must have a positive height and width, got {size}")
        scaled = all(0 <= value <= 1 for value in self.mean or ())
        require(scaled, f"mean must be from 0 to 1, the range that grey levels are scaled to, got {self.mean}")
        require(all(value > 0 for value in self.std or ()), f"std must be positive, got {self.std}")
        require_count("batch_size", self.batch_size)
        if self.subset is not None:
            require_count("subset", self.subset)
        if self.only_classes is not None:
            kept = self.only_classes
            valid = bool(kept) and min(kept) >= 0 and len(set(kept)) == len(kept)
            require(valid, f"only_classes must be labels from 0, each of them once, got {list(kept)}")
        require(0 <= self.val_fraction < 1, f"val_fraction must be at least 0 and below 1, got {self.val_fraction}")
        if self.fold is not None:
            require(_is_fold(self.fold), f"fold must be such as 0/5, one of 0/5 to 4/5, got {self.fold!r}")
            require(self.val_fraction == 0, f"val_fraction must be 0 beside fold, got {self.val_fraction}")
        require(0 < self.scale[0] <= self.scale[1] <= 1, f"scale must be 0 < low <= high <= 1, got {self.scale}")
        require(
            0 < self.ratio[0] <= self.ratio[1] < math.inf,
            f"ratio must be 0 < low <= high, got {self.ratio}",
        )
        require_fraction("hflip", self.hflip)
        require_choice("interpolation", self.interpolation, get_args(Interpolation))
        require_choice("crop", self.crop, get_args(Crop))
        require(self.resident in (True, False, "auto"), f"resident must be true, false or auto, got {self.resident!r}")
        require(0 < self.crop_pct <= 1, f"crop_pct must be in (0, 1], got {self.crop_pct}")
        for key in ("workers", "pad", "color_jitter", "lighting"):
            value = getattr(self, key)
            require(value >= 0, f"{key} must be at least 0, got {value}")


def validation_name(settings: DataSettings) -> str:
    """Say which images a run is evaluated on.

    Example:
        >>> validation_name(DataSettings("folder")), validation_name(DataSettings("folder", fold="0/5"))
        ('validation', 'fold 0/5 of train')
        >>> validation_name(DataSettings("folder", only_classes=(1, 4)))
        'validation, 2 classes only'
        >>> validation_name(DataSettings("folder", fold="0/5", subset=500))
        'fold 0/5 of train, at most 500 images'
    """
    if settings.fold:
        name = f"fold {settings.fold} of {settings.train_split}"
    elif settings.val_fraction:
        name = f"{settings.val_fraction:g} of {settings.train_split}"
    else:
        name = settings.val_split
    if settings.only_classes is not None:
        name = f"{name}, {len(settings.only_classes)} classes only"
    return name if settings.subset is None else f"{name}, at most {settings.subset} images"


def _is_fold(text: str) -> bool:
    fold, slash, folds = text.partition("/")
    return bool(slash) and fold.isdecimal() and folds.isdecimal() and int(fold) < int(folds) >= 2


@dataclass(frozen=True)
class InputSpec:
    """What a network is fed: the facts of the data that belong in a model's config.

    Args:
        input_size: (channels, height, width).
        mean: mean of each channel, pixels scaled to [0, 1].
        std: standard deviation of each channel, pixels scaled to [0, 1].
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def input_spec(settings: DataSettings) -> InputSpec:
    """Complete the settings with what is known of the dataset.

    A grey dataset's mean and standard deviation also serve three channels, which are then equal.

    Args:
        settings: the data section of a recipe.

    Returns:
        Input size, mean and standard deviation.

    Raises:
        UserError: when something is neither set nor known, or does not fit the number of channels.

    Example:
        >>> input_spec(DataSettings("torch/cifar100")).input_size
        (3, 32, 32)
    """
    known = known_dataset(settings.name)
    input_size = settings.input_size or (known.input_size if known else None)
    mean = settings.mean or (known.mean if known else None)
    std = settings.std or (known.std if known else None)
    if input_size is None or mean is None or std is None:
        raise UserError(
            f"dataset {settings.name!r} is not in the table of known datasets: set data.input_size, data.mean and "
            "data.std, such as [3, 224, 224], [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225]"
        )
    channels = input_size[0]
    return InputSpec(input_size, _per_channel("mean", mean, channels), _per_channel("std", std, channels))


def _per_channel(key: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        raise UserError(f"data.{key}: expected {channels} values, one for each of the channels, got {values}")
    return values
