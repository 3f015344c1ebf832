from pathlib import Path

import pytest

from cutmix_zoo.data import imagenet_boxes
from cutmix_zoo.data.datasets import check_labels, class_names, open_split
from cutmix_zoo.data.imagenet_boxes import read_annotation, with_boxes
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.errors import UserError
from tests.conftest import random_image, write_tar
from tests.data.annotation_files import annotation, stem

FISH, DOG = "n01440764", "n02085620"
# WordNet id, number, objects: name, xmin, ymin, xmax, ymax
IMAGES = {
    (FISH, 1): [(FISH, 2, 3, 20, 12)],
    (FISH, 293): [(FISH, 0, 0, 10, 8), (DOG, 1, 1, 5, 5), (FISH, 15, 2, 29, 23)],
    (DOG, 7): [(DOG, 4, 5, 6, 9)],
}


@pytest.fixture
def settings(tmp_path: Path) -> DataSettings:
    for wnid, number in IMAGES:
        file = tmp_path / "imagenet" / "val" / wnid / f"{stem(number)}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        random_image(number, 24, 30).save(file)
    return DataSettings("imagenet", root=str(tmp_path / "imagenet"))


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Some in folders of their classes, as some people sort them."""
    folder = tmp_path / "annotations"
    for (wnid, number), objects in IMAGES.items():
        file = folder / "CLS-LOC" / "val" / (wnid if number == 7 else "") / f"{stem(number)}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(annotation(number, objects))
    return folder


def test_boxes_of_the_own_class_with_their_last_pixels_in_half_open_pixels(
    settings: DataSettings, annotations: Path
) -> None:
    whole = open_split(settings, "val")
    assert not hasattr(whole, "boxes")
    dataset = with_boxes(whole, annotations)
    assert [dataset.boxes(index) for index in range(3)] == [
        [(3, 2, 13, 21)],
        [(0, 0, 9, 11), (2, 15, 24, 30)],
        [(5, 4, 10, 7)],
    ]
    assert [dataset.corners(index) for index in range(3)] == [
        [(3, 2, 12, 20)],
        [(0, 0, 8, 10), (2, 15, 23, 29)],
        [(5, 4, 9, 6)],
    ]
    assert dataset.image_size(0) == (24, 30)
    assert [label for _, label in dataset] == [label for _, label in whole] == [0, 0, 1]
    assert list(dataset.targets) == [0, 0, 1]
    assert dataset[1][0].tobytes() == whole[1][0].tobytes()
    assert class_names(dataset, settings) == (FISH, DOG)
    check_labels(dataset, 2)


@pytest.mark.parametrize("part", [{"subset": 2}, {"only_classes": (1,)}, {"val_fraction": 0.5}])
def test_a_part_of_the_images_has_its_own_boxes(settings: DataSettings, annotations: Path, part: dict) -> None:
    held = {"train_split": "val", "val_split": "none"} if "val_fraction" in part else {}
    opened = open_split(DataSettings("imagenet", root=settings.root, **part, **held), "val")
    dataset = with_boxes(opened, annotations)
    names = [opened.dataset.reader.filename(index) for index in opened.indices]
    by_name = {f"{wnid}/{stem(number)}.JPEG": number for wnid, number in IMAGES}
    expected = {1: (3, 2, 13, 21), 293: (0, 0, 9, 11), 7: (5, 4, 10, 7)}
    assert 0 < len(dataset) == len(names) < 3
    assert [dataset.boxes(index)[0] for index in range(len(dataset))] == [expected[by_name[name]] for name in names]


def test_where_the_class_is_not_known_all_objects_count(tmp_path: Path, annotations: Path) -> None:
    file = tmp_path / "pets" / "val" / "goldfish" / f"{stem(293)}.png"
    file.parent.mkdir(parents=True)
    random_image(0, 24, 30).save(file)
    spec = {"input_size": (3, 8, 8), "mean": (0.5,), "std": (0.5,)}
    opened = open_split(DataSettings("folder", root=str(tmp_path / "pets"), **spec), "val")
    assert len(with_boxes(opened, annotations).boxes(0)) == 3


def test_images_in_a_tar_file(tmp_path: Path, settings: DataSettings, annotations: Path) -> None:
    root = Path(str(settings.root))
    files = {str(path.relative_to(root / "val")): path.read_bytes() for path in root.rglob("*.JPEG")}
    write_tar(tmp_path / "val.tar", files)
    opened = open_split(DataSettings("imagenet", root=str(tmp_path), val_split="val.tar"), "val")
    assert with_boxes(opened, annotations).boxes(0) == [(3, 2, 13, 21)]


def test_images_without_annotation_are_counted_and_named(settings: DataSettings, annotations: Path) -> None:
    for number in (1, 293):
        next(annotations.rglob(f"{stem(number)}.xml")).unlink()
    message = (
        rf"2 of 3 images have no annotation in .* or below, such as {stem(1)}.xml, {stem(293)}.xml; ILSVRC2012_bbox"
    )
    with pytest.raises(UserError, match=message):
        with_boxes(open_split(settings, "val"), annotations)


def test_a_folder_that_is_none(settings: DataSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is no folder: expected the one that holds ImageNet's XML"):
        with_boxes(open_split(settings, "val"), tmp_path / "nowhere")


def test_images_that_come_from_no_files(annotations: Path) -> None:
    with pytest.raises(UserError, match="only images from files can be matched with annotations"):
        with_boxes(open_split(DataSettings("fashion_mnist_mini", subset=2), "val"), annotations)


def test_no_object_of_the_images_class(settings: DataSettings, annotations: Path) -> None:
    file = next(annotations.rglob(f"{stem(7)}.xml"))
    file.write_text(annotation(7, [(FISH, 1, 2, 3, 4)]))
    with pytest.raises(UserError, match=rf"{stem(7)}.xml has no object of class {DOG}$"):
        with_boxes(open_split(settings, "val"), annotations).boxes(2)


def test_the_size_is_that_of_the_image_that_was_annotated(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text(annotation(1, [(FISH, 100, 50, 400, 300)], width=500, height=375))
    assert read_annotation(file) == ((375, 500), [(FISH, (50, 100, 300, 400))])


@pytest.mark.parametrize(
    ("numbers", "corners", "box"),
    [
        ((-2, -1, 31, 25), (0, 0, 24, 30), (0, 0, 24, 30)),
        ((1, 1, 30, 24), (1, 1, 24, 30), (1, 1, 24, 30)),
        ((0, 0, 29, 23), (0, 0, 23, 29), (0, 0, 24, 30)),
        ((29, 0, 31, 0), (0, 29, 0, 30), (0, 29, 1, 30)),
    ],
)
def test_what_lies_outside_the_image_is_cut_off(
    settings: DataSettings, annotations: Path, numbers: tuple, corners: tuple, box: tuple
) -> None:
    file = next(annotations.rglob(f"{stem(7)}.xml"))
    file.write_text(annotation(7, [(DOG, *numbers)]))
    dataset = with_boxes(open_split(settings, "val"), annotations)
    assert (dataset.corners(2), dataset.boxes(2)) == ([corners], [box])


def test_an_object_of_one_column_has_a_box(settings: DataSettings, annotations: Path) -> None:
    file = next(annotations.rglob(f"{stem(7)}.xml"))
    file.write_text(annotation(7, [(DOG, 4, 5, 4, 9)]))
    assert with_boxes(open_split(settings, "val"), annotations).boxes(2) == [(5, 4, 10, 5)]


def test_a_file_is_read_once(settings: DataSettings, annotations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(imagenet_boxes, "read_annotation", lambda file: read.append(file) or read_annotation(file))
    dataset = with_boxes(open_split(settings, "val"), annotations)
    assert read == []
    for index in (1, 0, 1):
        dataset.boxes(index)
        dataset.corners(index)
        dataset.image_size(index)
    assert [file.stem for file in read] == [stem(293), stem(1)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<annotation>", "no element found"),
        ("<annotation></annotation>", "annotation has no size/height"),
        (annotation(1, [(FISH, 5, 5, 4, 9)]), r"the box 5, 5, 4, 9 has no pixel in 30 x 24"),
        (annotation(1, [(FISH, 5, 10, 6, 9)]), r"has no pixel in 30 x 24"),
        (annotation(1, [(FISH, 30, 5, 50, 9)]), r"has no pixel in 30 x 24"),
        (annotation(1, [(FISH, 0, -9, 5, -1)]), r"has no pixel in 30 x 24"),
        (annotation(1, [(FISH, "x", 5, 50, 9)]), "could not convert string to float"),
        (annotation(1, [(FISH, 1, 2, 3, 4)]).replace("name>", "nam>"), "object has no name"),
        (annotation(1, [(FISH, 1, 2, 3, 4)]).replace("ymax>", "yma>"), "object has no bndbox/ymax"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_named(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "a.xml"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"{file} is not an annotation of an image: .*{why}"):
        read_annotation(file)
