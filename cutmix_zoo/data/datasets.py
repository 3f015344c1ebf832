"""Open a dataset by its name, and say what its classes are."""

from __future__ import annotations

import importlib.util
import operator
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from timm.data import ImageDataset, ImageNetInfo, create_dataset
from timm.data.readers.reader_image_folder import ReaderImageFolder
from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import QMNIST
from torchvision.datasets.folder import IMG_EXTENSIONS

from cutmix_zoo.data.canvases import Canvases
from cutmix_zoo.data.cub import CUB200
from cutmix_zoo.data.fashion_mnist import MINI_ROOT, FashionMNIST
from cutmix_zoo.data.file_list import FileList
from cutmix_zoo.data.holdout import OnlyClasses, Part, held_out, in_fold
from cutmix_zoo.data.image_files import read_image
from cutmix_zoo.data.sampler import fixed_subset, local_batch_size
from cutmix_zoo.data.settings import DataSettings, input_spec
from cutmix_zoo.errors import UserError, did_you_mean, one_line
from cutmix_zoo.known import FOLDERS, known_dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

Split = Literal["train", "val"]

_OURS = ("fashion_mnist_mini", "fashion_mnist", "fashion_mnist_canvas", "cub200")
# timm takes any name without a prefix for a folder; we take these, so that a misspelt name is an error
_FOLDERS = (*FOLDERS, "imagenet")
_TORCH_TRAIN_OR_TEST = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist", "imagenet")
_TORCH_OWN_SPLITS = ("places365", "inaturalist", "inat")
_TORCH = tuple(f"torch/{name}" for name in _TORCH_TRAIN_OR_TEST + _TORCH_OWN_SPLITS)
# timm's readers that stand on a package of their own: the module, and what to install
_PACKAGES = {
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "tfds": ("tensorflow_datasets", "tensorflow tensorflow-datasets"),
    "wds": ("webdataset", "webdataset"),
}
_TRAIN_SYNONYMS = ("train", "training")
_VAL_SYNONYMS = ("val", "valid", "validation", "eval", "evaluation")
# what libraries raise for a dataset that is not there, incomplete, or of another kind than was said
_OPEN_ERRORS = (OSError, RuntimeError, ValueError, AssertionError, LookupError, ImportError)


def is_stream(name: str) -> bool:
    """Tell whether a dataset is read as a stream, without an index."""
    return name.partition("/")[0].lower() in ("hfids", "tfds", "wds")


def open_split(settings: DataSettings, split: Split, *, seed: int = 0, world_size: int = 1) -> Any:
    """Open one split of a dataset, without any transform.

    Args:
        settings: the data section of a recipe.
        split: the training or the evaluation split; ``settings`` says what the dataset calls it.
        seed: seed of the run, for the readers that shuffle by themselves (hfids, tfds, wds).
        world_size: number of training processes, for the same readers.

    Returns:
        A dataset of (PIL image, label). It is indexable, or for hfids, tfds and wds an
        ``IterableImageDataset``: its training split gives each process its own share, its evaluation split
        gives all samples to every process.

    Raises:
        UserError: when the name is unknown, a package is missing, or the dataset is missing, empty or
            of another layout.
    """
    if settings.subset is not None:
        return _open_subset(settings, split)
    if settings.val_fraction or settings.fold:
        return _open_part(settings, split)
    if settings.only_classes is not None:
        return _open_classes(settings, split, settings.only_classes)
    split_name = settings.train_split if split == "train" else settings.val_split
    if settings.name in _OURS:
        dataset = _open_ours(settings, split_name)
    else:
        _check_name(settings.name)
        _check_place(settings, split_name)
        dataset = _open_with_timm(settings, split, split_name, seed=seed, world_size=world_size)
    if dataset_size(dataset) == 0:
        raise UserError(f"split {split_name!r} of {settings.name} in {settings.root} has no images")
    return dataset


def _open_subset(settings: DataSettings, split: Split) -> Part:
    """Open some images of a split, or all where it has no more."""
    if is_stream(settings.name):
        raise UserError(f"a stream has no subset ({settings.name}): leave out data.subset")
    whole = open_split(replace(settings, subset=None), split)
    return Part(whole, fixed_subset(len(whole), settings.subset).tolist(), known_labels(whole), class_to_idx(whole))


