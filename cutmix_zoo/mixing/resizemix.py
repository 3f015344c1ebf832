"""ResizeMix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from cutmix_zoo.checks import require, require_choice, require_fraction, require_positive
from cutmix_zoo.mixing.boxes import place_inside
from cutmix_zoo.mixing.method import PairDraw, PairMethod
from cutmix_zoo.mixing.patch_plan import PatchPlan

SizeLaw = Literal["side", "area"]
"""What is drawn: the ratio of the sides, or the share that is left of the image."""


@dataclass(frozen=True)
class ResizeMix(PairMethod):
    """Paste the whole of another image, made smaller, and mix the labels by area.

    The pasted image has the ratio tau of the image's height and width, each rounded to whole pixels and at least one,
    and lies anywhere inside with equal probability. Two laws of tau are in use under this name:

    - ``"side"``: ``tau ~ U(low, high)``, so a share tau ** 2 is pasted: 0.243 on average for 0.1 to 0.8;
    - ``"area"``: ``lambda = low + (high - low) * b``, b from Beta(alpha, alpha), and ``tau = sqrt(1 - lambda)``, so
      lambda is left: 0.55 is pasted on average for 0.1 to 0.8, more than twice as much.

    Args:
        law: ``"side"``, the paper's, or ``"area"``, MMPretrain's.
        low: least ratio of the sides (``"side"``), or least share that is left (``"area"``), in [0, high].
        high: the largest, in [low, 1].
        alpha: above 0; only the law ``"area"`` uses it.
        prob: probability of mixing, in [0, 1].
        per: ``"batch"``: one gate, size and place for all; ``"pair"``: the two of a pair share them; ``"sample"``: each
            image has its own.
        pairing: who meets whom; see :class:`~cutmix_zoo.mixing.method.PairMethod`. An image that meets itself stays as
            it is.

    Raises:
        ValueError: if a setting is out of range or unknown, or ``low`` is above ``high``.

    **Source**: Qin et al., ResizeMix: Mixing Data with Preserved Object Information and True Labels (2020), section 3;
    ``law="area"``: MMPretrain's ``ResizeMix``. Images are reduced bilinearly with antialiasing, and the place is inside
    the image. MMPretrain and openmixup clip it at the border, squeezing the image into what is left, and reduce without
    antialiasing, openmixup by the nearest pixel.

    Example:
        >>> plan = ResizeMix(low=0.5, high=0.5).draw(4, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> plan.boxes[0].tolist(), plan.lam
        ([1, 14, 17, 30], tensor([0.7500, 0.7500, 0.7500, 0.7500]))
    """

    law: SizeLaw = "side"
    low: float = 0.1
    high: float = 0.8
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("law", self.law, get_args(SizeLaw))
        require_fraction("low", self.low)
        require_fraction("high", self.high)
        require(self.low <= self.high, f"low must not be above high={self.high}, got {self.low}")
        require_positive("alpha", self.alpha)

    def _draw(self, pairs: PairDraw) -> PatchPlan:
        size = np.array([pairs.height, pairs.width])
        side = np.maximum(np.rint(self._ratio(pairs)[:, None] * size), 1).astype(np.int64)
        box = place_inside(side, pairs.rng.random(side.shape), size) * pairs.gate[:, None]
        # a smaller copy of itself would change an image that has nobody to meet
        meets = pairs.meeting.partner != np.arange(pairs.batch_size)
        return PatchPlan(
            *pairs.shape,
            donor=pairs.partner.unsqueeze(1),
            crop=torch.tensor([0, 0, pairs.height, pairs.width]).expand(pairs.batch_size, 1, 4),
            box=(pairs.per_image(box) * torch.from_numpy(meets).unsqueeze(1)).unsqueeze(1),
        )

    def _ratio(self, pairs: PairDraw) -> np.ndarray:
        """Draw (groups,) ratios of the sides."""
        if self.law == "side":
            return pairs.rng.uniform(self.low, self.high, size=pairs.meeting.groups)
        lam = self.low + (self.high - self.low) * pairs.beta(self.alpha)
        return np.sqrt(1.0 - lam)
