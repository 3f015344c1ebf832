import pytest
import timm
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from cutmix_zoo.models import CifarResNeXt
from tests.models.nets import images, make


def torchvisions(groups: int, width_per_group: int, blocks: int) -> ResNet:
    """Torchvision's ResNeXt with the stem of small images, and without its last stage."""
    net = ResNet(Bottleneck, [blocks] * 3 + [1], num_classes=10, groups=groups, width_per_group=width_per_group)
    net.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool, net.layer4, net.fc = torch.nn.Identity(), torch.nn.Identity(), torch.nn.Linear(1024, 10)
    return net


@pytest.mark.parametrize(("name", "groups"), [("cifar_resnext29_8x64d", 8), ("cifar_resnext29_16x64d", 16)])
def test_names_say_cardinality_and_width(name: str, groups: int) -> None:
    with torch.device("meta"):
        reference = torchvisions(groups, 64, blocks=3)
    ours = timm.create_model(name, device="meta")
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (ours, reference)]
    assert shapes[0] == shapes[1]
    assert {block.conv2.groups for block in (*ours.layer1, *ours.layer2, *ours.layer3)} == {groups}


def test_computes_as_torchvisions() -> None:
    net, reference = make("grouped"), torchvisions(2, 32, blocks=1).eval()
    reference.load_state_dict(net.state_dict())
    assert torch.allclose(net(images()), reference(images()), atol=1e-5)


def test_settings_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match=r"depth must be 9n \+ 2 with bottlenecks .*, got 30"):
        CifarResNeXt(30, cardinality=8, base_width=64)
    with pytest.raises(ValueError, match=r"cardinality \* base_width must be a multiple of 64, got 3 \* 8"):
        CifarResNeXt(29, cardinality=3, base_width=8)
