import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold
from torch.utils.data import DataLoader

from cutmix_zoo.data.holdout import OnlyClasses, Part, held_out, in_fold
from cutmix_zoo.keys import Stream, generator_for
from tests.conftest import global_states

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 5], [40, 25, 7]))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_share_of_every_class_is_held_out(fraction: float) -> None:
    chosen = held_out(LABELS, fraction)
    assert {label: int(chosen[label == LABELS].sum()) for label in (0, 1, 5)} == {
        label: round(fraction * count) for label, count in ((0, 40), (1, 25), (5, 7))
    }
    assert np.array_equal(chosen, held_out(LABELS, fraction))


def test_a_larger_share_holds_out_the_same_and_more() -> None:
    assert not (held_out(LABELS, 0.1) & ~held_out(LABELS, 0.3)).any()


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_part_the_samples_as_evenly_as_those_of_scikit_learn(folds: int) -> None:
    chosen = np.stack([in_fold(LABELS, fold, folds) for fold in range(folds)])
    assert (chosen.sum(axis=0) == 1).all()
    theirs = [test for _, test in StratifiedKFold(folds).split(LABELS, LABELS)]
    assert sorted(chosen.sum(axis=1)) == sorted(map(len, theirs))
    for label in (0, 1, 5):
        counts = (chosen & (label == LABELS)).sum(axis=1)
        assert counts.max() - counts.min() <= 1


def looked_for_one_by_one(labels: np.ndarray) -> list[list[int]]:
    """The places of each class in turn, shuffled as they are said to be: slow."""
    shuffled = []
    for label in sorted(set(labels.tolist())):
        members = [place for place, each in enumerate(labels.tolist()) if each == label]
        order = torch.randperm(len(members), generator=generator_for(Stream.HOLDOUT, label))
        shuffled.append([members[place] for place in order.tolist()])
    return shuffled


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
@pytest.mark.parametrize("classes", [1, 7, 200])
def test_classes_are_found_as_one_by_one(classes: int, dtype: type) -> None:
    labels = np.random.default_rng(classes).integers(0, classes, 500).astype(dtype)
    expected = looked_for_one_by_one(labels)
    held = [place for members in expected for place in members[: round(0.3 * len(members))]]
    assert held_out(labels, 0.3).nonzero()[0].tolist() == sorted(held)
    dealt = [place for members in expected for place in members]
    assert [in_fold(labels, fold, 3).nonzero()[0].tolist() for fold in range(3)] == [
        sorted(dealt[fold::3]) for fold in range(3)
    ]


def test_of_no_samples_none_is_held_out() -> None:
    assert held_out(np.array([], np.int64), 0.5).tolist() == []


def test_which_images_depends_on_the_labels_and_on_nothing_that_is_drawn() -> None:
    before = global_states()
    chosen = held_out(LABELS, 0.5)
    assert np.array_equal(chosen, held_out(LABELS.astype(np.uint8), 0.5)), "whatever their type"
    assert not np.array_equal(chosen, held_out(LABELS[::-1], 0.5)), "they are in another order"
    assert not np.array_equal(in_fold(LABELS, 0, 2), np.arange(len(LABELS)) % 2 == 0), "they are shuffled"
    assert global_states() == before
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(chosen, held_out(LABELS, 0.5))


class Boxed:
    """Ten samples, the box and the size of each of which tell its place."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[str, int]:
        return f"image {index}", index % 4

    def boxes(self, index: int) -> list[tuple[int, int, int, int]]:
        return [(index, 0, index + 1, 1)]

    def corners(self, index: int) -> list[tuple[int, int, int, int]]:
        return [(index, 0, index, 0)]

    def image_size(self, index: int) -> tuple[int, int]:
        return 100 + index, 50


def test_a_part_has_the_boxes_of_its_samples() -> None:
    part = Part(Part(Boxed(), [8, 3, 5], None, None), [2, 0], None, None)
    assert [part[index][0] for index in range(2)] == ["image 5", "image 8"]
    assert [part.boxes(index) for index in range(2)] == [[(5, 0, 6, 1)], [(8, 0, 9, 1)]]
    assert [part.corners(index) for index in range(2)] == [[(5, 0, 5, 0)], [(8, 0, 8, 0)]]
    assert [part.image_size(index) for index in range(2)] == [(105, 50), (108, 50)]


def test_a_part_of_what_has_no_boxes_has_none() -> None:
    part = Part([("a", 0), ("b", 1)], [1], np.array([0, 1]), None)
    for name in ("boxes", "corners", "image_size", "reader", "no_such_thing"):
        assert not hasattr(part, name)
        assert not hasattr(Part(part, [0], None, None), name)
    with pytest.raises(AttributeError, match="'Part' object has no attribute 'no_such_thing'"):
        _ = part.no_such_thing


@pytest.mark.parametrize("duplicate", [copy.copy, lambda part: pickle.loads(pickle.dumps(part))])
def test_a_part_can_be_copied_and_sent_to_a_worker(duplicate: Any) -> None:
    part = duplicate(Part(Boxed(), [4, 6], np.arange(10), {"a": 0}))
    assert (part.boxes(1), len(part), part.targets.tolist()) == ([(6, 0, 7, 1)], 2, [4, 6])


CLASSES = {"ant": 0, "bee": 1, "cat": 2, "dog": 3}


def test_only_some_classes_numbered_in_the_order_given() -> None:
    part = OnlyClasses(Boxed(), (3, 1), np.arange(10) % 4, CLASSES)
    assert list(part) == [("image 1", 1), ("image 3", 0), ("image 5", 1), ("image 7", 0), ("image 9", 1)]
    assert part.targets.tolist() == [1, 0, 1, 0, 1]
    assert part.class_to_idx == {"dog": 0, "bee": 1}
    assert part.boxes(2) == [(5, 0, 6, 1)]
    assert OnlyClasses(Boxed(), (3, 1), np.arange(10) % 4, None).class_to_idx is None


def test_a_loader_that_asks_for_many_samples_at_once_gets_the_new_labels() -> None:
    part = OnlyClasses(Part(Boxed(), range(10), None, None), (2, 0), np.arange(10) % 4, CLASSES)
    (labels,) = DataLoader(part, batch_size=10, collate_fn=lambda samples: [label for _, label in samples])
    assert labels == part.targets.tolist() == [1, 0, 1, 0, 1]
    inner = Part(part, [3, 0], part.targets, part.class_to_idx)
    (labels,) = DataLoader(inner, batch_size=10, collate_fn=lambda samples: [label for _, label in samples])
    assert labels == inner.targets.tolist() == [0, 1]
