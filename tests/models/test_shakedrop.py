"""ShakeDrop against the three lines of its definition."""

import math

import pytest
import torch

from cutmix_zoo.models.shakedrop import ShakeDrop, shake, shakedrop_probs


def branch(*shape: int, **kwargs: object) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradient_have_factors_of_their_own(dtype: torch.dtype) -> None:
    x = branch(4, 3, 5, 5).to(dtype).requires_grad_()
    forward, backward = branch(4, 1, 1, 1), branch(4, 3, 1, 1)
    y = shake(x, forward, backward)
    upstream = branch(4, 3, 5, 5).to(dtype)
    y.backward(upstream)
    tolerance = {"atol": 0.05, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 1e-6}
    assert y.dtype == dtype
    assert torch.allclose(y.detach(), (x.detach() * forward).to(dtype), **tolerance)
    assert torch.allclose(x.grad, (upstream * backward).to(dtype), **tolerance)


@pytest.mark.parametrize("per", ["batch", "sample", "channel"])
@pytest.mark.parametrize("gate", ["batch", "sample"])
def test_what_shares_a_draw(per: str, gate: str) -> None:
    layer = ShakeDrop(1.0, per=per, gate=gate)  # never open: the coefficients are seen
    forward, backward = layer.draw(torch.empty(6, 4, 3, 3))
    samples = 1 if (per, gate) == ("batch", "batch") else 6 if "sample" in (per, gate) or per == "channel" else 1
    shape = (samples, 4 if per == "channel" else 1, 1, 1)
    assert forward.shape == backward.shape == shape
    expected = {"batch": 1, "sample": 6, "channel": 24}[per]
    assert len(forward.unique()) == len(backward.unique()) == expected
    assert forward.dtype == backward.dtype == torch.float32


@pytest.mark.parametrize("gate", ["batch", "sample"])
def test_the_gate_opens_for_both_directions_together(gate: str) -> None:
    torch.manual_seed(0)
    layer = ShakeDrop(0.5, gate=gate)
    mixtures = 0
    for _ in range(50):
        forward, backward = layer.draw(torch.empty(8, 2, 1, 1))
        open_forward, open_backward = (forward == 1).flatten(), (backward == 1).flatten()
        assert torch.equal(open_forward, open_backward)
        mixtures += 0 < open_forward.sum() < 8
    assert mixtures == 0 if gate == "batch" else mixtures > 40


def test_laws_of_the_draws() -> None:
    torch.manual_seed(0)
    count, prob = 200_000, 0.3
    forward, backward = (f.flatten() for f in ShakeDrop(prob, gate="sample").draw(torch.empty(count, 1, 1, 1)))
    closed = forward != 1
    # five standard errors of each estimate
    assert closed.double().mean().item() == pytest.approx(prob, abs=5 * math.sqrt(prob * (1 - prob) / count))
    alpha, beta = forward[closed].double(), backward[closed].double()
    assert -1 <= alpha.min() < -0.999
    assert 0.999 < alpha.max() <= 1
    assert 0 <= beta.min() < 0.001
    assert 0.999 < beta.max() <= 1
    for values, mean, std in ((alpha, 0.0, 2 / math.sqrt(12)), (beta, 0.5, 1 / math.sqrt(12))):
        assert values.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(len(values)))
        assert values.std().item() == pytest.approx(std, rel=0.01)
    assert torch.corrcoef(torch.stack([alpha, beta]))[0, 1].abs() < 0.02


def test_evaluation_is_the_mean_of_training() -> None:
    torch.manual_seed(0)
    x = torch.ones(100_000, 1, 1, 1)
    layer = ShakeDrop(0.4, gate="sample")
    mean = layer(x).mean().item()
    # variance of b + (1 - b) alpha, with alpha of mean 0 and variance 1/3: 0.6 + 0.4 / 3 - 0.36
    assert mean == pytest.approx(0.6, abs=5 * math.sqrt((0.6 + 0.4 / 3 - 0.36) / len(x)))
    assert torch.equal(layer.eval()(x), x * 0.6)


def test_the_module_multiplies_by_what_it_draws() -> None:
    x, layer = branch(5, 3, 4, 4).requires_grad_(), ShakeDrop(0.7, per="channel", gate="sample")
    torch.manual_seed(3)
    forward, backward = layer.draw(x)
    torch.manual_seed(3)
    y = layer(x)
    y.sum().backward()
    assert torch.allclose(y, x * forward, atol=1e-6)
    assert torch.allclose(x.grad, backward.expand_as(x))


def test_probability_0_changes_nothing() -> None:
    x = branch(2, 3, 4, 4)
    layer = ShakeDrop(0.0)
    assert torch.equal(layer(x), x)
    assert torch.equal(layer.eval()(x), x)


def test_probabilities_grow_linearly_to_the_last_block() -> None:
    assert shakedrop_probs(0.5, 66)[0] == pytest.approx(0.5 / 66)
    assert shakedrop_probs(0.5, 66)[-1] == 0.5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"drop_prob": 1.5}, "drop_prob must be a number from 0 to 1, got 1.5"),
        ({"drop_prob": 0.5, "per": "pixel"}, "per must be one of batch, sample, channel, got 'pixel'"),
        ({"drop_prob": 0.5, "gate": "channel"}, "gate must be one of batch, sample, got 'channel'"),
    ],
)
def test_settings_out_of_range(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShakeDrop(**kwargs)


def test_it_describes_itself() -> None:
    assert repr(ShakeDrop(0.25)) == "ShakeDrop(drop_prob=0.250, per=sample, gate=batch)"
