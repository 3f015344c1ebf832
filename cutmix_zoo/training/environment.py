"""Where numbers were made: what a reader must know to repeat them."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

_PACKAGES = ("cutmix_zoo", "torch", "torchvision", "timm", "accelerate")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def device_name(device: torch.device) -> str:
    """Name a device: a GPU by its model, a CPU by the threads that torch uses."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def environment(device: torch.device) -> dict[str, str]:
    """Return the versions and the device as one mapping."""
    return {**versions(), "device": device_name(device)}
