"""Small datasets in their true formats, made on the fly, and not with our own code."""

import gzip
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of Fashion-MNIST: ``fashion(layout="torchvision", packed=True, counts=(40, 20))``."""

    def make(layout: str = "debian", *, packed: bool = True, counts: tuple[int, int] = (40, 20)) -> Path:
        root = tmp_path / f"fashion-{layout}-{packed}-{counts[0]}"
        folder = root / "FashionMNIST" / "raw" if layout == "torchvision" else root
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(7)
        for prefix, count in zip(("train", "t10k"), counts, strict=True):
            images = rng.integers(0, 256, (count, 28, 28), np.uint8)
            labels = rng.permutation(count).astype(np.uint8) % 10
            for name, values in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
                if packed:
                    (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
                else:
                    (folder / name).write_bytes(idx_bytes(values))
        return root

    return make


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's folder of CIFAR-100 with 30 training and 10 test images, whose checksums torchvision accepts."""
    folder = tmp_path / "cifar" / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    names = [f"name{index:03d}" for index in range(100)]
    contents = {"meta": {"fine_label_names": names, "coarse_label_names": []}}
    for split, count in (("train", 30), ("test", 10)):
        data = rng.integers(0, 256, (count, 3072), np.uint8)
        contents[split] = {"data": data, "fine_labels": rng.integers(0, 100, count).tolist()}
    sums = {}
    for name, content in contents.items():
        packed = pickle.dumps(content)
        (folder / name).write_bytes(packed)
        sums[name] = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]}
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "meta", meta)
    return tmp_path / "cifar"
