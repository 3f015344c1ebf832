"""RICAP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np
import torch

from cutmix_zoo.checks import require_choice, require_fraction, require_positive
from cutmix_zoo.mixing.boxes import place_inside
from cutmix_zoo.mixing.pairing import numpy_generator
from cutmix_zoo.mixing.patch_plan import PatchPlan
from cutmix_zoo.mixing.plan import IdentityPlan, MixPlan

if TYPE_CHECKING:
    from cutmix_zoo.mixing.method import Context


@dataclass(frozen=True)
class RICAP:
    """Patch four images together around a random point, and mix their labels by area.

    The point is at ``(round(height * h), round(width * w))``, h and w from Beta(beta, beta). Each of the four
    rectangles around it is filled with a crop of its size, from a random place of one image: the image itself above
    and to the left, three others elsewhere. A rectangle may be empty.

    A mixed image has four sources, so ``plan.lam`` and ``plan.partner`` raise: use ``plan.sources`` and
    ``plan.label_shares``. In a batch of four or more they are four different images; in a smaller one an image fills
    several rectangles.

    Args:
        beta: above 0. Below 1 the point is mostly near an edge, so that one or two of the images fill most; the paper
            used 0.3.
        prob: probability of mixing, in [0, 1].
        per: ``"batch"``: one gate, point and four places for all, as in the paper's code; ``"sample"``: each image has
            its own.

    Raises:
        ValueError: if a setting is out of range or unknown.

    **Source**: Takahashi, Matsubara and Uehara, RICAP: Random Image Cropping and Patching Data Augmentation for Deep
    CNNs (ACML 2018), section 3. The authors' code draws the images of each rectangle by a permutation of its own, so
    that some meet themselves; here one random cycle through the batch gives an image's partners.

    Example:
        >>> plan = RICAP(beta=1.0).draw(4, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> plan.sources[0].tolist(), plan.label_shares[0]
        ([0, 3, 2, 1], tensor([0.3115, 0.5947, 0.0322, 0.0615]))
    """

    beta: float = 0.3
    prob: float = 1.0
    per: Literal["batch", "sample"] = "batch"

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_fraction("prob", self.prob)
        require_choice("per", self.per, ("batch", "sample"))

    def draw(
        self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **_: Unpack[Context]
    ) -> MixPlan:
        """Draw how a batch is mixed; see :meth:`~cutmix_zoo.mixing.method.MixMethod.draw`."""
        rng = numpy_generator(generator)
        groups = batch_size if self.per == "sample" else 1
        gate = rng.random(groups) < self.prob
        if batch_size == 1 or not gate.any():
            return IdentityPlan(batch_size, height, width)
        size = np.array([height, width])
        point = np.rint(rng.beta(self.beta, self.beta, size=(groups, 2)) * size).astype(np.int64)
        # where the gate is shut, the first rectangle is the whole image
        box = _rectangles(np.where(gate[:, None], point, size), size)
        side = box[..., 2:] - box[..., :2]
        crop = place_inside(side, rng.random(side.shape), size)
        return PatchPlan(
            batch_size,
            height,
            width,
            donor=torch.from_numpy(_cycle(batch_size, rng)),
            crop=torch.from_numpy(crop).expand(batch_size, 4, 4),
            box=torch.from_numpy(box).expand(batch_size, 4, 4),
        )


def _rectangles(point: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the (groups, 4, 4) boxes around (groups, 2) points: top left, top right, bottom left, bottom right."""
    edges = np.stack([np.zeros_like(point), point, np.broadcast_to(size, point.shape)])
    corners = [(row, column) for row in (0, 1) for column in (0, 1)]
    boxes = [[edges[r, :, 0], edges[c, :, 1], edges[r + 1, :, 0], edges[c + 1, :, 1]] for r, c in corners]
    return np.stack([np.stack(box, axis=-1) for box in boxes], axis=1)


def _cycle(batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Return (B, 4): each image and the three that follow it on a random cycle through the batch."""
    order = rng.permutation(batch_size)
    cycle = np.empty((batch_size, 4), np.int64)
    cycle[order] = order[(np.arange(batch_size)[:, None] + np.arange(4)) % batch_size]
    return cycle
