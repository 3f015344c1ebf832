import pytest
import timm
import torch
from torch.nn.functional import batch_norm, conv2d, relu
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet, resnet18

from cutmix_zoo.models import CifarResNet
from tests.models.nets import count, images, make, meta

BASIC = {f"cifar_resnet{depth}": depth for depth in (8, 14, 20, 32, 44, 56, 110)}
BOTTLENECK = {f"cifar_resnet{depth}_bottleneck": depth for depth in (110, 164)}


# size


@pytest.mark.parametrize(("name", "depth"), BASIC.items())
def test_depth_and_parameters_of_basic_nets(name: str, depth: int) -> None:
    n = (depth - 2) // 6
    # every block: two 3x3 convolutions of width w and two BNs: 18 w^2 + 4 w, over the widths 16, 32, 64
    blocks = n * (18 * (16**2 + 32**2 + 64**2) + 4 * (16 + 32 + 64))
    # the first block of stages 2 and 3 has half the input channels, and a projection with its BN
    transitions = sum(-9 * (w // 2) * w + (w // 2) * w + 2 * w for w in (32, 64))
    stem_and_classifier = 9 * 3 * 16 + 2 * 16 + 64 * 10 + 10
    assert count(meta(name)) == blocks + transitions + stem_and_classifier


@pytest.mark.parametrize(("name", "depth"), BOTTLENECK.items())
def test_depth_and_parameters_of_bottleneck_nets(name: str, depth: int) -> None:
    n = (depth - 2) // 9
    # every block: 4w -> w -> w -> 4w and its BNs: 4 w^2 + 9 w^2 + 4 w^2 + 2 (w + w + 4 w)
    blocks = n * sum(17 * w**2 + 12 * w for w in (16, 32, 64))
    # the first block of a stage: fewer input channels (16; else 2 w) in its first convolution, and a projection
    transitions = sum((c - 4 * w) * w + c * 4 * w + 2 * 4 * w for c, w in ((16, 16), (64, 32), (128, 64)))
    stem_and_classifier = 9 * 3 * 16 + 2 * 16 + 256 * 10 + 10
    assert count(meta(name)) == blocks + transitions + stem_and_classifier


@pytest.mark.parametrize(("name", "layers"), [("cifar_resnet20", 19), ("cifar_resnet110_bottleneck", 109)])
def test_depth_counts_the_weighted_layers(name: str, layers: int) -> None:
    net = timm.create_model(name, device="meta")
    convs = [key for key, p in net.named_parameters() if p.ndim == 4 and "downsample" not in key]
    assert len(convs) == layers  # the classifier is the last one


@pytest.mark.parametrize(("depth", "bottleneck"), [(21, False), (11, False), (2, False), (21, True), (2, True)])
def test_impossible_depth_is_an_error(depth: int, bottleneck: bool) -> None:
    form = "9n \\+ 2 with bottlenecks" if bottleneck else "6n \\+ 2 with basic blocks"
    with pytest.raises(ValueError, match=f"depth must be {form} .*, got {depth}"):
        CifarResNet(depth, bottleneck=bottleneck)


def test_resnet18_is_torchvisions_but_for_its_stem() -> None:
    ours = timm.create_model("cifar_resnet18", num_classes=1000, device="meta").state_dict()
    theirs = resnet18().state_dict()
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key].shape != theirs[key].shape] == ["conv1.weight"]
    assert ours["conv1.weight"].shape == (64, 3, 3, 3)


def test_resnet18_computes_as_torchvisions() -> None:
    net = timm.create_model("cifar_resnet18").eval()
    reference = resnet18(num_classes=10).eval()
    reference.conv1, reference.maxpool = net.conv1, torch.nn.Identity()
    reference.load_state_dict(net.state_dict())
    assert torch.equal(net(images()), reference(images()))


# keys and arithmetic


@pytest.mark.parametrize(("kind", "block", "n"), [("basic", BasicBlock, 2), ("bottleneck", Bottleneck, 1)])
def test_keys_are_torchvisions(kind: str, block: type, n: int) -> None:
    torchvision_keys = {key for key in ResNet(block, [n, n, n, 1]).state_dict() if not key.startswith("layer4")}
    assert make(kind).state_dict().keys() == torchvision_keys


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_equals_the_definition_written_out(kind: str) -> None:
    net, x = make(kind), images(2, 3, 9, 12)
    w = net.state_dict()

    def bn(x: torch.Tensor, key: str) -> torch.Tensor:
        keys = (f"{key}.running_mean", f"{key}.running_var", f"{key}.weight", f"{key}.bias")
        return batch_norm(x, *(w[k] for k in keys))

    expected = relu(bn(conv2d(x, w["conv1.weight"], padding=1), "bn1"))
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        for i in range(2 if kind == "basic" else 1):
            at, s = f"layer{stage}.{i}", stride if i == 0 else 1
            if kind == "basic":
                y = relu(bn(conv2d(expected, w[f"{at}.conv1.weight"], stride=s, padding=1), f"{at}.bn1"))
                y = bn(conv2d(y, w[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            else:
                y = relu(bn(conv2d(expected, w[f"{at}.conv1.weight"]), f"{at}.bn1"))
                y = relu(bn(conv2d(y, w[f"{at}.conv2.weight"], stride=s, padding=1), f"{at}.bn2"))
                y = bn(conv2d(y, w[f"{at}.conv3.weight"]), f"{at}.bn3")
            if f"{at}.downsample.0.weight" in w:
                projection = conv2d(expected, w[f"{at}.downsample.0.weight"], stride=s)
                expected = bn(projection, f"{at}.downsample.1")
            expected = relu(y + expected)
    expected = expected.mean(dim=(2, 3)) @ w["fc.weight"].T + w["fc.bias"]
    assert torch.allclose(net(x), expected, atol=1e-5)
