"""What a model computes in a process of its own, which knows nothing but its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import torch

from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")
_ALONE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
# what somebody else would write, and nothing of this package but its architectures, where they are needed
_SCRIPT = """
import json, sys
import timm, torch
if sys.argv[2] == "import":
    import cutmix_zoo
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
images = torch.randn(2, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    json.dump(model(images).tolist(), sys.stdout)
"""


def probe(network: nn.Module) -> Tensor:
    """Return the logits (2, K) float32 of two fixed images."""
    size = network.pretrained_cfg["input_size"]  # type: ignore[index]
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return network.eval()(images)


def probe_elsewhere(folder: Path, *, needs_import: bool) -> Tensor:
    """Let a process without network and access token load a folder with timm, and :func:`probe` the network there.

    Args:
        folder: what ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads.
        needs_import: whether ``import cutmix_zoo`` comes first.

    Returns:
        The logits (2, K) float32.

    Raises:
        UserError: if it does not load.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _SECRETS} | _ALONE
    arguments = [sys.executable, "-c", _SCRIPT, str(folder), "import" if needs_import else "alone"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{folder} does not load in a process of its own: {last}")
    return torch.tensor(json.loads(done.stdout))
