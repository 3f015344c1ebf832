"""The one exception that the command line shows without a traceback, and what shows it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class UserError(ValueError):
    """Something the user can put right: the message says what was expected, what came, and what to do.

    The command line prints the message alone and exits with status 2; every other
    exception is a defect of ours and keeps its traceback.
    """


def run_command(command: Callable[[Sequence[str]], None], program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and turn what the user can put right into one line on stderr.

    Args:
        command: takes the arguments.
        program: the name to print before the message.
        arguments: what follows the program's name; ``None`` takes ``sys.argv``.

    Returns:
        The exit status: 0, 2 after a :class:`UserError`, 130 after Ctrl-C.
    """
    try:
        command(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        where = "" if rank == "0" else f" (process {rank})"
        print(f"{program}: error{where}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    return 0
