import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutmix_zoo.data.corrupted import CifarC, ImageNetC, open_corrupted
from cutmix_zoo.errors import UserError
from tests.data.corrupted_files import make_cifar_c, make_imagenet_c


@pytest.fixture
def cifar_c(tmp_path: Path) -> Path:
    """Three images a severity: all values of image i of corruption c at severity s are 10 c + 2 (s - 1) + i."""
    return make_cifar_c(tmp_path / "CIFAR-10-C", [4, 9, 2], lambda c, severity, i: 10 * c + 2 * severity + i)


@pytest.fixture
def imagenet_c(tmp_path: Path) -> Path:
    """Two classes of two images; they are all of one grey level, 10 c + 2 (s - 1) + the number of the class."""

    def draw(c: int, severity: int, label: int) -> Image.Image:
        return Image.new("RGB", (16, 16), (10 * c + 2 * severity + label,) * 3)

    return make_imagenet_c(tmp_path / "ImageNet-C", ("n02", "n10"), ("val_07.JPEG", "val_30.JPEG"), draw)


def levels(dataset: ImageNetC | CifarC, index: int) -> set[int]:
    image, _ = dataset[index]
    assert image.mode == "RGB"
    return set(np.unique(np.asarray(image)).tolist())


def test_the_severities_of_cifar_c_come_in_their_order(cifar_c: Path) -> None:
    dataset = open_corrupted(cifar_c)
    assert (type(dataset), len(dataset), dataset.num_classes) == (CifarC, 15 * 5 * 3, 10)
    for corruption in range(15):
        for severity in range(5):
            for image in range(3):
                index = (corruption * 5 + severity) * 3 + image
                assert levels(dataset, index) == {10 * corruption + 2 * severity + image}
                assert dataset[index][1] == (4, 9, 2)[image]


def test_the_images_of_cifar_c_stay_on_the_disk(cifar_c: Path) -> None:
    dataset = open_corrupted(cifar_c)
    assert all(isinstance(images, np.memmap) for images in dataset.images)
    dataset[0]
    packed = pickle.dumps(dataset)
    assert len(packed) < 1000  # a tenth of one image would be more
    assert levels(pickle.loads(packed), 224) == {10 * 14 + 2 * 4 + 2}


def test_the_severities_of_imagenet_c_come_in_their_order(imagenet_c: Path) -> None:
    (imagenet_c / "speckle_noise" / "1").mkdir(parents=True)
    dataset = open_corrupted(imagenet_c)
    assert (type(dataset), len(dataset), dataset.num_classes) == (ImageNetC, 15 * 5 * 4, 2)
    assert dataset.classes == ("n02", "n10")
    for index in range(len(dataset)):
        corruption, severity, label = index // 20, index // 4 % 5, index // 2 % 2
        (level,) = levels(dataset, index)
        assert level == pytest.approx(10 * corruption + 2 * severity + label, abs=1)  # JPEG
        assert dataset[index][1] == label


def test_an_image_of_imagenet_c_that_is_missing_is_named(imagenet_c: Path) -> None:
    (imagenet_c / "fog" / "3" / "n10" / "val_30.JPEG").unlink()
    dataset = open_corrupted(imagenet_c)
    with pytest.raises(UserError, match=r"cannot read image .*fog/3/n10/val_30.JPEG"):
        dataset[(9 * 5 + 2) * 4 + 3]
    assert dataset[(9 * 5 + 2) * 4 + 2][1] == 1


def test_an_incomplete_imagenet_c_is_refused(imagenet_c: Path) -> None:
    shutil.rmtree(imagenet_c / "fog" / "3" / "n10")
    with pytest.raises(UserError, match=r"fog/3 has other classes than .*gaussian_noise/1, .*: 1 and 2; .* has n10"):
        open_corrupted(imagenet_c)
    shutil.rmtree(imagenet_c / "fog" / "3")
    with pytest.raises(UserError, match=r"lacks 1 of 75 folders of ImageNet-C: fog/3\. Expected ROOT/"):
        open_corrupted(imagenet_c)
    shutil.rmtree(imagenet_c / "snow")
    shutil.rmtree(imagenet_c / "frost")
    with pytest.raises(UserError, match=r"lacks 11 of 75 folders of ImageNet-C: snow/1, .*frost/5, \.\.\.\. Expected"):
        open_corrupted(imagenet_c)


def test_an_empty_imagenet_c_is_refused(imagenet_c: Path) -> None:
    for file in (imagenet_c / "gaussian_noise" / "1" / "n10").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(UserError, match=r"gaussian_noise/1/n10 has no images"):
        open_corrupted(imagenet_c)
    for folder in imagenet_c.glob("*/*/*"):
        shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"gaussian_noise/1 has no class folders"):
        open_corrupted(imagenet_c)


@pytest.mark.parametrize("name", ["fog", "labels"])
def test_a_missing_file_of_cifar_c_is_named(cifar_c: Path, name: str) -> None:
    (cifar_c / f"{name}.npy").unlink()
    with pytest.raises(UserError, match=rf"{name}.npy is missing: .*gaussian_noise, .*jpeg_compression"):
        open_corrupted(cifar_c)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "fog",
            np.zeros((10, 32, 32, 3), np.uint8),
            r"expected \(15, 32, 32, 3\) uint8 .* got \(10, 32, 32, 3\) uint8",
        ),
        ("fog", np.zeros((15, 32, 32), np.uint8), r"got \(15, 32, 32\) uint8"),
        ("fog", np.zeros((15, 32, 32, 3), np.float32), r"got \(15, 32, 32, 3\) float32"),
        ("labels", np.zeros(14, np.int64), r"expected whole numbers \(5 N,\).* got \(14,\) int64"),
        ("labels", np.zeros(0, np.int64), r"got \(0,\) int64"),
        ("labels", np.zeros((15, 1), np.int64), r"got \(15, 1\) int64"),
        ("labels", np.zeros(15), r"got \(15,\) float64"),
        ("labels", np.repeat([0, 1, 2, 3, 4], 3), "expected the same labels for each of the five severities"),
    ],
)
def test_a_file_of_cifar_c_of_another_shape_is_refused(
    cifar_c: Path, name: str, values: np.ndarray, message: str
) -> None:
    np.save(cifar_c / f"{name}.npy", values)
    with pytest.raises(UserError, match=rf"{name}.npy: {message}|{name}.npy: .*{message}"):
        open_corrupted(cifar_c)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def pickled(file: Path) -> None:
    np.save(file, np.array([None] * 15), allow_pickle=True)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("name", ["fog", "labels"])
@pytest.mark.parametrize("damage", [cut, pickled, emptied])
def test_a_damaged_file_of_cifar_c_is_refused(cifar_c: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(cifar_c / f"{name}.npy")
    with pytest.raises(UserError, match=rf"cannot read .*{name}.npy: "):
        open_corrupted(cifar_c)


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is neither ImageNet-C nor CIFAR-10-C nor CIFAR-100-C: .*; found nothing"):
        open_corrupted(tmp_path / "none")
    (tmp_path / "CIFAR-10-C").mkdir()
    with pytest.raises(UserError, match=r"is neither .*; found CIFAR-10-C$"):
        open_corrupted(tmp_path)


def test_a_home_folder_is_found(cifar_c: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(cifar_c.parent))
    assert open_corrupted(Path("~/CIFAR-10-C")).root == cifar_c
