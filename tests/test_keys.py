import random
from typing import Any

import numpy as np
import pytest
import torch

from cutmix_zoo.keys import SampleKey, Stream, first_draws, generator_for, isolated_rng, seed_for, seeds_for


def test_splitmix_matches_the_published_sequence() -> None:
    """First outputs of SplitMix64 seeded with 1234567, as published with the algorithm's reference code."""
    from cutmix_zoo.keys import _splitmix64

    golden = 0x9E3779B97F4A7C15
    outputs = [_splitmix64((1234567 + i * golden) & ((1 << 64) - 1)) for i in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_seeds_differ_in_every_part_and_in_order() -> None:
    names = [
        (seed, stream, epoch, index)
        for seed in (0, 1)
        for stream in Stream
        for epoch in range(5)
        for index in range(50)
    ]
    seeds = {seed_for(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(1, 2) != seed_for(2, 1)
    assert seed_for(0) != seed_for(0, 0)
    assert seed_for(-1) == seed_for(2**64 - 1)


def test_streams_keep_their_numbers() -> None:
    """Another number is another run: each of them is part of every seed."""
    numbers = {stream.name: stream.value for stream in Stream}
    names = ("INIT", "SHUFFLE", "AUGMENT", "MIX", "MODEL", "SUBSET", "HOLDOUT", "EVALUATE")
    assert numbers == {name: number for number, name in enumerate(names, start=1)}


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32, np.uint8])
def test_integers_of_numpy_are_integers(dtype: type[np.integer]) -> None:
    assert seed_for(dtype(7), Stream.MIX, dtype(2), dtype(200)) == seed_for(7, Stream.MIX, 2, 200)
    assert seeds_for(dtype(7), indices=np.arange(3)).tolist() == seeds_for(7, indices=np.arange(3)).tolist()
    assert generator_for(dtype(7)).initial_seed() == seed_for(7)


def test_negative_integers_of_numpy_are_taken_modulo() -> None:
    assert seed_for(np.int64(-1)) == seed_for(-1)
    assert seeds_for(np.int64(-1), indices=np.arange(3)).tolist() == seeds_for(-1, indices=np.arange(3)).tolist()


@pytest.mark.parametrize("part", [1.0, np.float64(1.0), "1"])
def test_what_is_no_integer_names_no_draw(part: Any) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        seed_for(part)


def test_seed_bits_are_balanced() -> None:
    seeds = np.array([seed_for(3, Stream.AUGMENT, 0, index) for index in range(4000)], dtype=np.uint64)
    ones = [(seeds >> np.uint64(bit)) & np.uint64(1) for bit in range(63)]
    # 4000 fair coins: standard deviation 0.0079, so 0.04 is five of them
    assert all(abs(float(column.mean()) - 0.5) < 0.04 for column in ones)


def test_generators_repeat_and_are_independent() -> None:
    first, again, other = (torch.rand(1000, generator=generator_for(7, Stream.MIX, 0, step)) for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.15


def test_seeds_of_many_are_those_of_each() -> None:
    indices = np.array([0, 1, 2, 3, 10**6, 2**62])
    for parts in ((), (5,), (-1, Stream.AUGMENT, 7)):
        assert seeds_for(*parts, indices=indices).tolist() == [seed_for(*parts, index) for index in indices.tolist()]


def test_first_draws_are_those_of_torch() -> None:
    seeds = np.array([0, 1, 2**32 - 1, 2**32, *(seed_for(index) for index in range(200))], np.uint64)
    draws = first_draws(seeds, 227)
    assert (draws.shape, draws.dtype) == ((227, 204), np.uint32)
    for seed, column in zip(seeds.tolist(), draws.T.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        for number, draw in enumerate(column):
            if number % 3:
                assert torch.randint(1000 + number, (1,), generator=generator).item() == draw % (1000 + number)
            else:
                assert torch.rand(1, generator=generator).item() == (draw & 0xFFFFFF) / 2**24


@pytest.mark.parametrize("fails", [False, True])
def test_isolated_rng_seeds_inside_and_restores_after(fails: bool) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    expected = draw()
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    inside = []
    for _ in range(2):
        try:
            with isolated_rng(5, Stream.AUGMENT, 0, 3):
                inside.append(draw())
                if fails:
                    raise KeyError("from inside")
        except KeyError:
            assert fails
    assert inside[0] == inside[1]
    assert draw() == expected


def test_sample_key_is_a_plain_tuple() -> None:
    assert SampleKey(epoch=1, step=2, index=3) == (1, 2, 3)


def test_numpy_and_torch_do_not_draw_the_same_numbers_inside() -> None:
    equal = 0
    for index in range(1000):
        with isolated_rng(0, Stream.AUGMENT, 0, index):
            equal += int(np.random.randint(256)) == int(torch.randint(256, ()))
    assert equal < 20  # 3.9 are expected of independent draws


def test_without_restoring_the_draws_are_the_same() -> None:
    def draws(restore: bool) -> tuple[float, float, float]:
        with isolated_rng(7, Stream.AUGMENT, 0, 3, restore=restore):
            return random.random(), float(np.random.rand()), float(torch.rand(()))

    expected, before = draws(restore=True), torch.get_rng_state()
    assert draws(restore=False) == expected
    assert not torch.equal(torch.get_rng_state(), before)
