"""What all tests share: no network but loopback, and datasets small enough to train on in a second."""

import io
import json
import os
import random
import signal
import socket
import tarfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is expected to the bit holds on the CPU
os.environ["CUTMIX_ZOO_HOME"] = str(Path(__file__).with_name("no_store"))  # what the user has imported does not count

import numpy as np
import pytest
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import cutmix_zoo.pictures
from cutmix_zoo.data.idx import write_idx
from cutmix_zoo.models import refresh_tags
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.settings import Recipe

CLASSES, TRAIN_IMAGES, TEST_IMAGES = 10, 80, 30
# timm's readers and webdataset leave it to the garbage collector to close what they opened
leaves_files_open = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


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


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_counts() -> Any:
    """A shell starts what goes to the background with SIGINT ignored, and whatever tests start would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Small tensors gain nothing from threads, and a busy machine loses much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without a generator of its own does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def own_accelerator() -> Any:
    """Accelerate keeps its settings for the process; this test's are its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A local store of this test's own, empty."""
    with monkeypatch.context() as patch:
        patch.setenv("CUTMIX_ZOO_HOME", str(tmp_path / "store"))
        yield tmp_path / "store"
    refresh_tags()


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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def shipped() -> nn.Module:
    return timm.create_model("cifar_resnet8.cutmix_fmnist_mini", pretrained=True).eval()


def global_states() -> tuple[Any, ...]:
    """What Python, NumPy and torch would draw from next."""
    _, keys, place, *_ = np.random.get_state()  # noqa: NPY002
    return random.getstate(), keys.tolist(), place, torch.get_rng_state().tolist()


def random_image(seed: int, height: int, width: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two splits of three classes, PNG files of several sizes and modes: 12 to train on, 6 to evaluate on."""
    root = tmp_path / "images"
    for split, per_class in (("train", 4), ("val", 2)):
        for label, name in enumerate(("ant", "bee", "cat")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                mode = "L" if number == 1 else "RGB"
                random_image(10 * label + number, 20 + 3 * number, 24 + label, mode).save(folder / f"{number}.png")
    return root


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def webdataset_folder(tmp_path: Path) -> Path:
    """Four shards of six samples for each split, with the info file that timm reads."""
    root = tmp_path / "wds"
    root.mkdir()
    info = {"splits": {}}
    for split in ("train", "validation"):
        names = [f"{split}-{shard}.tar" for shard in range(4)]
        for shard, name in enumerate(names):
            files = {}
            for number in range(6):
                place = 6 * shard + number
                files[f"{place:04d}.png"] = png_bytes(Image.new("RGB", (8, 8), (place, 2 * place, 3 * place)))
                files[f"{place:04d}.cls"] = str(place % 3).encode()
            write_tar(root / name, files)
        info["splits"][split] = {"name": split, "num_samples": 24, "filenames": names, "shard_lengths": [6] * 4}
    (root / "_info.json").write_text(json.dumps(info))
    return root


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Keep what is drawn, to look into it."""
    kept: list[Figure] = []
    make = cutmix_zoo.pictures._figure
    monkeypatch.setattr(cutmix_zoo.pictures, "_figure", lambda *size: kept.append(make(*size)) or kept[-1])
    return kept
