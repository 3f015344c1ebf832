"""A network that is measured, and how pixels become what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cutmix_zoo.data.transforms import to_input

if TYPE_CHECKING:
    from cutmix_zoo.data.settings import InputSpec


@dataclass(frozen=True)
class Classifier:
    """A network in evaluation mode on its device, and the normalisation that it asks for.

    Args:
        network: maps inputs (B, C, H, W) to logits (B, K); it is moved to the device and put into evaluation mode.
        spec: mean and standard deviation of its input.
        device: where it computes.
        channels_last: whether its inputs lie in channels-last memory.
    """

    network: nn.Module
    spec: InputSpec
    device: torch.device
    channels_last: bool = False

    def __post_init__(self) -> None:
        self.network.to(self.device).eval()

    @property
    def num_classes(self) -> int:
        """Number of logits, K."""
        return self.network.num_classes  # type: ignore[return-value]  # torch types every attribute as a tensor

    def to_input(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) uint8 into normalised float32 on the device."""
        return to_input(images, self.spec, self.device, channels_last=self.channels_last)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) uint8 into float32 in [0, 1] on the device."""
        return images.to(self.device).float() / 255

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn pixels (B, C, H, W) in [0, 1] into what the network takes; gradients flow through it."""
        mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (self.spec.mean, self.spec.std))
        return (pixels - mean) / std

    @torch.inference_mode()
    def logits(self, inputs: Tensor) -> Tensor:
        """Compute logits (B, K), float32 on the CPU, of normalised inputs (B, C, H, W); without gradients."""
        logits: Tensor = self.network(inputs)
        return logits.float().cpu()
