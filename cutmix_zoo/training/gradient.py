"""The gradient of an update: clipped, and never applied without notice if it is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

PATIENCE = 50
"""Updates between two looks at a GPU, which would wait for it."""
LEFT_OUT = 50
"""Updates in a row that a gradient scaler, which halves its scale each time, leaves out before no scale will do."""


class NotFiniteError(UserError):
    """A gradient that is not finite: the message says of which update."""


class GradientGuard:
    """Clip gradients, and stop at the first one that is not finite.

    On a CPU, and where updates may be skipped, a bad gradient is never applied. On a GPU it is found out up to
    ``PATIENCE`` updates later, or when :meth:`check` is called; the error names the update that it came up in.

    Args:
        clip_norm: scale a gradient down to this norm where it is longer; ``None`` for as it is.
        may_skip: how many bad gradients are left out.
        skipped: how many have been.
    """

    def __init__(self, clip_norm: float | None = None, may_skip: int = 0, skipped: int = 0) -> None:
        self.clip_norm, self.may_skip, self.skipped = clip_norm, may_skip, skipped
        self._unseen: list[tuple[str, Tensor]] = []
        self._in_a_row = 0

    @property
    def may_skip_more(self) -> bool:
        """Whether the next bad gradient would be left out."""
        return self.skipped < self.may_skip

    def clip(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip the gradients of parameters.

        Args:
            parameters: of the network, with gradients that are summed over processes and in their own units.

        Returns:
            The norm of the gradient as it was.
        """
        held = [parameter for parameter in parameters if parameter.grad is not None]
        norm = get_total_norm([parameter.grad for parameter in held if parameter.grad is not None])
        if self.clip_norm is not None:
            clip_grads_with_norm_(held, self.clip_norm, norm)
        return norm

    def admits(self, norm: Tensor, place: str) -> bool:
        """Say whether to apply a gradient.

        Args:
            norm: of the gradient.
            place: where in the run this is.

        Raises:
            NotFiniteError: if a gradient is not finite and may not be skipped.
        """
        if self.may_skip_more and not torch.isfinite(norm):
            self.skipped += 1
            return False
        self._unseen.append((place, norm))
        if norm.device.type == "cpu" or self.may_skip or len(self._unseen) >= PATIENCE:
            self.check()
        return True

    def count(self, *, applied: bool, place: str) -> None:
        """Count what a gradient scaler has left out, which is how it finds its scale.

        Args:
            applied: whether it has applied the gradient.
            place: where in the run this is.

        Raises:
            NotFiniteError: if it has left out so many in a row that no scale will do.
        """
        self._in_a_row = 0 if applied else self._in_a_row + 1
        if self._in_a_row >= LEFT_OUT:
            raise NotFiniteError(f"the gradient of {place} and of the {LEFT_OUT - 1} updates before is not finite")

    def check(self) -> None:
        """Look at all gradients since the last look.

        Raises:
            NotFiniteError: if one was not finite.
        """
        unseen, self._unseen = self._unseen, []
        for place, norm in unseen:
            if not torch.isfinite(norm):
                raise NotFiniteError(f"the gradient of {place} is not finite")
