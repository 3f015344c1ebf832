"""Plans made of plans: one after another, one for each image, and one batch beside another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, count
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from cutmix_zoo.mixing.erase_plan import ErasePlan
from cutmix_zoo.mixing.plan import MixPlan, check_integers
from cutmix_zoo.mixing.rows import batch_order, empty_in_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from cutmix_zoo.mixing.rows import Samples


@dataclass(frozen=True, eq=False)
class JoinedPlan(MixPlan):
    """A plan made of others; the common part of its kinds."""

    parts: tuple[MixPlan, ...]

    def _row_dtype(self, images: Tensor) -> torch.dtype | None:
        seen = {part._row_dtype(images) for part in self.parts}
        # parts that want to see the bits and parts that want to see the numbers cannot share their rows
        return seen.pop() if len(seen) == 1 else (images.dtype if None not in seen else None)

    def _mask_plan(self, ignore_index: int) -> MixPlan:
        return replace(self, parts=tuple(part._mask_plan(ignore_index) for part in self.parts))


@dataclass(frozen=True, eq=False)
class SequencePlan(JoinedPlan):
    """Plans of one batch applied one after another, such as Cutout, then mixup.

    Labels are mixed step by step as well, so a share is the product of the shares on its way. Where two steps
    paste, that may differ from the pixels that were left: those are counted in :attr:`pixel_shares`. A part that mixes
    inside the network (:class:`~cutmix_zoo.mixing.FeaturePlan`) leaves the pixels of images as they are.

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        parts: at least one plan of such a batch.

    Raises:
        ValueError: if there is no part, or one is for another batch.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_parts(self)

    @property
    def sources(self) -> Tensor:  # noqa: D102
        sources = self.parts[0].sources
        for part in self.parts[1:]:
            # (B, M, N): the sources of my sources
            sources = sources[part.sources].flatten(1)
        return sources

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        shares = self.parts[0].label_shares
        for part in self.parts[1:]:
            shares = (part.label_shares.unsqueeze(2) * shares[part.sources]).flatten(1)
        return shares

    @property
    def pixel_shares(self) -> Tensor:
        """(B, M) float32, counted: images are painted and mixed, those together of which no mixed image has two.

        For two steps that paste, this takes ten to twenty times as long as :meth:`apply` on one channel. Where an
        image is its own source in several ways, the first column has the whole share.
        """
        sources = self.sources
        colours = _colours(sources)
        counted = torch.stack([self._share_of(colours == colour) for colour in range(int(colours.max()) + 1)], dim=1)
        shares = counted.gather(1, colours[sources])
        repeated = (sources.unsqueeze(2) == sources.unsqueeze(1)).tril(-1).any(2)
        return shares.masked_fill(repeated, 0.0)

    @property
    def boxes(self) -> Tensor:  # noqa: D102
        boxes = torch.stack([part.boxes for part in self.parts])
        # the last box that was drawn
        return boxes[_last_nonempty(boxes), torch.arange(self.batch_size)]

    def _share_of(self, painting: Tensor) -> Tensor:
        painted = torch.zeros(self.batch_size, 1, self.height, self.width)
        painted[painting] = 1.0
        for part in self.parts:
            painted = _without_fill(part).apply(painted)
        return painted.double().mean((1, 2, 3)).float()

    def _transform(self, images: Tensor) -> Tensor:
        for part in self.parts:
            images = part.apply(images)
        return images

    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        *first, last = self.parts
        for part in first:
            between = empty_in_order(out.shape, batch_order(samples[0]), out.dtype)
            part.write(samples, between)
            samples = between
        last._write(samples, out, rows)


@dataclass(frozen=True, eq=False)
class ChoicePlan(JoinedPlan):
    """For each image one of several plans of the batch.

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        parts: at least one plan of such a batch.
        choice: (B,) int64, which part mixes each image.

    Raises:
        ValueError: if there is no part, one is for another batch, or ``choice`` does not fit.
    """

    choice: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_parts(self)
        object.__setattr__(self, "choice", self.choice.cpu())
        check_integers("choice", self.choice, [(self.batch_size,)], len(self.parts) - 1)

    @property
    def sources(self) -> Tensor:  # noqa: D102
        return self._chosen(_stack_sources([part.sources for part in self.parts]))

    @property
    def pixel_shares(self) -> Tensor:  # noqa: D102
        return self._chosen(_stack_shares([part.pixel_shares for part in self.parts]))

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return self._chosen(_stack_shares([part.label_shares for part in self.parts]))

    @property
    def boxes(self) -> Tensor:  # noqa: D102
        return self._chosen([part.boxes for part in self.parts])

    def _chosen(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values))[self.choice, torch.arange(self.batch_size)]

    def _transform(self, images: Tensor) -> Tensor:
        choice = self.choice.to(images.device, non_blocking=True).view(-1, *[1] * (images.ndim - 1))
        mixed = self.parts[0].apply(images)
        for number, part in enumerate(self.parts[1:], start=1):
            mixed = torch.where(choice == number, part.apply(images), mixed)
        return mixed

    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        choice = self.choice.tolist()
        for number, part in enumerate(self.parts):
            part._write(samples, out, [i for i in rows if choice[i] == number])


