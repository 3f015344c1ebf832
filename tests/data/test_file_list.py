import os
import pickle
from pathlib import Path

import pytest

from cutmix_zoo.data.datasets import known_labels, open_split
from cutmix_zoo.data.file_list import FileList
from cutmix_zoo.data.settings import DataSettings

FILES = [("a/1.png", 3), ("", 0), ("b/été 猫.jpg", 7), (os.fsdecode(b"c/\xff.png"), 2**40), ("a/1.png", -1)]


def test_it_is_the_list_it_was_made_of() -> None:
    files = FileList(FILES)
    assert list(files) == FILES
    assert list(pickle.loads(pickle.dumps(files))) == FILES
    assert [type(value) for value in files[0]] == [str, int]
    assert (files[-1], len(files)) == (FILES[-1], 5)
    for outside in (5, -6):
        with pytest.raises(IndexError):
            files[outside]
    assert (len(FileList([])), list(FileList([]))) == (0, [])


def test_a_folder_of_classes_is_read_through_it(image_folder: Path) -> None:
    place = {"root": str(image_folder), "input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.2,) * 3}
    dataset = open_split(DataSettings("folder", **place), "train")
    assert isinstance(dataset.reader.samples, FileList)
    found = sorted((str(file), file.parent.name) for file in (image_folder / "train").rglob("*.png"))
    names = sorted({label for _, label in found})
    assert sorted(dataset.reader.samples) == [(file, names.index(label)) for file, label in found]
    assert known_labels(dataset).tolist() == [label for _, label in dataset.reader.samples]
    assert dataset.filename(0) == os.path.relpath(dataset.reader.samples[0][0], image_folder / "train")
    with dataset.reader[0][0] as stream:
        assert stream.name == dataset.reader.samples[0][0]
