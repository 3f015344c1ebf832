"""Plans: what was drawn for one batch, and how to apply it.

A method draws a plan; the plan alone knows how to touch pixels and labels. There are few kinds, so
whatever takes a plan (the collate, a transform on the device, a loss) works for every method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutmix_zoo.mixing.boxes import box_areas
from cutmix_zoo.mixing.targets import dense_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their size in bytes."""


@dataclass(frozen=True, eq=False)
class MixPlan(ABC):
    """How one batch of images is mixed. Its tensors live on the CPU and are moved where they are needed."""

    batch_size: int
    """Number of images, B; at least 1."""
    height: int
    """Height of the images in pixels."""
    width: int
    """Width of the images in pixels."""

    def __post_init__(self) -> None:
        if min(self.batch_size, self.height, self.width) < 1:
            raise ValueError(
                "a plan needs at least one image of one pixel, got "
                f"batch_size={self.batch_size}, height={self.height}, width={self.width}"
            )

    @property
    @abstractmethod
    def sources(self) -> Tensor:
        """(B, M) int64: the images each mixed image is made of. Column 0 is the image itself."""

    @property
    @abstractmethod
    def pixel_shares(self) -> Tensor:
        """(B, M) float32: the share of pixels that comes from each source. Rows sum to 1."""

    @property
    @abstractmethod
    def label_shares(self) -> Tensor:
        """(B, M) float32: how much the label of each source counts. Rows sum to 1."""

    @property
    def boxes(self) -> Tensor:
        """(B, 4) int64: the box pasted into each image (:class:`Box`); all zeros where there is none."""
        return torch.zeros(self.batch_size, 4, dtype=torch.int64)

    @property
    def lam(self) -> Tensor:
        """(B,) float32: the label share of this image (the paper's lambda).

        Raises:
            ValueError: if an image may have more than two sources.
        """
        self._require_two_sources("lam")
        return self.label_shares[:, 0]

    @property
    def partner(self) -> Tensor:
        """(B,) int64: the other source of each image; the image itself where nothing is mixed.

        Raises:
            ValueError: if an image may have more than two sources.
        """
        self._require_two_sources("partner")
        return self.sources[:, -1]

    @abstractmethod
    def apply(self, images: Tensor) -> Tensor:
        """Mix a batch.

        Args:
            images: (B, ..., height, width), any dtype, on any device: images, masks, clips. Not modified.

        Returns:
            The mixed batch in the same shape, dtype, device and memory format; ``images`` itself where
            nothing is mixed.

        Raises:
            ValueError: if the batch size or the image size is not the plan's.
        """

    @abstractmethod
    def write(self, samples: Sequence[np.ndarray] | np.ndarray, out: np.ndarray) -> None:
        """Write the mixed batch into ``out``, straight from samples that were not stacked yet.

        The result is that of :meth:`apply` on the stacked samples.

        Args:
            samples: B arrays (..., height, width) of one shape and dtype; only read.
            out: (B, ..., height, width), overwritten. It must not share memory with the samples.
        """

    def mix_targets(self, labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """Mix labels into dense targets.

        Args:
            labels: (B,) integer labels in ``[0, num_classes)``, on any device.
            num_classes: K.
            smoothing: label smoothing in [0, 1]: ``1 - e + e/K`` on the class, ``e/K`` elsewhere.

        Returns:
            (B, K) float32 on the labels' device; rows sum to 1.

        Raises:
            ValueError: if the labels are not B integers, or one of them is outside the classes
                (see :func:`~cutmix_zoo.mixing.targets.dense_targets`).
        """
        return dense_targets(labels, self.sources, self.label_shares, num_classes, smoothing)

    def _require_two_sources(self, name: str) -> None:
        if self.sources.shape[1] > 2:
            raise ValueError(
                f"{name} is for plans of two sources, this one has {self.sources.shape[1]}: "
                "use sources and label_shares"
            )

    def _check_images(self, images: Tensor) -> None:
        expected = (self.batch_size, self.height, self.width)
        if images.ndim < 3 or (images.shape[0], *images.shape[-2:]) != expected:
            raise ValueError(
                "the plan was drawn for {} images of {} x {} pixels (height x width), ".format(*expected)
                + f"got a batch of shape {tuple(images.shape)}"
            )


@dataclass(frozen=True, eq=False)
class IdentityPlan(MixPlan):
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

    def apply(self, images: Tensor) -> Tensor:  # noqa: D102
        self._check_images(images)
        return images

    def write(self, samples: Sequence[np.ndarray] | np.ndarray, out: np.ndarray) -> None:  # noqa: D102
        for row, sample in zip(out, samples, strict=True):
            row[...] = sample


@dataclass(frozen=True, eq=False)
class BoxPlan(MixPlan):
    """A box of each image is filled with the same box of its partner.

    The constructor takes anybody's draws, so a batch that was mixed elsewhere can be repeated.

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        donor: (B,) int64 in ``[0, B)``, whose pixels fill each image's box.
        box: (B, 4) int64, top, left, bottom, right of each box (:class:`Box`), half-open and inside the
            image; or (4,), one box for the whole batch.
        label_lam: (B,) floating point in [0, 1], the label share of each image itself; or None, the share of
            pixels that are left of it.

    Raises:
        ValueError: if a shape, a dtype or a value does not fit.

    Example:
        >>> plan = BoxPlan(2, 2, 2, donor=torch.tensor([1, 0]), box=torch.tensor([0, 0, 1, 1]))
        >>> plan.apply(torch.tensor([[[1, 1], [1, 1]], [[2, 2], [2, 2]]])).tolist()
        [[[2, 1], [1, 1]], [[1, 2], [2, 2]]]
        >>> plan.lam
        tensor([0.7500, 0.7500])
    """

    donor: Tensor
    box: Tensor
    label_lam: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("donor", "box", "label_lam"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, value.cpu())
        _check_integers("donor", self.donor, [(self.batch_size,)], torch.tensor(self.batch_size - 1))
        corner = torch.tensor([self.height, self.width] * 2)
        _check_integers("box", self.box, [(self.batch_size, 4), (4,)], corner)
        if (self.box[..., :2] > self.box[..., 2:]).any():
            raise ValueError("a box must have top <= bottom and left <= right")
        if self.label_lam is not None:
            object.__setattr__(self, "label_lam", self.label_lam.float())
            if self.label_lam.shape != (self.batch_size,) or not ((self.label_lam >= 0) & (self.label_lam <= 1)).all():
                raise ValueError(f"label_lam must be {self.batch_size} numbers in [0, 1], got {self.label_lam}")

    @property
    def sources(self) -> Tensor:  # noqa: D102
        return torch.stack([torch.arange(self.batch_size), self.donor], dim=1)

    @property
    def pixel_shares(self) -> Tensor:  # noqa: D102
        pasted = box_areas(self.boxes).double() / (self.height * self.width)
        return torch.stack([1.0 - pasted, pasted], dim=1).float()

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        if self.label_lam is None:
            return self.pixel_shares
        return torch.stack([self.label_lam, 1.0 - self.label_lam], dim=1)

    @property
    def boxes(self) -> Tensor:  # noqa: D102
        return self.box.expand(self.batch_size, 4)

    def apply(self, images: Tensor) -> Tensor:  # noqa: D102
        self._check_images(images)
        if torch.compiler.is_compiling():
            return self._apply_mask(images)
        if self.box.ndim == 1:
            return self._apply_slice(images)
        if type(images) is Tensor and images.device.type == "cpu" and _is_copied_by_numpy(images):
            return self._apply_rows(images)
        return self._apply_mask(images)

    def _apply_slice(self, images: Tensor) -> Tensor:
        top, left, bottom, right = self.box.tolist()
        mixed = images.clone()
        patches = images[..., top:bottom, left:right]
        mixed[..., top:bottom, left:right] = patches.index_select(0, self.donor.to(images.device))
        return mixed

    def _apply_rows(self, images: Tensor) -> Tensor:
        # On a CPU copying each box costs a fifth of torch.where on the whole batch. The pixels are
        # copied as integers of their size, because NumPy has no bfloat16.
        mixed = torch.empty_like(images)
        bits = _INTEGERS[images.element_size()]
        self.write(images.view(bits).numpy(), mixed.view(bits).numpy())
        return mixed

    def _apply_mask(self, images: Tensor) -> Tensor:
        top, left, bottom, right = self.boxes.to(images.device).unsqueeze(2).unbind(1)
        row, column = (torch.arange(size, device=images.device) for size in (self.height, self.width))
        in_rows, in_columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
        mask = in_rows.unsqueeze(2) & in_columns.unsqueeze(1)
        mask = mask.view(self.batch_size, *[1] * (images.ndim - 3), self.height, self.width)
        return torch.where(mask, images[self.donor.to(images.device)], images)

    def write(self, samples: Sequence[np.ndarray] | np.ndarray, out: np.ndarray) -> None:  # noqa: D102
        donors, boxes = self.donor.tolist(), self.boxes.tolist()
        for row, sample, donor, (top, left, bottom, right) in zip(out, samples, donors, boxes, strict=True):
            row[...] = sample
            row[..., top:bottom, left:right] = samples[donor][..., top:bottom, left:right]


def _is_copied_by_numpy(images: Tensor) -> bool:
    return images.element_size() in _INTEGERS and not images.is_complex() and not images.requires_grad


def _check_integers(name: str, values: Tensor, shapes: list[tuple[int, ...]], highest: Tensor) -> None:
    """Raise ValueError unless ``values`` is int64, has one of the shapes and lies in ``[0, highest]``."""
    if values.dtype != torch.int64 or tuple(values.shape) not in shapes:
        expected = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"{name} must be int64 of shape {expected}, got {values.dtype} of shape {tuple(values.shape)}")
    if ((values < 0) | (values > highest)).any():
        raise ValueError(f"{name} must lie between 0 and {highest.tolist()}, got {values.tolist()}")


