"""CutMix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from cutmix_zoo.checks import require_choice, require_fraction, require_positive
from cutmix_zoo.mixing.boxes import clipped_boxes, inside_boxes
from cutmix_zoo.mixing.pairing import Pairing, Per, check_pairing, meet, numpy_generator
from cutmix_zoo.mixing.plan import BoxPlan, IdentityPlan, MixPlan

BoxRule = Literal["clip", "inside"]
"""Where a box may lie: around a uniform centre and clipped to the image, or wholly inside it."""


@dataclass(frozen=True)
class CutMix:
    """Fill a box of each image with the same box of another image, and mix the labels by area.

    With probability ``prob``, lambda is drawn from Beta(alpha, alpha) and a box of a share ``1 - lambda`` is
    placed. With alpha 1 the mean pasted share is 0.300 at 32 px and 0.318 at 224 px for ``box="clip"``, and
    0.500 for ``box="inside"``.

    Args:
        alpha: above 0; 1 is a uniform lambda.
        prob: probability of mixing, in [0, 1]. The paper names none; the authors used 0.5 for PyramidNets on CIFAR,
            1 for ResNet-110 and ImageNet.
        per: ``"batch"``: one gate, lambda and box for all, as in the paper; ``"pair"``: the two of a
            pair share them and exchange boxes; ``"sample"``: each image has its own.
        pairing: who meets whom (:func:`~cutmix_zoo.mixing.pairing.meet`): ``"derangement"``, nobody meets
            itself; ``"permutation"``, the official code's; ``"reverse"``, timm's. An image that stays
            alone (an odd batch with ``per="pair"`` or ``"reverse"``) stays as it is.
        box: ``"clip"``: the centre is uniform and the box is clipped to the image, as in the paper;
            ``"inside"``: the box is uniform among those inside the image.
        correct_lam: labels count as many pixels as were pasted, as in algorithm A1; the authors' code did so only
            after its first numbers were published. Otherwise they count the lambda that was drawn, which with
            ``box="clip"`` overstates the partner by 0.2 on average.

    Raises:
        ValueError: if a setting is out of range or unknown, or ``per="pair"`` comes with
            ``pairing="permutation"``, whose pairs are not mutual.

    **Source**: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features (ICCV 2019), section 3 and algorithm A1. ``CutMix(pairing="permutation")`` follows the
    authors' code; our default pairing wastes no image on meeting itself.

    Example:
        >>> plan = CutMix(per="sample").draw(8, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> plan.apply(torch.zeros(8, 3, 32, 32)).shape, plan.lam.shape
        (torch.Size([8, 3, 32, 32]), torch.Size([8]))
    """

    alpha: float = 1.0
    prob: float = 1.0
    per: Per = "batch"
    pairing: Pairing = "derangement"
    box: BoxRule = "clip"
    correct_lam: bool = True

    def __post_init__(self) -> None:
        require_positive("alpha", self.alpha)
        require_fraction("prob", self.prob)
        check_pairing(self.per, self.pairing)
        require_choice("box", self.box, get_args(BoxRule))

    def draw(self, batch_size: int, height: int, width: int, *, generator: torch.Generator) -> MixPlan:
        """Draw how a batch is mixed.

        Args:
            batch_size: number of images, at least 1; a single image is left alone.
            height: height of the images in pixels.
            width: width of the images in pixels.
            generator: a CPU generator; it moves on by one draw, whatever the settings.

        Returns:
            The plan: an identity plan where nothing is mixed.
        """
        rng = numpy_generator(generator)
        meeting = meet(batch_size, self.per, self.pairing, rng)
        gate = rng.random(meeting.groups) < self.prob
        lam = rng.beta(self.alpha, self.alpha, size=meeting.groups)
        position = rng.random((meeting.groups, 2))
        if batch_size == 1 or not gate.any():
            return IdentityPlan(batch_size, height, width)
        # lambda 1 leaves an empty box
        drawn_lam = torch.from_numpy(np.where(gate, lam, 1.0))
        boxes = self._place(drawn_lam, torch.from_numpy(position), height, width)
        group = torch.from_numpy(meeting.group)
        return BoxPlan(
            batch_size,
            height,
            width,
            donor=torch.from_numpy(meeting.partner),
            box=boxes[0] if self.per == "batch" else boxes[group],
            label_lam=None if self.correct_lam else drawn_lam[group],
        )

    def _place(self, lam: torch.Tensor, position: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if self.box == "inside":
            return inside_boxes(lam, position, height, width)
        return clipped_boxes(lam, (position * torch.tensor([height, width])).long(), height, width)
