from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from cutmix_zoo.data.sampler import KeyedBatchSampler, balanced_subset, eval_batches, eval_indices, fixed_subset
from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import SampleKey, Stream, generator_for


def batches(sampler: KeyedBatchSampler, epoch: int, step: int = 0) -> list[list[SampleKey]]:
    sampler.set_position(epoch, step)
    return list(sampler)


def test_an_epoch_is_a_permutation_cut_into_batches() -> None:
    sampler = KeyedBatchSampler(23, 5, seed=3)
    for epoch in (0, 1, 7):
        keys = batches(sampler, epoch)
        assert len(keys) == len(sampler) == 4
        indices = [key.index for batch in keys for key in batch]
        assert len(set(indices)) == 20
        assert set(indices) <= set(range(23))
        assert indices == torch.randperm(23, generator=generator_for(3, Stream.SHUFFLE, epoch))[:20].tolist()
        for step, batch in enumerate(keys):
            assert [(key.epoch, key.step) for key in batch] == [(epoch, step)] * 5
            assert all(type(key) is SampleKey and type(key.index) is int for key in batch)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    sampler = KeyedBatchSampler(50, 10, seed=3)
    first = batches(sampler, 4)
    batches(sampler, 9)
    torch.manual_seed(11)
    assert batches(sampler, 4) == first == batches(KeyedBatchSampler(50, 10, seed=3), 4)
    for other in (batches(sampler, 5), batches(KeyedBatchSampler(50, 10, seed=4), 4)):
        assert [key.index for batch in other for key in batch] != [key.index for batch in first for key in batch]


def test_every_place_gets_every_sample_alike() -> None:
    """A chi-squared test over 3,000 epochs of 6 samples: 25 degrees of freedom, 99.9 % quantile 52.6."""
    counts = np.zeros((6, 6))
    sampler = KeyedBatchSampler(6, 6, seed=0)
    for epoch in range(3000):
        for place, key in enumerate(batches(sampler, epoch)[0]):
            counts[place, key.index] += 1
    assert ((counts - 500) ** 2 / 500).sum() < 52.6


def test_it_starts_at_any_step() -> None:
    sampler = KeyedBatchSampler(50, 10, seed=3)
    whole = batches(sampler, 2)
    for step in range(6):
        assert batches(sampler, 2, step) == whole[step:]
    assert len(sampler) == 5


def test_a_new_sampler_starts_at_the_beginning() -> None:
    sampler = KeyedBatchSampler(8, 4, seed=3)
    assert list(sampler) == batches(sampler, 0)


def test_classes_can_be_balanced() -> None:
    labels = torch.tensor([7] * 40 + [2] * 5 + [3] * 3)[torch.randperm(48, generator=torch.Generator().manual_seed(0))]
    sampler = KeyedBatchSampler(48, 12, seed=3, labels=labels)
    assert len(sampler) == 4
    seen = set()
    for epoch in range(40):
        indices = torch.tensor([key.index for batch in batches(sampler, epoch) for key in batch])
        assert labels[indices % 48].bincount(minlength=8).tolist() == [0, 0, 16, 16, 0, 0, 0, 16]
        assert len(set(indices.tolist())) == 48, "each copy has a key of its own"
        for label in (2, 3):
            copies = (indices % 48)[labels[indices % 48] == label].bincount(minlength=48)[labels == label]
            assert copies.max() - copies.min() <= 1, "all of a class before any comes again"
        seen |= set((indices % 48).tolist())
    assert len(seen) == 48, "of a large class others come each epoch"
    assert batches(sampler, 3) == batches(KeyedBatchSampler(48, 12, seed=3, labels=labels), 3)


def test_classes_that_do_not_divide_the_epoch() -> None:
    labels = torch.tensor([0] * 7 + [1] + [2] * 2)
    sampler = KeyedBatchSampler(10, 5, seed=0, labels=labels)
    more = set()
    for epoch in range(20):
        indices = torch.tensor([key.index % 10 for batch in batches(sampler, epoch) for key in batch])
        counts = labels[indices].bincount().tolist()
        assert sorted(counts) == [3, 3, 4]
        more.add(counts.index(4))
    assert more == {0, 1, 2}, "each class has its turn"


