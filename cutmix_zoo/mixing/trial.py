"""A trial of a method on data, before chance decides when it is first drawn."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cutmix_zoo.mixing.compose import OneOf, Scheduled
from cutmix_zoo.mixing.feature import FeatureMix, inner_methods
from cutmix_zoo.mixing.targets import IGNORE_INDEX, are_masks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cutmix_zoo.mixing.feature import MapSizes
    from cutmix_zoo.mixing.method import Images, MixMethod


def try_methods(
    mix: MixMethod, images: Sequence[Images], labels: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> None:
    """Mix two images by each method that may ever be drawn, so that one that cannot mix such data is found at once.

    Methods that mix only inside the network, or are never drawn, are left out.

    Args:
        mix: the method; those inside it are tried each by itself.
        images: batches (B, C, H, W) of one B, H and W that are mixed alike; only read.
        labels: of the images; class masks (B, ..., H, W) are tried too.
        ignore_index: the class of mask pixels that a method erases.

    Raises:
        ValueError: if a method cannot mix them.

    Example:
        >>> from cutmix_zoo.mixing import Chain, CutMix, Cutout
        >>> try_methods(Chain([CutMix(), Cutout(4, prob=0.02)]), [torch.rand(8, 3, 16, 16)])
    """
    with torch.no_grad():
        pairs = [_two(batch) for batch in images]
        masks = [_two(labels)] if labels is not None and are_masks(labels) else []
        for method in _tried(mix):
            # alone, so that whatever else the run draws stays as it is
            generator = torch.Generator().manual_seed(0)
            try:
                plan = _certain(method).draw(2, *pairs[0].shape[-2:], generator=generator, images=pairs[0])
                for pair in pairs:
                    plan.apply(pair)
                for pair in masks:
                    plan.apply_masks(pair, ignore_index)
            except ValueError as error:
                raise ValueError(f"{method} cannot mix this data: {error}") from error


def try_maps(mix: MixMethod, sizes: MapSizes) -> None:
    """Draw, at each of its depths, each method that may ever mix the maps inside a network.

    Args:
        mix: the method, or one that holds it.
        sizes: of the maps.

    Raises:
        ValueError: if a method cannot mix the maps of a depth, such as a box tokens.

    Example:
        >>> from cutmix_zoo.mixing import FeatureMix, Mixup
        >>> try_maps(FeatureMix(Mixup(), depths=[0, 1]), [(8, 8), None])
    """
    height, width = sizes[0] or (1, 1)
    for feature in _feature_mixes(mix):
        for inner, depth in product(_tried(feature.mix), filter(None, feature.depths)):
            alone = FeatureMix(_certain(inner), depths=[depth])
            alone.draw(2, height, width, generator=torch.Generator().manual_seed(0), map_sizes=sizes)


def _tried(mix: Any) -> Iterator[Any]:
    """Yield the methods inside a method, or itself, that may be drawn."""
    if isinstance(mix, FeatureMix) and 0 not in mix.depths:
        return
    for method in _drawn_inside(mix):
        yield from _tried(method)
    if not inner_methods(mix) and getattr(mix, "prob", 1.0) > 0:
        yield mix


def _feature_mixes(mix: Any) -> Iterator[FeatureMix]:
    """Yield what mixes maps, inside a method or itself, and may be drawn."""
    if isinstance(mix, FeatureMix):
        yield mix
    for method in _drawn_inside(mix):
        yield from _feature_mixes(method)


def _drawn_inside(mix: Any) -> list[Any]:
    """List the settings of a method that are methods and may be drawn."""
    if isinstance(mix, Scheduled) and (max(mix.start, mix.end) == 0 or mix.off_from == 0):
        return []
    inner: list[Any] = inner_methods(mix)
    if isinstance(mix, OneOf) and mix.weights is not None:
        return [method for method, weight in zip(inner, mix.weights, strict=True) if weight > 0]
    return inner


def _certain(method: Any) -> Any:
    """Let a method mix whenever it is drawn, if it has a probability."""
    has_prob = is_dataclass(method) and hasattr(method, "prob")
    return replace(method, prob=1.0) if has_prob else method


def _two(images: Images) -> Tensor:
    """Return two images of a batch, or its only one twice."""
    two = images[:2] if isinstance(images, Tensor) else torch.from_numpy(np.stack(list(images[:2])))
    return torch.cat([two, two])[:2]
