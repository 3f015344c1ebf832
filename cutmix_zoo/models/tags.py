"""Pretrained tags from the zoo table, beside the tags that an architecture has already."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import TYPE_CHECKING, Any

from timm.models import PretrainedCfg, model_entrypoint, register_model

from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.store import check_weights, weights_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

    from cutmix_zoo.zoo import ZooEntry


def add_tags(entries: Iterable[ZooEntry]) -> None:
    """Make ``timm.create_model("architecture.tag", pretrained=True)`` load the weights of zoo entries.

    A tag is appended, never first, so what an architecture means without a tag does not change. A tag that
    is there already is left alone.

    Args:
        entries: rows of the zoo table; their architectures are registered with timm.
    """
    for entry in entries:
        entrypoint = model_entrypoint(entry.architecture)
        default = sys.modules[entrypoint.__module__].default_cfgs[entry.architecture]
        if entry.tag in default.cfgs:
            continue
        default.cfgs[entry.tag] = _config(entry, default.cfgs[default.tags[0]])
        default.tags.append(entry.tag)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Overwriting")
            register_model(_verified(entrypoint, entry))


def _config(entry: ZooEntry, architecture: PretrainedCfg) -> PretrainedCfg:
    """Describe the weights: of the architecture's config only what is about its structure stays."""
    data = KNOWN_DATASETS[entry.dataset]
    return PretrainedCfg(
        architecture=entry.architecture,
        file=str(weights_file(entry)),
        tag=entry.tag,
        license=entry.license,
        description=entry.description,
        paper_ids=entry.paper,
        input_size=data.input_size,
        mean=data.mean,
        std=data.std,
        num_classes=data.num_classes,
        label_names=data.classes,
        interpolation=entry.interpolation,
        crop_pct=entry.crop_pct,
        fixed_input_size=architecture.fixed_input_size,
        pool_size=architecture.pool_size,
        first_conv=architecture.first_conv,
        classifier=architecture.classifier,
    )


def _verified(entrypoint: Callable[..., nn.Module], entry: ZooEntry) -> Callable[..., nn.Module]:
    """Let an entry point check the weights of a tag before timm loads them."""

    @functools.wraps(entrypoint)
    def make(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained and kwargs.get("pretrained_cfg") == entry.tag:
            check_weights(entry)
        return entrypoint(pretrained=pretrained, **kwargs)

    return make
