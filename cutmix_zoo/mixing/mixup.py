"""mixup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutmix_zoo.checks import require_positive
from cutmix_zoo.mixing.blend_plan import BlendPlan
from cutmix_zoo.mixing.method import PairDraw, PairMethod

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Mixup(PairMethod):
    """Average each image with another one, and their labels with the same weights.

    ``lambda * x_a + (1 - lambda) * x_b`` and ``lambda * y_a + (1 - lambda) * y_b``, lambda from
    Beta(alpha, alpha). The lambda is rounded to a whole 256th, in pixels and labels alike, so that
    bytes are blended exactly by integers.

    Args:
        alpha: above 0. The mixup paper used 0.1 to 0.4 on ImageNet, the CutMix paper 0.5 and 1.
        prob: probability of mixing, in [0, 1].
        per: ``"batch"``: one gate and lambda for all, as in the paper's code; ``"pair"``: the two of a
            pair share them; ``"sample"``: each image has its own.
        pairing: who meets whom; see :class:`~cutmix_zoo.mixing.method.PairMethod`.

    Raises:
        ValueError: if a setting is out of range or unknown.

    **Source**: Zhang et al., mixup: Beyond Empirical Risk Minimization (ICLR 2018), section 2.
    ``Mixup(pairing="permutation")`` follows the authors' code up to the rounding of lambda; our default
    pairing wastes no image on meeting itself.

    Example:
        >>> import torch
        >>> plan = Mixup(alpha=0.2).draw(4, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(plan.lam, (plan.lam * 256).round() / 256)
        True
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("alpha", self.alpha)

    def _draw(self, pairs: PairDraw) -> BlendPlan:
        own_lam: torch.Tensor = pairs.per_image(pairs.beta(self.alpha))
        return BlendPlan(*pairs.shape, donor=pairs.partner, own_lam=own_lam)