def _open_classes(settings: DataSettings, split: Split, classes: tuple[int, ...]) -> OnlyClasses:
    """Open the images of some classes."""
    if is_stream(settings.name):
        raise UserError(f"the classes of a stream cannot be chosen ({settings.name}): leave out data.only_classes")
    whole = open_split(replace(settings, only_classes=None), split)
    labels = need_labels(whole, settings, "its classes cannot be chosen", "leave out data.only_classes")
    names = class_to_idx(whole)
    there = {*labels.tolist(), *(names or {}).values()}
    unknown = [label for label in classes if label not in there]
    if unknown:
        raise UserError(
            f"data.only_classes: {settings.name} has no class {', '.join(map(str, unknown))}; it has {len(there)} "
            f"classes from {min(there)} to {max(there)}"
        )
    part = OnlyClasses(whole, classes, labels, names)
    if not len(part):
        raise UserError(f"the {split} split of {settings.name} has no image of data.only_classes {list(classes)}")
    return part


def _open_part(settings: DataSettings, split: Split) -> Part:
    """Open the training split without what is held out, or what is held out."""
    if is_stream(settings.name):
        raise UserError(f"nothing can be held out of a stream ({settings.name}): leave out val_fraction and fold")
    train_split = _train_split(settings)
    whole = open_split(replace(settings, val_fraction=0.0, fold=None, train_split=train_split), "train")
    if split == "val" and train_split != ".":  # which takes every folder for a class
        _warn_of_unused(settings)
    instead = "name the split to evaluate on with data.val_split, and leave out val_fraction and fold"
    labels = need_labels(whole, settings, "nothing can be held out", instead)
    if settings.fold is None:
        held = held_out(labels, settings.val_fraction)
    else:
        fold, folds = map(int, settings.fold.split("/"))
        held = in_fold(labels, fold, folds)
    indices = (held if split == "val" else ~held).nonzero()[0].tolist()
    if not indices:
        raise UserError(
            f"{len(labels)} images of {len(set(labels.tolist()))} classes leave none for the {split} split: "
            f"val_fraction is {settings.val_fraction}, fold {settings.fold}"
        )
    return Part(whole, indices, labels, class_to_idx(whole))


def _train_split(settings: DataSettings) -> str:
    """Say what is held out of: where a folder has no folders for its splits, of all there is.

    A class may be called train or valid: its folder holds images, and that of a split the folders of classes.
    """
    split = settings.train_split
    # a name that was set is looked for: it may be misspelt
    if settings.name not in _FOLDERS or split != DataSettings.train_split:
        return split
    root = Path(_root(settings))
    if not root.is_dir() or _has_splits(root, {*_synonyms(split), *_synonyms(settings.val_split)}):
        return split
    if (below := _folder_below_classes(root)) is None:
        return "."
    raise UserError(
        f"no split {split!r} in {root}, and images deeper than ROOT/CLASS, such as in {below}: found "
        f"{_contents(root)}. Expected ROOT/SPLIT/CLASS/IMAGE, or ROOT/CLASS/IMAGE and nothing below; set "
        "data.train_split to the name of your subfolder of training images"
    )


def _has_splits(root: Path, names: set[str]) -> bool:
    """Tell whether folders of these names are splits: they hold folders, or there are no others, of classes."""
    beside = ("test", "testing", "__MACOSX")
    found = {path.name: path for path in root.iterdir() if path.is_dir()}
    splits = [found[name] for name in names & found.keys()]
    holds_folders = any(inner.is_dir() for path in splits for inner in path.iterdir())
    classes = [name for name in found.keys() - names if name not in beside and not name.startswith(".")]
    return holds_folders or (bool(splits) and not classes)


def _folder_below_classes(root: Path) -> Path | None:
    """Look for images deeper than ROOT/CLASS: timm would merge all folders of a name, be they in different splits."""
    for place, _, names in os.walk(root, followlinks=True):
        below = Path(place).relative_to(root)
        if len(below.parts) > 1 and any(name.lower().endswith(IMG_EXTENSIONS) for name in names):
            return below
    return None


