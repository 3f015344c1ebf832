import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from cutmix_zoo.data.holdout import held_out, in_fold

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


def test_which_images_depends_on_the_order_of_the_labels_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (that it is not touched)
    assert held_out(LABELS, 0.5)[:6].tolist() == held_out(LABELS.astype(np.uint8), 0.5)[:6].tolist()
    assert not np.array_equal(in_fold(LABELS, 0, 2), np.arange(len(LABELS)) % 2 == 0), "they are shuffled"
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
