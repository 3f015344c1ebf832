"""ShakeDrop: the residual branch of a block is multiplied by one random number forward and by another backward.

Paper: ShakeDrop Regularization for Deep Residual Learning (Yamada et al., 2018, arXiv 1802.02375).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from cutmix_zoo.checks import require_choice, require_fraction

ShakePer = Literal["batch", "sample", "channel"]
"""What shares one pair of coefficients: the batch, each sample, or each channel of each sample."""
ShakeGate = Literal["batch", "sample"]
"""What shares one gate."""


@register_notrace_module  # training and evaluation trace alike
class ShakeDrop(nn.Module):
    """Scale the residual branch of a block at random, differently forward and backward.

    In training the branch is multiplied by ``b + (1 - b) * alpha`` and its gradient by ``b + (1 - b) * beta``, with
    the gate b drawn from {0, 1} (1 with probability ``1 - drop_prob``), alpha from U[-1, 1] and beta from U[0, 1]. In
    evaluation it is multiplied by the mean of the forward factor, ``1 - drop_prob``.

    Args:
        drop_prob: probability that the gate is 0, in [0, 1].
        per: what shares a pair of coefficients.
        gate: what shares a gate.

    Raises:
        ValueError: if the probability is out of range, or ``per`` or ``gate`` is unknown.

    Source:
        Section 3 of the paper. The defaults, coefficients for each sample and one gate a batch, are those of
        owruby/shake-drop_pytorch, which the first author of CutMix recommends (issue 12 of clovaai/CutMix-PyTorch).
    """

    def __init__(self, drop_prob: float, per: ShakePer = "sample", gate: ShakeGate = "batch") -> None:
        super().__init__()
        require_fraction("drop_prob", drop_prob)
        require_choice("per", per, get_args(ShakePer))
        require_choice("gate", gate, get_args(ShakeGate))
        self.drop_prob, self.per, self.gate = drop_prob, per, gate

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the factors of a branch from torch's global generator.

        Args:
            x: the branch (B, C, H, W).

        Returns:
            The forward and the backward factor, float32, each broadcastable to ``x``.
        """
        samples = x.shape[0] if self.per != "batch" else 1
        channels = x.shape[1] if self.per == "channel" else 1
        gates = x.shape[0] if self.gate == "sample" else 1
        alpha = x.new_empty([samples, channels, 1, 1], dtype=torch.float32).uniform_(-1.0, 1.0)
        beta = x.new_empty([samples, channels, 1, 1], dtype=torch.float32).uniform_(0.0, 1.0)
        gate = x.new_empty([gates, 1, 1, 1], dtype=torch.float32).bernoulli_(1.0 - self.drop_prob)
        return gate + (1.0 - gate) * alpha, gate + (1.0 - gate) * beta

    def forward(self, x: Tensor) -> Tensor:
        """Scale a branch (B, C, H, W)."""
        if not self.training:
            return x * (1.0 - self.drop_prob)
        forward, backward = self.draw(x)
        return shake(x, forward, backward)

    def extra_repr(self) -> str:
        """Describe the layer for ``print(model)``."""
        return f"drop_prob={self.drop_prob:.3f}, per={self.per}, gate={self.gate}"


def shake(x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Multiply a tensor by one factor, and its gradient by another.

    Args:
        x: a tensor of floats.
        forward: factor of the values, broadcastable to ``x``.
        backward: factor of the gradient, broadcastable to ``x``.

    Returns:
        ``x * forward`` up to rounding; its gradient with respect to ``x`` is ``backward``.

    Example:
        >>> x = torch.tensor([2.0], requires_grad=True)
        >>> y = shake(x, torch.tensor(-0.5), torch.tensor(0.25))
        >>> y.backward()
        >>> y.item(), x.grad.item()
        (-1.0, 0.25)
    """
    # plain operations rather than an autograd.Function, which TorchScript cannot take
    backward = backward.to(x.dtype)
    return x * backward + (x * (forward.to(x.dtype) - backward)).detach()


def shakedrop_probs(drop_prob: float, depth: int) -> list[float]:
    """Return the drop probability of each block: it grows linearly, to ``drop_prob`` at the last one.

    Example:
        >>> shakedrop_probs(0.5, 4)
        [0.125, 0.25, 0.375, 0.5]
    """
    return [drop_prob * (index + 1) / depth for index in range(depth)]
