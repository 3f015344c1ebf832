"""What our families share: a stem, three or four stages, one classifier, and timm's model interface."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, checkpoint_seq
from timm.models._features import feature_take_indices
from torch import nn

from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.models.regularize import BlockRegularizers, regularize_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Stem = Literal["conv", "conv_norm", "conv_norm_act", "pool"]
"""A 3x3 convolution alone, with norm, with norm and ReLU; or a strided 7x7 one with both and max pooling."""


Net = TypeVar("Net", bound="StagedNet")


def architecture_cfg(dataset: str, pool_size: int, **kwargs: Any) -> dict[str, Any]:
    """Describe an architecture without weights, in the form that ``generate_default_cfgs`` takes.

    Args:
        dataset: the known dataset whose input and classes the architecture has by default.
        pool_size: height and width of the last map.
        kwargs: further fields of timm's ``PretrainedCfg``; they take precedence.
    """
    data = KNOWN_DATASETS[dataset]
    return {
        "num_classes": data.num_classes,
        "input_size": data.input_size,
        "fixed_input_size": False,
        "pool_size": (pool_size, pool_size),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": data.mean,
        "std": data.std,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
    } | kwargs


def blocks_per_stage(depth: int, bottleneck: bool) -> int:
    """Return n of a CIFAR network with three stages of n blocks.

    Args:
        depth: layers: 9n + 2 with bottlenecks, 6n + 2 with basic blocks.
        bottleneck: bottlenecks instead of basic blocks.

    Raises:
        ValueError: if no n gives that depth.

    Example:
        >>> blocks_per_stage(110, bottleneck=True), blocks_per_stage(110, bottleneck=False)
        (12, 18)
    """
    layers_per_n = 9 if bottleneck else 6
    num_blocks, rest = divmod(depth - 2, layers_per_n)
    if rest or num_blocks < 1:
        kind = "bottlenecks" if bottleneck else "basic blocks"
        raise ValueError(f"depth must be {layers_per_n}n + 2 with {kind} (n = 1, 2, ...), got {depth}")
    return num_blocks


class StagedNet(nn.Module):
    """Classify images: a stem, then three or four stages of residual blocks, each at half the resolution of the last.

    The images may have any size. The first stage keeps the resolution of the stem: that of the image behind a 3x3
    convolution, a quarter of it behind ``"pool"``. The features of ``features_only`` and
    :meth:`forward_intermediates` are the stem (0, in front of the pooling) and the stages (1 and on).

    Args:
        block: makes one residual block; it is called with ``in_chs, out_chs, stride, device, dtype``.
        widths: output channels of every block of every stage.
        stem: the layers in front of the first stage.
        stem_width: its channels.
        final_norm: norm and ReLU after the last stage, where the blocks begin with theirs.
        num_classes: size of the classifier's output; 0 for none.
        in_chans: channels of the images.
        global_pool: timm's pooling in front of the classifier; ``""`` for none.
        drop_rate: dropout probability in front of the classifier.
        device: where the parameters are made.
        dtype: their type.
        regularizers: ``drop_path_rate``, ``drop_block_rate``, ``shakedrop_prob`` and the rest of
            :class:`~cutmix_zoo.models.regularize.BlockRegularizers`.

    Raises:
        TypeError: if there is no such argument.
        ValueError: if a regularizer is out of range.

    Source:
        Initialisation of the official CutMix code: convolutions N(0, sqrt(2 / (k * k * out))), BatchNorm 1
        and 0, PyTorch's own for the classifier; drawn from torch's global generator.
    """

    num_stages: ClassVar[int] = 3
    """How many stages the networks of a class have."""

    def __init__(  # noqa: PLR0913 (timm's constructor vocabulary)
        self,
        block: Callable[..., nn.Module],
        widths: Sequence[Sequence[int]],
        *,
        stem: Stem = "conv_norm_act",
        stem_width: int = 16,
        final_norm: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **regularizers: Any,
    ) -> None:
        unknown = regularizers.keys() - {field.name for field in fields(BlockRegularizers)}
        if unknown:
            raise TypeError(f"{type(self).__name__} takes no argument called {', '.join(sorted(unknown))}")
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.grad_checkpointing = False

        pool = stem == "pool"
        kernel, stride = (7, 2) if pool else (3, 1)
        self.conv1 = nn.Conv2d(in_chans, stem_width, kernel, stride, padding=kernel // 2, bias=False, **dd)
        self.bn1 = nn.Identity() if stem == "conv" else nn.BatchNorm2d(stem_width, **dd)
        self.act1 = nn.ReLU(inplace=True) if stem in ("conv_norm_act", "pool") else nn.Identity()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()
        features: list[dict[str, Any]] = [{"num_chs": stem_width, "reduction": 2 if pool else 1, "module": "act1"}]
        stages, in_chs, reduction = [], stem_width, 4 if pool else 1
        for index, stage_widths in enumerate(widths):
            stride = 1 if index == 0 else 2
            stages.append(_make_stage(block, in_chs, stage_widths, stride, **dd))
            in_chs, reduction = stage_widths[-1], reduction * stride
            features.append({"num_chs": in_chs, "reduction": reduction, "module": f"layer{index + 1}"})
        # TorchScript must find every stage that forward_features names
        missing = [nn.Sequential() for _ in range(4 - len(stages))]
        self.layer1, self.layer2, self.layer3, self.layer4 = *stages, *missing
        self.feature_info, self.num_features = features, in_chs
        self.bn_final = nn.BatchNorm2d(in_chs, **dd) if final_norm else nn.Identity()
        self.act_final = nn.ReLU(inplace=True) if final_norm else nn.Identity()
        self.drop_rate = drop_rate
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.init_weights()
        regularize_blocks(self, BlockRegularizers(**regularizers))

    def init_weights(self) -> None:
        """Draw the weights of the convolutions from torch's global generator."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns that sort parameters into stem, blocks (``coarse``: stages) and head, as timm asks."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^(?:conv1|bn1)\.", "blocks": [(blocks, None), (r"^bn_final\.", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks again in the backward pass instead of keeping what they computed."""
        self.grad_checkpointing = enable

    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """Return the last layer, or (``name_only``) its name, as timm asks."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place.

        Args:
            num_classes: size of its output; 0 for none.
            global_pool: timm's pooling in front of it; the present one if None.

        Raises:
            ValueError: if there is a classifier and no pooling.
        """
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        if num_classes > 0 and self.global_pool.is_identity():
            raise ValueError("a classifier needs pooling: give global_pool='avg', or num_classes=0")
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        like: dict[str, Any] = {"device": self.conv1.weight.device, "dtype": self.conv1.weight.dtype}
        self.fc = nn.Linear(self.head_hidden_size, num_classes, **like) if num_classes > 0 else nn.Identity()

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Compute the features and the maps on the way to them.

        Args:
            x: images (B, C, H, W).
            indices: which maps: 0 the stem, then the stages; an integer means the last so many, None all.
            norm: apply the final norm and ReLU to the last map, where the family has them.
            stop_early: compute no further than the last map asked for.
            output_fmt: ``"NCHW"``, the only one that these networks have.
            intermediates_only: return the maps alone.

        Returns:
            The features, as :meth:`forward_features` returns them unless stopped early, and the maps.

        Raises:
            ValueError: if ``output_fmt`` is another one.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        last = len(self.feature_info) - 1
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)[:last]

        x = self.act1(self.bn1(self.conv1(x)))
        intermediates = [x] if 0 in take_indices else []
        x = self.maxpool(x)
        for index, stage in enumerate(stages[:max_index] if stop_early else stages, start=1):
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            features = self.act_final(self.bn_final(x)) if index == last else x
            if index in take_indices:
                intermediates.append(features if norm else x)
            if index == last:
                x = features
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the chosen maps of :meth:`forward_intermediates` do not need.

        Args:
            indices: the maps to keep.
            prune_norm: remove the final norm and ReLU.
            prune_head: remove pooling and classifier.

        Returns:
            The indices of the maps kept, counted from the stem.
        """
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        last = len(self.feature_info) - 1
        for index in range(max_index + 1, last + 1):
            setattr(self, f"layer{index}", nn.Sequential())
        if prune_norm or max_index < last:
            self.bn_final, self.act_final = nn.Identity(), nn.Identity()
        self.num_features = self.feature_info[max_index]["num_chs"]
        if prune_head or max_index < last:
            self.reset_classifier(0, "")
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the features (B, num_features, h, w) of images (B, C, H, W); odd sizes are rounded up."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            x = checkpoint_seq([self.layer1, self.layer2, self.layer3, self.layer4], x, flatten=True)
        else:
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.act_final(self.bn_final(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Compute the logits (B, num_classes) of features, or (``pre_logits``) what the classifier sees."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits (B, num_classes) of images (B, C, H, W)."""
        return self.forward_head(self.forward_features(x))


def create_net(kind: type[Net], variant: str, pretrained: bool, kwargs: dict[str, Any], **model_args: Any) -> Net:
    """Make a registered network: all that its entry point does.

    Args:
        kind: the class of its family.
        variant: the name of the entry point.
        pretrained: as timm's entry points have it.
        kwargs: what the entry point was called with; they take precedence.
        model_args: what makes the variant out of the family.
    """
    feature_cfg = {"out_indices": tuple(range(kind.num_stages + 1))}
    return build_model_with_cfg(kind, variant, pretrained, feature_cfg=feature_cfg, **(model_args | kwargs))


def _make_stage(
    block: Callable[..., nn.Module], in_chs: int, widths: Sequence[int], stride: int, **dd: Any
) -> nn.Sequential:
    """Chain the blocks of a stage; the first one has its stride."""
    ins = (in_chs, *widths)
    strides = (stride, *[1] * (len(widths) - 1))
    return nn.Sequential(*(block(*chs, **dd) for chs in zip(ins, widths, strides, strict=False)))
