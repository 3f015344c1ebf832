"""What every registered architecture fulfils, whatever its family; on the meta device, where size costs nothing."""

import pytest
import timm
import torch

from tests.models.nets import meta

FAMILIES = ["cifar_pyramidnet", "cifar_resnet", "cifar_resnext", "cifar_wideresnet", "pyramidnet"]
NAMES = sorted(name for family in FAMILIES for name in timm.list_models(module=family))


def batch(name: str, in_chans: int = 3) -> torch.Tensor:
    return torch.empty(2, in_chans, *timm.get_pretrained_cfg(name).input_size[1:], device="meta")


def test_the_families_are_complete() -> None:
    assert len(NAMES) == 20


@pytest.mark.parametrize("name", [*FAMILIES, *NAMES])
def test_no_name_is_timms(name: str) -> None:
    # timm.models holds every module and entry point of timm as an attribute
    assert hasattr(timm.models, "resnet18")
    assert not hasattr(timm.models, name)


@pytest.mark.parametrize("name", NAMES)
def test_default_config_is_complete_and_weightless(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name)
    assert not cfg.has_weights
    assert not timm.is_model_pretrained(name)
    assert (cfg.interpolation, cfg.fixed_input_size) == ("bilinear", False)
    assert (cfg.first_conv, cfg.classifier, cfg.license) == ("conv1", "fc", "apache-2.0")
    assert cfg.paper_ids.startswith("arXiv:")
    assert cfg.paper_name
    if name.startswith("cifar_"):
        assert (cfg.num_classes, cfg.input_size, cfg.crop_pct) == (10, (3, 32, 32), 1.0)
        assert cfg.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=3e-4)
        assert cfg.std == pytest.approx((0.2471, 0.2435, 0.2616), abs=3e-4)
    else:
        assert (cfg.num_classes, cfg.input_size, cfg.crop_pct) == (1000, (3, 224, 224), 0.875)
        assert (cfg.mean, cfg.std) == (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)


@pytest.mark.parametrize("name", NAMES)
def test_forward_backward_and_pool_size(name: str) -> None:
    net, cfg = meta(name), timm.get_pretrained_cfg(name)
    features = net.forward_features(batch(name))
    assert features.shape == (2, net.num_features, *cfg.pool_size)
    logits = net(batch(name))
    logits.sum().backward()
    assert logits.shape == (2, cfg.num_classes)
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_first_conv_and_classifier_are_what_the_config_says(name: str) -> None:
    net = meta(name, in_chans=1, num_classes=7)
    assert next(iter(net.state_dict())) == "conv1.weight"
    assert net.conv1.in_channels == 1
    assert net.get_classifier() is net.fc
    assert net(batch(name, in_chans=1)).shape == (2, 7)
    net.reset_classifier(0)
    assert net(batch(name, in_chans=1)).shape == (2, net.num_features)


@pytest.mark.parametrize("name", NAMES)
def test_features_only(name: str) -> None:
    net = meta(name, features_only=True)
    side = batch(name).shape[-1]
    maps = net(batch(name))
    assert net.feature_info.channels() == [m.shape[1] for m in maps]
    assert net.feature_info.reduction() == [side // m.shape[2] for m in maps]
    assert len(maps) == (4 if timm.get_pretrained_cfg(name).pool_size == (8, 8) else 5)


@pytest.mark.parametrize("name", NAMES)
def test_regularizers_are_arguments_of_the_model(name: str) -> None:
    kwargs = {"drop_rate": 0.1, "drop_block_rate": 0.1, "drop_block_size": 4}
    shaken = meta(name, shakedrop_prob=0.5, shakedrop_per="channel", shakedrop_gate="sample", **kwargs)
    dropped = meta(name, drop_path_rate=0.2, drop_path_rule="uniform", **kwargs)
    for net in (shaken, dropped):
        assert net.state_dict().keys() == meta(name).state_dict().keys()
        logits = net.train()(batch(name))
        logits.sum().backward()
        assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(TypeError, match="takes no argument called drop_blok_rate"):
        meta(name, drop_blok_rate=0.1)


def test_what_makes_a_variant_can_be_overridden() -> None:
    assert len(meta("cifar_resnet20", depth=26).layer1) == 4
    assert meta("pyramidnet50_a300", alpha=100, features_only=True).feature_info.channels()[-1] == 4 * (64 + 100)
