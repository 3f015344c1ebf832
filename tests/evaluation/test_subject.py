from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cutmix_zoo.evaluation.subject
from cutmix_zoo.data.datasets import is_random_access, open_split
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.subject import Subject
from tests.evaluation.subjects import lookup_subject, numbered_images

LABELS = torch.arange(23) % 3
TABLE = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))


def subject(**options: Any) -> Subject:
    return lookup_subject(TABLE, numbered_images(LABELS), **{"batch_size": 5, **options})


def test_clean_rows_are_the_logits_of_each_image_and_its_label() -> None:
    clean = subject().clean
    assert clean["index"].tolist() == list(range(23))
    assert clean["labels"].tolist() == LABELS.tolist()
    np.testing.assert_array_equal(clean["logits"], TABLE.numpy())
    assert subject().size == 23


def test_rows_come_back_in_the_order_of_their_places() -> None:
    measured = subject()
    samples = measured.samples([9, 2, 17, 4, 5, 0])
    found = measured.gather(samples, ({"index": b.index, "twice": 2 * b.labels} for b in samples), "twice")
    assert found["index"].tolist() == [0, 2, 4, 5, 9, 17]
    assert (found["twice"] == 2 * LABELS.numpy()[found["index"]]).all()


def test_the_chosen_images_are_the_same_for_every_model() -> None:
    chosen = subject(limit=10).chosen()
    other = lookup_subject(-TABLE, numbered_images(LABELS), limit=10).chosen()
    assert chosen.tolist() == other.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == 10
    assert set(subject(limit=5).chosen()) < set(chosen.tolist())
    everything = [subject(limit=10).chosen(limited=False), subject().chosen(), subject(limit=99).chosen()]
    assert all(found.tolist() == list(range(23)) for found in everything)


def test_other_images_other_labels_and_another_transform() -> None:
    measured = subject()
    batch = next(iter(measured.samples(dataset=numbered_images([7, 8]), num_classes=9)))
    assert batch.labels.tolist() == [7, 8]
    batch = next(iter(measured.samples([3], transform=lambda image: torch.ones(1, 1, 1, dtype=torch.uint8))))
    assert batch.images.tolist() == [[[[1]]]]


@pytest.fixture
def damaged(tmp_path: Path) -> Subject:
    folder = tmp_path / "images" / "val"
    for number, name in enumerate("abc"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (2, 2), number).save(folder / name / f"{number}.png")
    (folder / "b" / "1.png").write_bytes(b"no image")
    settings = DataSettings("folder", root=str(tmp_path / "images"), input_size=(1, 2, 2), mean=(0.0,), std=(1.0,))
    return lookup_subject(TABLE, open_split(settings, "val"))


def test_images_that_cannot_be_read_stop_the_measurement_by_name(damaged: Subject) -> None:
    with pytest.raises(UserError, match=r"1 of 3 images cannot be read: .*1\.png.*--skip-unreadable"):
        _ = damaged.clean


def test_by_a_flag_they_are_left_out_of_everything_and_counted(damaged: Subject) -> None:
    skipping = replace(damaged, skip_unreadable=True)
    assert skipping.clean["index"].tolist() == [0, 2]
    assert len(skipping.unreadable) == 1
    assert "1.png" in skipping.unreadable[0]
    assert skipping.chosen().tolist() == [0, 2]
    assert subject().unreadable == ()


def test_a_set_of_which_nothing_can_be_read_is_an_error(damaged: Subject) -> None:
    skipping = replace(damaged, skip_unreadable=True)
    samples = skipping.samples([1])
    with pytest.raises(UserError, match="1 of 1 images cannot be read"):
        skipping.gather(samples, ({"index": batch.index} for batch in samples), "nothing")


def test_a_dataset_that_does_not_hold_what_it_says_is_an_error() -> None:
    measured = subject()
    samples = measured.samples([3, 1, 3])
    with pytest.raises(UserError, match="twice: saw 2 images of 3, 1 of them twice"):
        measured.gather(samples, ({"index": batch.index} for batch in samples), "twice")
    samples = measured.samples([3, 1])
    with pytest.raises(UserError, match="half: saw 1 images of 2, 0 of them twice"):
        measured.gather(samples, ({"index": batch.index[:1]} for batch in samples), "half")


def test_nothing_to_measure_is_an_error(damaged: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutmix_zoo.evaluation.subject, "fixed_subset", lambda size, limit: np.array([1]))
    with pytest.raises(UserError, match="none of the 1 images that are to be measured can be read"):
        replace(damaged, skip_unreadable=True, limit=1).chosen()


def test_weights_that_are_damaged_are_noticed() -> None:
    table = TABLE.clone()
    table[4, 1] = torch.nan
    with pytest.raises(UserError, match="the logits of 1 of 23 images of folder are not finite"):
        _ = lookup_subject(table, numbered_images(LABELS)).clean


def test_a_subject_can_be_measured_on_other_data() -> None:
    settings = DataSettings("folder", input_size=(1, 2, 2), mean=(0.0,), std=(1 / 255,), workers=0)
    other = subject(limit=4).with_data(numbered_images([2, 1]), settings)
    assert (other.size, other.limit, other.batch_size) == (2, 4, 5)
    assert other.clean["labels"].tolist() == [2, 1]
    assert other.settings is settings


def test_streams_have_no_random_access(webdataset_folder: Path) -> None:
    settings = DataSettings("wds/", root=str(webdataset_folder), input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert not is_random_access(open_split(settings, "val"))
    assert is_random_access(numbered_images([0]))
