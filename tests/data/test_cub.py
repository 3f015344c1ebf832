from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutmix_zoo.data.cub import CUB200
from cutmix_zoo.errors import UserError
from tests.conftest import random_image

# id, class, training?, height, width, box: the lines of the files, in an order that is not that of the ids
BIRDS = [
    (3, 2, 1, 30, 40, "4.5 6.0 20.25 10.0"),
    (1, 1, 1, 20, 25, "0.0 0.0 25.0 20.0"),
    (2, 1, 0, 21, 26, "3.0 2.0 1.0 1.0"),
    (4, 10, 0, 32, 24, "1.1 2.2 3.3 4.4"),
]
SPECIES = {1: "001.Black_footed_Albatross", 2: "002.Laysan_Albatross", 10: "010.Red_winged_Blackbird"}


def path_of(image: int, species: int) -> str:
    return f"{SPECIES[species]}/Bird_{image:04d}_1.jpg"


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """CUB-200-2011 as its archive unpacks, with four images of three species."""
    folder = tmp_path / "data" / "CUB_200_2011"
    for image, species, _, height, width, _ in BIRDS:
        file = folder / "images" / path_of(image, species)
        file.parent.mkdir(parents=True, exist_ok=True)
        random_image(image, height, width, "L" if image == 4 else "RGB").save(file)
    lines = {
        "images.txt": [f"{bird[0]} {path_of(*bird[:2])}" for bird in BIRDS],
        "image_class_labels.txt": [f"{bird[0]} {bird[1]}" for bird in BIRDS],
        "train_test_split.txt": [f"{bird[0]} {bird[2]}" for bird in BIRDS],
        "bounding_boxes.txt": [f"{bird[0]} {bird[5]}" for bird in BIRDS],
        "classes.txt": [f"{number} {name}" for number, name in SPECIES.items()],
    }
    for name, content in lines.items():
        (folder / name).write_text("\n".join(content) + "\n")
    return folder


@pytest.mark.parametrize("place", [".", ".."])
def test_splits_labels_and_names(cub: Path, place: str) -> None:
    train, test = (CUB200(cub / place, train) for train in (True, False))
    assert train.classes == ("Black_footed_Albatross", "Laysan_Albatross", "Red_winged_Blackbird")
    assert train.class_to_idx == {"Black_footed_Albatross": 0, "Laysan_Albatross": 1, "Red_winged_Blackbird": 2}
    assert (train.targets.tolist(), test.targets.tolist()) == ([0, 1], [0, 2])
    assert ([train[index][1] for index in range(2)], len(train), len(test)) == ([0, 1], 2, 2)
    with Image.open(cub / "images" / path_of(3, 2)) as expected:
        np.testing.assert_array_equal(np.asarray(train[1][0]), np.asarray(expected))
    assert test[1][0].mode == "L", "some images of CUB are grey"


def test_boxes_are_half_open_and_rounded_outwards(cub: Path) -> None:
    train, test = (CUB200(cub, train) for train in (True, False))
    assert train.boxes(0) == [(0, 0, 20, 25)], "x y width height: the whole image"
    assert train.boxes(1) == [(6, 4, 16, 25)], "columns 4.5 to 24.75, rows 6 to 16"
    assert test.boxes(0) == [(2, 3, 3, 4)], "one pixel"
    assert test.boxes(1) == [(2, 1, 7, 5)], "columns 1.1 to 4.4, rows 2.2 to 6.6"
    assert [train.image_size(index) for index in range(2)] == [(20, 25), (30, 40)]


@pytest.mark.parametrize("names", [["images.txt"], ["bounding_boxes.txt", "classes.txt"]])
def test_missing_files_are_named_together(cub: Path, names: list[str]) -> None:
    for name in names:
        (cub / name).unlink()
    with pytest.raises(UserError, match=rf"no CUB-200-2011 in {cub}: ") as caught:
        CUB200(cub, train=True)
    assert all(name in str(caught.value) for name in names)
    assert "train_test_split.txt" not in str(caught.value)
    assert "CUB_200_2011.tgz" in str(caught.value)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images.txt, classes.txt, .* missing. Set data.root to the folder"):
        CUB200(tmp_path, train=True)


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("images.txt", "one 001.X/a.jpg", "<image id> <path>"),
        ("classes.txt", "", "<class id> <name>"),
        ("image_class_labels.txt", "1 one", "<image id> <class id>"),
        ("train_test_split.txt", "1 2", "<image id> <1 for training, 0 for test>"),
        ("bounding_boxes.txt", "1 2 3 4", "<image id> <x> <y> <width> <height>"),
        ("bounding_boxes.txt", "1 2 3 0 4", "<image id> <x> <y> <width> <height>"),
        ("bounding_boxes.txt", "1 2 3 4 inf", "<image id> <x> <y> <width> <height>"),
        ("bounding_boxes.txt", "1 2 3 nan 4", "<image id> <x> <y> <width> <height>"),
        ("bounding_boxes.txt", "1 nan 3 4 4", "<image id> <x> <y> <width> <height>"),
    ],
)
def test_odd_lines_are_counted_and_the_first_is_shown(cub: Path, name: str, line: str, expected: str) -> None:
    text = (cub / name).read_text()
    (cub / name).write_text(f"{line}\n{line}\n{text}")
    with pytest.raises(UserError) as caught:
        CUB200(cub, train=True)
    assert str(caught.value) == f"{cub / name}: 2 lines are not {expected}, such as line 1: {line!r}"


@pytest.mark.parametrize("name", ["image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"])
def test_images_without_a_line_are_counted_and_named(cub: Path, name: str) -> None:
    kept = [line for line in (cub / name).read_text().splitlines() if line[0] in "34"]
    (cub / name).write_text("\n".join(kept))
    with pytest.raises(UserError, match=rf"{name}: 2 of 4 images \(1 \(001.*Bird_0001_1.jpg\), 2 .*\) have no line"):
        CUB200(cub, train=True)


def test_a_class_without_a_name(cub: Path) -> None:
    (cub / "classes.txt").write_text("1 001.A\n2 002.B\n")
    with pytest.raises(
        UserError, match=r"1 of 4 images \(010.*Bird_0004_1.jpg\) are of classes that classes.txt lacks"
    ):
        CUB200(cub, train=True)


def test_missing_images_are_counted_and_named(cub: Path) -> None:
    for image, species in ((1, 1), (3, 2)):
        (cub / "images" / path_of(image, species)).unlink()
    with pytest.raises(UserError, match=r"2 of 2 images \(images/001.*, images/002.*\) are missing; unpack"):
        CUB200(cub, train=True)
    assert len(CUB200(cub, train=False)) == 2


def test_a_file_that_is_no_text(cub: Path) -> None:
    (cub / "images.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UserError, match=r"cannot read .*images.txt: "):
        CUB200(cub, train=True)


def test_a_broken_image_is_named(cub: Path) -> None:
    dataset = CUB200(cub, train=True)
    dataset.paths[0].write_bytes(b"no image")
    for read in (dataset.__getitem__, dataset.image_size):
        with pytest.raises(UserError, match=r"cannot read image .*Bird_0001_1.jpg"):
            read(0)