def _contents(root: Path) -> str:
    """Name some of what is in a folder."""
    return ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"


def _warn_of_unused(settings: DataSettings) -> None:
    if settings.name not in _FOLDERS or not settings.val_fraction:
        return
    for name in _synonyms(settings.val_split):
        unused = Path(_root(settings), name)
        if unused.exists():
            warnings.warn(
                f"{unused} is not used, because data.val_fraction holds out training images: set it to 0 to evaluate "
                "on that folder",
                stacklevel=2,
            )
            return


def _open_ours(settings: DataSettings, split_name: str) -> FashionMNIST | Canvases | CUB200:
    train = _is_train(settings.name, split_name)
    if settings.name == "cub200":
        return CUB200(Path(_root(settings)), train)
    if settings.name == "fashion_mnist_canvas":
        garments = "fashion_mnist_mini" if settings.root is None else "fashion_mnist"
        return Canvases(_open_garments(garments, settings, train), train=train)
    return _open_garments(settings.name, settings, train)


def _open_garments(name: str, settings: DataSettings, train: bool) -> FashionMNIST:
    if name == "fashion_mnist_mini":
        return FashionMNIST(MINI_ROOT, train)
    return FashionMNIST(_root(settings), train, download=settings.download)


def _is_train(name: str, split_name: str) -> bool:
    """Tell the two splits that a dataset has; timm takes whatever is not train for test, a misspelt train too."""
    known = {**dict.fromkeys(_TRAIN_SYNONYMS, True), **dict.fromkeys((*_VAL_SYNONYMS, "test"), False)}
    if split_name not in known:
        raise UserError(f"{name} has no split {split_name!r}: expected one of {', '.join(known)}")
    return known[split_name]


def _root(settings: DataSettings) -> str:
    if settings.root is None:
        raise UserError(
            f"{settings.name} needs data.root (of `cutmix-zoo evaluate`: --root): the folder where the dataset is, or "
            "is to be downloaded to"
        )
    return os.path.expanduser(settings.root)  # noqa: PTH111  a Path would spoil a URL


def _check_name(name: str) -> None:
    prefix, slash, rest = name.partition("/")
    if slash and prefix.lower() in _PACKAGES and (rest or prefix.lower() == "wds"):
        module, install = _PACKAGES[prefix.lower()]
        if importlib.util.find_spec(module) is None:
            raise UserError(f"dataset {name!r} needs a package that is not installed: pip install {install}")
    elif name not in (*_FOLDERS, *_TORCH):
        names = (*_OURS, *_FOLDERS, *_TORCH)
        raise UserError(
            f"unknown dataset {name!r}: {did_you_mean(name, names)}"
            f"known are {', '.join(names)}, and with a name after them "
            + ", ".join(f"{prefix}/" for prefix in _PACKAGES)
        )


def _check_place(settings: DataSettings, split_name: str) -> None:
    if settings.name in _FOLDERS:
        _check_folder(Path(_root(settings)), split_name)
    elif settings.name in _TORCH:
        _root(settings)
        if settings.name.removeprefix("torch/") in _TORCH_TRAIN_OR_TEST:
            _is_train(settings.name, split_name)
    elif settings.name.lower().startswith("wds/"):
        root = _root(settings)
        if ":" not in root and not Path(root).is_dir():
            raise UserError(f"{root} is no folder: set data.root to the folder or URL of the webdataset's shards")


def _synonyms(split_name: str) -> tuple[str, ...]:
    """List the folders that timm tries for a split."""
    names = next((names for names in (_TRAIN_SYNONYMS, _VAL_SYNONYMS) if split_name in names), ())
    return tuple(dict.fromkeys((split_name, *names)))


def _check_folder(root: Path, split_name: str) -> None:
    """Require the split's subfolder: without it timm would take the whole root for each split."""
    wanted = _synonyms(split_name)
    if not root.is_dir():
        raise UserError(f"{root} is no folder: set data.root to the folder that holds the splits of your images")
    if not any((root / name).exists() for name in wanted):
        raise UserError(
            f"no split {split_name!r} in {root}: looked for {', '.join(wanted)}, "
            f"found {_contents(root)}. Expected ROOT/SPLIT/CLASS/IMAGE; "
            "set data.train_split and data.val_split to the names of your subfolders"
        )


