from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets

from cutmix_zoo.data.fashion_mnist import MINI_ROOT, FashionMNIST
from cutmix_zoo.errors import UserError


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["torchvision", "debian"])
@pytest.mark.parametrize("train", [False, True])
def test_both_layouts_give_what_torchvision_reads(
    fashion: Callable[..., Path], layout: str, *, packed: bool, train: bool
) -> None:
    root = fashion(layout, packed=packed)
    ours = FashionMNIST(root, train)
    # torchvision reads unpacked files of its own layout only; the fixture's values are the same in each
    theirs = torchvision.datasets.FashionMNIST(str(fashion("torchvision", packed=False, counts=(40, 20))), train)
    assert len(ours) == len(theirs) == (40 if train else 20)
    assert list(ours.classes) == theirs.classes
    assert ours.class_to_idx == theirs.class_to_idx
    np.testing.assert_array_equal(ours.targets, theirs.targets.numpy())
    for index in range(len(ours)):
        (image, label), (their_image, their_label) = ours[index], theirs[index]
        assert (image.mode, label, type(label)) == (their_image.mode, their_label, int)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(their_image))


def test_missing_files_say_where_they_were_looked_for_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        FashionMNIST(tmp_path, train=True)
    for words in (
        str(tmp_path),
        str(tmp_path / "FashionMNIST" / "raw"),
        "train-images-idx3-ubyte",
        "apt-get install dataset-fashion-mnist",
        "/usr/share/datasets/fashion-mnist",
        "data.download",
    ):
        assert words in str(caught.value)


def test_one_missing_file_is_missing(fashion: Callable[..., Path]) -> None:
    root = fashion()
    (root / "t10k-labels-idx1-ubyte.gz").unlink()
    assert len(FashionMNIST(root, train=True)) == 40
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte"):
        FashionMNIST(root, train=False)


def test_files_that_do_not_fit_together(fashion: Callable[..., Path]) -> None:
    root = fashion()
    (root / "t10k-labels-idx1-ubyte.gz").rename(root / "train-labels-idx1-ubyte.gz")
    with pytest.raises(UserError, match=r"do not fit together.*\(40, 28, 28\) and \(20,\)"):
        FashionMNIST(root, train=True)


def test_download_is_torchvisions(fashion: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, asked = fashion("torchvision", packed=False), []

    def fake(root: str, *, download: bool) -> None:
        asked.append((root, download))
        Path(root).mkdir()
        (source / "FashionMNIST").rename(Path(root) / "FashionMNIST")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fake)
    target = source.parent / "new"
    assert len(FashionMNIST(target, train=True, download=True)) == 40
    assert asked == [(str(target), True)]
    FashionMNIST(target, train=False, download=True)
    assert len(asked) == 1, "what is there is not fetched again"


@pytest.mark.parametrize("error", [RuntimeError("all mirrors failed"), URLError("no network")])
def test_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(root: str, *, download: bool) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    with pytest.raises(UserError, match=r"could not download Fashion-MNIST into .*(mirrors|network)"):
        FashionMNIST(tmp_path, train=True, download=True)


def test_the_mini_set_ships_balanced_and_within_its_size() -> None:
    for train, per_class in ((True, 1000), (False, 200)):
        dataset = FashionMNIST(MINI_ROOT, train)
        assert dataset.images.shape == (10 * per_class, 28, 28)
        assert dataset.images.dtype == np.uint8
        np.testing.assert_array_equal(np.bincount(dataset.targets), [per_class] * 10)
    assert sum(path.stat().st_size for path in MINI_ROOT.iterdir()) < 6_000_000
    notice = (MINI_ROOT / "LICENSE").read_text()
    assert "The MIT License" in notice
    assert "Copyright (c) 2017 Zalando SE" in notice
