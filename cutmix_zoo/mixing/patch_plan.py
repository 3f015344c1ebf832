"""A plan that moves or shrinks what it pastes: ResizeMix and RICAP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cutmix_zoo.mixing.blend_plan import check_blendable
from cutmix_zoo.mixing.box_plan import check_boxes
from cutmix_zoo.mixing.boxes import box_areas, in_boxes, window
from cutmix_zoo.mixing.plan import MixPlan, bits_of, check_integers, is_known_to_numpy
from cutmix_zoo.mixing.rows import stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cutmix_zoo.mixing.rows import Samples


@dataclass(frozen=True, eq=False)
class PatchPlan(MixPlan):
    """Boxes of each image are filled with crops of other images, resized where their sizes differ.

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        donor: (B, P) int64 in ``[0, B)``, where each of P patches comes from.
        crop: (B, P, 4) int64, the part of the donor that is taken (:class:`Box`); not empty where ``box`` is not.
        box: (B, P, 4) int64, the part of the image that it fills. The boxes of an image do not overlap.
        nearest: resize by taking the nearest pixel, which integer masks need; otherwise bilinearly with antialiasing.

    Raises:
        ValueError: if a shape, a dtype or a value does not fit.

    Example:
        >>> whole, corner = torch.tensor([0, 0, 2, 2]), torch.tensor([0, 0, 1, 1])
        >>> plan = PatchPlan(2, 2, 2, torch.tensor([[1], [0]]), whole.expand(2, 1, 4), corner.expand(2, 1, 4))
        >>> plan.apply(torch.tensor([[[[4.0, 4.0], [4.0, 4.0]]], [[[0.0, 2.0], [4.0, 6.0]]]]))[0]
        tensor([[[3., 4.],
                 [4., 4.]]])
        >>> plan.lam
        tensor([0.7500, 0.7500])
    """

    donor: Tensor
    crop: Tensor
    box: Tensor
    nearest: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("donor", "crop", "box"):
            object.__setattr__(self, name, getattr(self, name).cpu())
        patches = max((1, *self.donor.shape[1:]))
        check_integers("donor", self.donor, [(self.batch_size, patches)], self.batch_size - 1)
        for name in ("crop", "box"):
            check_boxes(name, getattr(self, name), [(self.batch_size, patches, 4)], self.height, self.width)
        if ((_areas(self.crop) == 0) & (_areas(self.box) > 0)).any():
            raise ValueError("a crop must not be empty where its box is not")
        if _overlap(self.box.numpy()):
            raise ValueError("the boxes of an image must not overlap")

    @property
    def sources(self) -> Tensor:  # noqa: D102
        return self.donor if self._own_first else torch.cat([self._index, self.donor], dim=1)

    @property
    def pixel_shares(self) -> Tensor:  # noqa: D102
        areas, total = _areas(self.box), self.height * self.width
        own = total - areas.sum(1, keepdim=True)
        counts = [own + areas[:, :1], areas[:, 1:]] if self._own_first else [own, areas]
        return (torch.cat(counts, dim=1).double() / total).float()

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return self.pixel_shares

    @property
    def boxes(self) -> Tensor:
        """(B, 4) int64: the box of the first patch; all zeros if that is the image's own, as with RICAP."""
        return torch.zeros_like(self.box[:, 0]) if self._own_first else self.box[:, 0]

    @property
    def _index(self) -> Tensor:
        return torch.arange(self.batch_size).unsqueeze(1)

    @property
    def _own_first(self) -> bool:
        """Whether the first patch of every image is a crop of the image itself."""
        return torch.equal(self.donor[:, :1], self._index)

    def _transform(self, images: Tensor) -> Tensor:
        if self._takes_pixels:
            return self._take(images)
        mixed = images.clone()
        # resized patches of one size and place are made together
        for rows, donors, crop, box in self._alike(range(self.batch_size)):
            where, taken = (torch.tensor(part).to(images.device, non_blocking=True) for part in (rows, donors))
            patches = images[taken][window(crop)]
            mixed[(where, *window(box))] = resize(patches, _size(box), nearest=self.nearest)
        return mixed

    @property
    def _takes_pixels(self) -> bool:
        """Whether every pixel is that of one image: nothing is resized, or by the nearest pixel."""
        return self.nearest or bool((_sizes(self.crop) == _sizes(self.box)).all())

    def _take(self, images: Tensor) -> Tensor:
        """Say for every pixel from which image, row and column it comes, and take it there: no loop over images."""
        device = images.device
        place = [torch.arange(size, device=device).view(-1, *[1] * (2 - axis)) for axis, size in enumerate(self.shape)]
        image, row, column = (axis.expand(self.shape) for axis in place)
        for p in range(self.donor.shape[1]):
            donor, crop, box = (
                values[:, p].to(device, non_blocking=True) for values in (self.donor, self.crop, self.box)
            )
            inside = in_boxes(box, self.height, self.width)
            image = torch.where(inside, donor.view(-1, 1, 1), image)
            row = torch.where(inside, _nearest(place[1], crop[:, 0::2], box[:, 0::2]), row)
            column = torch.where(inside, _nearest(place[2], crop[:, 1::2], box[:, 1::2]), column)
        flat = images.reshape(self.batch_size, -1, self.height, self.width)
        taken = flat.permute(0, 2, 3, 1)[image, row, column].permute(0, 3, 1, 2)
        return torch.empty_like(images).copy_(taken.reshape(images.shape))

    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        stack(samples, out, rows)
        for alike, donors, crop, box in self._alike(rows):
            for i, donor in zip(alike, donors, strict=True):
                patch = samples[donor][window(crop)]
                if patch.shape[-2:] != _size(box):
                    # samples may be read-only, of which torch warns
                    copy = torch.from_numpy(np.array(patch, order="C"))
                    patch = resize(copy, _size(box), nearest=self.nearest).numpy()
                out[i][window(box)] = patch

    def _alike(self, rows: Sequence[int]) -> Iterator[tuple[list[int], list[int], list[int], list[int]]]:
        """Yield the rows that share a crop and a box, with their donors: one operation serves them all."""
        donor, crop, box = self.donor.tolist(), self.crop.tolist(), self.box.tolist()
        for p in range(self.donor.shape[1]):
            groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
            for i in rows:
                if min(_size(box[i][p])) > 0:
                    groups.setdefault((tuple(crop[i][p]), tuple(box[i][p])), []).append(i)
            for (taken, filled), alike in groups.items():
                yield alike, [donor[i][p] for i in alike], list(taken), list(filled)

    def _row_dtype(self, images: Tensor) -> torch.dtype | None:
        if self._takes_pixels:
            return bits_of(images.dtype)
        return images.dtype if is_known_to_numpy(images.dtype) else None

    def _mask_plan(self, _: int) -> MixPlan:
        return replace(self, nearest=True)


