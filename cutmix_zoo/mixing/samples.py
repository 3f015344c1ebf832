"""Samples of a dataset, read for a batch: images as arrays that view their memory, labels as one tensor."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.keys import SampleKey

if TYPE_CHECKING:
    from collections.abc import Sequence

Sample = tuple[Any, ...]
"""Image (C, H, W), a CPU tensor or a NumPy array of any layout and dtype; label; and perhaps a key.

A label is an integer, a number, a row of K numbers (soft, or several labels), or an integer mask (H, W).
"""


class Batch(NamedTuple):
    """Samples that were read."""

    images: list[np.ndarray]
    """B arrays (C, H, W) of one shape and dtype."""
    labels: Tensor
    """(B,) int64, (B, ...) float32, or integer masks (B, H, W)."""
    key: SampleKey | None
    """The first sample's key, if they have keys."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Batch size, height and width."""
        _, height, width = self.images[0].shape
        return len(self.images), height, width


def read_samples(samples: Sequence[Sample]) -> Batch:
    """Read samples.

    Raises:
        ValueError: if there is no sample, or the images or labels differ in shape or dtype.
        TypeError: if a sample is something else.
    """
    if len(samples) == 0:
        raise ValueError("a batch needs at least one sample, got none")
    try:
        # what goes wrong here is looked into below: checking each sample by itself would cost as much as mixing it
        images = _read_images([sample[0] for sample in samples])
        lengths = {len(sample) for sample in samples}
        keyed = lengths == {3} and all(isinstance(sample[2], SampleKey) for sample in samples)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return _read_with_care(samples)
    if not (keyed or lengths == {2}):
        return _read_with_care(samples)
    return Batch(images, read_labels([sample[1] for sample in samples]), samples[0][2] if keyed else None)


def _read_images(images: list[Any]) -> list[np.ndarray]:
    """Read images that are all tensors or all arrays, of one shape and dtype; raise if they are not."""
    if isinstance(images[0], Tensor):
        images = [image.numpy() for image in images]
    first = images[0]
    if first.ndim != 3 or len({(image.dtype, image.shape) for image in images}) > 1:
        raise ValueError
    return images


def read_labels(labels: Sequence[Any]) -> Tensor:
    """Read labels: integers, numbers, rows of numbers, or integer masks.

    Returns:
        (B,) int64, (B, ...) float32, or masks (B, H, W) in their own dtype.

    Raises:
        TypeError: if a label is something else.
        ValueError: if the labels differ in shape.
    """
    try:
        return torch.from_numpy(np.array([operator.index(label) for label in labels], np.int64))
    except (TypeError, OverflowError):
        pass
    arrays = [_as_numbers(label) for label in labels]
    first = arrays[0]
    for array in arrays:
        if array.shape != first.shape or array.dtype.kind != first.dtype.kind:
            raise ValueError(
                "the labels of a batch must be of one kind and shape, got "
                f"{first.dtype} {first.shape} and {array.dtype} {array.shape}"
            )
    if first.dtype.kind == "f":
        return torch.from_numpy(np.stack(arrays).astype(np.float32))
    if first.ndim != 2:
        raise TypeError(
            f"a label must be an integer, a number, a row of floating-point numbers, or an integer mask (H, W), "
            f"got {first.dtype} of shape {first.shape}: give several labels an image as floating-point zeros and ones"
        )
    return torch.from_numpy(np.stack(arrays))


def _as_numbers(label: Any) -> np.ndarray:
    try:
        array = label.numpy() if isinstance(label, Tensor) else np.asarray(label)
    except (RuntimeError, TypeError, ValueError):
        array = np.empty(0, object)
    if array.dtype.kind not in "fiub" or isinstance(label, str):
        raise TypeError(f"a label must be an integer, a number, a row of numbers or a mask, got {describe(label)}")
    return array


def _is_keyed(sample: Sample) -> bool:
    return len(sample) == 3 and isinstance(sample[2], SampleKey)


def _read_with_care(samples: Sequence[Sample]) -> Batch:
    """Read samples one by one: tensors and arrays together, or what is to be refused."""
    images = [_as_array(sample) for sample in samples]
    first = images[0]
    for image in images:
        if image.shape != first.shape or image.dtype != first.dtype:
            raise ValueError(
                "the images of a batch must have one shape and dtype, got "
                f"{first.dtype} {first.shape} and {image.dtype} {image.shape}: crop or resize them in the transform"
            )
    keyed = sum(map(_is_keyed, samples))
    if keyed not in (0, len(samples)):
        raise TypeError(f"all samples of a batch have a key, or none; got {keyed} of {len(samples)}")
    return Batch(images, read_labels([sample[1] for sample in samples]), samples[0][2] if keyed else None)


def _as_array(sample: Sample) -> np.ndarray:
    if not isinstance(sample, tuple | list) or not (len(sample) == 2 or _is_keyed(sample)):
        raise TypeError(f"a sample must be (image, label) or (image, label, SampleKey), got {describe(sample)}")
    image = sample[0]
    try:
        array = image.numpy() if isinstance(image, Tensor) else image
    except (RuntimeError, TypeError) as error:  # a gradient, another device, bfloat16
        raise TypeError(
            f"an image must be a CPU tensor without gradient, of a dtype that NumPy has too: {error}"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim != 3:
        raise TypeError(f"an image must be a tensor or an array of shape (C, H, W), got {describe(image)}")
    return array


def describe(value: object) -> str:
    """Say what a value is that was not expected, for the message about it."""
    shape = getattr(value, "shape", None)
    if isinstance(value, tuple | list):
        items = ", ".join(type(item).__name__ for item in value)
        return f"{type(value).__name__} of {len(value)}" if len(value) > 4 else f"{type(value).__name__} of ({items})"
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"
