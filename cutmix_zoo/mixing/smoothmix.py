"""SmoothMix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cutmix_zoo.checks import require, require_positive
from cutmix_zoo.mixing.blend_plan import MaskPlan
from cutmix_zoo.mixing.method import PairDraw, PairMethod


@dataclass(frozen=True)
class SmoothMix(PairMethod):
    """Blend a spot of another image into each image, without an edge, and mix the labels by weight.

    The partner's weight is ``k = exp(-(x - cx)**2 / (2 * sx**2) - (y - cy)**2 / (2 * sy**2))``, the image's own is
    ``1 - k``, and its label counts the mean of ``1 - k``. The centre (cx, cy) is uniform over the image, and sx and sy
    are the same share, from U(low, high), of its width and height. On average 0.429 is the partner's for 0.25 to 0.5.
    Weights are rounded to whole 256ths, in pixels and labels alike, so that bytes are blended exactly by integers.

    Args:
        low: least standard deviation of the spot, as a share of the image's height and width, above 0.
        high: the largest, at least ``low``.
        prob: probability of mixing, in [0, 1].
        per: ``"batch"``: one gate and spot for all; ``"pair"``: the two of a pair share them; ``"sample"``: each image
            has its own.
        pairing: who meets whom; see :class:`~cutmix_zoo.mixing.method.PairMethod`.

    Raises:
        ValueError: if a setting is out of range or unknown, or ``low`` is above ``high``.

    **Source**: Lee et al., SmoothMix: a Simple Yet Effective Data Augmentation to Train Robust Classifiers (CVPR
    Workshops 2020): its Gaussian mask. The range of the standard deviation is openmixup's, whose code gives the
    labels the wrong way round: it counts the mean of k for the image that has the weight ``1 - k``.

    Example:
        >>> import torch
        >>> plan = SmoothMix().draw(2, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(plan.lam, plan.mask.mean().expand(2))
        True
    """

    low: float = 0.25
    high: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("low", self.low)
        require_positive("high", self.high)
        require(self.low <= self.high, f"low must not be above high={self.high}, got {self.low}")

    def _draw(self, pairs: PairDraw) -> MaskPlan:
        sigma = pairs.rng.uniform(self.low, self.high, size=pairs.meeting.groups)
        centre = pairs.rng.random((pairs.meeting.groups, 2))
        rows = _bell(pairs.height, centre[:, 0], sigma) * pairs.gate[:, None]
        columns = _bell(pairs.width, centre[:, 1], sigma)
        own = 1.0 - rows[:, :, None] * columns[:, None, :]
        return MaskPlan(*pairs.shape, donor=pairs.partner, mask=pairs.shared(own))


def _bell(size: int, centre: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return (groups, size) float32 bells along an axis, given centre and sigma as shares of its length."""
    pixel = (np.arange(size) + 0.5) / size
    bell: np.ndarray = np.exp(-0.5 * ((pixel - centre[:, None]) / sigma[:, None]) ** 2)
    return bell.astype(np.float32)