def resize(patches: Tensor, size: tuple[int, int], *, nearest: bool = False) -> Tensor:
    """Resize images, unless they have the size already; in single precision or their own, whichever is more precise.

    Args:
        patches: (..., h, w), any dtype if ``nearest``, otherwise floating point or uint8.
        size: height and width wanted.
        nearest: take the nearest pixel instead of an antialiased bilinear average.

    Returns:
        (..., *size) in the same dtype; bytes are rounded.

    Raises:
        ValueError: if the dtype cannot be averaged.
    """
    height, width = patches.shape[-2:]
    if (height, width) == tuple(size):
        return patches
    if nearest:
        row, column = (
            # of (i + 1/2) * old / new the whole part, in integers: floats miss some that are whole
            (2 * torch.arange(new, device=patches.device) + 1) * old // (2 * new)
            for new, old in zip(size, (height, width), strict=True)
        )
        return patches[..., row, :][..., column]
    check_blendable(patches.dtype.is_floating_point, patches.dtype == torch.uint8, patches.dtype)
    flat = patches.reshape(1, -1, height, width).to(torch.promote_types(patches.dtype, torch.float32))
    resized = interpolate(flat, size=size, mode="bilinear", antialias=True).reshape(*patches.shape[:-2], *size)
    return resized.to(patches.dtype) if patches.is_floating_point() else resized.round().to(patches.dtype)


def _nearest(place: Tensor, crop: Tensor, box: Tensor) -> Tensor:
    """Return where in (B, 2) ``crop``, from first to last, the places in ``box`` lie; outside the box any place."""
    (taken, taken_end), (filled, filled_end) = (ends.view(-1, 2, 1, 1).unbind(1) for ends in (crop, box))
    new = (filled_end - filled).clamp(min=1)
    # of (i + 1/2) * old / new the whole part, in integers
    return (2 * (place - filled) + 1) * (taken_end - taken) // (2 * new) + taken


def _size(box: Sequence[int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _sizes(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2]


def _areas(boxes: Tensor) -> Tensor:
    return box_areas(boxes.flatten(0, -2)).view(boxes.shape[:-1])


def _overlap(boxes: np.ndarray) -> bool:
    """Return whether two of the (B, P, 4) boxes of an image have a pixel in common."""
    first, second = (boxes[:, patches] for patches in np.triu_indices(boxes.shape[1], k=1))
    common = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    return bool((common > 0).all(-1).any())
