import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cutmix_zoo.mixing import (
    Chain,
    ChoicePlan,
    CutMix,
    Cutout,
    ErasePlan,
    IdentityPlan,
    MixMethod,
    MixPlan,
    Mixup,
    OneOf,
    Scheduled,
    SequencePlan,
)
from tests.mixing.helpers import generator, random_images

SIZE = (6, 5)
DRAWS = 2400


@dataclass(frozen=True)
class Paint:
    """Fills every image with one value, which tells who mixed it."""

    value: float
    pairing: str = "reverse"

    def draw(self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **context: Any) -> MixPlan:
        box = torch.tensor([0, 0, height, width]).expand(batch_size, 4)
        return ErasePlan(batch_size, height, width, box, (self.value,))


@dataclass(frozen=True)
class Recorded:
    """Writes down what another method draws, and with what."""

    mix: MixMethod
    plans: list[MixPlan] = field(default_factory=list, compare=False)
    contexts: list[dict[str, Any]] = field(default_factory=list, compare=False)

    def draw(self, *shape: int, generator: torch.Generator, **context: Any) -> MixPlan:
        self.contexts.append(context)
        self.plans.append(self.mix.draw(*shape, generator=generator, **context))
        return self.plans[-1]


def _painted(mix: MixMethod, batch_size: int, batches: int) -> Tensor:
    """(batches, batch_size): what each image was painted with, 0 where it was not."""
    state, images = generator(), torch.zeros(batch_size, 1, *SIZE)
    plans = [mix.draw(batch_size, *SIZE, generator=state) for _ in range(batches)]
    return torch.stack([plan.apply(images)[:, 0, 0, 0] for plan in plans])


@pytest.mark.parametrize(
    ("weights", "shares"),
    [(None, [1 / 3, 1 / 3, 1 / 3]), ([1, 2, 3], [1 / 6, 1 / 3, 1 / 2]), ((0.0, 0.2, 0.0), [0.0, 1.0, 0.0])],
)
@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_methods_are_chosen_as_often_as_they_weigh(per: Any, weights: Any, shares: list[float]) -> None:
    choices = {"batch": 1, "pair": 4, "sample": 8}[per]
    painted = _painted(OneOf([Paint(1), Paint(2), Paint(3)], weights, per), 8, DRAWS // choices)
    for value, share in enumerate(shares, start=1):
        # four standard errors; the choices of a batch are independent
        error = 4 * math.sqrt(share * (1 - share) / DRAWS)
        assert float((painted == value).double().mean()) == pytest.approx(share, abs=error + 1e-9)
    if per == "batch":
        assert torch.equal(painted, painted[:, :1].expand(-1, 8))
    if per == "pair":
        assert torch.equal(painted, painted.flip(1))
    if per != "batch" and weights is None:
        # neighbours agree in one of three choices: 7 (of pairs 3) neighbours a batch
        agree = (painted[:, 1:choices] == painted[:, : choices - 1]).double()
        assert float(agree.mean()) == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / agree.numel()))


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_any_batch_falls_into_pairs(batch_size: int) -> None:
    painted = _painted(OneOf([Paint(1), Paint(2)], per="pair"), batch_size, 50)
    assert torch.equal(painted, painted.flip(1))
    assert set(painted.unique().tolist()) == {1.0, 2.0}


def test_what_the_methods_leave_unmixed_stays_so() -> None:
    mix = OneOf([Cutout(20, prob=0.5), Cutout(20, prob=0.0)], [3, 1], per="sample")
    plan = mix.draw(DRAWS, 4, 4, generator=generator())
    erased = (plan.apply(torch.ones(DRAWS, 1, 4, 4)) == 0).flatten(1).any(1)
    share = 3 / 4 * 1 / 2
    assert float(erased.double().mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / DRAWS))


def test_each_image_is_mixed_by_the_plan_it_was_given() -> None:
    parts = [Recorded(Mixup(per="sample")), Recorded(CutMix(per="sample")), Recorded(CutMix(per="sample"))]
    plan = OneOf(parts, per="sample").draw(8, *SIZE, generator=generator())
    assert isinstance(plan, ChoicePlan)
    images, labels = random_images(8, 3, *SIZE), torch.arange(8)
    mixed, targets = plan.apply(images), plan.mix_targets(labels, 8)
    for i, chosen in enumerate(plan.choice.tolist()):
        (part,) = parts[chosen].plans
        assert torch.equal(mixed[i], part.apply(images)[i])
        assert torch.equal(targets[i], part.mix_targets(labels, 8)[i])
        assert float(plan.lam[i]) == float(part.lam[i])
    # two methods of the same settings do not draw alike
    assert not torch.equal(parts[1].plans[0].boxes, parts[2].plans[0].boxes)


def test_for_a_batch_only_the_chosen_method_draws() -> None:
    parts = [Recorded(Mixup()), Recorded(CutMix())]
    plans = [OneOf(parts).draw(8, *SIZE, generator=generator(seed)) for seed in range(20)]
    drawn = [plan for part in parts for plan in part.plans]
    assert len(drawn) == 20
    assert {id(plan) for plan in plans} == {id(plan) for plan in drawn}


