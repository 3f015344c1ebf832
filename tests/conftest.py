"""What all tests share: no network but loopback, and a dataset small enough to train on in a second."""

import os
import socket
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported

import numpy as np
import pytest
import torch

from cutmix_zoo.data.idx import write_idx
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.settings import Recipe

CLASSES, TRAIN_IMAGES, TEST_IMAGES = 10, 80, 30


@pytest.fixture(autouse=True, scope="session")
def _only_loopback() -> Any:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests do not use the network: {address}")
        return connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Small tensors gain nothing from threads, and a busy machine loses much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of noisy stripes in the files of Fashion-MNIST: 80 images to train on, 30 to test on."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", TRAIN_IMAGES), ("t10k", TEST_IMAGES)):
        labels = (np.arange(count) % CLASSES).astype(np.uint8)
        stripes = (np.arange(28)[None] // (labels[:, None] + 1)) % 2 * 120
        images = stripes[:, None, :] + rng.integers(0, 100, (count, 28, 28))
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images.astype(np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture
def tiny_options(tiny_data: Path) -> dict[str, str]:
    """Overrides that make the quickstart recipe a matter of a second."""
    return {
        "data.name": "fashion_mnist",
        "data.root": str(tiny_data),
        "data.batch_size": "16",
        "data.workers": "0",
        "schedule.epochs": "3",
    }


@pytest.fixture
def tiny_recipe(tiny_options: dict[str, str]) -> Recipe:
    return load_recipe("quickstart", tiny_options)
