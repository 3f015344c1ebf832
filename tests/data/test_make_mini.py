import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cutmix_zoo.data.fashion_mnist import MINI_ROOT, FashionMNIST
from cutmix_zoo.data.make_mini import first_of_each_class, main, make_mini
from cutmix_zoo.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = (
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
)


def test_chooses_the_first_of_each_class_in_their_order() -> None:
    labels = np.array([2, 0, 1, 0, 2, 1, 1, 0, 2])
    np.testing.assert_array_equal(first_of_each_class(labels, 2), [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(first_of_each_class(labels, 1), [0, 1, 2])
    with pytest.raises(UserError, match=r"expected 4 images of class 0, got 3"):
        first_of_each_class(labels, 4)


def test_keeps_the_first_images_of_each_class(fashion: Callable[..., Path], tmp_path: Path) -> None:
    source, output = fashion(counts=(60, 40)), tmp_path / "new" / "mini"
    make_mini(source, output, train_per_class=3, test_per_class=2)
    assert sorted(path.name for path in output.iterdir()) == sorted(FILES)
    for train, per_class in ((True, 3), (False, 2)):
        full, mini = FashionMNIST(source, train), FashionMNIST(output, train)
        seen = dict.fromkeys(range(10), 0)
        expected = []
        for index, label in enumerate(full.targets.tolist()):
            seen[label] += 1
            if seen[label] <= per_class:
                expected.append(index)
        np.testing.assert_array_equal(mini.images, full.images[expected])
        np.testing.assert_array_equal(mini.targets, full.targets[expected])


def test_makes_the_same_bytes_again(fashion: Callable[..., Path], tmp_path: Path) -> None:
    source = fashion(counts=(60, 40))
    for name in ("a", "b"):
        make_mini(source, tmp_path / name, train_per_class=3, test_per_class=2)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_remakes_what_ships_bit_for_bit(tmp_path: Path) -> None:
    if not DEBIAN.is_dir():
        pytest.skip("Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
    if "ng" in zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip("zlib-ng packs the same values into other bytes")
    main(["--source", str(DEBIAN), "--output", str(tmp_path)])
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (MINI_ROOT / name).read_bytes(), name


def test_the_command_line_ends_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--source", str(tmp_path), "--output", str(tmp_path)])
    assert caught.value.code == 2
    assert f"error: no Fashion-MNIST in {tmp_path}" in capsys.readouterr().err
