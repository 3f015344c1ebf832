"""Files that are either whole or not there: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def write_text(file: Path, text: str) -> None:
    """Write or replace a text file in one step, so that a crash leaves the old text or the new one."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")  # several processes may have something to say
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)


def write_json(file: Path, value: Any) -> None:
    """Write or replace a JSON file in one step."""
    write_text(file, json.dumps(value, indent=2) + "\n")


def write_lines(file: Path, values: Iterable[Any]) -> None:
    """Write or replace a JSON-lines file in one step."""
    write_text(file, "".join(json.dumps(value) + "\n" for value in values))


def read_json(file: Path) -> Any:
    """Read a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))
