"""Checkpoints: a folder of safetensors and JSON that is complete or does not exist. Nothing in it is a pickle."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.store import file_sha256
from cutmix_zoo.training.files import read_json

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_STATE, _SUMS = "state.json", "checksums.json"
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?(\.old)?")


@dataclass
class Progress:
    """How far a run is, and what it needs to go on: random numbers and learning rates derive from it.

    Args:
        recipe: what is trained, resolved, as :func:`~cutmix_zoo.training.recipe.recipe_dict` gives it.
        metrics: the lines of ``metrics.jsonl``, one for each finished epoch.
        step: steps done in the epoch under way.
        sums: what each process has added up over these steps.
        skipped: updates left out because their gradient was not finite.
        images: training images of the finished epochs, over all processes.
        seconds: time spent training in the finished epochs, without evaluation.
        epoch_seconds: time spent training in the epoch under way.
        world_size: processes of the run.
        mixed_precision: Accelerate's name for the run's precision.
        train_images: size of the training split.
    """

    recipe: dict[str, Any]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    sums: list[list[float]] = field(default_factory=list)
    skipped: int = 0
    images: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    world_size: int = 1
    mixed_precision: str = "no"
    train_images: int = 0

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.metrics)

    def end_epoch(self, line: dict[str, Any], images: int) -> None:
        """Count the epoch under way among the finished ones.

        Args:
            line: its line of ``metrics.jsonl``.
            images: its training images, over all processes.
        """
        self.metrics.append(line)
        self.images += images
        self.seconds += self.epoch_seconds
        self.step, self.sums, self.epoch_seconds = 0, [], 0.0

    def best_epochs(self, key: str) -> list[int]:
        """List the epochs that were measured from the best on; of equals, the earlier one is better.

        Args:
            key: name of a number in ``metrics``, of which the highest is the best; of a loss, the lowest.
        """
        sign = 1 if key.endswith("loss") else -1
        measured = [line for line in self.metrics if line.get(key) is not None]
        # what is not a number is not the best of anything
        return [line["epoch"] for line in sorted(measured, key=lambda line: (math.isnan(line[key]), sign * line[key]))]

    @property
    def name(self) -> str:
        """What its checkpoint is called; see :func:`position`."""
        return f"epoch-{self.epoch:04d}" + (f"-step-{self.step:06d}" if self.step else "")


@dataclass(frozen=True)
class TrainState:
    """What training changes.

    Args:
        network: the bare network.
        optimizer: the bare optimizer.
        scaler: the gradient scaler, where there is one.
        average: the network of averaged weights, where there is one.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: Any = None
    average: nn.Module | None = None


