"""Laws that every registered method keeps, in every setting."""

import dataclasses
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from cutmix_zoo.mixing import (
    CANONICAL,
    METHODS,
    RICAP,
    BoxPlan,
    Chain,
    CutMix,
    Cutout,
    FMix,
    GridMix,
    IdentityPlan,
    MixMethod,
    MixPlan,
    Mixup,
    OneOf,
    ResizeMix,
    SaliencyMix,
    Scheduled,
    SmoothMix,
    concatenate,
)
from cutmix_zoo.mixing.method import PairMethod
from tests.conftest import global_states
from tests.mixing.helpers import by_tensor_operations, counted_shares, draw, generator, stated_shares, written

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
SETTINGS: list[MixMethod] = [
    *CANONICAL.values(),
    CutMix(),
    CutMix(prob=0.5, per="sample"),
    CutMix(per="pair", box="inside"),
    CutMix(alpha=0.2, per="sample", pairing="permutation"),
    CutMix(per="pair", pairing="reverse", correct_lam=False),
    CutMix(per="sample", box="gaussian", label="complete"),
    CutMix(per="sample", fixed_lam=0.75, label="one_hot"),
    CutMix(per="sample", minmax=(0.2, 0.8)),
    Mixup(),
    Mixup(0.3, per="pair", prob=0.5),
    Cutout(size=5, fill=(1.0, 2.0, 3.0), per="batch"),
    ResizeMix(law="area"),
    FMix(prob=0.5, per="pair"),
    GridMix(cells=3),
    SmoothMix(per="pair"),
    SaliencyMix(),
    OneOf([Mixup(0.2, pairing="reverse"), CutMix(per="sample", pairing="reverse")], [1, 2], per="pair"),
    Chain([CutMix(per="sample"), CutMix(per="sample")]),
    Scheduled(Chain([Cutout(3, fill=(0.0,)), CutMix()]), start=0.5),
]
BATCHES = [(8, 16, 16), (7, 12, 20), (2, 9, 5), (5, 3, 3), (1, 8, 8), (3, 1, 1)]

every_method = pytest.mark.parametrize("mix", SETTINGS, ids=repr)
every_batch = pytest.mark.parametrize("shape", BATCHES, ids=str)


