"""Pretrained tags from the zoo table, beside the tags that an architecture has already."""

from __future__ import annotations

import functools
import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from timm.models import model_entrypoint, register_model

from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.store import check_weights, weights_file
from cutmix_zoo.zoo import zoo_table

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
        data = KNOWN_DATASETS[entry.dataset]
        default.cfgs[entry.tag] = replace(
            default.cfgs[default.tags[0]],
            file=str(weights_file(entry)),
            tag=entry.tag,
            license=entry.license,
            description=entry.description,
            origin_url=None,
            paper_ids=entry.paper,
            input_size=data.input_size,
            mean=data.mean,
            std=data.std,
            num_classes=data.num_classes,
            label_names=data.classes,
        )
        default.tags.append(entry.tag)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Overwriting")
            register_model(_verified(entrypoint))


def _verified(entrypoint: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Let an entry point check the weights before timm loads them."""

    @functools.wraps(entrypoint)
    def make(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        tag = kwargs.get("pretrained_cfg")
        entry = zoo_table().get(f"{entrypoint.__name__}.{tag}") if isinstance(tag, str) else None
        if pretrained and entry is not None:
            check_weights(entry)
        return entrypoint(pretrained=pretrained, **kwargs)

    return make
