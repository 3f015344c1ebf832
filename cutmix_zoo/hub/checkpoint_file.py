"""The weights in a checkpoint file, or in what a browser gets for a shared folder; nothing in it is executed."""

from __future__ import annotations

import argparse
import pickle
import shutil
import tempfile
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from cutmix_zoo.errors import UserError, one_line, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDINGS = (".pth", ".pth.tar", ".pt")
"""How checkpoint files are called."""
STATE_DICT_NAMES = ("state_dict_ema", "state_dict", "model")
"""Where training scripts keep the weights in a checkpoint."""
LARGEST = 4 * 2**30
"""Bytes that a checkpoint may have when it is unpacked; the authors' largest file is below 1 GiB."""


class CheckpointFile(NamedTuple):
    """A checkpoint, and what to call it in a message."""

    path: Path
    called: str


@contextmanager
def checkpoint_file(path: Path) -> Iterator[CheckpointFile]:
    """Find the one checkpoint in a file, a folder or a zip archive of a folder.

    Args:
        path: a checkpoint file, or a folder or a zip archive that holds exactly one.

    Yields:
        The file; that of an archive is unpacked, and removed again afterwards.

    Raises:
        UserError: if there is none, or more than one, or the archive is damaged or unpacks to more than 4 GiB.
    """
    if path.is_dir():
        files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
        file = files[_the_one(list(files), path)]
        yield CheckpointFile(file, str(file))
    elif path.is_file():
        if not _is_archive_of_a_folder(path):
            yield CheckpointFile(path, str(path))
            return
        with tempfile.TemporaryDirectory() as folder:
            unpacked = Path(folder, "checkpoint")
            member = _unpack(path, unpacked)
            yield CheckpointFile(unpacked, f"{shown(member)} in {path}")
    else:
        raise UserError(f"there is no file or folder {path}")


def read_state_dict(file: CheckpointFile) -> dict[str, Tensor]:
    """Read the weights of a checkpoint.

    Args:
        file: what ``torch.save`` wrote: a state dict, or a dictionary that holds one under ``state_dict_ema``,
            ``state_dict`` or ``model``; of several, the first is taken, as timm does. Names may begin with
            ``module.``, as those of a DataParallel model do.

    Returns:
        Names to tensors, on the CPU.

    Raises:
        UserError: if the file is no such checkpoint, is damaged, is compressed, holds anything but tensors and plain
            values, or a tensor that is not dense or claims more numbers than the file holds.
    """
    path, called = file
    _refuse_compressed(file)
    try:
        # the arguments of a training script, as timm's own stores them, are names and values and nothing else
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about tensors that are refused later, such as sparse ones
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make the reader fail in any way
        if isinstance(error, pickle.UnpicklingError):
            reason = "it is no checkpoint of torch, is damaged, or holds more than tensors and plain values"
        else:
            reason = f"it is damaged or no checkpoint of torch ({one_line(error)[:200]})"
        raise UserError(f"cannot read {called}: {reason}; nothing in it was executed.") from error
    state: Any = _state_dict_in(checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(key, str) for key in state):
        raise UserError(f"{called} holds no state dict, but {type(checkpoint).__name__}")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{called}: expected a tensor under {shown(key)}, got {type(value).__name__}")
        if not _is_whole(value):
            raise UserError(f"{called}: the tensor under {shown(key)} is not dense, or claims more than the file holds")
    prefix = "module."
    wrapped = all(key.startswith(prefix) for key in state)
    return {key.removeprefix(prefix) if wrapped else key: value for key, value in state.items()}


def _is_whole(tensor: Tensor) -> bool:
    """Say whether all numbers of a tensor are in memory, each in a place of its own."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


@contextmanager
def _archive(path: Path, called: object) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; a damaged or hostile one can make its reader fail in any way."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{called} is a damaged zip archive: {one_line(error)}") from error


def _is_archive_of_a_folder(path: Path) -> bool:
    """Tell an archive of files from the zip format that torch itself writes."""
    if not zipfile.is_zipfile(path):
        return False
    with _archive(path, path) as archive:
        return not any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist())


def _state_dict_in(checkpoint: dict[str, Any]) -> Any:
    """Find the weights in what a training script stored; a state dict has none of the names."""
    held = [checkpoint[name] for name in STATE_DICT_NAMES if checkpoint.get(name) is not None]
    return held[0] if held else checkpoint


def _refuse_compressed(file: CheckpointFile) -> None:
    """Refuse a file in torch's zip format that would take more memory than it has bytes: torch compresses nothing."""
    path, called = file
    if not zipfile.is_zipfile(path):
        return
    with _archive(path, called) as archive:
        unpacked, size = sum(info.file_size for info in archive.infolist()), path.stat().st_size
    if unpacked > size:
        raise UserError(
            f"cannot read {called}: its {size} bytes would unpack to {unpacked}; torch writes no such files."
        )


def _unpack(path: Path, target: Path) -> str:
    """Copy the one checkpoint out of an archive, to a place that the archive has no say in, and return its name."""
    with _archive(path, path) as archive:
        member = _the_one([info.filename for info in archive.infolist() if not info.is_dir()], path)
        size = archive.getinfo(member).file_size
        if size > LARGEST:
            raise UserError(f"{shown(member)} in {path} would unpack to {size} bytes; at most {LARGEST} are accepted")
        # no more than was announced is read: zipfile stops at file_size and checks the sum
        with archive.open(member) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    return member


def _the_one(names: list[str], path: Path) -> str:
    """Choose the only name that is a checkpoint's."""
    paths = {name: PurePosixPath(name) for name in names if name.endswith(ENDINGS)}
    # macOS adds files that are called as the others
    found = sorted(n for n, path in paths.items() if "__MACOSX" not in path.parts and not path.name.startswith("._"))
    if len(found) != 1:
        listed = f": {', '.join(map(shown, found[:5]))}" if found else ""
        raise UserError(
            f"expected one file that ends in {', '.join(ENDINGS)} in {path}, found {len(found)}{listed}"
            f"{'; unpack it if need be, and give the path of one of them' if found else ''}"
        )
    return found[0]
