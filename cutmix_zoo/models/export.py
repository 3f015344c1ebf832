"""A trained network as a folder that timm loads: ``config.json`` and ``model.safetensors``.

The way back is timm's own: ``timm.create_model("local-dir:FOLDER", pretrained=True)`` (and ``hf-hub:`` once the
folder is on the Hub); our architectures need ``import cutmix_zoo`` before it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from safetensors.torch import save

from cutmix_zoo.keys import isolated_rng
from cutmix_zoo.models.regularize import plain_weights
from cutmix_zoo.models.trial import MODEL_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct")
"""What has to be known of a network's input to evaluate it, under timm's names."""

_STRUCTURE_KEYS = ("fixed_input_size", "first_conv", "classifier")
_CREDIT_KEYS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")
_ROUNDING = 1e-3
"""How far logits may be off, as a share of the largest: a scale that was multiplied into weights rounds otherwise."""


def export_model(
    model: nn.Module,
    folder: str | Path,
    *,
    data_config: Mapping[str, Any],
    label_names: Sequence[str] | None,
    provenance: Mapping[str, Any],
    model_args: Mapping[str, Any] | None = None,
) -> None:
    """Write a network so that timm loads it with its own input size, preprocessing, labels and provenance.

    ``config.json`` also says the sha256 of the weights, under ``sha256`` at its top.
    The weights are written in float32; those of a network with ShakeDrop are those with which the network without it
    computes the same. Nothing of where timm's weights came from (tag, paper, test size) is
    passed on. Files of an earlier export are replaced, one by one and only once timm has loaded the new ones; other
    files in the folder are left alone.

    Args:
        model: a network made by ``timm.create_model``, unwrapped (no DistributedDataParallel, no torch.compile).
        folder: where to write; made if need be.
        data_config: what the network was trained for, with timm's keys: ``input_size`` (channels, height, width),
            ``mean`` and ``std`` (one number a channel), ``interpolation``, ``crop_pct`` and, optionally, ``crop_mode``;
            as ``timm.data.resolve_data_config`` returns it. Numbers may be NumPy's.
        label_names: the name of each class in the order of the logits; None if they have none.
        provenance: JSON-serialisable facts. Those that timm has a field for (``tag, license, description,
            origin_url, paper_name, paper_ids, notes``) go into its ``pretrained_cfg``, all others under
            ``provenance`` at the top of ``config.json``.
        model_args: arguments of ``timm.create_model`` that shaped the network, beside ``num_classes`` and
            ``in_chans``; ``shakedrop_prob`` is left out, as the weights have its scale.

    Raises:
        ValueError: if the model is not one of timm's, if ``data_config`` lacks a key, has an unknown one or
            disagrees with itself, if ``label_names`` is not as long as the logits, or if timm cannot load the result,
            or loads from it a network that computes something else.
    """
    # ShakeDrop is in the weights already
    arguments = {key: value for key, value in (model_args or {}).items() if key != "shakedrop_prob"}
    config = _config(model, dict(data_config), label_names, dict(provenance), arguments)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as staging:
        weights = {name: _plain(tensor) for name, tensor in plain_weights(model).items()}
        # not save_file, which makes a file that only its owner may read
        content = save(weights, metadata={"format": "pt"})
        config["sha256"] = hashlib.sha256(content).hexdigest()
        Path(staging, "model.safetensors").write_bytes(content)
        text = json.dumps(config, indent=2, default=_from_numpy)
        Path(staging, "config.json").write_text(f"{text}\n", encoding="utf-8")
        _check_loads(staging, model, config["pretrained_cfg"]["input_size"])
        for name in ("model.safetensors", "config.json"):
            Path(staging, name).replace(folder / name)


def _config(
    model: nn.Module,
    data_config: dict[str, Any],
    label_names: Sequence[str] | None,
    provenance: dict[str, Any],
    model_args: dict[str, Any],
) -> dict[str, Any]:
    """Describe the network as timm's ``config.json`` does; facts that timm has no field for come last."""
    source: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    if "architecture" not in source:
        raise ValueError(
            f"model must be made by timm.create_model and unwrapped, got {type(model).__name__} without pretrained_cfg"
        )
    num_classes: int = model.num_classes  # type: ignore[assignment]
    if label_names is not None and len(label_names) != num_classes:
        raise ValueError(f"label_names must name the {num_classes} classes of the model, got {len(label_names)} names")
    _check_data_config(data_config)
    structure = {key: source.get(key) for key in _STRUCTURE_KEYS}
    credit = {key: provenance.pop(key) for key in _CREDIT_KEYS if key in provenance}
    config = {
        "architecture": source["architecture"],
        "num_classes": num_classes,
        "label_names": None if label_names is None else list(label_names),
        "model_args": model_args,
        "pretrained_cfg": structure | {"num_classes": num_classes} | data_config | credit,
        "provenance": provenance,
    }
    return {key: value for key, value in config.items() if value not in (None, {})}


def _check_data_config(data_config: dict[str, Any]) -> None:
    """Refuse what timm would not load, or would silently replace by ImageNet's."""
    missing = sorted(set(DATA_KEYS) - data_config.keys())
    unknown = sorted(data_config.keys() - {*DATA_KEYS, "crop_mode"})
    if missing or unknown:
        raise ValueError(f"data_config must have the keys {sorted(DATA_KEYS)}; missing: {missing}, unknown: {unknown}")
    in_chans = data_config["input_size"][0]
    for key in ("mean", "std"):
        if len(data_config[key]) != in_chans:
            raise ValueError(
                f"data_config[{key!r}] must hold one number for each of the {in_chans} channels of input_size, "
                f"got {data_config[key]}"
            )


def _from_numpy(value: object) -> Any:
    """Turn numbers and arrays of NumPy into Python's, for JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a weight to the CPU, contiguous (it may be channels_last) and its own (it may be tied), float32."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype).clone(memory_format=torch.contiguous_format)


def _check_loads(folder: str, model: nn.Module, input_size: Sequence[int]) -> None:
    """Let timm load the folder and compute an image, without disturbing the model or the global random numbers."""
    try:
        with isolated_rng(0), torch.inference_mode():
            loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            image = torch.randn(1, *input_size)
            # a copy: the model may be half precision, on a GPU, and in the midst of its training
            expected, found = (net(image) for net in (copy.deepcopy(model).to("cpu", torch.float32).eval(), loaded))
            _check_same(expected, found)
    except MODEL_ERRORS as error:
        raise ValueError(
            f"timm cannot load this model back from its architecture, num_classes, input_size and model_args; give "
            f"the arguments of timm.create_model that shaped it as model_args. What went wrong: {error}"
        ) from error


def _check_same(expected: torch.Tensor, found: torch.Tensor) -> None:
    if expected.shape != found.shape:
        raise ValueError(f"it loads, but has outputs of {tuple(found.shape)} instead of {tuple(expected.shape)}")
    room = _ROUNDING * expected.nan_to_num().abs().max().item()
    if not torch.allclose(found, expected, rtol=0.0, atol=room, equal_nan=True):
        raise ValueError(f"it loads, but its logits are off by up to {(found - expected).abs().max().item():.3g}")
