import itertools

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, relu

from cutmix_zoo.models import CifarWideResNet
from tests.models.nets import count, images, make, meta


def test_parameters_of_the_definition() -> None:
    widths = [16, 160, 320, 640]
    expected = 3 * 9 * 16 + 2 * 640 + 640 * 10 + 10
    for before, width in itertools.pairwise(widths):
        # the first block has a projection; four blocks a stage, two 3x3 convolutions and two norms each
        expected += 9 * before * width + before * width + 9 * width**2 + 2 * before + 2 * width
        expected += 3 * (18 * width**2 + 4 * width)
    assert count(meta("cifar_wideresnet28_10")) == expected
    assert f"{expected / 1e6:.1f}" == "36.5"  # the paper's table 4


def test_depth_counts_the_weighted_layers() -> None:
    net = meta("cifar_wideresnet28_10")
    convs = [key for key, p in net.named_parameters() if p.ndim == 4 and "downsample" not in key]
    assert len(convs) + 3 == 28  # the paper counts the three projections, and not the classifier


def test_equals_the_definition_written_out() -> None:
    net, x = make("wide"), images(2, 3, 9, 12)
    w = net.state_dict()

    def activate(x: torch.Tensor, key: str) -> torch.Tensor:
        keys = (f"{key}.running_mean", f"{key}.running_var", f"{key}.weight", f"{key}.bias")
        return relu(batch_norm(x, *(w[k] for k in keys)))

    expected = conv2d(x, w["conv1.weight"], padding=1)
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        at = f"layer{stage}.0"
        preact = activate(expected, f"{at}.bn1")
        y = conv2d(preact, w[f"{at}.conv1.weight"], stride=stride, padding=1)
        y = conv2d(activate(y, f"{at}.bn2"), w[f"{at}.conv2.weight"], padding=1)
        expected = y + conv2d(preact, w[f"{at}.downsample.weight"], stride=stride)
    expected = activate(expected, "bn_final").mean(dim=(2, 3)) @ w["fc.weight"].T + w["fc.bias"]
    assert torch.allclose(net(x), expected, atol=1e-5)


def test_a_block_that_keeps_its_shape_passes_its_input_on() -> None:
    block = CifarWideResNet(16, widen=1).layer1[1].eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = images(2, 16, 8, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("depth", [4, 11, 29, -2])
def test_impossible_depth_is_an_error(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth must be 6n \\+ 4 .*, got {depth}"):
        CifarWideResNet(depth, widen=2)