def test_a_pair_is_mixed_by_one_method_with_one_draw() -> None:
    mix = OneOf([Mixup(per="pair", pairing="reverse"), CutMix(per="pair", pairing="reverse", box="inside")], per="pair")
    images = torch.arange(7.0).view(7, 1, 1, 1).expand(7, 1, 32, 32)
    for seed in range(10):
        plan = mix.draw(7, 32, 32, generator=generator(seed))
        mixed = plan.apply(images)
        # what one of the two loses the other gains, and together they hold 0 + 6, 1 + 5, ...
        torch.testing.assert_close(mixed + mixed.flip(0), torch.full_like(mixed, 6.0))
        assert torch.equal(plan.label_shares, plan.label_shares.flip(0))
        assert plan.partner[:3].tolist() == [6, 5, 4]


def test_a_chain_has_an_order() -> None:
    for values in ([1, 2], [2, 1], [3, 1, 2]):
        painted = _painted(Chain([Paint(value) for value in values]), 4, 1)
        assert painted.tolist() == [[values[-1]] * 4]


@pytest.mark.parametrize(
    "mixes",
    [
        [Cutout(3), Mixup(per="sample")],
        [Mixup(per="sample"), Cutout(3)],
        [CutMix(per="sample"), CutMix(per="sample"), Mixup()],
        [CutMix(prob=0.5), OneOf([Mixup(), CutMix()], per="sample")],
    ],
    ids=str,
)
def test_a_chain_applies_its_methods_one_after_another(mixes: list[MixMethod]) -> None:
    for seed in range(5):
        parts = [Recorded(mix) for mix in mixes]
        plan = Chain(parts).draw(8, *SIZE, generator=generator(seed))
        images, targets = torch.rand(8, 3, *SIZE, generator=generator(1)), torch.eye(8)
        mixed = plan.apply(images)
        for part in parts:
            (step,) = part.plans
            images, targets = step.apply(images), step.mix_values(targets)
        torch.testing.assert_close(mixed, images)
        torch.testing.assert_close(plan.mix_targets(torch.arange(8), 8), targets)
        if mixes[:2] == [CutMix(per="sample")] * 2:
            assert not torch.equal(parts[0].plans[0].boxes, parts[1].plans[0].boxes)


def test_steps_that_mix_nothing_are_left_out() -> None:
    never = Mixup(prob=0.0)
    assert isinstance(Chain([never, never]).draw(4, *SIZE, generator=generator()), IdentityPlan)
    plan = Chain([never, CutMix(), never]).draw(4, *SIZE, generator=generator())
    assert isinstance(plan, SequencePlan)
    assert len(plan.parts) == 1
    assert plan.sources.shape == (4, 2)


@pytest.mark.parametrize(
    ("start", "end", "progress", "share"),
    [
        (0.0, 1.0, 0.0, 0.0),
        (0.0, 1.0, 0.25, 0.25),
        (0.0, 1.0, 1.0, 1.0),
        (0.8, 0.2, 0.0, 0.8),
        (0.8, 0.2, 0.5, 0.5),
        (0.8, 0.2, 1.0, 0.2),
        (1.0, 1.0, 0.3, 1.0),
        (0.0, 0.0, 0.3, 0.0),
    ],
)
@pytest.mark.parametrize("own", [1.0, 0.5])
def test_the_probability_moves_linearly(own: float, start: float, end: float, progress: float, share: float) -> None:
    mix, state = Scheduled(Mixup(1000.0, prob=own), start, end), generator()
    plans = [mix.draw(4, *SIZE, generator=state, progress=progress) for _ in range(1000)]
    mixed = sum(not isinstance(plan, IdentityPlan) for plan in plans) / 1000
    share *= own
    # four standard errors
    assert mixed == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1000) + 1e-9)


@pytest.mark.parametrize(
    ("off_from", "last_on", "first_off"),
    [(0.9, 0.899, 0.9), (0.5, 0.499, 0.5), (1.0, 1.0, None), (0.0, None, 0.0)],
)
def test_from_a_share_of_the_run_on_nothing_is_mixed(
    off_from: float, last_on: float | None, first_off: float | None
) -> None:
    mix = Scheduled(Mixup(), off_from=off_from)
    for progress, mixed in ((last_on, True), (first_off, False), (1.0, off_from == 1.0)):
        if progress is not None:
            plans = [mix.draw(4, *SIZE, generator=generator(seed), progress=progress) for seed in range(20)]
            assert {isinstance(plan, IdentityPlan) for plan in plans} == {not mixed}


def test_epochs_are_counted_as_the_docstring_says() -> None:
    mix = Scheduled(Mixup(), off_from=0.9)
    kinds = [mix.draw(4, *SIZE, generator=generator(), progress=epoch / 300) for epoch in (269, 270)]
    assert [isinstance(plan, IdentityPlan) for plan in kinds] == [False, True]


