from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cutmix_zoo.data.datasets import open_split
from cutmix_zoo.data.keyed import Prepare
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.data.transforms import eval_transform
from cutmix_zoo.errors import SampleError
from cutmix_zoo.evaluation.samples import Samples
from tests.evaluation.subjects import numbered_images

PREPARE = Prepare(lambda image: torch.from_numpy(np.asarray(image).copy())[None], 3)


def places(samples: Samples) -> list[list[int]]:
    return [batch.index.tolist() for batch in samples]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_labels_and_places_belong_together(workers: int) -> None:
    labels = [0, 1, 2, 2, 1, 0, 1]
    samples = Samples(numbered_images(labels), PREPARE, [6, 0, 3, 4, 1], batch_size=2, workers=workers)
    assert len(samples) == 5
    for _ in range(2):
        batches = list(samples)
        assert [batch.index.tolist() for batch in batches] == [[6, 0], [3, 4], [1]]
        for batch in batches:
            assert (batch.images == batch.index[:, None, None, None]).all()
            assert batch.images.dtype == torch.uint8
            assert batch.labels.tolist() == [labels[index] for index in batch.index]


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_get_whole_batches_of_those_of_one(world_size: int) -> None:
    dataset = numbered_images([0] * 23)
    alone = places(Samples(dataset, PREPARE, range(23), batch_size=4))
    shares = [
        places(Samples(dataset, PREPARE, range(23), batch_size=4, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert [share[number] for number in range(-(-6 // world_size)) for share in shares if number < len(share)] == alone


def test_what_cannot_be_read_is_left_out_and_named(image_folder: Path) -> None:
    damaged = image_folder / "val" / "bee" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    settings = DataSettings("folder", root=str(image_folder), input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    dataset = open_split(settings, "val")
    samples = Samples(dataset, Prepare(eval_transform(settings), 3), range(6), batch_size=2)
    for _ in range(2):
        assert places(samples) == [[0, 1], [2], [4, 5]]
        assert len(samples.unreadable) == 1
        assert "1.png" in samples.unreadable[0]
    alone = Samples(dataset, Prepare(eval_transform(settings), 3), [3], batch_size=2)
    assert places(alone) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_label_outside_the_classes_is_an_error(workers: int) -> None:
    samples = Samples(numbered_images([0, 3]), PREPARE, range(2), batch_size=1, workers=workers)
    with pytest.raises(SampleError, match=r"^label 3 is outside the 3 classes"):
        list(samples)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stream_is_dealt_out_as_any_other_dataset(webdataset_folder: Path, world_size: int) -> None:
    settings = DataSettings("wds/", root=str(webdataset_folder), input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    prepare = Prepare(eval_transform(settings), 3)
    shares = [
        list(Samples(open_split(settings, "val"), prepare, range(24), batch_size=5, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert sorted(index for share in shares for batch in share for index in batch.index.tolist()) == list(range(24))
    for batch in (batch for share in shares for batch in share):
        assert batch.index[0] % 5 == 0
        assert batch.images[:, 0, 0, 0].tolist() == batch.index.tolist()
        assert (batch.labels == batch.index % 3).all()


def test_an_image_is_given_as_it_is(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    batch = next(iter(Samples([(Image.fromarray(pixels), 2)], PREPARE, [0], batch_size=9)))
    assert batch.images.tolist() == [[pixels.tolist()]]


def test_what_cannot_be_prepared_is_left_out_and_named(image_folder: Path) -> None:
    Image.new("F", (9, 9), 0.5).save(image_folder / "val" / "bee" / "1.png", "TIFF")
    settings = DataSettings("folder", root=str(image_folder), input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    samples = Samples(open_split(settings, "val"), Prepare(eval_transform(settings), 3), range(6), batch_size=6)
    assert places(samples) == [[0, 1, 2, 4, 5]]
    (said,) = samples.unreadable
    assert said.startswith("sample 3 cannot be prepared: ")
