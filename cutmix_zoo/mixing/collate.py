"""Collates: samples become a batch, and a mixing plan is applied while it is written."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.data import FastCollateMixup
from torch import Tensor

from cutmix_zoo.checks import require_count, require_fraction
from cutmix_zoo.keys import SampleKey
from cutmix_zoo.mixing.drawing import PlanSource
from cutmix_zoo.mixing.memory import empty_batch, memory_order
from cutmix_zoo.mixing.plan import IdentityPlan, MixPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutmix_zoo.mixing.method import MixMethod

Sample = tuple[Any, Any] | tuple[Any, Any, SampleKey]
"""Image (C, H, W), a CPU tensor or a NumPy array of any layout and dtype; integer label; and perhaps a key."""


def collate_samples(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Stack samples into a batch, unmixed, keeping the layout of their memory.

    Images that lie in memory as height, width, channel (what timm's transforms give) become a
    ``channels_last`` batch. In a loader worker the batch is written straight into shared memory.

    Args:
        samples: tuples of image, label and perhaps a key, which is dropped.

    Returns:
        images (B, C, H, W) in the samples' dtype, and labels (B,) int64.

    Raises:
        ValueError: if there is no sample, or the images differ in shape or dtype.
        TypeError: if a sample is something else.

    Example:
        >>> images, labels = collate_samples([(np.zeros((32, 32, 3), np.uint8).transpose(2, 0, 1), 7)] * 4)
        >>> images.shape, images.is_contiguous(memory_format=torch.channels_last), labels
        (torch.Size([4, 3, 32, 32]), True, tensor([7, 7, 7, 7]))
    """
    arrays, labels = _read(samples)
    return _write(IdentityPlan(len(arrays), *arrays[0].shape[-2:]), arrays), labels


class MixCollate(FastCollateMixup):
    """Collate samples for a timm loader and mix them while the batch is written.

    ``timm.data.create_loader(..., collate_fn=MixCollate(CutMix(), num_classes))`` and timm's train
    loop take it for their own ``FastCollateMixup``, and ``loader.mixup_enabled = False`` reaches workers
    that are already running. The samples' arrays are only read; a batch is new memory each time,
    written in the samples' dtype and layout (see :func:`collate_samples`).

    When the samples carry a :class:`~cutmix_zoo.keys.SampleKey`, the plan is a function of (seed, epoch,
    step, rank): see :func:`plan_for`. Otherwise it is drawn from a generator of the collate's own, seeded by
    the loader worker's seed (without workers, by ``torch.initial_seed()``), and the global generators are not touched.

    Args:
        mix: the method.
        num_classes: K.
        smoothing: label smoothing in [0, 1], applied to unmixed batches too. timm's is 0.1 unless told otherwise.
        seed: the run's seed.
        rank: this process among those that train together.
        epochs: length of the run, which scheduled methods need to know.

    Raises:
        ValueError: if ``epochs``, ``smoothing`` or ``num_classes`` is out of range.
        TypeError: if ``mix`` is no mixing method.

    Example:
        >>> from cutmix_zoo.mixing import CutMix
        >>> collate = MixCollate(CutMix(), num_classes=10, smoothing=0.1)
        >>> images, targets = collate([(np.zeros((3, 32, 32), np.uint8), 7)] * 4)
        >>> images.shape, targets.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 10]))
    """

    # The constructor of FastCollateMixup is not called: its settings describe methods of its own.
    def __init__(
        self,
        mix: MixMethod,
        num_classes: int,
        smoothing: float = 0.0,
        *,
        seed: int = 0,
        rank: int = 0,
        epochs: int | None = None,
    ) -> None:
        require_fraction("smoothing", smoothing)
        require_count("num_classes", num_classes)
        self.plans = PlanSource(mix, seed=seed, rank=rank, epochs=epochs)
        self.num_classes = num_classes
        self.smoothing = smoothing

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed: one switch for this process and all its loader workers."""
        return self.plans.enabled

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        self.plans.enabled = enabled

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0, for scheduled methods and samples without keys.

        Raises:
            ValueError: if the run has no such epoch.
        """
        self.plans.set_epoch(epoch)

    def __call__(self, batch: Sequence[Sample], _: object = None) -> tuple[Tensor, Tensor]:
        """Collate and mix samples.

        Args:
            batch: tuples of image, label and perhaps a key.

        Returns:
            images (B, C, H, W) in the samples' dtype, and targets (B, K) float32.

        Raises:
            ValueError: if there is no sample, the images differ in shape or dtype, or a label is
                outside the classes.
            TypeError: if a sample is something else.
        """
        arrays, labels = _read(batch)
        key = batch[0][2] if len(batch[0]) == 3 else None
        plan = self.plans.draw(len(arrays), *arrays[0].shape[-2:], images=arrays, key=key)
        return _write(plan, arrays), plan.mix_targets(labels, self.num_classes, self.smoothing)


def _read(samples: Sequence[Sample]) -> tuple[list[np.ndarray], Tensor]:
    """Split samples into image arrays, which are views of their memory, and labels (B,) int64."""
    if not samples:
        raise ValueError("a batch needs at least one sample, got none")
    arrays = [_as_array(sample) for sample in samples]
    first = arrays[0]
    for array in arrays:
        if array.shape != first.shape or array.dtype != first.dtype:
            raise ValueError(
                "the images of a batch must have one shape and dtype, got "
                f"{first.dtype} {first.shape} and {array.dtype} {array.shape}: crop or resize them in the transform"
            )
    return arrays, torch.tensor([_as_label(sample[1]) for sample in samples])


def _as_array(sample: Sample) -> np.ndarray:
    if not isinstance(sample, tuple | list) or not (
        len(sample) == 2 or (len(sample) == 3 and isinstance(sample[2], SampleKey))
    ):
        raise TypeError(f"a sample must be (image, label) or (image, label, SampleKey), got {_describe(sample)}")
    image = sample[0]
    try:
        array = image.numpy() if isinstance(image, Tensor) else image
    except (RuntimeError, TypeError) as error:  # a gradient, another device, bfloat16
        raise TypeError(
            f"an image must be a CPU tensor without gradient, of a dtype that NumPy has too: {error}"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim != 3:
        raise TypeError(f"an image must be a tensor or an array of shape (C, H, W), got {_describe(image)}")
    return array


def _as_label(label: Any) -> int:
    try:
        return operator.index(label)
    except TypeError:
        raise TypeError(f"a label must be one integer, got {_describe(label)}") from None


def _describe(value: object) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of ({', '.join(type(item).__name__ for item in value)})"
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"


def _write(plan: MixPlan, arrays: list[np.ndarray]) -> Tensor:
    first = arrays[0]
    order = (0, *(axis + 1 for axis in memory_order(first)))
    output = empty_batch((len(arrays), *first.shape), order, first.dtype)
    plan.write(arrays, output.array)
    return output.tensor()
