"""Checkpoints: a folder of safetensors and JSON that is complete or does not exist. Nothing in it is a pickle."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

_STATE, _SUMS = "state.json", "checksums.json"


@dataclass
class Progress:
    """How far a run is, and what it needs to go on: random numbers and learning rates derive from it.

    Args:
        recipe: what is trained, resolved, as :func:`~cutmix_zoo.training.recipe.recipe_dict` gives it.
        metrics: the lines of ``metrics.jsonl``, one for each finished epoch.
        images: training images seen, over all processes.
        seconds: time spent training, without evaluation.
        world_size: processes of the run.
        mixed_precision: Accelerate's name for the run's precision.
    """

    recipe: dict[str, Any]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    world_size: int = 1
    mixed_precision: str = "no"

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.metrics)


def save_checkpoint(
    folder: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: dict[str, Any]
) -> Path:
    """Write ``folder/epoch-NNNN`` and make it visible in one step.

    Args:
        folder: the run's ``checkpoints`` folder.
        progress: how far the run is.
        model: the bare network.
        optimizer: its optimizer.
        scaler: the state of the gradient scaler, empty where there is none.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: if the optimizer's state is more than tensors and numbers.
    """
    final = folder / f"epoch-{progress.epoch:04d}"
    part = folder / f"{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(_contiguous(model.state_dict()), part / "model.safetensors", metadata={"format": "pt"})
    tensors, rest = _split_optimizer(optimizer.state_dict())
    save_file(tensors, part / "optimizer.safetensors", metadata={"format": "pt"})
    try:
        write_json(part / _STATE, {"progress": asdict(progress), "optimizer": rest, "scaler": scaler})
    except TypeError as error:
        raise UserError(
            f"the state of {type(optimizer).__name__} is more than tensors and numbers and cannot be saved without "
            f"pickles ({error}); choose another optimizer.name."
        ) from error
    write_json(part / _SUMS, {file.name: _sha256(file) for file in sorted(part.iterdir())})
    for file in part.iterdir():
        _sync(file)
    shutil.rmtree(final, ignore_errors=True)
    part.replace(final)
    _sync(folder)
    return final


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what a crash left half written."""
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    for part in folder.glob("*.part"):
        shutil.rmtree(part)


def list_checkpoints(folder: Path) -> list[Path]:
    """List complete checkpoints, oldest first."""
    return sorted(file for file in folder.glob("epoch-*") if (file / _SUMS).exists() and file.suffix != ".part")


def check_checkpoint(checkpoint: Path) -> None:
    """Compare a checkpoint's files with its checksums.

    Raises:
        UserError: if a file is missing or damaged.
    """
    if not (checkpoint / _SUMS).is_file():
        raise UserError(
            f"{checkpoint} is not a checkpoint: it has no {_SUMS}; give a folder such as RUN/checkpoints/epoch-0003."
        )
    try:
        sums = read_json(checkpoint / _SUMS)
    except ValueError as error:
        raise UserError(f"{checkpoint / _SUMS} is damaged; resume from another checkpoint.") from error
    for name, expected in sums.items():
        file = checkpoint / name
        if not file.is_file() or _sha256(file) != expected:
            raise UserError(
                f"{file} is missing or damaged (its sha256 is not {expected}); resume from another checkpoint."
            )


def read_progress(checkpoint: Path) -> Progress:
    """Read how far the run was."""
    return Progress(**read_json(checkpoint / _STATE)["progress"])


def load_checkpoint(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load weights and optimizer state, keeping the memory layout that the parameters have.

    Args:
        checkpoint: a checkpoint's folder.
        model: the bare network, already on its device.
        optimizer: its optimizer.

    Returns:
        The state of the gradient scaler, empty where there was none.
    """
    state = read_json(checkpoint / _STATE)
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    optimizer.load_state_dict(_join_optimizer(load_file(checkpoint / "optimizer.safetensors"), state["optimizer"]))
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # a buffer in another layout than its parameter could round differently
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return state["scaler"]


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _split_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Part the tensors of an optimizer's state, named ``PART/INDEX/KEY``, from the rest, which is JSON."""
    parts = {"state": state["state"], "param_groups": dict(enumerate(state["param_groups"]))}
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for part, entries in parts.items():
        for index, values in entries.items():
            rest[f"{part}/{index}"] = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
            tensors |= {f"{part}/{index}/{key}": value for key, value in values.items() if isinstance(value, Tensor)}
    return _contiguous(tensors), rest


def _join_optimizer(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    parts: dict[str, dict[int, dict[str, Any]]] = {"state": {}, "param_groups": {}}
    for place, values in rest.items():
        part, index = place.split("/")
        parts[part][int(index)] = dict(values)
    for place, tensor in tensors.items():
        part, index, key = place.split("/")
        parts[part][int(index)][key] = tensor
    return {"state": parts["state"], "param_groups": list(parts["param_groups"].values())}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
