"""Pretrained tags from the zoo table and the local store, beside the tags that an architecture has already.

The weights of a tag are looked for when they are asked for, so an import counts at once. One wrapper around an
architecture's entry point does that for all its tags of ours; those of timm go through it untouched.
"""

from __future__ import annotations

import functools
import sys
import warnings
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import timm.models
from timm.models import PretrainedCfg, get_pretrained_cfg, is_model, model_entrypoint, register_model

from cutmix_zoo.errors import UserError
from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.store import WEIGHTS_FILE, fetch, locate, store_folder, stored_configs
from cutmix_zoo.zoo import zoo_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from timm.models import DefaultCfg
    from torch import nn

    from cutmix_zoo.zoo import ZooEntry

_SOURCES = ("url", "file", "state_dict", "hf_hub_id")
"""What tells timm where to take weights from."""

_ours: set[str] = set()
"""The names, ``architecture.tag``, that were added here."""


def refresh_tags() -> None:
    """Register every tag of the zoo table and of the local store with timm, as they are now.

    A tag is appended, never first, so what an architecture means without a tag does not change. Where its weights are
    on this machine or on the Hub, timm lists it as pretrained; what was found once stays listed. A tag of timm's own,
    and one in the store whose architecture takes no tags, is left alone.
    """
    rows = zoo_table()
    for name, entry in rows.items():
        _add_tag(name, _zoo_config(entry))
    for name, config in stored_configs().items():
        if name not in rows and takes_tags(name.partition(".")[0]):
            _add_tag(name, _stored_config(name, config))


def takes_tags(architecture: str) -> bool:
    """Say whether an architecture is registered with default configs, beside which tags can stand."""
    return is_model(architecture) and architecture in getattr(_module(architecture), "default_cfgs", {})


def is_foreign_tag(name: str) -> bool:
    """Say whether ``architecture.tag`` is a tag that somebody else, such as timm, gave the architecture."""
    architecture, _, tag = name.partition(".")
    return name not in _ours and tag in _default_cfgs(architecture).cfgs


def resolve_weights(name: str) -> Path:
    """Find the weights of a tag of ours, fetch them if the Hub has them, and check them.

    Args:
        name: ``architecture.tag``.

    Returns:
        A safetensors file.

    Raises:
        UserError: if they cannot be had, saying how to get them, or are not what they should be.
    """
    entry = zoo_table().get(name)
    weights = locate(name, entry)
    if entry is not None and entry.repo is not None and (weights is None or weights.where == "cache"):
        return fetch(entry)
    if weights is not None:
        weights.check()
        return weights.file
    if entry is None:
        raise UserError(f"the weights of {name} are no longer in the local store; import them again.")
    raise UserError(
        f"the weights of {name} are not on this machine. Get the file of the row {entry.row!r} at {entry.page}, "
        f"then run: cutmix-zoo import FILE --as {name}"
    )


def _default_cfgs(architecture: str) -> DefaultCfg:
    """Look up the tags of an architecture where timm reads them from."""
    return _module(architecture).default_cfgs[architecture]


def _module(architecture: str) -> Any:
    return sys.modules[model_entrypoint(architecture).__module__]


def _add_tag(name: str, config: PretrainedCfg) -> None:
    architecture, _, tag = name.partition(".")
    default = _default_cfgs(architecture)
    if default.cfgs.get(tag) == config or is_foreign_tag(name):
        return
    if tag not in default.cfgs:
        default.tags.append(tag)
    default.cfgs[tag] = config
    _ours.add(name)
    entrypoint = model_entrypoint(architecture)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Overwriting")
        register_model(entrypoint if hasattr(entrypoint, "_finds_weights") else _finding_weights(entrypoint))


