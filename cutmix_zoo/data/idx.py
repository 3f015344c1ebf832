"""Read and write idx files, the format of MNIST and its relatives."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_GZIP_MAGIC = b"\x1f\x8b"
_UINT8 = 0x08


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of bytes, plain or gzipped.

    Args:
        path: the file. Whether it is gzipped is told from its first bytes, not from its name.

    Returns:
        A writable uint8 array of the shape that the file's header gives.

    Raises:
        UserError: when the file is damaged, is no idx file, or holds something else than bytes.

    Source: the format's description in the MNIST database: two zero bytes, the type, the number of
    dimensions, each dimension as a big-endian 32-bit integer, then the values.
    """
    content = _read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UINT8:
        raise UserError(f"{path} is no idx file of bytes: it should start with 00 00 08, got {content[:3].hex(' ')}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise UserError(f"{path} is truncated: its header takes {start} bytes, got {len(content)}; fetch it again")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise UserError(
            f"{path} is damaged: its header announces {math.prod(shape)} values {shape}, got {len(content) - start}; "
            "fetch it again"
        )
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}; fetch it again") from error


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """Write a gzipped idx file whose bytes depend on the values alone: no name and no time in it.

    Args:
        path: the file to write; it is replaced if it exists.
        values: uint8 array of any shape.

    Raises:
        TypeError: when the values are not uint8.
    """
    if values.dtype != np.uint8:
        raise TypeError(f"expected uint8 values, got {values.dtype}")
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, _UINT8, values.ndim, *values.shape)
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as packed:
        packed.write(header + values.tobytes())
