"""timm's ResNets with stride 1 in the last stage."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.mixing import map_sizes
from cutmix_zoo.models import export_model, refresh_tags
from cutmix_zoo.models.exported import load_exported
from cutmix_zoo.models.regularize import BlockRegularizers, regularize_blocks, residual_blocks
from cutmix_zoo.models.tags import is_foreign_tag
from tests.models.nets import meta

BASES = ["resnet18", "resnet34", "resnet50", "resnet101"]
GREY = {"input_size": (1, 64, 64), "mean": (0.3,), "std": (0.4,), "interpolation": "bilinear", "crop_pct": 0.875}


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def pair(base: str = "resnet18", **kwargs: object) -> tuple[nn.Module, nn.Module]:
    """timm's network and ours with the same weights, none of which are 0: timm begins with branches that are."""
    torch.manual_seed(0)
    theirs, ours = (
        timm.create_model(name, num_classes=7, zero_init_last=False, **kwargs).eval()
        for name in (base, f"{base}_stride16")
    )
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def test_they_are_registered_in_a_family_of_their_own() -> None:
    assert timm.list_models(module="resnet_stride16") == [f"{base}_stride16" for base in BASES]
    assert not any(hasattr(timm.models, f"{base}_stride16") for base in BASES)


@pytest.mark.parametrize("base", BASES)
def test_maps_are_14_x_14_without_dilation(base: str) -> None:
    ours, theirs = meta(f"{base}_stride16"), meta(base)
    batch = torch.empty(2, 3, 224, 224, device="meta")
    assert ours.forward_features(batch).shape == (2, theirs.num_features, 14, 14)
    assert ours(batch).shape == (2, 1000)
    convolutions = [module for module in ours.modules() if isinstance(module, nn.Conv2d)]
    assert {convolution.dilation for convolution in convolutions} == {(1, 1)}
    assert {module.stride for module in ours.layer4.modules() if isinstance(module, nn.Conv2d)} == {(1, 1)}
    # timm's own way to such maps is another network
    dilated = meta(base, output_stride=16)
    assert dilated.forward_features(batch).shape[-2:] == (14, 14)
    assert any(module.dilation == (2, 2) for module in dilated.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize("base", BASES)
def test_weights_have_the_names_and_shapes_of_timms(base: str) -> None:
    shapes = [
        {key: value.shape for key, value in meta(name).state_dict().items()} for name in (base, f"{base}_stride16")
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("base", ["resnet18", "resnet50"])
def test_features_are_timms_up_to_the_third_stage(base: str) -> None:
    theirs, ours = pair(base)
    batch = images(2, 3, 64, 64)
    *before, last = theirs.forward_intermediates(batch, intermediates_only=True)
    *same, other = ours.forward_intermediates(batch, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(before, same, strict=True))
    assert (last.shape[-2:], other.shape[-2:]) == ((2, 2), (4, 4))


@pytest.mark.parametrize("base", ["resnet18", "resnet50"])
def test_the_first_block_of_the_last_stage_computes_what_timms_does_in_between(base: str) -> None:
    """A convolution of stride 1 gives at every second place what one of stride 2 gives."""
    theirs, ours = pair(base)
    first, second = theirs.layer4[0], ours.layer4[0]
    maps = torch.relu(images(2, theirs.layer3[-1].bn2.num_features * (4 if base == "resnet50" else 1), 6, 6))
    if base == "resnet50":
        branch, shortcut = (nn.Sequential(b.conv1, b.bn1, b.act1, b.conv2) for b in (first, second))
    else:
        branch, shortcut = first.conv1, second.conv1
    torch.testing.assert_close(shortcut(maps)[:, :, ::2, ::2], branch(maps), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second.downsample(maps)[:, :, ::2, ::2], first.downsample(maps), rtol=1e-5, atol=1e-5)


def test_the_downsampling_of_d_variants_loses_its_pooling() -> None:
    """What timm builds itself where the stride of a stage is 1."""
    variant = {"avg_down": True, "stem_type": "deep", "stem_width": 32}
    ours = meta("resnet50_stride16", **variant)
    assert ours.forward_features(torch.empty(1, 3, 224, 224, device="meta")).shape[-2:] == (14, 14)
    assert isinstance(ours.layer4[0].downsample[0], nn.Identity)
    assert isinstance(ours.layer3[0].downsample[0], nn.AvgPool2d)
    assert ours.state_dict().keys() == meta("resnet50", **variant).state_dict().keys()


@pytest.mark.parametrize("argument", [{"output_stride": 16}, {"aa_layer": "blurpc"}])
def test_other_ways_to_set_strides_are_refused(argument: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(argument))}: a ResNet of stride 16 takes none"):
        meta("resnet18_stride16", **argument)


def test_features_only_and_the_maps_that_can_be_mixed() -> None:
    features = meta("resnet50_stride16", features_only=True)
    batch = torch.empty(1, 3, 224, 224, device="meta")
    assert features.feature_info.reduction() == [2, 4, 8, 16, 16]
    assert [maps.shape[-1] for maps in features(batch)] == [112, 56, 28, 14, 14]
    assert map_sizes(meta("resnet50_stride16"), 224, 224)[-2:] == ((14, 14), (14, 14))


def test_blocks_take_regularizers() -> None:
    net = meta("resnet18_stride16", drop_path_rate=0.1)
    assert len(residual_blocks(net)) == 8
    regularize_blocks(timm.create_model("resnet18_stride16"), BlockRegularizers(drop_block_rate=0.1))


@pytest.mark.parametrize("base", BASES)
def test_tags_of_timm_stand_for_the_same_weights(base: str) -> None:
    ours, theirs = (timm.list_models(f"{name}.*", include_tags=True) for name in (f"{base}_stride16", base))
    # those of the zoo table and the store work too, but are not listed
    assert {name.replace("_stride16", "") for name in ours} == {name for name in theirs if is_foreign_tag(name)}
    for name in ours:
        assert timm.is_model_pretrained(name)
        mine, his = timm.get_pretrained_cfg(name), timm.get_pretrained_cfg(name.replace("_stride16", ""))
        assert mine.architecture == f"{base}_stride16"
        assert (mine.hf_hub_id, mine.url, mine.tag) == (his.hf_hub_id, his.url, his.tag)
        assert (mine.mean, mine.input_size, mine.num_classes) == (his.mean, his.input_size, his.num_classes)
        assert mine.pool_size == tuple(2 * side for side in his.pool_size)
    assert timm.get_pretrained_cfg(f"{base}_stride16").tag == timm.get_pretrained_cfg(base).tag


def test_weights_of_a_tag_are_loaded(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet18", zero_init_last=False).eval()
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    file = {"file": str(tmp_path / "weights.safetensors")}
    ours = timm.create_model("resnet18_stride16.a1_in1k", pretrained=True, pretrained_cfg_overlay=file, num_classes=5)
    kept = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in kept.items())
    assert ours.fc.out_features == 5


def test_tags_of_the_zoo_and_the_store_stand_for_the_same_weights(store: Path) -> None:
    network = timm.create_model("resnet18", num_classes=3, zero_init_last=False)
    rgb = {**GREY, "input_size": (3, 64, 64), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    export_model(network, store / "resnet18.mine", data_config=rgb, label_names=None, provenance={})
    refresh_tags()
    ours = timm.create_model("resnet18_stride16.mine", pretrained=True)
    assert ours.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in network.state_dict().items())
    assert ours.pretrained_cfg["architecture"] == "resnet18_stride16"
    config = meta("resnet50_stride16.cutmix_in1k").pretrained_cfg
    assert (config["architecture"], config["tag"], config["pool_size"]) == (
        "resnet50_stride16",
        "cutmix_in1k",
        (14, 14),
    )
    with pytest.raises(UserError, match=r"cutmix-zoo import FILE --as resnet50\.cutmix_in1k"):
        meta("resnet50_stride16.cutmix_in1k", pretrained=True)
    with pytest.raises(RuntimeError, match=r"Invalid pretrained tag \(nobodys\) for resnet50"):
        meta("resnet50_stride16.nobodys")


def test_the_callers_own_weights_win(store: Path, tmp_path: Path) -> None:
    state = {key: torch.full_like(value, 3) for key, value in timm.create_model("resnet18").state_dict().items()}
    torch.save(state, tmp_path / "mine.pth")
    put = store / "resnet18.lost"
    export_model(
        timm.create_model("resnet18", num_classes=1000),
        put,
        data_config={**GREY, "input_size": (3, 64, 64), "mean": (0.3,) * 3, "std": (0.4,) * 3},
        label_names=None,
        provenance={},
    )
    refresh_tags()
    (put / "model.safetensors").unlink()  # what would be looked for is not there
    with pytest.raises(UserError, match="import the weights again"):
        timm.create_model("resnet18_stride16.lost", pretrained=True)
    for overlay in ({"state_dict": state}, {"file": str(tmp_path / "mine.pth")}):
        ours = timm.create_model("resnet18_stride16.lost", pretrained=True, pretrained_cfg_overlay=overlay)
        assert (ours.conv1.weight == 3).all()
    with pytest.raises(UserError, match="import the weights again"):
        timm.create_model(
            "resnet18_stride16.lost", pretrained=True, pretrained_cfg_overlay={"description": "says not where"}
        )


def test_an_exported_network_comes_back(tmp_path: Path) -> None:
    _, ours = pair(in_chans=1)
    export_model(ours, tmp_path, data_config=GREY, label_names=None, provenance={})
    batch = images(2, 1, 64, 64)
    for loaded in (timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(), load_exported(tmp_path)):
        assert loaded.forward_features(batch).shape[-2:] == (4, 4)
        assert torch.equal(loaded(batch), ours(batch))
