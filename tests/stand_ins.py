"""What tests put in the place of a part of a run."""

import pytest
import torch
from torch import nn

import cutmix_zoo.train


def short_of_memory(patch: pytest.MonkeyPatch, room: int, error: Exception) -> None:
    """Let convolutions fail that train on more images than there is room for."""
    forward = nn.Conv2d.forward

    def limited(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and len(images) > room:
            raise error
        return forward(layer, images)

    patch.setattr(nn.Conv2d, "forward", limited)


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """Let a run draw nothing and say nothing."""
    patch.setattr(cutmix_zoo.train, "find_spec", lambda _: None)
    patch.setattr(cutmix_zoo.train.tqdm, "write", lambda *_, **__: None)