def _zoo_config(entry: ZooEntry) -> PretrainedCfg:
    """Describe weights of the zoo table: of the architecture's config only what is about its structure stays."""
    default = _default_cfgs(entry.architecture)
    architecture = default.cfgs[default.tags[0]]
    data = KNOWN_DATASETS[entry.dataset]
    weights = locate(entry.name, entry)
    return PretrainedCfg(
        architecture=entry.architecture,
        file=None if weights is None else str(weights.file),
        hf_hub_id=None if entry.repo is None else f"{entry.repo}@{entry.revision}",
        hf_hub_filename=None if entry.repo is None else WEIGHTS_FILE,  # no other file, such as a pickle
        tag=entry.tag,
        license=entry.license,
        description=entry.description,
        origin_url=entry.page,
        paper_ids=entry.paper,
        input_size=data.input_size,
        mean=data.mean,
        std=data.std,
        num_classes=data.num_classes,
        label_names=data.classes or None,
        interpolation=entry.interpolation,
        crop_pct=entry.crop_pct,
        fixed_input_size=architecture.fixed_input_size,
        pool_size=architecture.pool_size,
        first_conv=architecture.first_conv,
        classifier=architecture.classifier,
    )


def _stored_config(name: str, config: dict[str, Any]) -> PretrainedCfg:
    """Describe weights of the local store as their ``config.json`` does, which has no say in where they are."""
    file = store_folder() / name / WEIGHTS_FILE
    valid = {field.name for field in fields(PretrainedCfg)} - {*_SOURCES, "source", "custom_load"}
    described = {key: value for key, value in config["pretrained_cfg"].items() if key in valid}
    # lists of a JSON file are tuples in timm's configs
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in described.items()}
    place = {"architecture": config["architecture"], "tag": name.partition(".")[2], "file": str(file)}
    names = config.get("label_names")
    return PretrainedCfg(**{**values, **place, "label_names": tuple(names) if isinstance(names, list) else None})


def _finding_weights(entrypoint: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Let an entry point look for the weights of our tags when it is called."""

    @functools.wraps(entrypoint)
    def make(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        name = f"{entrypoint.__name__}.{_tag(kwargs.get('pretrained_cfg'))}"
        if pretrained and name in _ours and not gives_weights(kwargs, name):
            overlay = kwargs.get("pretrained_cfg_overlay") or {}
            kwargs["pretrained_cfg_overlay"] = {**overlay, "file": str(resolve_weights(name))}
        return entrypoint(pretrained=pretrained, **kwargs)

    make._finds_weights = True  # type: ignore[attr-defined]
    # an entry point is pickled by its name, and may be called by it
    for module in (sys.modules[entrypoint.__module__], timm.models):
        if getattr(module, entrypoint.__name__, None) is entrypoint:
            setattr(module, entrypoint.__name__, make)
    return make


def gives_weights(arguments: Mapping[str, Any], name: str) -> bool:
    """Say whether a caller has weights of its own for a network, which are then taken and not those of the tag.

    Args:
        arguments: what the entry point was called with.
        name: ``architecture.tag``.
    """
    overlay = arguments.get("pretrained_cfg_overlay") or {}
    return any(overlay.get(source) for source in _SOURCES) or _says_where(arguments.get("pretrained_cfg"), name)


def _tag(asked: str | dict[str, Any] | PretrainedCfg | None) -> str | None:
    """Return the tag that a caller asks for."""
    if asked is None or isinstance(asked, str):
        return asked
    return (asked if isinstance(asked, dict) else vars(asked)).get("tag")


def _says_where(asked: str | dict[str, Any] | PretrainedCfg | None, name: str) -> bool:
    """Say whether a config of the caller's has weights of its own, and not those of the tag."""
    if asked is None or isinstance(asked, str) or name not in _ours:
        return False
    config = asked if isinstance(asked, dict) else vars(asked)
    registered = vars(get_pretrained_cfg(name))
    if config.get("state_dict") or config.get("source"):
        return True
    return any(config.get(key) and config[key] != registered[key] for key in _SOURCES)