@pytest.mark.parametrize(
    "outer",
    [
        lambda mix: OneOf([mix]),
        lambda mix: OneOf([mix, mix], per="sample"),
        lambda mix: Chain([Cutout(3), mix]),
        Scheduled,
        lambda mix: Chain([OneOf([Scheduled(Chain([mix]))], per="sample")]),
    ],
)
def test_methods_within_methods_are_given_the_context(outer: Any) -> None:
    mix, images = Recorded(Scheduled(CutMix(per="sample"), off_from=0.5)), random_images(4, 3, *SIZE)
    outer(mix).draw(4, *SIZE, generator=generator(), progress=0.25, images=images)
    assert len(mix.contexts) in (1, 2)
    assert all(context["progress"] == 0.25 and context["images"] is images for context in mix.contexts)
    with pytest.raises(ValueError, match="Scheduled needs to know how much of the run is over"):
        outer(mix).draw(4, *SIZE, generator=generator())


def test_lists_become_tuples_so_that_settings_are_values() -> None:
    parts = [CutMix(), Mixup()]
    one_of, chain = OneOf(parts, weights=[1, 2]), Chain(parts)
    parts.append(Mixup(0.2))
    assert one_of.mixes == chain.mixes == (CutMix(), Mixup())
    assert one_of.weights == (1, 2)
    assert one_of == OneOf((CutMix(), Mixup()), (1, 2))
    assert one_of == OneOf((CutMix(), Mixup()), np.array([1.0, 2.0]))  # type: ignore[arg-type]
    assert hash(one_of) == hash(OneOf((CutMix(), Mixup()), (1, 2)))
    assert chain == Chain(iter([CutMix(), Mixup()]))  # type: ignore[arg-type]
    assert chain != Chain((Mixup(), CutMix()))


@pytest.mark.parametrize("per", ["batch", "sample", "pair"])
@pytest.mark.parametrize(("prob", "batch_size"), [(1.0, 1), (0.0, 4)])
def test_where_no_method_mixes_the_plan_is_the_identity(prob: float, batch_size: int, per: Any) -> None:
    mixes = [Mixup(prob=prob, pairing="reverse"), CutMix(prob=prob, pairing="reverse")]
    plan = OneOf(mixes, per=per).draw(batch_size, *SIZE, generator=generator())
    assert isinstance(plan, IdentityPlan)
    assert (plan.batch_size, plan.height, plan.width) == (batch_size, *SIZE)


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan])
def test_progress_is_a_share(progress: float) -> None:
    with pytest.raises(ValueError, match=f"progress must be a number from 0 to 1, got {progress}"):
        Scheduled(CutMix()).draw(4, *SIZE, generator=generator(), progress=progress)


def test_progress_must_be_given() -> None:
    message = (
        "Scheduled needs to know how much of the run is over: draw with progress=epoch / epochs; "
        "MixCollate and MixTransform need epochs=, and set_epoch() where samples have no keys"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        Scheduled(CutMix()).draw(4, *SIZE, generator=generator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixes": []}, "mixes must name at least one method"),
        ({"weights": [1]}, r"weights must be 2 numbers from 0, not all 0, got \(1,\)"),
        ({"weights": 1.0}, r"weights must be 2 numbers from 0, not all 0, got \(1.0,\)"),
        ({"weights": ["1", "2"]}, "weights must be 2 numbers from 0, not all 0, got"),
        ({"weights": []}, r"weights must be 2 numbers from 0, not all 0, got \(\)"),
        ({"weights": [1, -1]}, r"weights must be 2 numbers from 0, not all 0, got \(1, -1\)"),
        ({"weights": [0, 0]}, r"weights must be 2 numbers from 0, not all 0, got \(0, 0\)"),
        ({"weights": [1, math.nan]}, "weights must be 2 numbers from 0, not all 0, got"),
        ({"weights": [1, math.inf]}, "weights must be 2 numbers from 0, not all 0, got"),
        ({"per": "elem"}, "per must be one of batch, pair, sample, got 'elem'"),
        ({"per": "pair"}, "per='pair' needs methods with pairing='reverse', so that all have the same pairs"),
        ({"per": "pair", "mixes": [Cutout()]}, "per='pair' needs methods with pairing='reverse'"),
    ],
)
def test_refused_settings_of_one_of(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OneOf(**({"mixes": [CutMix(), Mixup(pairing="reverse")]} | settings))


def test_refused_settings_of_chain() -> None:
    with pytest.raises(ValueError, match="mixes must name at least one method"):
        Chain([])


@pytest.mark.parametrize("name", ["start", "end", "off_from"])
def test_refused_settings_of_scheduled(name: str) -> None:
    for value in (-0.1, 1.1, "1"):
        with pytest.raises(ValueError, match=f"{name} must be a number from 0 to 1, got {value!r}"):
            Scheduled(CutMix(), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("mix", ["cutmix", None, CutMix])
def test_only_methods_are_taken(mix: Any) -> None:
    for make, name in ((OneOf, "mixes"), (Chain, "mixes"), (Scheduled, "mix")):
        with pytest.raises(TypeError, match=rf"{name} must be a mixing method such as CutMix\(\), got {mix!r}"):
            make(mix if name == "mix" else [CutMix(), mix])
