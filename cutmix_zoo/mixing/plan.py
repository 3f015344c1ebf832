"""Plans: what was drawn for one batch, and how to apply it.

A method draws a plan; the plan alone knows how to touch pixels and labels. There are few kinds, so
whatever takes a plan (the collate, a transform on the device, a loss) works for every method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.mixing.memory import INTEGERS, empty_like
from cutmix_zoo.mixing.rows import stack
from cutmix_zoo.mixing.targets import IGNORE_INDEX, LamAndPartner, mix_labels, mix_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutmix_zoo.mixing.rows import Samples


@dataclass(frozen=True, eq=False)
class MixPlan(LamAndPartner, ABC):
    """How one batch of images is mixed.

    Its tensors live on the CPU and are moved where they are needed; small ones do not wait for what a GPU is busy with.
    """

    batch_size: int
    """Number of images, B; at least 1."""
    height: int
    """Height of the images in pixels."""
    width: int
    """Width of the images in pixels."""

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(
                "a plan needs at least one image of one pixel, got "
                f"batch_size={self.batch_size}, height={self.height}, width={self.width}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number, height and width of the images."""
        return self.batch_size, self.height, self.width

    @property
    @abstractmethod
    def sources(self) -> Tensor:
        """(B, M) int64: the images each mixed image is made of. Column 0 is the image itself."""

    @property
    @abstractmethod
    def pixel_shares(self) -> Tensor:
        """(B, M) float32: the share of pixels that comes from each source. Rows sum to 1, less what was erased."""

    @property
    @abstractmethod
    def label_shares(self) -> Tensor:
        """(B, M) float32: how much the label of each source counts. Rows sum to 1."""

    @property
    def boxes(self) -> Tensor:
        """(B, 4) int64: the box pasted into each image (:class:`Box`); all zeros where there is none."""
        return torch.zeros(self.batch_size, 4, dtype=torch.int64)

    def apply(self, images: Tensor) -> Tensor:
        """Mix a batch.

        Args:
            images: (B, ..., height, width) on any device: images, clips, dense targets. Not modified. Plans that
                only move pixels take any dtype, plans that blend them take floating point and uint8.

        Returns:
            The mixed batch in the same shape, dtype, device and memory format; ``images`` itself where
            nothing is mixed.

        Raises:
            ValueError: if the batch size or the image size is not the plan's, or the dtype cannot be blended.
        """
        self._check_images(images)
        bits = None if torch.compiler.is_compiling() or not _is_plain_cpu(images) else self._row_dtype(images)
        if bits is None:
            return self._transform(images)
        # on a CPU, loops over rows that stay in the cache are several times faster than tensor operations
        mixed = empty_like(images)
        self.write(images.view(bits).numpy(), mixed.view(bits).numpy())
        return mixed

    def apply_masks(self, masks: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
        """Mix the class masks of a segmentation batch as :meth:`apply` mixes its images.

        Args:
            masks: (B, ..., height, width) integer classes, on any device. Not modified. They are copied
                pixel by pixel and never averaged.
            ignore_index: the class of pixels that the plan erases.

        Returns:
            The mixed masks in the same shape, dtype and device.

        Raises:
            ValueError: if the plan blends images, so that a pixel has more than one class: mix one-hot masks
                (B, K, height, width) with :meth:`apply` instead; or if the masks do not fit, or are no integers.
        """
        self._check_images(masks)
        if masks.is_floating_point() or masks.is_complex() or masks.dtype == torch.bool:
            raise ValueError(f"masks must be integers, got {masks.dtype}: mix dense targets with apply")
        return self._mask_plan(ignore_index).apply(masks)

    def write(self, samples: Samples, out: np.ndarray) -> None:
        """Write the mixed batch into ``out``, straight from samples that were not stacked yet.

        The result is that of :meth:`apply` on the stacked samples (blends of floating-point images may
        round otherwise in the last digit).

        Args:
            samples: B arrays (..., height, width) of one shape and dtype; only read.
            out: (B, ..., height, width), overwritten. It must not share memory with the samples.

        Raises:
            ValueError: if the dtype cannot be blended.
        """
        self._write(samples, out, range(self.batch_size))

    def mix_targets(self, labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """Mix labels into dense targets.

        Args:
            labels: (B,) integer labels in ``[0, num_classes)``; or (B, K) floating point, targets that are dense
                already: soft labels, or the zeros and ones of several labels an image.
            num_classes: K.
            smoothing: label smoothing of integer labels in [0, 1]: ``1 - e + e/K`` on the class, ``e/K`` elsewhere.

        Returns:
            (B, K) float32 on the labels' device; rows of integer labels sum to 1.

        Raises:
            ValueError: if the labels do not fit, one of them is outside the classes (see
                :func:`~cutmix_zoo.mixing.targets.mix_labels`), or dense targets were to be smoothed.
        """
        return mix_labels(labels, self.sources, self.label_shares, num_classes, smoothing)

    def mix_values(self, values: Tensor) -> Tensor:
        """Mix what is a number: regression targets, embeddings, sample weights.

        Args:
            values: (B, ...) floating point, on any device.

        Returns:
            The average of the sources, weighted by the label shares, in the same shape, dtype and device.

        Raises:
            ValueError: if they are not floating point, or not one for each image.
        """
        return mix_values(values, self.sources, self.label_shares)

    @abstractmethod
    def _transform(self, images: Tensor) -> Tensor:
        """Mix a batch by tensor operations: on any device, differentiable."""

    @abstractmethod
    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        """Write the mixed images ``rows`` into ``out[rows]``."""

    @abstractmethod
    def _row_dtype(self, images: Tensor) -> torch.dtype | None:
        """Return the dtype as which :meth:`_write` may see the images; None where tensor operations are to be used."""

    def _mask_plan(self, _: int) -> MixPlan:
        """Return the plan that does with class masks what this one does with images, given the ignored class."""
        raise ValueError(
            f"{type(self).__name__} blends images, so a pixel of the mask would have several classes: "
            "mix one-hot masks (B, K, height, width) with apply, or use a method that pastes, such as CutMix"
        )

    def _check_images(self, images: Tensor) -> None:
        if images.ndim < 3 or (images.shape[0], *images.shape[-2:]) != self.shape:
            raise ValueError(
                "the plan was drawn for {} images of {} x {} pixels (height x width), ".format(*self.shape)
                + f"got a batch of shape {tuple(images.shape)}"
            )


def _is_plain_cpu(images: Tensor) -> bool:
    return type(images) is Tensor and images.device.type == "cpu" and not images.requires_grad


_OF_NUMPY = {torch.from_numpy(np.empty(0, code)).dtype for code in "?bBhHiIlLefd"}


def is_known_to_numpy(dtype: torch.dtype) -> bool:
    """Whether NumPy has real numbers of this dtype: it lacks bfloat16 and floating point of one byte."""
    return dtype in _OF_NUMPY


def bits_of(dtype: torch.dtype) -> torch.dtype | None:
    """Return the integers that hold the bits of a dtype: enough for what only copies, and NumPy has no bfloat16."""
    return None if dtype.is_complex else INTEGERS.get(dtype.itemsize)


class ImagesStayPlan(MixPlan):
    """A plan that leaves the pixels of images as they are; the common part of those."""

    def apply(self, images: Tensor) -> Tensor:  # noqa: D102
        self._check_images(images)
        return images

    def _transform(self, images: Tensor) -> Tensor:
        return images

    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        stack(samples, out, rows)

    def _row_dtype(self, images: Tensor) -> torch.dtype | None:
        return bits_of(images.dtype)


@dataclass(frozen=True, eq=False)
class IdentityPlan(ImagesStayPlan):
    """Nothing is mixed: every image is its own and only source.

    Example:
        >>> IdentityPlan(batch_size=2, height=32, width=32).mix_targets(torch.tensor([0, 1]), num_classes=2)
        tensor([[1., 0.],
                [0., 1.]])
    """

    @property
    def sources(self) -> Tensor:  # noqa: D102
        return torch.arange(self.batch_size).unsqueeze(1)

    @property
    def pixel_shares(self) -> Tensor:  # noqa: D102
        return torch.ones(self.batch_size, 1)

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return self.pixel_shares

    def _mask_plan(self, _: int) -> MixPlan:
        return self


@dataclass(frozen=True, eq=False)
class PairPlan(MixPlan):
    """A plan in which each image has one other source; the common part of boxes, blends and masks.

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        donor: (B,) int64 in ``[0, B)``, the other source of each image.

    Raises:
        ValueError: if a shape, a dtype or a value does not fit.
    """

    donor: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor):
                object.__setattr__(self, name, value.cpu())
        check_integers("donor", self.donor, [(self.batch_size,)], self.batch_size - 1)

    @property
    def sources(self) -> Tensor:  # noqa: D102
        return torch.from_numpy(columns(np.arange(self.batch_size), self.donor.numpy()))

    @property
    @abstractmethod
    def own_share(self) -> Tensor:
        """(B,) float32: the share of each image's pixels that are its own."""

    @property
    def pixel_shares(self) -> Tensor:  # noqa: D102
        own_share = self.own_share.numpy()
        return torch.from_numpy(columns(own_share, 1.0 - own_share))


def columns(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Put (B,) values of the image itself and of its other source side by side: (B, 2), in the first one's dtype."""
    both = np.empty((len(own), 2), own.dtype)
    both[:, 0], both[:, 1] = own, other
    return both


def check_integers(name: str, values: Tensor, shapes: list[tuple[int, ...]], highest: int | Sequence[int]) -> None:
    """Raise ValueError unless ``values`` is int64, has one of the shapes and lies in ``[0, highest]``."""
    if values.dtype != torch.int64 or tuple(values.shape) not in shapes:
        expected = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"{name} must be int64 of shape {expected}, got {values.dtype} of shape {tuple(values.shape)}")
    numbers = values.numpy()  # a tenth of the time of tensor operations, at this size
    if numbers.size and (numbers.min() < 0 or (numbers > highest).any()):
        raise ValueError(f"{name} must lie between 0 and {highest}, got {values.tolist()}")


def check_shares(name: str, shares: Tensor, batch_size: int) -> Tensor:
    """Return ``shares`` as float32; raise ValueError unless they are one number in [0, 1] for each image."""
    shares = shares.float()
    if shares.shape != (batch_size,) or not are_fractions(shares):
        raise ValueError(f"{name} must be {batch_size} numbers in [0, 1], got {shares}")
    return shares


def are_fractions(numbers: Tensor) -> bool:
    """Whether all numbers lie in [0, 1]."""
    return bool(((numbers >= 0) & (numbers <= 1)).all())
