"""The way back from an exported folder, which anybody may have written: everything in it is checked first.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads the same network and believes what it reads. Here a
pickle is never opened, and ``config.json`` has no say in where weights come from, nor in how much memory is taken
before it is known to fit them.
"""

from __future__ import annotations

import json
import struct
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg

from cutmix_zoo.errors import UserError, did_you_mean, one_line, shown
from cutmix_zoo.keys import isolated_rng
from cutmix_zoo.models.trial import MODEL_ERRORS
from cutmix_zoo.models.weights import check_weights
from cutmix_zoo.store import WEIGHTS_FILE, file_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

CONFIG_FILE = "config.json"
"""What describes a network to timm, beside its weights."""

_LARGEST_CONFIG = 16 * 2**20
"""Bytes; the names of 21,000 classes take one."""
_SMALL = 256 * 2**20
"""Bytes that any network may keep beside its weights."""
_LARGEST_ARGUMENT = 4096
"""No network is as deep or as wide."""
_PLACES = {"source", "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "custom_load"}
"""Fields of timm's config that say where weights come from, and that code is to be run."""


def load_exported(folder: Path, architecture: str | None = None) -> nn.Module:
    """Load a network from ``config.json`` and ``model.safetensors``.

    Args:
        folder: holds both; whatever else is in it is not looked at.
        architecture: what it should be; ``None`` for any that timm knows.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        UserError: if a file is missing, damaged or not what it should be: a key twice, an architecture that timm does
            not know or that is another one, arguments that no network takes, two numbers of classes, weights of another
            network, or numbers that are not finite.
    """
    config = read_config(folder / CONFIG_FILE)
    found = config["architecture"]
    if architecture not in (None, found):
        raise UserError(f"{folder / CONFIG_FILE} describes {shown(found)}, expected {architecture}.")
    weights = read_weights(folder / WEIGHTS_FILE)
    if config.get("sha256") not in (None, file_sha256(folder / WEIGHTS_FILE)):
        raise UserError(f"{folder / WEIGHTS_FILE} is damaged or was replaced: its sha256 is not that of {CONFIG_FILE}.")
    try:
        # takes no memory yet, whatever the config asks for
        with torch.device("meta"), isolated_rng(0):
            planned = timm.create_model(f"local-dir:{folder}")
        check_weights(found, planned.state_dict(), weights)
        _check_buffers(planned, weights)
        _check_classes(planned, config)
        with isolated_rng(0):
            network = timm.create_model(f"local-dir:{folder}")
        network.load_state_dict(weights)  # what was checked, and not what timm would make of the folder
        return network.eval()
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    except MODEL_ERRORS as error:
        raise UserError(f"cannot make {found} as {folder / CONFIG_FILE} says: {one_line(error)}") from error


def _check_buffers(planned: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuse a network that keeps much more than its weights, such as tables for images of an absurd size."""
    size = sum(buffer.numel() * buffer.element_size() for buffer in planned.buffers())
    room = 4 * sum(weight.nbytes for weight in weights.values()) + _SMALL
    if size > room:
        raise UserError(f"it would take {size / 1e9:.1f} GB beside its weights, which is more than any such network.")


def _check_classes(planned: nn.Module, config: Mapping[str, Any]) -> None:
    """Refuse a network whose arguments give it other classes than the config says."""
    said = _num_classes(config)
    if getattr(planned, "num_classes", said) != said:
        raise UserError(f"num_classes is {said}, but by model_args the network has {planned.num_classes} classes.")


def read_config(file: Path) -> dict[str, Any]:
    """Read a ``config.json`` and check what timm would believe of it.

    Raises:
        UserError: if it is missing, is not what timm's exports are like, names an unknown architecture, or says where
            weights come from.
    """
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        config = _parse(file.read_text(encoding="utf-8"))
        _check_config(config)
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{file} is not a config of an exported model: {one_line(error)}") from error
    return config


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: if it is missing, damaged, another format, or names a tensor twice.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            # the reader itself takes the last of two that have one name; it refuses a longer header
            _parse(stream.read(min(length, 100_000_000)).decode())
        return load_file(file)
    except (OSError, RecursionError, SafetensorError, ValueError, struct.error) as error:
        raise UserError(f"{file} is not a sound safetensors file: {one_line(error)}") from error


def _parse(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("it has a key twice")
        return values

    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}, which is not JSON")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


def _check_config(config: Any) -> None:
    """Refuse what no export of ours or of timm's has; the message is about the file."""
    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg"), dict):
        raise ValueError("it has no pretrained_cfg")
    architecture, described = config.get("architecture"), config["pretrained_cfg"]
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        hint = did_you_mean(str(architecture), timm.list_models())
        raise ValueError(f"timm knows no architecture {shown(str(architecture))} {hint}".strip())
    places = sorted(key for key in _PLACES & described.keys() if described[key])
    unknown = sorted(described.keys() - {field.name for field in fields(PretrainedCfg)})
    if places or unknown:
        raise ValueError(f"pretrained_cfg has {', '.join(map(shown, places + unknown))}")
    size, count = described.get("input_size"), _num_classes(config)
    if not isinstance(size, list) or len(size) != 3 or not all(map(_is_count, size)):
        raise ValueError(f"input_size is {shown(str(size))}, expected channels, height and width")
    # not isinstance, as true is an int as well
    if type(count) is not int or not 0 <= count < 2**20:
        raise ValueError(f"num_classes is {shown(str(count))}")
    names = config.get("label_names")
    if names is not None and (
        not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"label_names are not the names of {count} classes")
    if not isinstance(config.get("provenance", {}), dict):
        raise ValueError("provenance is not a mapping")
    _check_preprocessing(described, size[0])
    _check_arguments(config.get("model_args", {}))


def _num_classes(config: Mapping[str, Any]) -> Any:
    """Look up how many classes a config says, where timm looks for it."""
    return config.get("num_classes", config["pretrained_cfg"].get("num_classes"))


def _check_preprocessing(described: dict[str, Any], channels: int) -> None:
    for key in ("mean", "std"):
        value = described.get(key)
        if value is not None and not (
            isinstance(value, list) and len(value) in (1, channels) and all(map(_is_number, value))
        ):
            raise ValueError(f"{key} is {shown(str(value))}, expected a number for each channel")
    share = described.get("crop_pct")
    if share is not None and not (_is_number(share) and 0 < share <= 1):
        raise ValueError(f"crop_pct is {shown(str(share))}, expected a share of the side")
    for key in ("interpolation", "crop_mode"):
        if not isinstance(described.get(key, ""), str):
            raise ValueError(f"{key} is {shown(str(described[key]))}, expected a word")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_arguments(arguments: Any) -> None:
    if not isinstance(arguments, dict):
        raise ValueError("model_args is not a mapping")
    for key, value in arguments.items():
        # pretrained_cfg, pretrained_cfg_overlay, pretrained_filter_fn, checkpoint_path, ... are not about structure
        if key.startswith(("pretrained", "checkpoint", "features")) or not _is_plain(value):
            raise ValueError(f"model_args has {shown(key)}: {shown(str(value))}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 64 and all(map(_is_plain, value))
    if isinstance(value, int | float):
        return abs(value) <= _LARGEST_ARGUMENT
    return value is None or isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_ARGUMENT