def _images(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    batch_size, height, width = shape
    return torch.randint(256, (batch_size, 3, height, width), generator=generator(1)).to(dtype)


def test_every_method_is_known_under_one_name() -> None:
    assert {name: type(mix) for name, mix in CANONICAL.items()} == METHODS
    assert len(set(METHODS.values())) == len(METHODS)


@every_method
@every_batch
@pytest.mark.parametrize("dtype", DTYPES)
def test_images_keep_their_form_and_the_input_its_content(
    mix: MixMethod, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    images = _images(shape, dtype)
    before = images.clone()
    mixed = draw(mix, *shape).apply(images)
    assert (mixed.dtype, mixed.shape, mixed.stride()) == (images.dtype, images.shape, images.stride())
    assert torch.equal(images, before)


@every_method
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channels_last_is_kept(mix: MixMethod, dtype: torch.dtype) -> None:
    images = _images((7, 12, 20), dtype).contiguous(memory_format=torch.channels_last)
    assert draw(mix, 7, 12, 20).apply(images).is_contiguous(memory_format=torch.channels_last)


@every_method
@every_batch
def test_the_plan_is_sound(mix: MixMethod, shape: tuple[int, int, int]) -> None:
    plan = draw(mix, *shape)
    assert (plan.batch_size, plan.height, plan.width) == shape
    assert plan.sources.dtype == torch.int64
    assert plan.sources[:, 0].tolist() == list(range(shape[0]))
    for shares in (plan.pixel_shares, plan.label_shares):
        assert shares.dtype == torch.float32
        assert shares.shape == plan.sources.shape
        assert bool(((shares >= 0) & (shares <= 1)).all())
    torch.testing.assert_close(plan.label_shares.sum(1), torch.ones(shape[0]))
    assert plan.boxes.shape == (shape[0], 4)
    # what is resized is averaged over pixels, which rounds
    torch.testing.assert_close(stated_shares(plan), counted_shares(plan), atol=1e-5, rtol=0)


@every_method
@every_batch
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_sum_to_one(mix: MixMethod, shape: tuple[int, int, int], smoothing: float) -> None:
    labels = torch.randint(3, (shape[0],), generator=generator())
    targets = draw(mix, *shape).mix_targets(labels, 3, smoothing)
    assert targets.dtype == torch.float32
    assert targets.shape == (shape[0], 3)
    torch.testing.assert_close(targets.sum(1), torch.ones(shape[0]))
    assert float(targets.min()) >= smoothing / 3 - 1e-7


@every_method
def test_the_same_generator_gives_the_same_plan(mix: MixMethod) -> None:
    images = _images((8, 32, 32))
    plans = [draw(mix, 8, seed=seed, images=images) for seed in (5, 5)]
    first, again = (plan.apply(images) for plan in plans)
    assert torch.equal(first, again)
    assert torch.equal(plans[0].label_shares, plans[1].label_shares)
    others = [draw(mix, 8, seed=seed, images=images).apply(images) for seed in range(6, 12)]
    assert not all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("mix", [*SETTINGS, RICAP(prob=0.0), RICAP(per="sample"), SaliencyMix(prob=0.0)])
@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_a_draw_moves_the_generator_on_by_one(mix: MixMethod, batch_size: int) -> None:
    used, reference = generator(3), generator(3)
    context = {"progress": 0.75, "images": _images((batch_size, 8, 8)), "map_sizes": ((8, 8),) * 5}
    mix.draw(batch_size, 8, 8, generator=used, **context)
    torch.randint(2**63 - 1, (), generator=reference)
    assert torch.equal(used.get_state(), reference.get_state())


@every_method
def test_global_generators_are_not_touched(mix: MixMethod) -> None:
    before = global_states()
    plan = draw(mix, 8)
    plan.apply(_images((8, 32, 32)))
    plan.mix_targets(torch.arange(8), 8)
    assert global_states() == before


@every_method
@every_batch
def test_every_way_to_mix_bytes_is_the_same(mix: MixMethod, shape: tuple[int, int, int]) -> None:
    images = _images(shape, torch.uint8)
    plan = draw(mix, *shape, images=images)
    expected = by_tensor_operations(plan, images)
    assert torch.equal(plan.apply(images), expected)
    assert torch.equal(written(plan, images), expected)
    from_channels_last = plan.apply(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(from_channels_last, expected)


@every_method
def test_floating_point_is_mixed_alike_up_to_one_rounding(mix: MixMethod) -> None:
    images = torch.rand(7, 3, 12, 20, generator=generator(2))
    plan = draw(mix, 7, 12, 20)
    torch.testing.assert_close(written(plan, images), by_tensor_operations(plan, images), rtol=2e-6, atol=2e-5)


@every_method
def test_plans_pickle_and_concatenate(mix: MixMethod) -> None:
    images, labels = _images((7, 12, 20), torch.uint8), torch.arange(7) % 3
    plan = draw(mix, 7, 12, 20, images=images)
    copy = pickle.loads(pickle.dumps(plan))
    both = concatenate([plan, copy])
    assert torch.equal(both.apply(torch.cat([images, images])), torch.cat([plan.apply(images)] * 2))
    targets = both.mix_targets(torch.cat([labels, labels]), 3)
    assert torch.equal(targets, torch.cat([plan.mix_targets(labels, 3)] * 2))


@every_method
def test_methods_are_values(mix: MixMethod) -> None:
    assert dataclasses.is_dataclass(mix)
    for copy in (dataclasses.replace(mix), pickle.loads(pickle.dumps(mix))):
        assert copy == mix
        assert hash(copy) == hash(mix)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(mix, dataclasses.fields(mix)[0].name, None)


@every_method
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_masks_are_pasted_or_refused(mix: MixMethod, dtype: torch.dtype) -> None:
    masks = (torch.arange(7 * 12 * 20).view(7, 12, 20) % 5).to(dtype)
    before, plan = masks.clone(), draw(mix, 7, 12, 20)
    if any(f"{method.__name__}(" in repr(mix) for method in (Mixup, SmoothMix)):
        with pytest.raises(ValueError, match="blends images, so a pixel of the mask would have several classes"):
            plan.apply_masks(masks)
        return
    mixed = plan.apply_masks(masks)
    assert (mixed.dtype, mixed.shape) == (dtype, masks.shape)
    assert set(mixed.unique().tolist()) <= {0, 1, 2, 3, 4, 255}
    assert torch.equal(masks, before)


PERS = st.sampled_from(["batch", "pair", "sample"])
FRACTIONS = st.floats(0, 1)


@st.composite
def _pairs(draw: st.DrawFn, mix: PairMethod) -> MixMethod:
    """Draw what all methods that mix pairs have in common."""
    per = draw(PERS)
    pairings = ["derangement", "reverse"] + ["permutation"] * (per != "pair")
    return dataclasses.replace(mix, prob=draw(FRACTIONS), per=per, pairing=draw(st.sampled_from(pairings)))


@st.composite
def _cutmixes(draw: st.DrawFn) -> CutMix:
    mix = CutMix(
        alpha=draw(st.floats(0.01, 100)),
        box=draw(st.sampled_from(["clip", "inside", "gaussian"])),
        correct_lam=draw(st.booleans()),
        label=draw(st.sampled_from(["mixed", "one_hot", "complete"])),
        centre_std=draw(st.floats(0.001, 10)),
    )
    size = draw(st.sampled_from(["drawn", "fixed", "minmax"]))
    if size == "fixed":
        mix = dataclasses.replace(mix, fixed_lam=draw(FRACTIONS))
    if size == "minmax":
        mix = dataclasses.replace(mix, box="clip", minmax=tuple(sorted(draw(st.tuples(FRACTIONS, FRACTIONS)))))
    return draw(_pairs(mix))


CUTOUTS = st.builds(
    Cutout,
    size=st.integers(1, 30),
    fill=st.lists(st.floats(0, 255), min_size=1, max_size=1).map(tuple),
    prob=FRACTIONS,
    per=st.sampled_from(["batch", "sample"]),
)
SIMPLE = st.one_of(
    _cutmixes(),
    st.floats(0.01, 100).flatmap(lambda alpha: _pairs(Mixup(alpha))),
    CUTOUTS,
    *[_pairs(mix) for mix in CANONICAL.values() if isinstance(mix, PairMethod)],
)
COMPOSED = st.recursive(
    SIMPLE,
    lambda mixes: st.one_of(
        st.builds(Scheduled, mixes, start=FRACTIONS, end=FRACTIONS, off_from=FRACTIONS),
        st.builds(Chain, st.lists(mixes, min_size=1, max_size=3)),
        st.builds(OneOf, st.lists(mixes, min_size=1, max_size=3), per=st.sampled_from(["batch", "sample"])),
    ),
    max_leaves=4,
)


SHAPES = st.tuples(*[st.integers(1, 12)] * 3)
SEEDS = st.integers(0, 2**63 - 1)
any_60 = hypothesis_settings(derandomize=True, max_examples=60, deadline=None)


def _check(mix: MixMethod, shape: tuple[int, int, int], seed: int) -> MixPlan:
    """Draw, and check what holds whatever was drawn."""
    images = _images(shape, torch.uint8)
    plan = draw(mix, *shape, seed=seed, images=images)
    torch.testing.assert_close(plan.label_shares.sum(1), torch.ones(shape[0]))
    torch.testing.assert_close(stated_shares(plan), counted_shares(plan), atol=1e-5, rtol=0)
    mixed = plan.apply(images)
    assert torch.equal(by_tensor_operations(plan, images), mixed)
    assert torch.equal(written(plan, images), mixed)
    return plan


@given(mix=_cutmixes(), shape=SHAPES, seed=SEEDS)
@any_60
def test_any_setting_of_cutmix_on_any_batch(mix: CutMix, shape: tuple[int, int, int], seed: int) -> None:
    plan = _check(mix, shape, seed)
    assert isinstance(plan, BoxPlan | IdentityPlan)
    if mix.label == "mixed" and (mix.correct_lam or mix.minmax is not None):
        assert torch.equal(plan.label_shares, plan.pixel_shares)


@given(mix=SIMPLE, shape=SHAPES, seed=SEEDS)
@any_60
def test_any_setting_of_any_simple_method_on_any_batch(mix: MixMethod, shape: tuple[int, int, int], seed: int) -> None:
    plan = _check(mix, shape, seed)
    if shape[0] == 1 and isinstance(mix, PairMethod):
        assert isinstance(plan, IdentityPlan)


@given(mix=st.one_of(COMPOSED, st.sampled_from(list(CANONICAL.values()))), shape=SHAPES, seed=SEEDS)
@any_60
def test_any_methods_within_methods_on_any_batch(mix: MixMethod, shape: tuple[int, int, int], seed: int) -> None:
    _check(mix, shape, seed)
