import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from cutmix_zoo.mixing import BlendPlan, IdentityPlan, Mixup
from tests.mixing.helpers import generator, random_images

DRAWS = 20_000

BETA: dict[float, Callable[[float], float]] = {
    0.5: lambda x: 2 / math.pi * math.asin(math.sqrt(x)),
    1.0: lambda x: x,
    2.0: lambda x: x * x * (3 - 2 * x),
}
"""The distribution functions of Beta(alpha, alpha) that have a closed form."""


@pytest.mark.parametrize(("alpha", "cdf"), BETA.items())
def test_lam_follows_beta_up_to_its_rounding(alpha: float, cdf: Callable[[float], float]) -> None:
    lam = Mixup(alpha, per="sample").draw(DRAWS, 8, 8, generator=generator()).lam.double() * 256
    assert torch.equal(lam, lam.round())
    for level in (0, 1, 10, 64, 128, 200, 254, 255):
        # what is rounded to at most a level was at most half a level above it
        share = cdf((level + 0.5) / 256)
        # four standard errors
        error = 4 * math.sqrt(share * (1 - share) / DRAWS)
        assert float((lam <= level).double().mean()) == pytest.approx(share, abs=error)


@pytest.mark.parametrize(("per", "distinct"), [("batch", 1), ("pair", 8), ("sample", 16)])
@pytest.mark.parametrize("pairing", ["derangement", "reverse"])
def test_who_shares_a_lambda(pairing: str, per: str, distinct: int) -> None:
    state, lams = generator(), []
    for _ in range(50):
        plan = Mixup(per=per, pairing=pairing).draw(16, 8, 8, generator=state)
        lams.append(plan.lam)
        if per == "pair":
            assert torch.equal(plan.lam[plan.partner], plan.lam)
            assert torch.equal(plan.partner[plan.partner], torch.arange(16))
        if pairing == "reverse":
            assert plan.partner.tolist() == list(range(15, -1, -1))
        else:
            assert not (plan.partner == torch.arange(16)).any()
    # of 16 lambdas on 257 levels, some two are alike in four batches of ten
    assert max(len(lam.unique()) for lam in lams) == distinct
    # but each batch has its own: 50 draws of a uniform lambda from 257 levels
    assert len(torch.stack(lams)[:, 0].unique()) > 35


def test_a_permutation_may_leave_images_as_they_are() -> None:
    state, images = generator(), random_images(3, 3, 8, 8)
    alone = 0
    for _ in range(300):
        plan = Mixup(pairing="permutation").draw(3, 8, 8, generator=state)
        mixed = plan.apply(images)
        for i in range(3):
            if plan.partner[i] == i:
                assert torch.equal(mixed[i], images[i])
                alone += 1
    # the fixed points of a random permutation number 1 on average, with a standard deviation of 1
    assert alone / 300 == pytest.approx(1, abs=4 / math.sqrt(300))


@pytest.mark.parametrize(("per", "gates"), [("batch", 1), ("pair", 8), ("sample", 16)])
def test_prob_is_the_share_of_draws_that_mix(per: str, gates: int) -> None:
    # alpha is so large that lambda is near a half wherever the gate is open
    mix, state, batches = Mixup(1000.0, prob=0.25, per=per), generator(), 4800 // gates
    mixed = torch.stack([mix.draw(16, 8, 8, generator=state).lam < 1 for _ in range(batches)]).double()
    # four standard errors of 4800 gates
    assert float(mixed.mean()) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4800))


@pytest.mark.parametrize("seed", range(20))
def test_the_official_algorithm_is_reproduced(seed: int) -> None:
    """The authors' training step in our words, with its own draws, which our plan is then given."""
    rng = np.random.default_rng(seed)
    batch_size, num_classes = 7, 4
    images = torch.from_numpy(rng.random((batch_size, 3, 9, 6)))
    labels = torch.from_numpy(rng.integers(num_classes, size=batch_size))
    logits = torch.from_numpy(rng.standard_normal((batch_size, num_classes)))

    lam = rng.beta(0.4, 0.4)
    index = torch.from_numpy(rng.permutation(batch_size))
    mixed = lam * images + (1 - lam) * images[index]
    loss = lam * cross_entropy(logits, labels) + (1 - lam) * cross_entropy(logits, labels[index])

    plan = BlendPlan(batch_size, 9, 6, index, torch.full((batch_size,), lam))
    ours, targets = plan.apply(images), plan.mix_targets(labels, num_classes)
    # the lambda is moved by at most 1/512, pixels lie between 0 and 1, losses between 0 and 12
    assert float((ours - mixed).abs().max()) <= 1 / 512
    assert float(cross_entropy(logits, targets.double()) - loss) == pytest.approx(0, abs=12 / 512)
    # with the lambda that was used nothing differs but the last digits
    lam = float(plan.lam[0])
    torch.testing.assert_close(ours, lam * images + (1 - lam) * images[index])
    loss = lam * cross_entropy(logits, labels) + (1 - lam) * cross_entropy(logits, labels[index])
    assert float(cross_entropy(logits, targets.double())) == pytest.approx(float(loss), abs=1e-6)


@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_bytes_are_blended_to_the_nearest_by_the_weight_of_the_label(per: str) -> None:
    images = random_images(7, 3, 9, 6)
    plan = Mixup(per=per).draw(7, 9, 6, generator=generator())
    mixed = plan.apply(images)
    for i in range(7):
        lam = float(plan.lam[i])
        exact = lam * images[i].double() + (1 - lam) * images[plan.partner[i]].double()
        assert float((mixed[i].double() - exact).abs().max()) <= 0.5
    assert torch.equal(plan.pixel_shares, plan.label_shares)


@pytest.mark.parametrize(("mix", "batch_size"), [(Mixup(prob=0.0, per="sample"), 8), (Mixup(), 1)])
def test_where_nothing_is_mixed_the_plan_is_the_identity(mix: Mixup, batch_size: int) -> None:
    assert isinstance(mix.draw(batch_size, 8, 8, generator=generator()), IdentityPlan)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a finite number above 0, got 0.0"),
        ({"alpha": -0.2}, "alpha must be a finite number above 0, got -0.2"),
        ({"alpha": math.inf}, "alpha must be a finite number above 0, got inf"),
        ({"alpha": math.nan}, "alpha must be a finite number above 0, got nan"),
        ({"alpha": "1"}, "alpha must be a finite number above 0, got '1'"),
        ({"prob": 1.1}, "prob must be a number from 0 to 1, got 1.1"),
        ({"per": "elem"}, "per must be one of batch, pair, sample, got 'elem'"),
        ({"pairing": "roll"}, "pairing must be one of derangement, permutation, reverse, got 'roll'"),
        ({"per": "pair", "pairing": "permutation"}, "per='pair' needs mutual pairs"),
    ],
)
def test_refused_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixup(**settings)  # type: ignore[arg-type]
