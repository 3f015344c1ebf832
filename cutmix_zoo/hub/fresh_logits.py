"""What a model computes in a process of its own, which knows nothing but the folder: ``python -m`` this, ``FOLDER``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import timm
import torch

import cutmix_zoo  # noqa: F401  registers our architectures
from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")


def probe(network: nn.Module) -> Tensor:
    """Return the logits (2, K) float32 of two fixed images."""
    size = network.pretrained_cfg["input_size"]  # type: ignore[index]
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return network.eval()(images)


def probe_elsewhere(folder: Path) -> Tensor:
    """Load a folder by timm alone in a process without network and access token, and :func:`probe` it there.

    Args:
        folder: what ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads.

    Returns:
        The logits (2, K) float32.

    Raises:
        UserError: if it does not load.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _SECRETS} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{folder} does not load in a process of its own: {last}")
    return torch.tensor(json.loads(done.stdout))


if __name__ == "__main__":
    loaded = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True)
    json.dump(probe(loaded).tolist(), sys.stdout)