def save_checkpoint(folder: Path, progress: Progress, state: TrainState) -> Path:
    """Write a checkpoint beside its place, to the disk, and give it its name in one step.

    Args:
        folder: the run's ``checkpoints`` folder.
        progress: how far the run is.
        state: what to save.

    Returns:
        The checkpoint's folder, ``epoch-NNNN`` after so many epochs, or ``epoch-NNNN-step-NNNNNN`` within the next one.

    Raises:
        UserError: if a weight is not finite, or :func:`check_optimizer` would raise.
        OSError: if the disk does not take it. Earlier checkpoints stay as they are.
    """
    final = folder / progress.name
    part = folder / f"{final.name}.part"
    weights = _contiguous(state.network.state_dict())
    broken = next((name for name, value in weights.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise UserError(f"{broken} of the network is not finite at {final.name}; it is not saved.")
    check_optimizer(state.optimizer)
    tensors, rest = _split_optimizer(state.optimizer.state_dict())
    scaler = state.scaler.state_dict() if state.scaler is not None else {}
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(part / "model.safetensors", save(weights, metadata={"format": "pt"}))
        _write(part / "optimizer.safetensors", save(tensors, metadata={"format": "pt"}))
        if state.average is not None:
            average = _contiguous(state.average.state_dict())
            _write(part / "average.safetensors", save(average, metadata={"format": "pt"}))
        rest = {"progress": asdict(progress), "optimizer": rest, "scaler": scaler}
        _write(part / _STATE, _json(rest))
        _write(part / _SUMS, _json({file.name: file_sha256(file) for file in sorted(part.iterdir())}))
        _sync(part)
        # one of the same name, as after a resume from it, stays until the new one is in its place
        old = final.with_name(f"{final.name}.old")
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.replace(old)
        try:
            part.replace(final)
        except OSError:
            if old.exists():
                old.replace(final)
            raise
        shutil.rmtree(old, ignore_errors=True)
        _sync(folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return final


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Check that the state of an optimizer can be saved; most of it is there only after the first step.

    Raises:
        UserError: if it is more than tensors and numbers.
    """
    state = optimizer.state_dict()
    for values in (*state["state"].values(), *state["param_groups"]):
        try:
            json.dumps({key: value for key, value in values.items() if not isinstance(value, Tensor)})
        except TypeError as error:
            raise UserError(
                f"the state of {type(optimizer).__name__} is more than tensors and numbers and cannot be saved without "
                f"pickles ({error}); choose another optimizer.name."
            ) from error


def prune_checkpoints(folder: Path, keep: int, best: Collection[str] = ()) -> None:
    """Delete all but the newest ``keep`` checkpoints and those called ``best``, and what a crash left half done.

    What cannot be deleted yet, as on a network disk while another process reads it, is left to the next time.
    """
    complete = list_checkpoints(folder)
    for old in complete[:-keep]:
        if old.name not in best:
            delete_checkpoint(old)
    for rest in set(folder.glob("epoch-*")).difference(complete):
        shutil.rmtree(rest, ignore_errors=True)


def delete_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint."""
    # first what makes it one: without its checksums it is not listed, whatever interrupts the rest
    (checkpoint / _SUMS).unlink()
    shutil.rmtree(checkpoint, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """List complete checkpoints, oldest first; one that was being replaced comes before the one in its place."""
    complete = [file for file in folder.glob("epoch-*") if _NAME.fullmatch(file.name) and (file / _SUMS).exists()]
    return sorted(complete, key=lambda file: (position(file), file.suffix != ".old"))


def position(checkpoint: Path) -> tuple[int, int]:
    """Say where in a run a listed checkpoint lies: the epochs finished, and the steps done in the next one.

    Example:
        >>> from pathlib import Path
        >>> position(Path("epoch-0002-step-000030")), position(Path("epoch-10000.old"))
        ((2, 30), (10000, 0))
    """
    name = _NAME.fullmatch(checkpoint.name)
    assert name is not None, checkpoint
    return int(name[1]), int(name[2] or 0)


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
        if not file.is_file() or file_sha256(file) != expected:
            raise UserError(
                f"{file} is missing or damaged (its sha256 is not {expected}); resume from another checkpoint."
            )


def read_progress(checkpoint: Path) -> Progress:
    """Read how far the run was."""
    return Progress(**read_json(checkpoint / _STATE)["progress"])


def load_checkpoint(checkpoint: Path, state: TrainState, *, keep_settings: bool = False) -> None:
    """Load weights and the state of optimizer and scaler, keeping the memory layout that the parameters have.

    Args:
        checkpoint: a checkpoint's folder.
        state: what to bring to where it was, already on its device. An average that the checkpoint lacks begins with
            the weights; a scaler that it lacks stays as it is.
        keep_settings: leave the optimizer the settings it was made with, such as its weight decay. Where it is of
            another kind than the saved one, or groups its parameters otherwise, it begins anew, with a warning.

    Raises:
        UserError: if the weights are those of another network, or the optimizer groups its parameters otherwise and
            has no settings of its own to keep.
    """
    saved, weights = read_json(checkpoint / _STATE), load_file(checkpoint / "model.safetensors")
    difference = _shape_difference(weights, state.network.state_dict())
    if difference:
        raise UserError(f"cannot resume: {checkpoint} is of another network ({difference}).")
    state.network.load_state_dict(weights)
    if state.average is not None:
        file = checkpoint / "average.safetensors"
        state.average.load_state_dict(load_file(file) if file.exists() else weights)
    if state.scaler is not None and saved["scaler"]:
        state.scaler.load_state_dict(saved["scaler"])
    _load_optimizer(
        state.optimizer,
        load_file(checkpoint / "optimizer.safetensors"),
        saved["optimizer"],
        keep_settings=keep_settings,
    )


def _load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any], *, keep_settings: bool
) -> None:
    saved = _join_optimizer(tensors, rest)
    own = optimizer.state_dict()["param_groups"]
    # what a group is set to is a matter of the optimizer's kind, and of torch's version
    shapes = [
        [(len(group["params"]), sorted(group) if keep_settings else None) for group in groups]
        for groups in (own, saved["param_groups"])
    ]
    if shapes[0] != shapes[1]:
        if not keep_settings:
            raise UserError(
                "cannot resume: the checkpoint's optimizer groups its parameters otherwise, as that of another version "
                "of timm may: go on with the version that wrote it."
            )
        warnings.warn("the optimizer is another one than the checkpoint's: it begins anew.", stacklevel=3)
        return
    if keep_settings:
        saved["param_groups"] = own
    optimizer.load_state_dict(saved)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                # a buffer in another layout than its parameter could round differently
                alike = torch.empty_like(parameter if value.shape == parameter.shape else value, dtype=value.dtype)
                # copied, as what was loaded may be the file itself, which is to be deleted one day
                values[name] = alike.copy_(value)


def _shape_difference(old: dict[str, Tensor], new: dict[str, Tensor]) -> str:
    shapes = [{name: str(list(tensor.shape)) for name, tensor in weights.items()} for weights in (old, new)]
    different = [name for name in {**old, **new} if shapes[0].get(name) != shapes[1].get(name)]
    listed = [f"{name}: {shapes[0].get(name, 'missing')} -> {shapes[1].get(name, 'missing')}" for name in different[:3]]
    return "; ".join(listed + ["..."] * (len(different) > 3))


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # copies, of which each has its memory to itself: weights may be tied, which safetensors refuses
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


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


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
