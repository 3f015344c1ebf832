"""What a mixing method is, and the names under which recipes know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cutmix_zoo.mixing.cutmix import CutMix

if TYPE_CHECKING:
    import torch

    from cutmix_zoo.mixing.plan import MixPlan


class MixMethod(Protocol):
    """Holds settings and draws plans: a frozen dataclass whose fields are its settings."""

    def draw(self, batch_size: int, height: int, width: int, *, generator: torch.Generator) -> MixPlan:
        """Draw how a batch of ``batch_size`` images of ``height`` x ``width`` pixels is mixed."""


METHODS: dict[str, type[MixMethod]] = {
    "cutmix": CutMix,
}
"""The methods by the name a recipe gives: ``{name: cutmix, alpha: 1.0}``."""
