"""CutMix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from cutmix_zoo.checks import require, require_choice, require_fraction, require_positive
from cutmix_zoo.mixing.box_plan import BoxPlan
from cutmix_zoo.mixing.boxes import box_areas, clipped_boxes, inside_boxes, place_inside
from cutmix_zoo.mixing.method import PairDraw, PairMethod

BoxRule = Literal["clip", "inside", "gaussian"]
"""Where a box may lie: around a uniform or a Gaussian centre and clipped to the image, or wholly inside it."""

LabelRule = Literal["mixed", "one_hot", "complete"]
"""What the target is: the shares of both, the larger share alone, or a half of each."""


@dataclass(frozen=True)
class CutMix(PairMethod):
    """Fill a box of each image with the same box of another image, and mix the labels by area.

    With probability ``prob``, lambda is drawn from Beta(alpha, alpha) and a box of a share ``1 - lambda`` is
    placed. With alpha 1 the mean pasted share is 0.299 at 32 px and 0.318 at 224 px for ``box="clip"``, and
    0.500 for ``box="inside"``.

    Args:
        alpha: above 0; 1 is a uniform lambda.
        box: ``"clip"``: the centre is uniform and the box is clipped to the image, as in the paper;
            ``"inside"``: the box is uniform among those inside the image; ``"gaussian"``: the centre is Gaussian around
            that of the image, and the box is clipped (Table 8, Center Gaussian).
        correct_lam: labels count as many pixels as were pasted, as in algorithm A1; the authors' code did so only
            after its first numbers were published. Otherwise they count the lambda that was drawn, which with
            ``box="clip"`` overstates the partner by 0.2 on average.
        label: ``"mixed"``: the shares of both, as in the paper; ``"one_hot"``: only the larger of the two (Table 8,
            One-hot; a tie goes to the image itself); ``"complete"``: a half of each, whatever the box
            (Table 8, Complete-label).
        centre_std: standard deviation of a Gaussian centre, as a share of the image's height and width. The paper
            gives none; with 0.25 the centre falls inside the image in 91 of 100 draws, and is cut to it in the others.
        fixed_lam: the lambda of every box, instead of a draw: 0.75 is 16 x 16 pixels of 32 x 32 (Table 8, Fixed-size),
            of which clipping leaves a share of 0.19 on average.
        minmax: least and largest share of the image's height and width that the box takes, each drawn
            uniformly from the whole pixels between; the box lies inside, labels count its pixels, and neither
            ``alpha`` nor ``correct_lam`` is used. It is timm's ``cutmix_minmax``.
        prob: probability of mixing, in [0, 1]. The paper names none; the authors used 0.5 for PyramidNets on CIFAR,
            1 for ResNet-110 and ImageNet.
        per: ``"batch"``: one gate, lambda and box for all, as in the paper; ``"pair"``: the two of a
            pair share them and exchange boxes; ``"sample"``: each image has its own.
        pairing: who meets whom: ``"derangement"``, nobody meets itself; ``"permutation"``, the authors' code;
            ``"reverse"``, first and last, as in timm. More at :class:`~cutmix_zoo.mixing.method.PairMethod`.

    Raises:
        ValueError: if a setting is out of range or unknown, or settings exclude each other.

    **Source**: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features (ICCV 2019), section 3, algorithm A1 and Table 8. ``CutMix(pairing="permutation")`` follows the
    authors' code; our default pairing wastes no image on meeting itself.

    Example:
        >>> plan = CutMix(per="sample").draw(8, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> plan.apply(torch.zeros(8, 3, 32, 32)).shape, plan.lam.shape
        (torch.Size([8, 3, 32, 32]), torch.Size([8]))
    """

    alpha: float = 1.0
    box: BoxRule = "clip"
    correct_lam: bool = True
    label: LabelRule = "mixed"
    centre_std: float = 0.25
    fixed_lam: float | None = None
    minmax: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("alpha", self.alpha)
        require_choice("box", self.box, get_args(BoxRule))
        require_choice("label", self.label, get_args(LabelRule))
        require_positive("centre_std", self.centre_std)
        if self.fixed_lam is not None:
            require_fraction("fixed_lam", self.fixed_lam)
        if self.minmax is not None:
            object.__setattr__(self, "minmax", tuple(self.minmax))
            fits = len(self.minmax) == 2 and 0 <= self.minmax[0] <= self.minmax[1] <= 1
            require(fits, f"minmax must rise within [0, 1] from one share to another, got {self.minmax}")
            alone = self.fixed_lam is None and self.box == "clip"
            require(alone, "minmax draws the box's size and place, so fixed_lam and box must be left out")

    def _draw(self, pairs: PairDraw) -> BoxPlan:
        lam = pairs.beta(self.alpha)
        if self.fixed_lam is not None:
            lam = np.where(pairs.gate, self.fixed_lam, 1.0)
        position = pairs.rng.random((len(lam), 2))
        boxes = self._boxes(pairs, lam, position)
        label_lam = self._label_lam(pairs, lam, boxes)
        return BoxPlan(*pairs.shape, donor=pairs.partner, box=pairs.shared(boxes.numpy()), label_lam=label_lam)

    def _boxes(self, pairs: PairDraw, lam: np.ndarray, position: np.ndarray) -> torch.Tensor:
        """Place (groups, 4) boxes; an empty one where the gate is shut, which is lambda 1."""
        height, width, size = pairs.height, pairs.width, np.array([pairs.height, pairs.width])
        if self.minmax is not None:
            least, most = (np.floor(share * size).astype(np.int64) for share in self.minmax)
            side = pairs.rng.integers(least, most + 1, size=position.shape) * pairs.gate[:, None]
            return torch.from_numpy(place_inside(side, position, size))
        drawn = torch.from_numpy(lam)
        if self.box == "inside":
            return inside_boxes(drawn, torch.from_numpy(position), height, width)
        centre = position * size
        if self.box == "gaussian":
            centre = size * (0.5 + self.centre_std * pairs.rng.standard_normal(position.shape))
            centre = np.clip(centre, 0, size - 1)
        return clipped_boxes(drawn, torch.from_numpy(centre.astype(np.int64)), height, width)

    def _label_lam(self, pairs: PairDraw, lam: np.ndarray, boxes: torch.Tensor) -> torch.Tensor | None:
        """Return what the labels count, where that is not the pixels."""
        if self.label == "mixed" and (self.correct_lam or self.minmax is not None):
            return None
        if self.label == "complete":
            return pairs.per_image(np.where(pairs.gate, 0.5, 1.0))
        if self.correct_lam or self.minmax is not None:
            lam = 1.0 - box_areas(boxes).numpy() / (pairs.height * pairs.width)
        return pairs.per_image((lam >= 0.5).astype(np.float64) if self.label == "one_hot" else lam)
