"""The names of a network's classes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from timm.data import ImageNetInfo, infer_imagenet_subset

if TYPE_CHECKING:
    from torch import nn

# how timm's tags name ImageNet and the parts of it: in1k, in12k, in21k, in22k
_IMAGENET_TAG = re.compile(r"(^|_)in\d+k(_|$)")


def stated_label_names(network: nn.Module) -> tuple[str, ...] | None:
    """Return the ``label_names`` of a network's ``pretrained_cfg``; None if there are not as many as classes.

    Args:
        network: a network made by ``timm.create_model``.
    """
    config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    names = config.get("label_names")
    if isinstance(names, dict):  # timm takes a mapping too, whose keys are strings once it has been in a JSON file
        names = [names[key] for key in sorted(names, key=int)]
    if not names or len(names) != network.num_classes:
        return None
    # they come from a file that anybody may have written, and go to a terminal
    return tuple(
        "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(name)) for name in names
    )


def known_label_names(network: nn.Module) -> tuple[str, ...] | None:
    """Name the classes of a network in the order of its logits, or return None if nobody has said what they are.

    Those of :func:`stated_label_names` are taken if there are any; else the descriptions of ImageNet's, if the
    network's tag says that it was trained on ImageNet and timm knows a part of it with so many.

    Args:
        network: a network made by ``timm.create_model``.
    """
    stated = stated_label_names(network)
    if stated is not None:
        return stated
    config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    num_classes: int = network.num_classes  # type: ignore[assignment]
    # not of the network itself: where it has no classes, timm counts those of its config
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None or not _IMAGENET_TAG.search(config.get("tag") or ""):
        return None
    return tuple(ImageNetInfo(subset).label_descriptions())


def label_names(network: nn.Module) -> tuple[str, ...]:
    """Name the classes of a network in the order of its logits, by their numbers if they have no names.

    Args:
        network: a network made by ``timm.create_model``.

    Example:
        >>> import timm
        >>> label_names(timm.create_model("cifar_resnet8", num_classes=2))
        ('class 0', 'class 1')
    """
    num_classes: int = network.num_classes  # type: ignore[assignment]
    return known_label_names(network) or tuple(f"class {number}" for number in range(num_classes))
