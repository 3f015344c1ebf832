"""The data of a recipe, and what the recipe leaves to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Subset

from cutmix_zoo.data.datasets import check_labels, check_same_classes, class_names, is_random_access, open_split
from cutmix_zoo.data.keyed import read_stream
from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import Stream, generator_for
from cutmix_zoo.training.mix import check_fills

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutmix_zoo.training.settings import Recipe

CLEAN_IMAGES = 1000
"""How many training images ``clean_train_top1`` is measured on."""


@dataclass(frozen=True)
class Splits:
    """The opened data of a recipe.

    Args:
        train: the training split: PIL images and labels.
        clean: the fixed training images that are also measured unmixed.
        val: the validation split.
        classes: label names, one a class.
    """

    train: Any
    clean: Any
    val: Any
    classes: tuple[str, ...]


def open_splits(recipe: Recipe, world_size: int = 1) -> Splits:
    """Open the data of a recipe and check that its labels fit.

    Raises:
        UserError: if the data is missing, or its labels are not those of one set of classes.
    """
    settings = recipe.data
    train = open_split(settings, "train", seed=recipe.seed, world_size=world_size)
    val = open_split(settings, "val", seed=recipe.seed, world_size=world_size)
    check_same_classes(train, val)
    classes = _classes(recipe, train)
    for dataset in (train, val):
        check_labels(dataset, len(classes))
    return Splits(train, _clean_images(recipe, train), val, classes)


def _classes(recipe: Recipe, train: Any) -> tuple[str, ...]:
    names = class_names(train, recipe.data)
    wanted = recipe.model.num_classes
    if names is None and wanted is None:
        raise UserError(f"{recipe.data.name} does not say what its classes are: set model.num_classes")
    names = names or ()
    if wanted is not None and wanted < len(names):
        raise UserError(f"model.num_classes is {wanted}, but {recipe.data.name} has {len(names)} classes")
    # more outputs than classes are legitimate, such as those of a pretrained head
    return (*names, *map(str, range(len(names), wanted or 0)))


def _clean_images(recipe: Recipe, train: Any) -> Any:
    """Choose the images behind ``clean_train_top1``: drawn from the seed; of a stream, the first ones."""
    if not is_random_access(train):
        settings = replace(recipe.data, val_split=recipe.data.train_split)
        clean = list(islice(read_stream(open_split(settings, "val", seed=recipe.seed)), CLEAN_IMAGES))
        if not clean:
            raise UserError(
                f"no image of split {settings.val_split!r} of {settings.name} in {settings.root} can be read: check "
                "data.input_key"
            )
        return clean
    order = torch.randperm(len(train), generator=generator_for(recipe.seed, Stream.SUBSET))
    return Subset(train, sorted(order[:CLEAN_IMAGES].tolist()))


def resolve(recipe: Recipe, classes: Sequence[str]) -> Recipe:
    """Fill in what a recipe left to its data: input size, mean, standard deviation, channels and classes.

    Args:
        recipe: a recipe.
        classes: label names, one a class.

    Raises:
        UserError: if input size, mean or standard deviation are neither given nor known, or what the mixing method
            fills holes with does not fit them.
    """
    spec = input_spec(recipe.data)
    if recipe.mix is not None:
        check_fills(recipe.mix, spec)
    data = replace(recipe.data, input_size=spec.input_size, mean=spec.mean, std=spec.std)
    in_chans = recipe.model.in_chans or spec.input_size[0]
    if in_chans != spec.input_size[0]:
        raise UserError(
            f"model.in_chans is {in_chans}, but data.input_size has {spec.input_size[0]} channels; "
            "set data.input_size to the number of channels that the model takes, or leave model.in_chans out"
        )
    return replace(recipe, data=data, model=replace(recipe.model, in_chans=in_chans, num_classes=len(classes)))
