import pytest
import torch
from torch.nn.functional import max_pool2d

from cutmix_zoo.models import PyramidNet
from tests.models.nets import count, images, make, meta, pyramid_parameters

DEPTHS = {
    "pyramidnet50_a300": (50, [3, 4, 6, 3], 300),
    "pyramidnet101_a360": (101, [3, 4, 23, 3], 360),
    "pyramidnet200_a300": (200, [3, 24, 36, 3], 300),
}


@pytest.mark.parametrize(("name", "facts"), DEPTHS.items())
def test_depth_and_widths(name: str, facts: tuple[int, list[int], int]) -> None:
    depth, blocks, alpha = facts
    net = meta(name)
    stages = [net.layer1, net.layer2, net.layer3, net.layer4]
    assert [len(stage) for stage in stages] == blocks
    # three convolutions a block, the stem and the classifier
    assert 3 * sum(blocks) + 2 == depth
    inner = [block.conv2.out_channels for stage in stages for block in stage]
    assert inner[-1] == 64 + alpha
    steps = [after - before for before, after in zip([64, *inner], inner, strict=False)]
    assert max(steps) - min(steps) <= 1  # the same growth everywhere, but for rounding
    assert all(block.conv3.out_channels == 4 * block.conv2.out_channels for stage in stages for block in stage)
    widths = [round(64 + alpha * number / sum(blocks)) for number in range(sum(blocks) + 1)]
    assert count(net) == pyramid_parameters(49 * 3 * 64 + 2 * 64, widths, 1000, bottleneck=True)


def test_stem_and_strides() -> None:
    net, x = make("imagenet"), images(1, 3, 64, 64)
    stem = net.bn1(torch.nn.functional.conv2d(x, net.conv1.weight, stride=2, padding=3)).relu()
    features = max_pool2d(stem, kernel_size=3, stride=2, padding=1)
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        features = stage(features)
    assert torch.allclose(net.forward_features(x), net.bn_final(features).relu(), atol=1e-5)


def test_negative_alpha_is_an_error() -> None:
    with pytest.raises(ValueError, match="alpha must be at least 0, got -1"):
        PyramidNet((1, 1, 1, 1), alpha=-1)