@pytest.mark.parametrize(("counts", "batch_size"), [((600, 300, 100), 128), ((7, 1, 2), 4), ((1,) * 10, 8), ((9,), 4)])
def test_classes_are_balanced_over_the_batches_of_an_epoch_that_they_do_not_fill(
    counts: tuple[int, ...], batch_size: int
) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    size = sum(counts)
    sampler = KeyedBatchSampler(size, batch_size, seed=0, labels=labels)
    for epoch in range(4):
        indices = torch.cat(list(sampler.batches(epoch)))
        assert len(indices) == size // batch_size * batch_size == len(indices.unique())
        found = labels[indices % size].bincount(minlength=len(counts))
        assert found.max() - found.min() <= 1


def test_many_small_classes_come_alike() -> None:
    labels = torch.arange(100) % 41
    sampler = KeyedBatchSampler(100, 10, seed=0, labels=labels)
    counts = labels[[key.index % 100 for batch in batches(sampler, 0) for key in batch]].bincount(minlength=41)
    assert (counts.min(), counts.max(), counts.sum()) == (2, 3, 100)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_divide_each_batch_in_order(world_size: int) -> None:
    whole = batches(KeyedBatchSampler(100, 12, seed=3), 1, 2)
    parts = [
        batches(KeyedBatchSampler(100, 12, seed=3, rank=rank, world_size=world_size), 1, 2)
        for rank in range(world_size)
    ]
    assert [[key for part in step for key in part] for step in zip(*parts, strict=True)] == whole
    assert {len(batch) for part in parts for batch in part} == {12 // world_size}


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(UserError, match=r"data.batch_size counts .* expected a multiple of 3, got 64"):
        KeyedBatchSampler(1000, 64, seed=0, world_size=3)


def test_a_dataset_smaller_than_a_batch() -> None:
    assert len(KeyedBatchSampler(64, 64, seed=0)) == 1
    with pytest.raises(UserError, match=r"63 images, less than a batch: set data.batch_size to 63 or less"):
        KeyedBatchSampler(63, 64, seed=0)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 1, 20, 21])
def test_evaluation_shares_are_exact(size: int, world_size: int) -> None:
    shares = [list(eval_indices(size, rank, world_size)) for rank in range(world_size)]
    assert sorted(index for share in shares for index in share) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 1, 20, 21])
def test_batches_are_dealt_out_whole(size: int, world_size: int) -> None:
    shares = [eval_batches(size, 4, rank, world_size) for rank in range(world_size)]
    dealt = [list(batch) for share in shares for batch in share]
    assert sorted(dealt) == [list(range(size))[start : start + 4] for start in range(0, size, 4)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_fixed_subset_is_part_of_a_larger_one() -> None:
    subsets = [fixed_subset(50, limit).tolist() for limit in (5, 20, 50, 99, None)]
    assert [len(subset) for subset in subsets] == [5, 20, 50, 50, 50]
    for smaller, larger in pairwise(subsets):
        assert set(smaller) <= set(larger)
        assert smaller == sorted(smaller)
    assert fixed_subset(50, 5).tolist() == subsets[0] != list(range(5))


def dealt_in_turn(labels: np.ndarray, limit: int) -> dict[int, int]:
    """How many of each class are taken if each gives one in turn, as long as it has any."""
    left, taken = Counter(labels.tolist()), Counter()
    while limit and left:
        for label in list(left):
            taken[label] += 1
            left -= Counter([label])
            limit -= 1
            if not limit:
                break
    return taken


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 8, 12, 20, 41, 60, 99])
def test_a_balanced_subset_has_as_many_of_each_class_as_there_are(limit: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([3, 5, 6, 9], [1, 4, 15, 40]))
    chosen = balanced_subset(labels, limit)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    # which classes have one more is random, how many have is not
    found, expected = (
        sorted(counts.values()) for counts in (Counter(labels[chosen].tolist()), dealt_in_turn(labels, limit))
    )
    assert found == expected
    assert set(chosen.tolist()) <= set(balanced_subset(labels, limit + 1).tolist())
    assert balanced_subset(labels + 7, limit).tolist() == chosen.tolist()


def test_a_balanced_subset_of_all_is_all_and_of_none_is_none() -> None:
    assert balanced_subset(np.array([2, 0, 2]), None).tolist() == [0, 1, 2]
    assert balanced_subset(np.array([], np.int64), 3).tolist() == []


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_is_one_of_the_processes(rank: int, world_size: int) -> None:
    for make in (
        lambda: KeyedBatchSampler(12, 4, seed=0, rank=rank, world_size=world_size),
        lambda: eval_indices(12, rank, world_size),
        lambda: eval_batches(12, 4, rank, world_size),
    ):
        with pytest.raises(ValueError, match=rf"^rank must be from 0 and below world_size={world_size}, got {rank}$"):
            make()
