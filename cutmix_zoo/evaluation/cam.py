"""Class activation maps: where in an image a classifier that averages its last feature maps sees a class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import Stream, generator_for

_TOLERANCE = 1e-2  # of the logits, for devices that multiply in less than float32; another pooling is off by far more


def feature_maps(network: nn.Module, inputs: Tensor) -> Tensor:
    """Compute the last feature maps, channels first.

    Args:
        network: passed by :func:`check_has_cam`.
        inputs: (B, C, H, W) floating point, normalised.

    Returns:
        (B, F, h, w).
    """
    features = _features(network, inputs)
    assert features is not None
    return features


def pooled_logits(network: nn.Module, features: Tensor) -> Tensor:
    """Compute the logits (B, K), float32, of feature maps (B, F, h, w) by their means alone."""
    head = _linear_head(network)
    bias = None if head.bias is None else head.bias.float()
    return nn.functional.linear(features.float().mean((2, 3)), head.weight.flatten(1).float(), bias)


def weigh_features(network: nn.Module, features: Tensor, classes: Tensor) -> Tensor:
    """Compute the class activation map of one class for each image.

    The mean of a map over its positions, plus the classifier's bias, is the logit of the class. Nothing is cut off at
    zero and nothing is normalised.

    Args:
        network: passed by :func:`check_has_cam`.
        features: (B, F, h, w), of :func:`feature_maps`.
        classes: (B,) int64, the class of each map.

    Returns:
        (B, h, w) float32: the features, summed up with the classifier's weights of the class.

    **Source**: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, equation 2.
    """
    weights = _linear_head(network).weight.flatten(1)[classes.to(features.device)]
    return torch.einsum("bfhw,bf->bhw", features.float(), weights.float())


@torch.inference_mode()
def check_has_cam(network: nn.Module, input_size: tuple[int, int, int]) -> tuple[int, int]:
    """Check that a network averages its last feature maps and classifies the means by one linear layer.

    That is tried out with noise: the logits have to be those of the means.

    Args:
        network: a classifier of timm's interface, in evaluation mode.
        input_size: channels, height and width of the images.

    Returns:
        Height and width of its maps.

    Raises:
        UserError: if it does not, or its maps are smaller than 2 x 2.
    """
    if not hasattr(network, "forward_features") or not hasattr(network, "get_classifier"):
        raise _refusal(f"{type(network).__name__} has no forward_features and get_classifier")
    head = _linear_head(network)
    noise = torch.randn(2, *input_size, generator=generator_for(Stream.EVALUATE, *input_size)).to(head.weight.device)
    features = _features(network, noise)
    if features is None:
        raise _refusal("its features are no maps (channels, height, width), as those of a transformer of tokens")
    channels, taken = features.shape[1], head.weight.shape[1]
    if channels != taken:
        raise _refusal(
            f"its features have {channels} channels and its classifier takes {taken} numbers{_pool(network)}"
        )
    height, width = features.shape[2:]
    if min(height, width) < 2:
        raise _refusal(
            f"for images of {input_size[1]} x {input_size[2]} they are {height} x {width}, which shows no place; give "
            "larger images, or make the network with a smaller output_stride, such as 8"
        )
    logits: Tensor = network(noise).float()
    effect = logits if head.bias is None else logits - head.bias
    away = (pooled_logits(network, features) - logits).abs().max()
    if not away <= _TOLERANCE * effect.abs().max():  # also where weights are NaN
        raise _refusal(
            "its logits are not those of the means of its features: it pools otherwise, or has a norm or another "
            f"layer between pooling and classifier{_pool(network)}"
        )
    return height, width


def _features(network: nn.Module, inputs: Tensor) -> Tensor | None:
    """Compute the last feature maps, channels first, or nothing if the features are no maps."""
    forward_features: Any = network.forward_features
    features = forward_features(inputs)
    if not isinstance(features, Tensor) or features.ndim != 4:
        return None
    return features.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else features


def _linear_head(network: nn.Module) -> nn.Linear | nn.Conv2d:
    get_classifier: Any = network.get_classifier
    head = get_classifier()
    if isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1)):
        return head
    raise _refusal(f"its classifier is not one linear layer but {type(head).__name__}")


def _pool(network: nn.Module) -> str:
    """Name the pooling, where timm's places for it say what it is."""
    for owner in (network, getattr(network, "head", None)):
        pool = getattr(owner, "global_pool", None)
        name = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
        if isinstance(name, str):
            return f" (its global_pool is {name!r})"
    return ""


def _refusal(reason: str) -> UserError:
    return UserError(
        f"this network has no class activation maps: {reason}. They need feature maps, average pooling and one linear "
        "layer, as ResNets have them."
    )
