"""What the tests of mixing share: draws, images, plans of every kind, and the slow loops that are their oracles."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.mixing import (
    BlendPlan,
    BoxPlan,
    ChoicePlan,
    ErasePlan,
    IdentityPlan,
    MaskPlan,
    MixMethod,
    MixPlan,
    PatchPlan,
    SequencePlan,
    concatenate,
)
from cutmix_zoo.mixing.joined_plans import JoinedPlan

HEIGHT, WIDTH = 7, 5
BATCH = 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int, dtype: torch.dtype = torch.uint8, seed: int = 1) -> Tensor:
    shape = shape or (BATCH, 3, HEIGHT, WIDTH)
    return torch.randint(2 if dtype == torch.bool else 256, shape, generator=generator(seed)).to(dtype)


def random_boxes(*shape: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Boxes of any size, none included."""
    shape, state = shape or (BATCH,), generator(seed)
    rows = torch.randint(height + 1, (*shape, 2), generator=state).sort(-1).values
    columns = torch.randint(width + 1, (*shape, 2), generator=state).sort(-1).values
    return torch.stack([rows, columns], dim=-1).flatten(-2)


def random_donor(batch_size: int = BATCH, seed: int = 0) -> Tensor:
    return torch.randint(batch_size, (batch_size,), generator=generator(seed))


def box_plan(batch_size: int = BATCH, *, shared: bool = False, seed: int = 0, **settings: Any) -> BoxPlan:
    boxes, donor = random_boxes(batch_size, seed=seed), random_donor(batch_size, seed)
    return BoxPlan(batch_size, HEIGHT, WIDTH, donor, boxes[0] if shared else boxes, **settings)


def erase_plan(fill: tuple[float, ...] | None = (9.0,), seed: int = 3) -> ErasePlan:
    return ErasePlan(BATCH, HEIGHT, WIDTH, random_boxes(seed=seed), fill)


def blend_plan(seed: int = 5) -> BlendPlan:
    return BlendPlan(BATCH, HEIGHT, WIDTH, random_donor(seed=seed), torch.rand(BATCH, generator=generator(seed)))


def mask_plan(*, hard: bool, shared: bool = False, seed: int = 5) -> MaskPlan:
    mask = torch.rand(BATCH, HEIGHT, WIDTH, generator=generator(seed))
    mask = mask > 0.4 if hard else mask
    return MaskPlan(BATCH, HEIGHT, WIDTH, random_donor(seed=seed), mask[0] if shared else mask)


def patch_plan(*, resized: bool, seed: int = 7) -> PatchPlan:
    """Two patches an image, side by side: moved, or taken from crops of other sizes."""
    left = torch.tensor([0, 0, 4, 2]).expand(BATCH, 4)
    right = torch.tensor([2, 2, 6, 5]).expand(BATCH, 4)
    # crops of the same sizes, elsewhere
    moved = torch.stack([left + torch.tensor([3, 1, 3, 1]), right - torch.tensor([1, 2, 1, 2])], dim=1)
    other = torch.tensor([[0, 0, 7, 5], [1, 1, 3, 3]]).expand(BATCH, 2, 4)
    donor = torch.stack([random_donor(seed=seed), random_donor(seed=seed + 1)], dim=1)
    return PatchPlan(BATCH, HEIGHT, WIDTH, donor, other if resized else moved, torch.stack([left, right], dim=1))


def sequence_plan(*parts: MixPlan) -> SequencePlan:
    return SequencePlan(*parts[0].shape, parts)


def choice_plan(*parts: MixPlan) -> ChoicePlan:
    return ChoicePlan(BATCH, HEIGHT, WIDTH, parts, torch.arange(BATCH) % len(parts))


MOVING_PLANS: dict[str, MixPlan] = {
    "identity": IdentityPlan(BATCH, HEIGHT, WIDTH),
    "box": box_plan(),
    "shared box": box_plan(shared=True),
    "told box": box_plan(label_lam=torch.linspace(0, 1, BATCH)),
    "hard mask": mask_plan(hard=True),
    "shared mask": mask_plan(hard=True, shared=True),
    "erase": erase_plan(),
    "patch": patch_plan(resized=False),
    "sequence of moves": sequence_plan(erase_plan(), box_plan(), box_plan(shared=True, seed=8)),
    "choice of moves": choice_plan(box_plan(), erase_plan(), mask_plan(hard=True)),
    "concatenation of moves": concatenate([box_plan(2), box_plan(3, shared=True), box_plan(1)]),
}
"""Plans after which every pixel is that of one image, or was erased."""

