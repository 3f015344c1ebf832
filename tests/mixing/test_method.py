from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from cutmix_zoo.mixing import BlendPlan, IdentityPlan, MixPlan
from cutmix_zoo.mixing.method import PairDraw, PairMethod
from tests.mixing.helpers import generator

GROUPS = {"batch": 1, "pair": 4, "sample": 8}


@dataclass(frozen=True)
class Probe(PairMethod):
    """Writes down what it is given."""

    seen: list[PairDraw] = field(default_factory=list, compare=False)

    def _draw(self, pairs: PairDraw) -> MixPlan:
        self.seen.append(pairs)
        lam = pairs.per_image(np.where(pairs.gate, 0.5, 1.0))
        return BlendPlan(*pairs.shape, pairs.partner, lam)


@pytest.mark.parametrize(("per", "groups"), GROUPS.items())
@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_each_draw_has_a_gate_of_its_own(prob: float, per: str, groups: int) -> None:
    mix, state, batches = Probe(prob=prob, per=per), generator(), 600
    plans = [mix.draw(8, 4, 6, generator=state) for _ in range(batches)]
    gates = np.zeros((batches, groups), bool)
    closed = [isinstance(plan, IdentityPlan) for plan in plans]
    seen = iter(mix.seen)
    for batch in range(batches):
        if not closed[batch]:
            gates[batch] = next(seen).gate
            assert gates[batch].any()
    assert next(seen, None) is None
    # four standard errors of a share: exactly none where prob is 0 or 1
    assert abs(gates.mean() - prob) <= 4 * np.sqrt(prob * (1 - prob) / gates.size)
    # a batch without an open gate is an identity as often as all its gates are shut together
    shut = (1 - prob) ** groups
    assert abs(np.mean(closed) - shut) <= 4 * np.sqrt(shut * (1 - shut) / batches)


@pytest.mark.parametrize("per", GROUPS)
def test_an_open_gate_mixes_all_images_of_its_group(per: str) -> None:
    mix, state = Probe(prob=0.5, per=per), generator()
    plans = [mix.draw(8, 4, 6, generator=state) for _ in range(50)]
    mixing = [plan for plan in plans if isinstance(plan, BlendPlan)]
    for plan, pairs in zip(mixing, mix.seen, strict=True):
        expected = [0.5 if pairs.gate[pairs.meeting.group[i]] else 1.0 for i in range(8)]
        assert plan.lam.tolist() == expected
        if per == "pair":
            assert torch.equal(plan.lam[plan.partner], plan.lam)


def test_what_a_method_finds() -> None:
    mix, images = Probe(per="pair"), torch.zeros(7, 3, 4, 6)
    mix.draw(7, 4, 6, generator=generator(), images=images, progress=0.5)
    mix.draw(7, 4, 6, generator=generator())
    pairs, without = mix.seen
    assert (pairs.batch_size, pairs.height, pairs.width) == pairs.shape == (7, 4, 6)
    assert pairs.images is images
    assert without.images is None
    assert pairs.partner.dtype == torch.int64
    assert pairs.partner.tolist() == pairs.meeting.partner.tolist()
    assert pairs.meeting.groups == len(pairs.gate) == 4
    # the same generator, the same draws: what the method goes on to draw as well
    assert pairs.rng.random(5).tolist() == without.rng.random(5).tolist()


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_each_image_gets_the_value_of_its_group(shape: tuple[int, ...]) -> None:
    mix = Probe(per="pair")
    mix.draw(7, 4, 6, generator=generator())
    (pairs,) = mix.seen
    values = np.random.default_rng(0).random((4, *shape))
    given = pairs.per_image(values)
    assert given.dtype == torch.float64
    assert given.shape == (7, *shape)
    for i in range(7):
        assert np.array_equal(given[i].numpy(), values[pairs.meeting.group[i]])


def test_lambdas_follow_beta_where_the_gate_is_open() -> None:
    mix = Probe(prob=0.5, per="sample")
    mix.draw(20_000, 4, 6, generator=generator())
    (pairs,) = mix.seen
    lam = pairs.beta(2.0)
    assert lam.shape == (20_000,)
    assert (lam[~pairs.gate] == 1).all()
    drawn = lam[pairs.gate]
    # Beta(2, 2) has mean 1/2 and variance 1/20; the square of the deviation has a variance of 3/560 - 1/400 = 1/350:
    # four standard errors of each
    assert abs(drawn.mean() - 0.5) < 4 * np.sqrt(1 / 20 / len(drawn))
    assert abs(((drawn - 0.5) ** 2).mean() - 1 / 20) < 4 * np.sqrt(1 / 350 / len(drawn))


@pytest.mark.parametrize("pairing", ["derangement", "permutation", "reverse"])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_a_single_image_is_left_alone(per: str, pairing: str) -> None:
    mix = Probe(per=per, pairing=pairing)
    plan = mix.draw(1, 4, 6, generator=generator())
    assert isinstance(plan, IdentityPlan)
    assert plan.shape == (1, 4, 6)
    assert mix.seen == []


def test_a_method_must_say_how_it_draws() -> None:
    with pytest.raises(TypeError, match="abstract"):
        PairMethod()  # type: ignore[abstract]


def test_settings_are_named() -> None:
    with pytest.raises(TypeError, match="positional"):
        Probe([], 0.5)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prob": -0.1}, "prob must be a number from 0 to 1, got -0.1"),
        ({"prob": True}, "prob must be a number from 0 to 1, got True"),
        ({"prob": float("nan")}, "prob must be a number from 0 to 1, got nan"),
        ({"per": "elem"}, "per must be one of batch, pair, sample, got 'elem'"),
        ({"pairing": "roll"}, "pairing must be one of derangement, permutation, reverse, got 'roll'"),
        (
            {"per": "pair", "pairing": "permutation"},
            "per='pair' needs mutual pairs, which pairing='permutation' does not give: use pairing='derangement'",
        ),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Probe(**settings)


@pytest.mark.parametrize("given", [None, 0, np.random.default_rng(0)])
def test_the_generator_must_be_given(given: object) -> None:
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator on the CPU, got"):
        Probe().draw(4, 4, 6, generator=given)  # type: ignore[arg-type]
