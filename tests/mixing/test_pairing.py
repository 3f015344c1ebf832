import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from cutmix_zoo.mixing.pairing import check_pairing, meet, numpy_generator

SETTINGS = [
    ("batch", "derangement"),
    ("batch", "permutation"),
    ("batch", "reverse"),
    ("pair", "derangement"),
    ("pair", "reverse"),
    ("sample", "derangement"),
    ("sample", "permutation"),
    ("sample", "reverse"),
]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 9])
@pytest.mark.parametrize(("per", "pairing"), SETTINGS)
def test_partners_and_groups_fit_together(per: str, pairing: str, batch_size: int) -> None:
    check_pairing(per, pairing)
    partner, group, groups = meet(batch_size, per, pairing, np.random.default_rng(0))
    index = np.arange(batch_size)
    assert partner.dtype == group.dtype == np.int64
    assert sorted(partner) == list(index)
    assert set(group) == set(range(groups))
    alone = int((partner == index).sum())
    if per == "pair" or pairing == "reverse":
        assert (partner[partner] == index).all()
        assert alone == batch_size % 2
    elif pairing == "derangement":
        assert alone == (batch_size == 1)
    if per == "pair":
        assert (group == group[partner]).all()
        assert groups == math.ceil(batch_size / 2)
    else:
        assert groups == (1 if per == "batch" else batch_size)
        assert (group == (0 if per == "batch" else index)).all()


def test_reverse_is_timms() -> None:
    assert meet(5, "sample", "reverse", np.random.default_rng(0)).partner.tolist() == [4, 3, 2, 1, 0]
    assert meet(5, "pair", "reverse", np.random.default_rng(0)).group.tolist() == [0, 1, 2, 1, 0]


def _frequencies(per: str, pairing: str, batch_size: int, draws: int = 20_000) -> dict[tuple[int, ...], float]:
    rng = np.random.default_rng(0)
    counts = Counter(tuple(meet(batch_size, per, pairing, rng).partner.tolist()) for _ in range(draws))
    return {partner: count / draws for partner, count in counts.items()}


def _is_one_cycle(partner: tuple[int, ...]) -> bool:
    seen, at = {0}, partner[0]
    while at not in seen:
        seen.add(at)
        at = partner[at]
    return len(seen) == len(partner)


@pytest.mark.parametrize(
    ("per", "pairing", "law"),
    [
        ("batch", "permutation", lambda partner: True),
        ("batch", "derangement", _is_one_cycle),
        ("pair", "derangement", lambda partner: all(partner[partner[i]] == i != partner[i] for i in range(4))),
    ],
)
def test_every_allowed_pairing_is_equally_likely(per: str, pairing: str, law: object) -> None:
    allowed = [partner for partner in permutations(range(4)) if law(partner)]
    frequencies = _frequencies(per, pairing, batch_size=4)
    assert set(frequencies) == set(allowed)
    # four standard deviations of 20,000 draws are below 0.014
    assert all(abs(frequency - 1 / len(allowed)) < 0.015 for frequency in frequencies.values())


def test_the_one_left_over_is_anyone() -> None:
    frequencies = _frequencies("pair", "derangement", batch_size=3)
    assert set(frequencies) == {(0, 2, 1), (2, 1, 0), (1, 0, 2)}
    assert all(abs(frequency - 1 / 3) < 0.015 for frequency in frequencies.values())


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="per must be one of batch, pair, sample, got 'elem'"):
        check_pairing("elem", "reverse")
    with pytest.raises(ValueError, match="pairing must be one of derangement, permutation, reverse, got 'roll'"):
        check_pairing("batch", "roll")
    with pytest.raises(ValueError, match=r"mutual pairs.*use pairing='derangement' or pairing='reverse'"):
        check_pairing("pair", "permutation")


def test_numpy_generator_is_a_function_of_the_torch_generator() -> None:
    first, again, following = (torch.Generator().manual_seed(seed) for seed in (1, 1, 1))
    assert numpy_generator(first).random() == numpy_generator(again).random()
    numpy_generator(following).random(1000)
    assert torch.equal(following.get_state(), first.get_state())
    assert numpy_generator(first).random() != numpy_generator(torch.Generator().manual_seed(1)).random()


@pytest.mark.parametrize("generator", [None, np.random.default_rng(0), 7])
def test_a_generator_that_is_none_of_torchs_is_refused(generator: object) -> None:
    before = torch.get_rng_state()
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator on the CPU, got"):
        numpy_generator(generator)
    assert torch.equal(before, torch.get_rng_state())
