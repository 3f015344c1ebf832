"""One launch at a time in the folder of a run."""

from __future__ import annotations

import fcntl
import os
import shlex
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.run import writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cutmix_zoo.training.run import RunFolder


class InUseError(UserError):
    """Another launch is training in a folder."""


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Make the folder of a run, and keep it from other launches for the length of a block.

    A lock is given up when its process ends, however that ends, so that a killed run can go on at once; only a network
    disk may keep that of a machine which has vanished. It does not keep out what the same process does. What was made
    and is still empty at the end is removed.

    Raises:
        InUseError: if another launch is at it.
        UserError: if the folder cannot be made or written to.
    """
    missing = [each for each in (folder.path, *folder.path.parents) if not each.exists()]
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder.path}: {error}; choose another folder with --output.") from error
    with _lock(folder) as stream:
        try:
            yield
        finally:
            with suppress(OSError):  # a disk that is gone is no reason to forget what came of the run
                if _is_open_in(stream, folder.lock_file):
                    folder.lock_file.unlink()
                for each in missing:
                    each.rmdir()


def _lock(folder: RunFolder) -> TextIO:
    with writing(folder):
        stream = folder.lock_file.open("a")
    try:
        # not flock: the workers of a killed run would hold that on
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        stream.close()
        raise InUseError(
            f"another launch is training in {folder.path}; wait for its end, or choose another folder with --output. "
            f"If the machine that it ran on is gone: rm {shlex.quote(str(folder.lock_file))}"
        ) from error
    except OSError as error:  # some network disks have no locks
        warnings.warn(f"{folder.path} cannot be locked ({error}): start no second launch there.", stacklevel=2)
        return stream
    if _is_open_in(stream, folder.lock_file):
        return stream
    stream.close()  # its owner has just ended, and removed it
    return _lock(folder)


def _is_open_in(stream: TextIO, file: Path) -> bool:
    """Whether a file is still the one that was opened."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False
