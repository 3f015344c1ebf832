"""Laws that every registered method keeps, in every setting."""

import dataclasses
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from cutmix_zoo.mixing import METHODS, BoxPlan, CutMix, IdentityPlan, MixMethod, MixPlan

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
SETTINGS = {
    "cutmix": [
        CutMix(),
        CutMix(prob=0.5, per="sample"),
        CutMix(per="pair", box="inside"),
        CutMix(alpha=0.2, per="sample", pairing="permutation"),
        CutMix(per="pair", pairing="reverse", correct_lam=False),
        CutMix(per="sample", box="inside", pairing="reverse"),
    ]
}
METHOD_SETTINGS = [mix for settings in SETTINGS.values() for mix in settings]
BATCHES = [(8, 16, 16), (7, 12, 20), (2, 9, 5), (1, 8, 8), (3, 1, 1)]

every_method = pytest.mark.parametrize("mix", METHOD_SETTINGS, ids=repr)
every_batch = pytest.mark.parametrize("shape", BATCHES, ids=str)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    batch_size, height, width = shape
    return torch.randint(256, (batch_size, 3, height, width), generator=_generator(1)).to(dtype)


def _check_provenance(plan: MixPlan) -> None:
    """Paint every image in its own number and count."""
    size = (plan.batch_size, 1, plan.height, plan.width)
    mixed = plan.apply(torch.arange(plan.batch_size).view(-1, 1, 1, 1).expand(size)).flatten(1)
    counted = torch.stack([(mixed == source).float().mean(1) for source in range(plan.batch_size)], dim=1)
    stated = torch.zeros(plan.batch_size, plan.batch_size).scatter_add_(1, plan.sources, plan.pixel_shares)
    torch.testing.assert_close(stated, counted)


def test_every_method_has_settings_here() -> None:
    assert set(SETTINGS) == set(METHODS)
    assert all(type(mix) is METHODS[name] for name, settings in SETTINGS.items() for mix in settings)


@every_method
@every_batch
@pytest.mark.parametrize("dtype", DTYPES)
def test_images_keep_their_form_and_the_input_its_content(
    mix: MixMethod, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    images = _images(shape, dtype)
    before = images.clone()
    mixed = mix.draw(*shape, generator=_generator()).apply(images)
    assert (mixed.dtype, mixed.shape, mixed.stride()) == (images.dtype, images.shape, images.stride())
    assert torch.equal(images, before)


@every_method
@every_batch
def test_the_plan_is_sound(mix: MixMethod, shape: tuple[int, int, int]) -> None:
    plan = mix.draw(*shape, generator=_generator())
    assert (plan.batch_size, plan.height, plan.width) == shape
    assert plan.sources.dtype == torch.int64
    assert plan.sources[:, 0].tolist() == list(range(shape[0]))
    for shares in (plan.pixel_shares, plan.label_shares):
        assert shares.dtype == torch.float32
        assert shares.shape == plan.sources.shape
        assert bool(((shares >= 0) & (shares <= 1)).all())
        torch.testing.assert_close(shares.sum(1), torch.ones(shape[0]))
    assert plan.boxes.shape == (shape[0], 4)
    _check_provenance(plan)


@every_method
@every_batch
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_sum_to_one(mix: MixMethod, shape: tuple[int, int, int], smoothing: float) -> None:
    labels = torch.randint(3, (shape[0],), generator=_generator())
    targets = mix.draw(*shape, generator=_generator()).mix_targets(labels, 3, smoothing)
    assert targets.dtype == torch.float32
    assert targets.shape == (shape[0], 3)
    torch.testing.assert_close(targets.sum(1), torch.ones(shape[0]))
    assert float(targets.min()) >= smoothing / 3 - 1e-7


@every_method
def test_the_same_generator_gives_the_same_plan(mix: MixMethod) -> None:
    plans = [mix.draw(8, 32, 32, generator=_generator(seed)) for seed in (5, 5, 6)]
    images = _images((8, 32, 32))
    first, again, other = (plan.apply(images) for plan in plans)
    assert torch.equal(first, again)
    assert torch.equal(plans[0].label_shares, plans[1].label_shares)
    assert not torch.equal(first, other)


@every_method
def test_global_generators_are_not_touched(mix: MixMethod) -> None:
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    plan = mix.draw(8, 32, 32, generator=_generator())
    plan.apply(_images((8, 32, 32)))
    plan.mix_targets(torch.arange(8), 8)
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert str(before[1:]) == str(after[1:])
    assert np.array_equal(before[1][1], after[1][1])


@every_method
def test_writing_a_batch_equals_applying(mix: MixMethod) -> None:
    images = _images((7, 12, 20), torch.uint8)
    plan = mix.draw(7, 12, 20, generator=_generator())
    samples = [image.numpy().copy() for image in images]
    out = np.full(images.shape, 77, np.uint8)
    plan.write(samples, out)
    # with a gradient to carry, `apply` does not write rows but masks, as on an accelerator
    masked = plan.apply(images.double().requires_grad_()).detach()
    assert np.array_equal(out, masked.numpy())
    assert np.array_equal(np.stack(samples), images.numpy())


@every_method
def test_methods_are_values(mix: MixMethod) -> None:
    assert dataclasses.is_dataclass(mix)
    assert type(mix)(**dataclasses.asdict(mix)) == mix
    assert pickle.loads(pickle.dumps(mix)) == mix
    assert hash(mix) == hash(type(mix)(**dataclasses.asdict(mix)))


@st.composite
def _cutmixes(draw: st.DrawFn) -> CutMix:
    per = draw(st.sampled_from(["batch", "pair", "sample"]))
    pairings = ["derangement", "reverse"] + ["permutation"] * (per != "pair")
    return CutMix(
        alpha=draw(st.floats(0.01, 100)),
        prob=draw(st.floats(0, 1)),
        per=per,
        pairing=draw(st.sampled_from(pairings)),
        box=draw(st.sampled_from(["clip", "inside"])),
        correct_lam=draw(st.booleans()),
    )


@given(mix=_cutmixes(), shape=st.tuples(*[st.integers(1, 12)] * 3), seed=st.integers(0, 2**63 - 1))
@hypothesis_settings(derandomize=True, max_examples=60, deadline=None)
def test_any_setting_on_any_batch(mix: CutMix, shape: tuple[int, int, int], seed: int) -> None:
    plan = mix.draw(*shape, generator=_generator(seed))
    assert isinstance(plan, BoxPlan | IdentityPlan)
    torch.testing.assert_close(plan.label_shares.sum(1), torch.ones(shape[0]))
    if mix.correct_lam:
        assert torch.equal(plan.label_shares, plan.pixel_shares)
    _check_provenance(plan)