def _open_with_timm(settings: DataSettings, split: Split, split_name: str, *, seed: int, world_size: int) -> Any:
    mode = "L" if input_spec(settings).input_size[0] == 1 else "RGB"
    root = None if settings.root is None else _root(settings)
    prefix = settings.name.partition("/")[0].lower()
    options: dict[str, Any] = {}
    if prefix in _PACKAGES:
        options = {"input_key": _input_key(settings), "target_key": settings.target_key}
    elif settings.name in ("torch/folder", "torch/image_folder"):
        options = {"loader": _read_file}
    try:
        dataset = create_dataset(
            "" if settings.name in ("folder", "imagenet") else settings.name,
            root=root,
            split=split_name,
            is_training=split == "train",
            download=settings.download,
            batch_size=local_batch_size(settings.batch_size, world_size),
            seed=seed,
            # tfds has to know it; what others give is converted by our transforms, which do so with 16 bits too
            input_img_mode=mode if prefix == "tfds" else "",
            **options,
        )
    except _OPEN_ERRORS as error:
        raise UserError(
            f"cannot open split {split_name!r} of {settings.name} in {settings.root}: "
            f"{one_line(error)}. Check data.root and the split's name, "
            "or set data.download to true where the dataset can be downloaded"
        ) from error
    if "" in (class_to_idx(dataset) or {}):
        raise UserError(f"images of {settings.root} lie outside any class: expected ROOT/SPLIT/CLASS/IMAGE")
    if split == "val" and not is_random_access(dataset):
        _read_everything(dataset)
    if not isinstance(dataset, ImageDataset):
        return dataset
    if isinstance(dataset.reader, ReaderImageFolder):
        dataset.reader.samples = FileList(dataset.reader.samples)
    return Readable(dataset.reader)


def _input_key(settings: DataSettings) -> str | None:
    """Return the field of the image; timm's reader of wds gives it the name jpg, and then looks for it by the key."""
    key = settings.input_key
    if key is None or not settings.name.lower().startswith("wds/") or "jpg" in key.split(";"):
        return key
    return f"{key};jpg"


def _read_file(path: str) -> Image.Image:
    return read_image(path)


class Readable(Dataset[tuple[Image.Image, int]]):
    """What a timm reader reads, or an error: timm's own dataset gives the next image for one it cannot read.

    Args:
        reader: an indexable reader of timm.
    """

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def filename(self, index: int) -> str:
        """Return the path of an image, or its place where its file is part of another."""
        name = self.reader.filename(index)
        return str(index if name is None else name)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        file, label = self.reader[index]
        with file:
            return read_image(file, lambda: self.filename(index)), label


def is_random_access(dataset: Any) -> bool:
    """Say whether the images of an opened split can be had by their places, which those of a stream cannot."""
    return not isinstance(dataset, IterableDataset)


def _read_everything(dataset: Any) -> None:
    """Let each process read all samples: timm's shares for several processes repeat some and miss others."""
    dataset.reader.dist_rank, dataset.reader.dist_num_replicas = 0, 1


def dataset_size(dataset: Any) -> int:
    """Count the samples of a split, over all processes.

    Raises:
        UserError: when a stream does not say.
    """
    if is_random_access(dataset):
        return len(dataset)
    if not dataset.reader.num_samples:
        raise UserError(
            "the stream does not say how many samples it has; for wds/ append the number to the split's name, such as "
            "train-{0..9}.tar|5000"
        )
    return int(dataset.reader.num_samples)


def class_to_idx(dataset: Any) -> dict[str, int] | None:
    """Return the labels of a dataset's classes by their names, if it says what they are."""
    for owner in (dataset, getattr(dataset, "reader", None)):
        for name in ("class_to_idx", "class_name_to_idx"):
            if found := getattr(owner, name, None):
                return dict(found)
    return None