@dataclass(frozen=True, eq=False)
class ConcatenatedPlan(JoinedPlan):
    """The plans of several batches, as one plan of their concatenation: what :func:`concatenate` returns."""

    @property
    def sources(self) -> Tensor:  # noqa: D102
        offsets = accumulate(self._sizes, initial=0)
        columns = _stack_sources([part.sources for part in self.parts])
        return torch.cat([column + offset for column, offset in zip(columns, offsets, strict=False)])

    @property
    def pixel_shares(self) -> Tensor:  # noqa: D102
        return torch.cat(_stack_shares([part.pixel_shares for part in self.parts]))

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return torch.cat(_stack_shares([part.label_shares for part in self.parts]))

    @property
    def boxes(self) -> Tensor:  # noqa: D102
        return torch.cat([part.boxes for part in self.parts])

    def _transform(self, images: Tensor) -> Tensor:
        chunks = images.split(self._sizes)
        return torch.cat([part.apply(chunk) for part, chunk in zip(self.parts, chunks, strict=True)])

    def _write(self, samples: Samples, out: np.ndarray, rows: Sequence[int]) -> None:
        start = 0
        for part in self.parts:
            stop = start + part.batch_size
            part._write(samples[start:stop], out[start:stop], [i - start for i in rows if start <= i < stop])
            start = stop

    @property
    def _sizes(self) -> list[int]:
        return [part.batch_size for part in self.parts]


def concatenate(plans: Sequence[MixPlan]) -> MixPlan:
    """Join the plans of several batches, such as those of all ranks, into the plan of their concatenation.

    Args:
        plans: at least one plan; of any kinds, but of one image size.

    Returns:
        A plan of all the images; each is mixed within its own batch as before.

    Raises:
        ValueError: if there is no plan, or the image sizes differ.

    Example:
        >>> from cutmix_zoo.mixing import IdentityPlan
        >>> both = concatenate([IdentityPlan(2, 8, 8), IdentityPlan(1, 8, 8)])
        >>> both.batch_size, both.sources.tolist()
        (3, [[0], [1], [2]])
    """
    sizes = {(plan.height, plan.width) for plan in plans}
    if len(sizes) != 1:
        raise ValueError(f"plans of one image size are needed to concatenate them, got sizes {sorted(sizes)}")
    ((height, width),) = sizes
    return ConcatenatedPlan(sum(plan.batch_size for plan in plans), height, width, tuple(plans))


def _check_parts(plan: JoinedPlan) -> None:
    shapes = [part.shape for part in plan.parts]
    if set(shapes) != {plan.shape}:
        raise ValueError(
            f"the parts must be plans of one batch of {plan.shape} (batch size, height, width), got {shapes}"
        )


def _without_fill(plan: MixPlan) -> MixPlan:
    """Let erased pixels become 0, also in plans within plans."""
    if isinstance(plan, ErasePlan):
        return replace(plan, fill=None)
    if isinstance(plan, JoinedPlan):
        return replace(plan, parts=tuple(_without_fill(part) for part in plan.parts))
    return plan


def _stack_sources(sources: list[Tensor]) -> list[Tensor]:
    """Give all the same columns; one with fewer than another repeats its images themselves, with a share of 0."""
    most = max(columns.shape[1] for columns in sources)
    return [torch.cat([columns, columns[:, :1].expand(-1, most - columns.shape[1])], dim=1) for columns in sources]


def _stack_shares(shares: list[Tensor]) -> list[Tensor]:
    most = max(share.shape[1] for share in shares)
    return [pad(share, (0, most - share.shape[1])) for share in shares]


def _colours(sources: Tensor) -> Tensor:
    """Give each image a colour, (B,) int64 from 0, so that the sources of a mixed image differ in theirs."""
    beside: list[set[int]] = [set() for _ in sources]
    rows = sources.tolist()
    for row in rows:
        for source in row:
            beside[source].update(row)
    colours = [-1] * len(rows)
    for image, others in enumerate(beside):
        taken = {colours[other] for other in others}
        colours[image] = next(colour for colour in count() if colour not in taken)
    return torch.tensor(colours)


def _last_nonempty(boxes: Tensor) -> Tensor:
    """Return (B,) the last of (P, B, 4) boxes that is not empty; 0 where all are."""
    filled = ((boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])).long()
    order = torch.arange(len(boxes)).unsqueeze(1)
    return (filled * order).amax(0)
