import pytest
import timm
import torch
from torch.nn.functional import batch_norm, conv2d, relu

from cutmix_zoo.models import CifarPyramidNet
from tests.models.test_cifar_net import images, make

NAMES = ["cifar_pyramidnet110_a64", "cifar_pyramidnet200_a240"]


def meta(name: str, **kwargs: object) -> CifarPyramidNet:
    return timm.create_model(name, device="meta", **kwargs)


def count(net: CifarPyramidNet) -> int:
    return sum(p.numel() for p in net.parameters())


# registry


def test_registered_under_their_own_module() -> None:
    assert timm.list_models(module="cifar_pyramidnet") == NAMES


@pytest.mark.parametrize("name", ["cifar_pyramidnet", *NAMES])
def test_no_name_is_timms(name: str) -> None:
    # timm.models holds every module and entry point of timm as an attribute
    assert hasattr(timm.models, "resnet18")
    assert not hasattr(timm.models, name)


@pytest.mark.parametrize("name", NAMES)
def test_default_config_is_complete_and_weightless(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name)
    assert not cfg.has_weights
    assert (cfg.num_classes, cfg.input_size, cfg.pool_size) == (10, (3, 32, 32), (8, 8))
    assert (cfg.crop_pct, cfg.interpolation, cfg.fixed_input_size) == (1.0, "bilinear", False)
    assert (cfg.first_conv, cfg.classifier) == ("conv1", "fc")
    assert (cfg.license, cfg.paper_ids) == ("apache-2.0", "arXiv:1610.02915")
    assert cfg.origin_url == "https://github.com/clovaai/CutMix-PyTorch"


@pytest.mark.parametrize("name", NAMES)
def test_trains_from_any_name(name: str) -> None:
    net = meta(name)
    logits = net(torch.empty(2, 3, 32, 32, device="meta"))
    logits.sum().backward()
    assert logits.shape == (2, 10)
    assert all(p.grad is not None for p in net.parameters())


# size


@pytest.mark.parametrize(
    ("depth", "alpha", "num_classes", "parameters"),
    [
        (110, 64, 100, 1_725_300),
        (200, 240, 100, 26_844_952),
        (200, 240, 10, 26_752_702),
        # known counts of two nets without a name here
        (110, 270, 100, 18_426_837),
        (272, 200, 100, 26_288_692),
    ],
)
def test_parameters_in_the_papers(depth: int, alpha: int, num_classes: int, parameters: int) -> None:
    assert count(CifarPyramidNet(depth, alpha, num_classes=num_classes, device="meta")) == parameters


@pytest.mark.parametrize(("name", "depth", "alpha"), [(NAMES[0], 110, 64), (NAMES[1], 200, 240)])
def test_names_say_depth_and_alpha(name: str, depth: int, alpha: int) -> None:
    assert meta(name).state_dict().keys() == CifarPyramidNet(depth, alpha, device="meta").state_dict().keys()
    assert count(meta(name)) == count(CifarPyramidNet(depth, alpha, device="meta"))


# four times the rounded inner width, by hand: 16 + 64 k / 36 and 16 + 240 k / 66 after block k
WIDTHS_110_A64 = {1: 72, 2: 80, 3: 84, 12: 148, 13: 156, 24: 236, 25: 240, 35: 312, 36: 320}
WIDTHS_200_A240 = {1: 80, 2: 92, 3: 108, 22: 384, 23: 400, 44: 704, 45: 720, 65: 1008, 66: 1024}


@pytest.mark.parametrize(("name", "widths"), [(NAMES[0], WIDTHS_110_A64), (NAMES[1], WIDTHS_200_A240)])
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


@pytest.mark.parametrize("depth", [12, 2, 1, -7])
def test_impossible_depth_is_an_error(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth must be 9n \\+ 2 .*, got {depth}"):
        CifarPyramidNet(depth, alpha=64)


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


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 9)])
def test_equals_the_definition_written_out(height: int, width: int) -> None:
    net, x = make("pyramid"), images(2, 3, height, width)
    w = net.state_dict()

    def bn(x: torch.Tensor, key: str) -> torch.Tensor:
        keys = (f"{key}.running_mean", f"{key}.running_var", f"{key}.weight", f"{key}.bias")
        return batch_norm(x, *(w[k] for k in keys))

    expected = bn(conv2d(x, w["conv1.weight"], padding=1), "bn1")
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        at = f"layer{stage}.0"
        y = conv2d(bn(expected, f"{at}.bn1"), w[f"{at}.conv1.weight"])
        y = conv2d(relu(bn(y, f"{at}.bn2")), w[f"{at}.conv2.weight"], stride=stride, padding=1)
        y = conv2d(relu(bn(y, f"{at}.bn3")), w[f"{at}.conv3.weight"])
        y = bn(y, f"{at}.bn4")
        shortcut = expected if stride == 1 else halved(expected)
        y[:, : shortcut.shape[1]] += shortcut
        expected = y
    expected = relu(bn(expected, "bn_final")).mean(dim=(2, 3)) @ w["fc.weight"].T + w["fc.bias"]
    assert torch.allclose(net(x), expected, atol=1e-5)
