from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchcam.methods import CAM

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.cam import check_has_cam, feature_maps, pooled_logits, weigh_features

TINY_SWIN = {"img_size": (64, 128), "window_size": 2, "embed_dim": 12, "depths": (1,) * 4, "num_heads": (1,) * 4}

# the last BatchNorm of timm's ResNets begins with zeros: with them a map would be that of the shortcuts alone
NETWORKS: list[tuple[str, dict[str, Any], tuple[int, int, int], tuple[int, int]]] = [
    ("cifar_resnet8", {}, (3, 28, 32), (7, 8)),
    ("resnet18", {"zero_init_last": False}, (3, 64, 96), (2, 3)),
    ("resnet18", {"zero_init_last": False, "output_stride": 8, "in_chans": 1}, (1, 28, 28), (4, 4)),
    ("resnet26t", {"zero_init_last": False, "drop_rate": 0.5}, (3, 64, 64), (2, 2)),
    ("efficientnet_lite0", {}, (3, 64, 64), (2, 2)),
    ("regnetx_002", {}, (3, 64, 64), (2, 2)),
    ("dla46_c", {}, (3, 64, 64), (2, 2)),  # its classifier is a convolution
    ("swin_tiny_patch4_window7_224", TINY_SWIN, (3, 64, 128), (2, 4)),  # its features are channels last
]


def make(name: str, **kwargs: Any) -> nn.Module:
    torch.default_generator.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 7} | kwargs).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "kwargs", "size", "expected"), NETWORKS, ids=[f"{n[0]}-{n[2]}" for n in NETWORKS])
def test_mean_of_a_map_and_bias_are_the_logit(
    name: str, kwargs: dict[str, Any], size: tuple[int, int, int], expected: tuple[int, int]
) -> None:
    network = make(name, **kwargs)
    bias = network.get_classifier().bias
    with torch.no_grad():
        bias.copy_(noise(7))
        inputs, classes = noise(5, *size), torch.tensor([6, 0, 2, 2, 5])
        logits = network(inputs)
        features = feature_maps(network, inputs)
        maps = weigh_features(network, features, classes)
        assert maps.shape == (5, *expected)
        assert check_has_cam(network, size) == expected
        effect = logits.gather(1, classes[:, None])[:, 0] - bias[classes]
        assert effect.abs().max() > 1e-3
        torch.testing.assert_close(maps.mean((1, 2)), effect, rtol=1e-3, atol=1e-5)
        assert maps.std((1, 2)).min() > 1e-5
        assert maps.min() < 0
        torch.testing.assert_close(pooled_logits(network, features), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4"), ("cifar_resnet8", "layer3")])
def test_maps_are_those_of_torchcam(name: str, layer: str) -> None:
    network = make(name, **{"zero_init_last": False} if name == "resnet18" else {})
    inputs, classes = noise(4, 3, 64, 64), torch.tensor([3, 0, 6, 3])
    with CAM(network, layer, "fc") as extractor, torch.no_grad():
        network(inputs)
        (expected,) = extractor(classes.tolist(), normalized=False)
        maps = weigh_features(network, feature_maps(network, inputs), classes)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_a_permuted_batch_has_permuted_maps() -> None:
    network, inputs, classes = make("cifar_resnet8"), noise(6, 3, 32, 32), torch.arange(6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    maps = weigh_features(network, feature_maps(network, inputs), classes)
    permuted = weigh_features(network, feature_maps(network, inputs[order]), classes[order])
    torch.testing.assert_close(permuted, maps[order])


def test_features_are_weighed_one_image_at_a_time() -> None:
    network, features = make("cifar_resnet8"), noise(3, 64, 2, 4)
    classes = torch.tensor([1, 6, 1])
    weight = network.get_classifier().weight
    expected = torch.zeros(3, 2, 4)
    for image in range(3):
        for channel in range(64):
            expected[image] += weight[classes[image], channel] * features[image, channel]
    maps = weigh_features(network, features.bfloat16(), classes)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=0.02, atol=0.02)


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("vit_tiny_patch16_224", {"img_size": 32}, 32, r"its features are no maps"),
    ("deit_tiny_distilled_patch16_224", {"img_size": 32}, 32, r"not one linear layer but tuple"),
    ("resnet18", {}, 28, r"for images of 28 x 28 they are 1 x 1.*larger images.*smaller output_stride, such as 8"),
    ("resnet18", {"global_pool": "max"}, 64, r"not those of the means of its features.*global_pool is 'max'"),
    ("resnet18", {"global_pool": "catavgmax"}, 64, r"512 channels and its classifier takes 1024.*'catavgmax'"),
    ("resnet18", {"num_classes": 0}, 64, r"not one linear layer but Identity"),
    ("mobilenetv3_small_050", {}, 64, r"288 channels and its classifier takes 1024 numbers"),
    ("convnext_atto", {}, 64, r"a norm or another layer between pooling and classifier"),
]


@pytest.mark.parametrize(("name", "kwargs", "side", "message"), REFUSED, ids=[f"{r[0]}-{r[1]}" for r in REFUSED])
def test_networks_without_maps_are_refused_with_a_reason(
    name: str, kwargs: dict[str, Any], side: int, message: str
) -> None:
    with pytest.raises(UserError, match=r"has no class activation maps: .*" + message):
        check_has_cam(make(name, **kwargs), (3, side, side))


def test_a_network_of_another_interface_is_refused() -> None:
    with pytest.raises(UserError, match="ResNet has no forward_features and get_classifier"):
        check_has_cam(torchvision.models.resnet18().eval(), (3, 64, 64))
