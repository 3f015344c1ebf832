"""A trial of a network before anything is done with it, and what goes wrong in making one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cutmix_zoo.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

MODEL_ERRORS = (AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What timm raises for a model that is not there, or does not take its arguments."""


def try_image(network: nn.Module, input_size: Sequence[int]) -> Any:
    """Compute what a network makes of one image of nothing.

    Args:
        network: is in evaluation mode afterwards.
        input_size: channels, height and width.

    Returns:
        What it gives, logits (1, K) if it is a classifier.

    Raises:
        ValueError: if it does not take such an image.

    Example:
        >>> import timm
        >>> try_image(timm.create_model("cifar_resnet8"), (3, 32, 32)).shape
        torch.Size([1, 10])
    """
    try:
        with torch.inference_mode():
            return network.eval()(torch.zeros(1, *input_size))
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(one_line(error)) from error