BLENDING_PLANS: dict[str, MixPlan] = {
    "blend": blend_plan(),
    "soft mask": mask_plan(hard=False),
    "shared soft mask": mask_plan(hard=False, shared=True),
    "sequence": sequence_plan(erase_plan(), blend_plan()),
    "sequence of blends": sequence_plan(blend_plan(), box_plan(), mask_plan(hard=False)),
    "choice": choice_plan(box_plan(), blend_plan(), IdentityPlan(BATCH, HEIGHT, WIDTH)),
    "concatenation": concatenate([box_plan(5), BlendPlan(1, HEIGHT, WIDTH, torch.tensor([0]), torch.tensor([0.5]))]),
}
"""Plans that average classes, so that they cannot be applied to masks."""

PLANS: dict[str, MixPlan] = MOVING_PLANS | BLENDING_PLANS | {"resized patch": patch_plan(resized=True)}
"""A plan of every kind, for 6 images of 7 x 5 pixels."""


def draw(
    mix: MixMethod, batch_size: int = 16, height: int = 32, width: int = 32, *, seed: int = 0, **context: Any
) -> MixPlan:
    """Draw with everything at hand that any method may ask for."""
    at_hand = {
        "progress": 0.75,
        "images": random_images(batch_size, 3, height, width),
        "map_sizes": ((height, width),) * 5,
    }
    return mix.draw(batch_size, height, width, generator=generator(seed), **(at_hand | context))


def written(plan: MixPlan, images: Tensor) -> Tensor:
    """Mix as the collate does: samples that were not stacked are written into memory that holds something else."""
    out = np.full(images.shape, 77, images.numpy().dtype)
    plan.write([image.numpy() for image in images], out)
    return torch.from_numpy(out)


class _Elsewhere(Tensor):
    """A tensor that is not plain, for which plans go the way they go on an accelerator."""


def by_tensor_operations(plan: MixPlan, images: Tensor) -> Tensor:
    return plan.apply(images.as_subclass(_Elsewhere)).as_subclass(Tensor)


def pixels(plan: MixPlan) -> Iterator[tuple[int, int, int]]:
    """Go through image, row and column."""
    for i in range(plan.batch_size):
        for row in range(plan.height):
            for column in range(plan.width):
                yield i, row, column


def by_pixels(plan: MixPlan, images: Tensor, pixel: Callable[[int, int, int], Any]) -> Tensor:
    """Compute every pixel by itself from its image, row and column."""
    mixed = torch.empty_like(images)
    for i, row, column in pixels(plan):
        mixed[i, ..., row, column] = pixel(i, row, column)
    return mixed


def lies_in(box: Tensor, row: int, column: int) -> bool:
    top, left, bottom, right = box.tolist()
    return top <= row < bottom and left <= column < right


def without_fill(plan: MixPlan) -> MixPlan:
    """Let erased pixels become 0, so that they count for no image."""
    if isinstance(plan, ErasePlan):
        return replace(plan, fill=None)
    if isinstance(plan, JoinedPlan):
        return replace(plan, parts=tuple(map(without_fill, plan.parts)))
    return plan


def counted_shares(plan: MixPlan) -> Tensor:
    """(B, B): paint each image in a colour of its own, mix, and measure how much there is of each colour."""
    size = plan.batch_size
    painted = torch.eye(size, dtype=torch.float64).view(size, size, 1, 1).repeat(1, 1, plan.height, plan.width)
    return without_fill(plan).apply(painted).mean((2, 3)).float()


def stated_shares(plan: MixPlan) -> Tensor:
    """(B, B): what a plan says of the same, where an image may be named in several columns."""
    return torch.zeros(plan.batch_size, plan.batch_size).scatter_add_(1, plan.sources, plan.pixel_shares)


def mean_clipped_share(size: int, *, whole_sides: bool = False) -> float:
    """Average the area of a clipped box over every whole centre and a fine grid of lambda, as a share of the image.

    The authors' boxes lose a pixel of an odd side; those with ``whole_sides`` do not.
    """
    sides = (size * np.sqrt(1 - (np.arange(2000) + 0.5) / 2000)).astype(int)[:, None]
    centres = np.arange(size)
    ends = np.minimum(centres + (sides + whole_sides) // 2, size)
    extents = ends - np.maximum(centres - sides // 2, 0)
    return float((extents.mean(axis=1) ** 2).mean()) / size**2