@dataclass(frozen=True, eq=False)
class ConcatenatedPlan(MixPlan):
    """The plans of several batches, as one plan of their concatenation: what :func:`concatenate` returns."""

    parts: tuple[MixPlan, ...]

    @property
    def sources(self) -> Tensor:  # noqa: D102
        offsets = accumulate(self._sizes, initial=0)
        most = max(part.sources.shape[1] for part in self.parts)
        # a part with fewer sources than another repeats its images themselves, with a share of 0
        columns = [
            torch.cat([part.sources, part.sources[:, :1].expand(-1, most - part.sources.shape[1])], dim=1) + offset
            for part, offset in zip(self.parts, offsets, strict=False)
        ]
        return torch.cat(columns)

    @property
    def pixel_shares(self) -> Tensor:  # noqa: D102
        return _stack_shares([part.pixel_shares for part in self.parts])

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return _stack_shares([part.label_shares for part in self.parts])

    @property
    def boxes(self) -> Tensor:  # noqa: D102
        return torch.cat([part.boxes for part in self.parts])

    def apply(self, images: Tensor) -> Tensor:  # noqa: D102
        self._check_images(images)
        chunks = images.split(self._sizes)
        return torch.cat([part.apply(chunk) for part, chunk in zip(self.parts, chunks, strict=True)])

    def write(self, samples: Sequence[np.ndarray] | np.ndarray, out: np.ndarray) -> None:  # noqa: D102
        start = 0
        for part in self.parts:
            rows = slice(start, start + part.batch_size)
            part.write(samples[rows], out[rows])
            start = rows.stop

    @property
    def _sizes(self) -> list[int]:
        return [part.batch_size for part in self.parts]


def _stack_shares(shares: list[Tensor]) -> Tensor:
    most = max(share.shape[1] for share in shares)
    return torch.cat([torch.nn.functional.pad(share, (0, most - share.shape[1])) for share in shares])


def concatenate(plans: Sequence[MixPlan]) -> MixPlan:
    """Join the plans of several batches, such as those of all ranks, into the plan of their concatenation.

    Args:
        plans: at least one plan; of any kinds, but of one image size.

    Returns:
        A plan of all the images; each is mixed within its own batch as before.

    Raises:
        ValueError: if there is no plan, or the image sizes differ.

    Example:
        >>> both = concatenate([IdentityPlan(2, 8, 8), IdentityPlan(1, 8, 8)])
        >>> both.batch_size, both.sources.tolist()
        (3, [[0], [1], [2]])
    """
    sizes = {(plan.height, plan.width) for plan in plans}
    if len(sizes) != 1:
        raise ValueError(f"plans of one image size are needed to concatenate them, got sizes {sorted(sizes)}")
    ((height, width),) = sizes
    return ConcatenatedPlan(sum(plan.batch_size for plan in plans), height, width, tuple(plans))
