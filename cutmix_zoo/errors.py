"""The exceptions that the command line shows without a traceback, and what shows them."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path


class UserError(ValueError):
    """Something the user can put right: the message says what was expected, what came, and what to do.

    The command line prints the message alone and exits with status 2; every other
    exception is a defect of ours and keeps its traceback.
    """


class OneProcessError(UserError):
    """A :class:`UserError` that one of several processes may meet alone, so whichever meets it shows it."""


class SampleError(OneProcessError):
    """One sample cannot be used."""


class Preempted(KeyboardInterrupt):
    """A run was asked to stop from outside, saved what it had, and stopped.

    Args:
        message: where it stands and how to go on.
        signal: the number of the signal that asked.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)
        self.signal = signal

    def __str__(self) -> str:
        return str(self.args[0])


def one_line(error: BaseException) -> str:
    """Fold the message of another library's error into one line."""
    return " ".join(str(error).split()) or type(error).__name__


def shown(name: str) -> str:
    """Quote a name that a file gave, so that it fits into one line and does nothing to a terminal."""
    return ascii(name if len(name) <= 80 else f"{name[:77]}...")


def did_you_mean(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """Ask for the valid name that is nearest to a wrong one.

    Args:
        name: the wrong name.
        valid: the valid names.
        prefix: is put before the nearest name.

    Returns:
        ``"did you mean X? "``, or nothing if no valid name is near.

    Example:
        >>> did_you_mean("alfa", ["alpha", "prob"], prefix="mix.")
        'did you mean mix.alpha? '
        >>> did_you_mean("xyz", ["alpha", "prob"])
        ''
    """
    near = get_close_matches(name, list(valid), n=1)
    return f"did you mean {prefix}{near[0]}? " if near else ""


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Say of what the disk does not take in a block that it was to go to a file or folder.

    Raises:
        UserError: for every OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def prepare_new_file(file: Path) -> None:
    """Make the folder of a file that is to be written, which must not exist yet.

    Raises:
        UserError: if the file exists, or its folder cannot be made.
    """
    if file.exists():
        raise UserError(f"{file} exists and is not overwritten; choose another file.")
    with write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)


def run_command(command: Callable[[Sequence[str]], None], program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and turn what the user can put right into one line on stderr.

    Args:
        command: takes the arguments.
        program: the name to print before the message.
        arguments: what follows the program's name; ``None`` takes ``sys.argv``.

    Returns:
        The exit status: 0, 2 after a :class:`UserError`, 130 after Ctrl-C, 141 if nobody reads on, and 128 and the
        signal's number after another signal that a run has honoured.
    """
    try:
        command(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # such as by head; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        # all processes of a machine meet the same mistake, unless it is about a sample
        if os.environ.get("LOCAL_RANK", "0") == "0" or isinstance(error, OneProcessError):
            sys.stderr.write(f"{program}: error: {error}\n")
        return 2
    except Preempted as stop:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            sys.stderr.write(f"{program}: {stop}\n")
        return 128 + stop.signal
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        return 130
    return 0
