"""DropBlock against a slow loop, torchvision where it is right, and the law of what is dropped."""

import pytest
import torch
from torch import nn
from torchvision.ops import drop_block2d

from cutmix_zoo.models.drop_block import DropBlock2d, block_seed_prob, drop_blocks, set_drop_block_progress


def maps(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.mark.parametrize(("size", "height", "width"), [(1, 4, 4), (3, 6, 5), (4, 8, 8), (2, 3, 7), (7, 7, 7)])
def test_blocks_are_those_of_a_slow_loop(size: int, height: int, width: int) -> None:
    x = maps(2, 3, height, width)
    corners = (2, 3, height - size + 1, width - size + 1)
    seeds = torch.rand(corners, generator=torch.Generator().manual_seed(2)) < 0.15
    seeds[0, 0, 0, 0] = True
    keep = torch.ones_like(x)
    for b, c, i, j in seeds.nonzero().tolist():
        keep[b, c, i : i + size, j : j + size] = 0
    assert torch.allclose(drop_blocks(x, seeds), x * keep * (keep.numel() / max(keep.sum().item(), 1)))


@pytest.mark.parametrize("size", [1, 3, 7])
def test_odd_blocks_are_torchvisions(size: int) -> None:
    x, prob = maps(4, 8, 14, 14), 0.2
    torch.manual_seed(0)
    expected = drop_block2d(x, prob, size)
    # its seeds, drawn as it draws them
    torch.manual_seed(0)
    gamma = block_seed_prob(prob, size, 14, 14)
    seeds = torch.empty(4, 8, 15 - size, 15 - size).bernoulli_(gamma).bool()
    assert (expected == 0).any()
    assert torch.allclose(drop_blocks(x, seeds), expected, atol=1e-4)  # torchvision adds an epsilon


@pytest.mark.parametrize(("size", "side"), [(4, 16), (4, 8), (7, 14), (7, 7)])
def test_the_share_dropped_is_the_one_asked_for_but_for_overlaps(size: int, side: int) -> None:
    torch.manual_seed(0)
    prob = 0.1
    layer, x = DropBlock2d(prob, size), torch.ones(64, 256, side, side)
    dropped = (layer(x) == 0).float().mean().item()
    expected = mean_share(prob, side, size)
    assert 0.09 < expected < 0.1 + 1e-6
    # five standard errors of a mean over maps, if a map were dropped whole or not at all
    assert dropped == pytest.approx(expected, abs=5 * (prob * (1 - prob) / (64 * 256)) ** 0.5)


def mean_share(prob: float, side: int, size: int) -> float:
    """Which share of a square map is dropped on average: a pixel is kept if no block that covers it is drawn."""
    gamma = prob * side**2 / (size**2 * (side - size + 1) ** 2)
    return float((1 - (1 - gamma) ** cover_counts(side, size)).mean())


def cover_counts(side: int, size: int) -> torch.Tensor:
    """How many blocks of a size can cover each pixel of a square map."""
    line = torch.tensor(
        [sum(corner <= pixel < corner + size for corner in range(side - size + 1)) for pixel in range(side)]
    )
    return line[:, None] * line[None, :]


def test_the_sum_is_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(8, 16, 8, 8)
    assert DropBlock2d(0.3, 4)(x).sum().item() == pytest.approx(x.numel(), rel=1e-5)


def test_channels_have_blocks_of_their_own() -> None:
    torch.manual_seed(0)
    zeros = DropBlock2d(0.3, 4)(torch.ones(1, 32, 8, 8)) == 0
    assert len({tuple(channel.flatten().tolist()) for channel in zeros[0]}) > 10


def test_blocks_larger_than_the_map_take_all_of_it() -> None:
    torch.manual_seed(0)
    y = DropBlock2d(0.5, 7)(torch.ones(4, 64, 3, 5))
    zeros = y == 0
    # blocks of side 3, as high as the map
    assert all((column.all() or not column.any()) for channel in zeros.flatten(0, 1) for column in channel.T)
    assert zeros.any()


def test_a_map_that_is_dropped_whole_is_zero() -> None:
    x = torch.ones(1, 1, 4, 4)
    assert torch.equal(drop_blocks(x, torch.ones(1, 1, 1, 1, dtype=torch.bool)), torch.zeros_like(x))


def test_evaluation_and_rate_0_change_nothing() -> None:
    x = maps(2, 3, 8, 8)
    assert torch.equal(DropBlock2d(0.5, 3).eval()(x), x)
    assert torch.equal(DropBlock2d(0.0, 3)(x), x)


def test_gradients_pass_where_values_do() -> None:
    torch.manual_seed(0)
    x = maps(2, 3, 8, 8).requires_grad_()
    y = DropBlock2d(0.3, 3)(x)
    y.sum().backward()
    assert torch.allclose(x.grad, (y / x).detach(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    full = DropBlock2d(0.1, 4)(torch.ones(8, 64, 8, 8))
    torch.manual_seed(0)
    half = DropBlock2d(0.1, 4)(torch.ones(8, 64, 8, 8, dtype=dtype))
    assert half.dtype == dtype
    assert torch.allclose(half.float(), full, rtol=0.01)


def test_progress_scales_the_rate_and_is_not_saved() -> None:
    net = nn.Sequential(DropBlock2d(0.4, 2), nn.Sequential(DropBlock2d(0.4, 2)), nn.ReLU())
    assert net.state_dict() == {}
    x, shares = torch.ones(64, 32, 8, 8), []
    for progress in (0.0, 0.25, 0.5, 1.0):
        set_drop_block_progress(net, progress)
        torch.manual_seed(0)
        shares.append((net[0](x) == 0).float().mean().item())
        assert net[1][0].progress.item() == progress
    assert shares[0] == 0
    for progress, share in zip((0.25, 0.5, 1.0), shares[1:], strict=True):
        assert share == pytest.approx(mean_share(0.4 * progress, 8, 2), abs=0.01)


def test_progress_does_not_compile_again() -> None:
    torch.compiler.reset()
    layer, frames = DropBlock2d(0.3, 2), []
    compiled = torch.compile(layer, backend=lambda graph, _: frames.append(1) or graph, fullgraph=True)
    for progress in (0.0, 0.3, 0.6, 1.0):
        set_drop_block_progress(layer, progress)
        compiled(torch.ones(2, 3, 8, 8))
    assert len(frames) == 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"drop_prob": -0.1, "block_size": 3}, "drop_prob must be a number from 0 to 1, got -0.1"),
        ({"drop_prob": 0.1, "block_size": 0}, "block_size must be a whole number of at least 1, got 0"),
    ],
)
def test_settings_out_of_range(kwargs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DropBlock2d(**kwargs)


def test_it_describes_itself() -> None:
    assert repr(DropBlock2d(0.1, 7)) == "DropBlock2d(drop_prob=0.1, block_size=7)"
