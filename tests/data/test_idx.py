import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from cutmix_zoo.data.idx import read_idx, write_idx
from cutmix_zoo.errors import UserError

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
FILE = b"\0\0\x08\x03" + struct.pack(">III", 2, 3, 4) + bytes(range(24))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_plain_and_gzipped_files_whatever_their_name(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "images"
    path.write_bytes(pack(FILE))
    values = read_idx(path)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, VALUES)
    values[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no idx file"),
        (b"\x89PNG\r\n\x1a\n", "no idx file of bytes: it should start with 00 00 08, got 89 50 4e"),
        (b"\0\0\x0d\x01" + struct.pack(">If", 1, 1.0), "got 00 00 0d"),
        (FILE[:10], "truncated: its header takes 16 bytes, got 10"),
        (FILE[:-5], "damaged: its header announces 24 values .2, 3, 4., got 19"),
        (FILE + b"more", "damaged: its header announces 24 values .2, 3, 4., got 28"),
        (gzip.compress(FILE, mtime=0)[:20], "damaged: Compressed file ended"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\xffnonsense", "damaged"),
        (gzip.compress(FILE, mtime=0)[:-8] + b"\0" * 8, "damaged: CRC check failed"),
    ],
)
def test_names_what_is_wrong_with_a_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken-file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"broken-file is.*{message}"):
        read_idx(path)


@pytest.mark.parametrize("shape", [(5,), (2, 28, 28), (0, 28, 28)])
def test_torchvision_reads_what_we_write(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_idx(tmp_path / "values.gz", values)
    np.testing.assert_array_equal(read_idx(tmp_path / "values.gz"), values)
    if values.size:
        (tmp_path / "values").write_bytes(gzip.decompress((tmp_path / "values.gz").read_bytes()))
        np.testing.assert_array_equal(read_sn3_pascalvincent_tensor(str(tmp_path / "values")).numpy(), values)


def test_the_bytes_depend_on_the_values_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "a.gz", VALUES)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_idx(tmp_path / "b.gz", VALUES)
    content = (tmp_path / "a.gz").read_bytes()
    assert content == (tmp_path / "b.gz").read_bytes()
    # RFC 1952: no flags (so no name), no time
    assert content[3:8] == b"\0" * 5
    assert gzip.GzipFile(fileobj=io.BytesIO(content)).read() == FILE


def test_writes_bytes_only(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"expected uint8 values, got int64"):
        write_idx(tmp_path / "values.gz", VALUES.astype(np.int64))