def class_names(dataset: Any, settings: DataSettings) -> tuple[str, ...] | None:
    """Name the classes of a dataset, in the order of its labels.

    The names of the table of known datasets go first, if the dataset has that many classes. Of ``only_classes`` the
    names are those that the classes have among all.

    Args:
        dataset: what :func:`open_split` returned.
        settings: the settings it was opened with.

    Returns:
        One name for each class; None if the dataset does not say.
    """
    if settings.only_classes is not None:
        while isinstance(dataset, Part):
            dataset = dataset.dataset
        names = class_names(dataset, replace(settings, only_classes=None))
        return None if names is None else tuple(names[label] for label in settings.only_classes)
    classes = class_to_idx(dataset) or {}
    own = tuple(sorted(classes, key=classes.__getitem__))
    known = known_dataset(settings.name)
    # several names may stand for one class, as in ImageNet
    if known is not None and len(set(classes.values())) in (0, known.num_classes):
        if known.classes:
            return known.classes
        if known.name == "imagenet":
            return tuple(ImageNetInfo("imagenet-1k").label_descriptions())
    if [classes[name] for name in own] != list(range(len(own))):
        return None
    return own or None


def check_same_classes(train: Any, val: Any) -> None:
    """Check that the label of a class is the same in both splits, which class folders alone do not ensure.

    Args:
        train: the training split.
        val: the evaluation split.

    Raises:
        UserError: when one has a class that the other lacks.
    """
    ours, theirs = class_to_idx(train), class_to_idx(val)
    if ours is not None and theirs is not None and ours != theirs:
        odd = sorted(set(ours) ^ set(theirs))
        raise UserError(
            f"the two splits have different classes, so their labels would not agree: {len(ours)} in training, "
            f"{len(theirs)} in evaluation; only one of the two has {', '.join(odd[:10]) or 'this order of them'}"
        )


def check_labels(dataset: Any, num_classes: int) -> None:
    """Check all labels of a dataset before a run, where it can tell them without reading the images.

    Args:
        dataset: what :func:`open_split` returned.
        num_classes: number of classes; labels have to lie in [0, num_classes).

    Raises:
        UserError: when a label is no whole number, or lies outside.
    """
    labels = known_labels(dataset)
    if labels is None:
        return
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"the labels must be whole numbers, got {labels.dtype} such as {labels[0]}")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise UserError(
            f"{len(outside)} of {len(labels)} labels are outside the {num_classes} classes, such as {outside[0]}: "
            f"expected labels from 0 to {num_classes - 1}; set the number of classes to that of the dataset"
        )


def need_labels(dataset: Any, settings: DataSettings, consequence: str, instead: str) -> NDArray[Any]:
    """Return the labels (N,) of a dataset that something cannot do without.

    Args:
        dataset: what :func:`open_split` returned.
        settings: the settings it was opened with.
        consequence: what cannot be done without them, for the error.
        instead: what to do then.

    Raises:
        UserError: when the dataset does not tell them without reading the images, or its labels are no whole numbers.
    """
    labels = None
    if is_random_access(dataset):
        labels = known_labels(dataset)
        labels = _iterate_labels(dataset, settings) if labels is None else labels
    if labels is None:
        raise UserError(
            f"{settings.name} does not tell its labels without reading its images: {consequence}; {instead}"
        )
    return labels


def known_labels(dataset: Any) -> NDArray[Any] | None:
    """Return the labels (N,) of a dataset, where it can tell them without reading the images."""
    reader = getattr(dataset, "reader", None)
    for owner in (dataset, reader):
        if (targets := getattr(owner, "targets", None)) is not None:
            labels = np.asarray(targets)
            if isinstance(owner, QMNIST):
                labels = labels[:, 0]  # beside each class it keeps who wrote the digit, and more
            return labels if labels.ndim == 1 else None
    samples = getattr(reader, "samples", None)
    if isinstance(samples, FileList):
        return samples.labels
    if samples:
        return np.asarray([label for _, label in samples])
    return None


def _iterate_labels(dataset: Any, settings: DataSettings) -> NDArray[Any] | None:
    """Read the labels of a dataset row by row, where its reader can leave out the images."""
    iter_targets = getattr(getattr(dataset, "reader", None), "iter_targets", None)
    if iter_targets is None:
        return None
    try:
        return np.asarray([operator.index(label) for label in iter_targets()])
    except (LookupError, TypeError) as error:
        raise UserError(
            f"cannot read the labels of {settings.name}: {one_line(error)}; check data.target_key"
        ) from error
