"""timm's ResNets with stride 1 in the last stage: maps twice as large, 14 x 14 of an image of 224 x 224.

Paper: CutMix (Yun et al., ICCV 2019, arXiv 1905.04899), appendix B: weakly supervised localization.

timm's ``output_stride=16`` has such maps too, but dilates the convolutions of the last stage; here they are as they
were. The weights are those of the network without the suffix, under the same keys, and so are the tags:
``resnet50_stride16.a1_in1k`` loads what ``resnet50.a1_in1k`` does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import timm.models.resnet
from timm.models import DefaultCfg, PretrainedCfg, build_model_with_cfg, get_pretrained_cfg, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from cutmix_zoo.models.tags import gives_weights, is_foreign_tag, resolve_weights

__all__ = ["ResNetStride16"]

_SUFFIX = "_stride16"


class ResNetStride16(ResNet):
    """timm's ResNet with stride 1 in the last stage, and no dilation.

    Args:
        args: those of timm's ResNet.
        kwargs: those of timm's ResNet, but ``output_stride`` and ``aa_layer``.

    Raises:
        ValueError: if ``output_stride`` or ``aa_layer`` is given.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for key in ("output_stride", "aa_layer"):
            if key in kwargs:
                raise ValueError(f"{key}: a ResNet of stride 16 takes none, because it says what strides there are")
        super().__init__(*args, **kwargs)
        first = self.layer4[0]
        for module in first.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
        if first.downsample is not None and isinstance(first.downsample[0], nn.AvgPool2d):
            first.downsample[0] = nn.Identity()  # avg_down, where timm has this for stride 1
        self.feature_info[-1]["reduction"] = 16


def weights_name(name: str) -> str:
    """Name the weights that a name stands for: of a network of stride 16, those of the one without the suffix.

    Example:
        >>> weights_name("resnet50_stride16.cutmix_in1k"), weights_name("resnet50.a1_in1k")
        ('resnet50.cutmix_in1k', 'resnet50.a1_in1k')
    """
    architecture, dot, tag = name.partition(".")
    return (architecture.removesuffix(_SUFFIX) if architecture in default_cfgs else architecture) + dot + tag


def _config(base: str, tag: str) -> PretrainedCfg:
    """Describe the weights of a network without the suffix for the one with it."""
    config = get_pretrained_cfg(f"{base}.{tag}")
    sizes = {key: getattr(config, key) for key in ("pool_size", "test_pool_size")}
    larger = {key: tuple(2 * side for side in size) for key, size in sizes.items() if size is not None}
    return replace(config, architecture=base + _SUFFIX, **larger)


def _default_cfg(base: str) -> DefaultCfg:
    tags = list(timm.models.resnet.default_cfgs[base].tags)
    return DefaultCfg(tags=deque(tags), cfgs={tag: _config(base, tag) for tag in tags}, is_pretrained=True)


default_cfgs = {base + _SUFFIX: _default_cfg(base) for base in ("resnet18", "resnet34", "resnet50", "resnet101")}


def _create(base: str, pretrained: bool, kwargs: dict[str, Any], **structure: Any) -> ResNetStride16:
    name, tag = base + _SUFFIX, kwargs.get("pretrained_cfg")
    if isinstance(tag, str) and tag not in default_cfgs[name].cfgs:
        # one that the network without the suffix was given later: of the zoo table, or of the user's own
        config, theirs = _config(base, tag), f"{base}.{tag}"
        if pretrained and not is_foreign_tag(theirs) and not gives_weights(kwargs, theirs):
            config = replace(config, file=str(resolve_weights(theirs)))
        kwargs = {**kwargs, "pretrained_cfg": config}
    return build_model_with_cfg(ResNetStride16, name, pretrained, **structure | kwargs)


@register_model
def resnet18_stride16(pretrained: bool = False, **kwargs: Any) -> ResNetStride16:
    """Create the ResNet-18 of timm with stride 1 in its last stage."""
    return _create("resnet18", pretrained, kwargs, block=BasicBlock, layers=(2, 2, 2, 2))


@register_model
def resnet34_stride16(pretrained: bool = False, **kwargs: Any) -> ResNetStride16:
    """Create the ResNet-34 of timm with stride 1 in its last stage."""
    return _create("resnet34", pretrained, kwargs, block=BasicBlock, layers=(3, 4, 6, 3))


@register_model
def resnet50_stride16(pretrained: bool = False, **kwargs: Any) -> ResNetStride16:
    """Create the ResNet-50 of timm with stride 1 in its last stage, which the paper localizes with."""
    return _create("resnet50", pretrained, kwargs, block=Bottleneck, layers=(3, 4, 6, 3))


@register_model
def resnet101_stride16(pretrained: bool = False, **kwargs: Any) -> ResNetStride16:
    """Create the ResNet-101 of timm with stride 1 in its last stage."""
    return _create("resnet101", pretrained, kwargs, block=Bottleneck, layers=(3, 4, 23, 3))
