import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, relu

from cutmix_zoo.models import CifarPyramidNet
from tests.models.nets import count, images, make, meta, pyramid_parameters

BOTTLENECK = {
    "cifar_pyramidnet110_a64": (110, 64),
    "cifar_pyramidnet200_a240": (200, 240),
    "cifar_pyramidnet272_a200": (272, 200),
}


def shapes(net: CifarPyramidNet) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in net.state_dict().items()}


# size


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize(("name", "facts"), [*BOTTLENECK.items(), ("cifar_pyramidnet110_a270_basic", (110, 270))])
def test_parameters(name: str, facts: tuple[int, int], num_classes: int) -> None:
    depth, alpha = facts
    blocks = (depth - 2) // 3 if name in BOTTLENECK else (depth - 2) // 2
    widths = [round(16 + alpha * number / blocks) for number in range(blocks + 1)]
    stem = 9 * 3 * 16 + 2 * 16
    expected = pyramid_parameters(stem, widths, num_classes, bottleneck=name in BOTTLENECK)
    assert count(meta(name, num_classes=num_classes)) == expected


@pytest.mark.parametrize(("name", "depth_alpha"), BOTTLENECK.items())
def test_names_say_depth_and_alpha(name: str, depth_alpha: tuple[int, int]) -> None:
    assert shapes(meta(name)) == shapes(CifarPyramidNet(*depth_alpha, device="meta"))


def test_basic_blocks_by_name() -> None:
    net = meta("cifar_pyramidnet110_a270_basic")
    assert shapes(net) == shapes(CifarPyramidNet(110, 270, bottleneck=False, device="meta"))
    # 16 + 5 k after block k of 54
    assert [block.conv2.out_channels for block in (*net.layer1, *net.layer2, *net.layer3)] == list(range(21, 287, 5))


# four times the rounded inner width, by hand: 16 + 64 k / 36 and 16 + 240 k / 66 after block k
WIDTHS_110_A64 = {1: 72, 2: 80, 3: 84, 12: 148, 13: 156, 24: 236, 25: 240, 35: 312, 36: 320}
WIDTHS_200_A240 = {1: 80, 2: 92, 3: 108, 22: 384, 23: 400, 44: 704, 45: 720, 65: 1008, 66: 1024}


@pytest.mark.parametrize(
    ("name", "widths"), [("cifar_pyramidnet110_a64", WIDTHS_110_A64), ("cifar_pyramidnet200_a240", WIDTHS_200_A240)]
)
def test_widths(name: str, widths: dict[int, int]) -> None:
    net = meta(name)
    blocks = [*net.layer1, *net.layer2, *net.layer3]
    assert len(blocks) == max(widths)
    for k, width in widths.items():
        block = blocks[k - 1]
        assert block.bn4.num_features == block.conv3.out_channels == width
        assert block.conv2.in_channels == block.conv2.out_channels == width // 4
        assert block.bn1.num_features == block.conv1.in_channels == (blocks[k - 2].bn4.num_features if k > 1 else 16)
    assert net.bn_final.num_features == net.fc.in_features == net.num_features == max(widths.values())


@pytest.mark.parametrize(("depth", "bottleneck"), [(12, True), (2, True), (1, True), (-7, True), (11, False)])
def test_impossible_depth_is_an_error(depth: int, bottleneck: bool) -> None:
    with pytest.raises(ValueError, match=f"depth must be {9 if bottleneck else 6}n \\+ 2 .*, got {depth}"):
        CifarPyramidNet(depth, alpha=64, bottleneck=bottleneck)


def test_negative_alpha_is_an_error() -> None:
    with pytest.raises(ValueError, match="alpha must be at least 0, got -1"):
        CifarPyramidNet(11, alpha=-1)


def test_alpha_0_does_not_grow() -> None:
    net = CifarPyramidNet(20, alpha=0).eval()
    assert net.num_features == 64
    assert net(images()).shape == (2, 10)


# keys and arithmetic


def test_keys_are_the_official_codes() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | {
        f"{bn}.{part}" for bn in ("bn1", "bn_final") for part in norm
    }
    for block in ("layer1.0", "layer2.0", "layer3.0"):
        expected |= {f"{block}.conv{i}.weight" for i in (1, 2, 3)}
        expected |= {f"{block}.bn{i}.{part}" for i in (1, 2, 3, 4) for part in norm}
    assert make("pyramid").state_dict().keys() == expected


def halved(x: torch.Tensor) -> torch.Tensor:
    """Average of every 2x2 window, pixel by pixel; windows at the border hold what there is."""
    height, width = x.shape[2:]
    rows = [[x[:, :, i : i + 2, j : j + 2].mean(dim=(2, 3)) for j in range(0, width, 2)] for i in range(0, height, 2)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@pytest.mark.parametrize("kind", ["pyramid", "pyramid_basic"])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 9)])
def test_equals_the_definition_written_out(kind: str, height: int, width: int) -> None:
    net, x = make(kind), images(2, 3, height, width)
    w = net.state_dict()

    def bn(x: torch.Tensor, key: str) -> torch.Tensor:
        keys = (f"{key}.running_mean", f"{key}.running_var", f"{key}.weight", f"{key}.bias")
        return batch_norm(x, *(w[k] for k in keys))

    expected = bn(conv2d(x, w["conv1.weight"], padding=1), "bn1")
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        at = f"layer{stage}.0"
        if kind == "pyramid":
            y = conv2d(bn(expected, f"{at}.bn1"), w[f"{at}.conv1.weight"])
            y = conv2d(relu(bn(y, f"{at}.bn2")), w[f"{at}.conv2.weight"], stride=stride, padding=1)
            y = conv2d(relu(bn(y, f"{at}.bn3")), w[f"{at}.conv3.weight"])
            y = bn(y, f"{at}.bn4")
        else:
            y = conv2d(bn(expected, f"{at}.bn1"), w[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = conv2d(relu(bn(y, f"{at}.bn2")), w[f"{at}.conv2.weight"], padding=1)
            y = bn(y, f"{at}.bn3")
        shortcut = expected if stride == 1 else halved(expected)
        y[:, : shortcut.shape[1]] += shortcut
        expected = y
    expected = relu(bn(expected, "bn_final")).mean(dim=(2, 3)) @ w["fc.weight"].T + w["fc.bias"]
    assert torch.allclose(net(x), expected, atol=1e-5)
