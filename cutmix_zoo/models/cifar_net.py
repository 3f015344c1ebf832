"""What the CIFAR families share: a 3x3 stem, three stages, one classifier, and timm's model interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.layers import SelectAdaptivePool2d, calculate_drop_path_rates
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import nn

from cutmix_zoo.known import KNOWN_DATASETS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEM_WIDTH = 16


def cifar_cfg(**kwargs: Any) -> dict[str, Any]:
    """Describe a CIFAR architecture without weights, in the form that ``generate_default_cfgs`` takes.

    The input and the number of classes are those of CIFAR-10.

    Args:
        kwargs: further fields of timm's ``PretrainedCfg``; they take precedence.
    """
    cifar10 = KNOWN_DATASETS["cifar10"]
    return {
        "num_classes": cifar10.num_classes,
        "input_size": cifar10.input_size,
        "fixed_input_size": False,
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": cifar10.mean,
        "std": cifar10.std,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
        "origin_url": "https://github.com/clovaai/CutMix-PyTorch",
    } | kwargs


class ThreeStageNet(nn.Module):
    """Classify small images: a 3x3 stem at full resolution, then stages at 1, 1/2 and 1/4 of it.

    The images may have any size; 32x32 is what these networks were designed for. The features of
    ``features_only`` and :meth:`forward_intermediates` are the stem (0) and the stages (1 to 3).

    Args:
        block: makes one residual block; it is called with ``in_chs, out_chs, stride, drop_path, device, dtype``.
        widths: output channels of every block of the three stages.
        preact: the blocks begin with their norm: no ReLU after the stem, norm and ReLU after the last stage.
        num_classes: size of the classifier's output; 0 for none.
        in_chans: channels of the images.
        global_pool: timm's pooling in front of the classifier; ``""`` for none.
        drop_rate: dropout probability in front of the classifier.
        drop_path_rate: probability to drop the last block's residual branch (stochastic depth); it grows
            linearly from 0 at the first block.
        device: where the parameters are made.
        dtype: their type.

    Source:
        Initialisation of the official CutMix code: convolutions N(0, sqrt(2 / (k * k * out))), BatchNorm 1
        and 0, PyTorch's own for the classifier; drawn from torch's global generator.
    """

    def __init__(  # noqa: PLR0913 (timm's constructor vocabulary)
        self,
        block: Callable[..., nn.Module],
        widths: Sequence[Sequence[int]],
        preact: bool,
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.grad_checkpointing = False

        self.conv1 = nn.Conv2d(in_chans, STEM_WIDTH, 3, padding=1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH, **dd)
        self.act1 = nn.Identity() if preact else nn.ReLU(inplace=True)
        self.layer1, self.layer2, self.layer3 = _make_stages(block, widths, drop_path_rate, **dd)
        self.num_features = widths[-1][-1]
        self.bn_final = nn.BatchNorm2d(self.num_features, **dd) if preact else nn.Identity()
        self.act_final = nn.ReLU(inplace=True) if preact else nn.Identity()
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": STEM_WIDTH, "reduction": 1, "module": "act1"},
            {"num_chs": widths[0][-1], "reduction": 1, "module": "layer1"},
            {"num_chs": widths[1][-1], "reduction": 2, "module": "layer2"},
            {"num_chs": widths[2][-1], "reduction": 4, "module": "layer3"},
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.init_weights()

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

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.fc

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
            indices: which maps: 0 the stem, 1 to 3 the stages; an integer means the last so many, None all.
            norm: apply the final norm and ReLU to map 3, where the family has them.
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
        stages = (self.layer1, self.layer2, self.layer3)
        last = len(stages)

        x = self.act1(self.bn1(self.conv1(x)))
        intermediates = [x] if 0 in take_indices else []
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
        """Compute the features (B, num_features, H/4, W/4) of images (B, C, H, W); odd sizes are rounded up."""
        x = self.act1(self.bn1(self.conv1(x)))
        if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            x = checkpoint_seq([self.layer1, self.layer2, self.layer3], x, flatten=True)
        else:
            x = self.layer3(self.layer2(self.layer1(x)))
        return self.act_final(self.bn_final(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Compute the logits (B, num_classes) of features, or (``pre_logits``) what the classifier sees."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits (B, num_classes) of images (B, C, H, W)."""
        return self.forward_head(self.forward_features(x))


def _make_stages(
    block: Callable[..., nn.Module], widths: Sequence[Sequence[int]], drop_path_rate: float, **dd: Any
) -> list[nn.Sequential]:
    """Chain the blocks; all stages but the first begin with stride 2."""
    drop_paths = iter(calculate_drop_path_rates(drop_path_rate, sum(map(len, widths))))
    stages = []
    in_chs = STEM_WIDTH
    for stage_index, stage_widths in enumerate(widths):
        blocks = []
        for block_index, out_chs in enumerate(stage_widths):
            stride = 2 if stage_index > 0 and block_index == 0 else 1
            blocks.append(block(in_chs, out_chs, stride, drop_path=next(drop_paths), **dd))
            in_chs = out_chs
        stages.append(nn.Sequential(*blocks))
    return stages
