"""The interface that every family has, tried on a small net of each kind of block and stem."""

from pathlib import Path

import pytest
import timm
import torch
from timm.models import create_feature_extractor, group_parameters
from torch import nn

from cutmix_zoo.models.staged_net import StagedNet, architecture_cfg, blocks_per_stage
from tests.models.nets import FACTS, NETS, images, make

REGISTERED = ["cifar_resnet8", "cifar_pyramidnet110_a64", "cifar_resnet18", "pyramidnet50_a300"]
# TorchScript is deprecated in PyTorch; it must keep working as long as it is there
TORCHSCRIPT_DEPRECATED = r"ignore:`torch.jit.\w+` is deprecated"  # the category differs between torch versions


@pytest.fixture(params=NETS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def stages(net: StagedNet) -> list[nn.Sequential]:
    return [net.get_submodule(info["module"]) for info in net.feature_info[1:]]


# shapes


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (7, 7), (33, 18), (5, 4), (1, 1)])
def test_odd_sizes_are_rounded_up(kind: str, height: int, width: int) -> None:
    net = make(kind)
    features = net.forward_features(images(1, 3, height, width))
    reduction = FACTS[kind].reductions[-1]
    assert features.shape == (1, net.num_features, -(-height // reduction), -(-width // reduction))
    assert net.forward_head(features).shape == (1, 10)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_in_chans_and_num_classes(kind: str, in_chans: int) -> None:
    net = make(kind, in_chans=in_chans, num_classes=7)
    assert net.conv1.in_channels == in_chans
    assert net(images(2, in_chans, 28, 28)).shape == (2, 7)


def test_a_batch_of_one_trains(kind: str) -> None:
    net = make(kind).train()
    net(images(1, 3, 64, 64)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_every_parameter_receives_a_gradient(kind: str) -> None:
    net = make(kind).train()
    nn.functional.cross_entropy(net(images()), torch.tensor([3, 8])).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_device_and_dtype(kind: str) -> None:
    net = NETS[kind](device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in net.parameters()} == {("meta", torch.bfloat16)}
    net.reset_classifier(5)
    assert (net.fc.weight.device.type, net.fc.weight.dtype) == ("meta", torch.bfloat16)


# initialisation


def test_initial_weights(kind: str) -> None:
    torch.manual_seed(0)
    net = NETS[kind]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        if isinstance(module, nn.Conv2d):
            weight = module.weight
            std = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            # the standard error of a standard deviation from N draws is 1 / sqrt(2 N) of it; allow five
            assert weight.std().item() == pytest.approx(std, rel=5 / (2 * weight.numel()) ** 0.5)
            assert abs(weight.mean().item()) < 5 * std / weight.numel() ** 0.5


def test_the_global_seed_decides_the_initial_weights(kind: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(NETS[kind]().parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


# head


def test_forward_is_features_then_head(kind: str) -> None:
    net, x = make(kind), images()
    features = net.forward_features(x)
    pooled = features.mean(dim=(2, 3))
    assert torch.allclose(net.forward_head(features, pre_logits=True), pooled, atol=1e-6)
    assert torch.allclose(net(x), pooled @ net.fc.weight.T + net.fc.bias, atol=1e-5)


def test_num_classes_0_gives_pooled_features(kind: str) -> None:
    net = make(kind, num_classes=0)
    assert isinstance(net.get_classifier(), nn.Identity)
    assert net(images()).shape == (2, net.num_features) == (2, net.head_hidden_size)


def test_global_pool_is_timms(kind: str) -> None:
    x = images()
    net = make(kind, num_classes=0)
    features = net.forward_features(x)
    assert torch.equal(make(kind, num_classes=0, global_pool="max")(x), features.amax(dim=(2, 3)))
    assert torch.equal(make(kind, num_classes=0, global_pool="")(x), features)
    assert make(kind, global_pool="catavgmax").fc.in_features == 2 * net.num_features


def test_reset_classifier(kind: str) -> None:
    net, x = make(kind), images()
    net.reset_classifier(5)
    assert net(x).shape == (2, 5)
    assert (net.num_classes, net.get_classifier()) == (5, net.fc)
    assert net.get_submodule(net.get_classifier(name_only=True)) is net.fc  # as timm's networks name it
    net.reset_classifier(6, "catavgmax")
    assert net(x).shape == (2, 6)
    assert net.head_hidden_size == net.fc.in_features == 2 * net.num_features
    net.reset_classifier(4)  # keeps the pooling
    assert net.fc.in_features == 2 * net.num_features
    net.reset_classifier(0, "")
    assert torch.equal(net(x), net.forward_features(x))


def test_drop_rate_acts_on_pooled_features_in_training(kind: str) -> None:
    net, x = make(kind, drop_rate=0.5), images()
    assert (net.drop_rate, make(kind).drop_rate) == (0.5, 0.0)
    features = net.forward_features(x)
    kept = net.forward_head(features, pre_logits=True)
    dropped = net.train().forward_head(features, pre_logits=True)
    assert torch.allclose(dropped[dropped != 0], 2 * kept[dropped != 0])
    assert 0.3 < (dropped == 0)[kept != 0].float().mean() < 0.7
    assert torch.equal(net.eval()(x), make(kind)(x))


# features


@pytest.mark.parametrize("name", REGISTERED)
@pytest.mark.parametrize("feature_cls", ["default", "dict", "hook", "fx", "getter"])
def test_features_only_gives_stem_and_stages(name: str, feature_cls: str) -> None:
    kwargs = {} if feature_cls == "default" else {"feature_cls": feature_cls}
    torch.manual_seed(0)
    net = timm.create_model(name, features_only=True, **kwargs).eval()
    torch.manual_seed(0)
    reference = timm.create_model(name).eval()
    x = images(1, 3, 32, 32)
    maps = net(x)
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    expected = reference.forward_intermediates(x, intermediates_only=True)
    assert len(maps) == len(reference.feature_info)
    assert net.feature_info.channels() == [m.shape[1] for m in maps]
    assert net.feature_info.reduction() == [32 // m.shape[2] for m in maps]
    for actual, wanted in zip(maps, expected, strict=True):
        assert torch.allclose(actual, wanted, atol=1e-5)


@pytest.mark.parametrize("name", REGISTERED)
@pytest.mark.parametrize("out_indices", [(1, 3), (-1,), (0, -2)])
def test_out_indices(name: str, out_indices: tuple[int, ...]) -> None:
    every = timm.create_model(name, features_only=True, device="meta").feature_info.reduction()
    net = timm.create_model(name, features_only=True, out_indices=out_indices, device="meta")
    assert net.feature_info.reduction() == [every[index] for index in out_indices]
    maps = net(torch.empty(2, 3, 32, 32, device="meta"))
    assert [32 // m.shape[2] for m in maps] == [every[index] for index in out_indices]


def test_intermediates(kind: str) -> None:
    net, x = make(kind), images()
    features, maps = net.forward_intermediates(x)
    assert torch.equal(features, net.forward_features(x))
    facts = FACTS[kind]
    assert [m.shape[1] for m in maps] == facts.channels == [info["num_chs"] for info in net.feature_info]
    assert [32 // m.shape[2] for m in maps] == facts.reductions == [info["reduction"] for info in net.feature_info]
    stem = net.conv1(x)
    stem = net.bn1(stem) if "norm" in facts.stem else stem
    assert torch.equal(maps[0], stem.relu() if "relu" in facts.stem else stem)
    maps[0] = nn.functional.max_pool2d(maps[0], 3, 2, 1) if facts.reductions[0] == 2 else maps[0]
    for layer, before, after in zip(stages(net), maps, maps[1:], strict=False):
        assert torch.equal(layer(before), after)


@pytest.mark.parametrize(("indices", "kept"), [([0, 2], [0, 2]), ([-1], [-1]), (2, [-2, -1]), (None, None)])
def test_intermediates_by_index(kind: str, indices: list[int] | int | None, kept: list[int] | None) -> None:
    net, x = make(kind), images()
    _, every = net.forward_intermediates(x)
    kept = list(range(len(every))) if kept is None else kept
    some = net.forward_intermediates(x, indices, intermediates_only=True)
    assert len(some) == len(kept)
    assert all(torch.equal(m, every[i]) for m, i in zip(some, kept, strict=True))


def test_norm_touches_the_last_map_only(kind: str) -> None:
    net, x = make(kind), images()
    raw = net.forward_intermediates(x, intermediates_only=True)
    normed = net.forward_intermediates(x, norm=True, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(raw[:-1], normed[:-1], strict=True))
    assert torch.equal(normed[-1], net.forward_features(x))
    assert torch.equal(raw[-1], normed[-1]) != FACTS[kind].norm


def test_stop_early_leaves_the_rest_out(kind: str) -> None:
    net, x = make(kind), images()
    expected = net.forward_intermediates(x, [1], intermediates_only=True)[0]
    net.layer2 = net.layer3 = net.layer4 = None  # calling it would raise
    last, maps = net.forward_intermediates(x, [1], stop_early=True)
    assert torch.equal(last, expected)
    assert torch.equal(maps[0], expected)


def test_unknown_output_format_is_an_error(kind: str) -> None:
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        make(kind).forward_intermediates(images(), output_fmt="NLC")


@pytest.mark.parametrize("prune_head", [True, False])  # a head sized for the last map cannot stay either way
def test_prune_intermediate_layers(kind: str, prune_head: bool) -> None:
    net, x = make(kind), images()
    stem, _, stage2, *_ = net.forward_intermediates(x, intermediates_only=True)
    assert net.prune_intermediate_layers([0, 2], prune_head=prune_head) == [0, 2]
    assert {name.split(".")[0] for name, _ in net.named_parameters()} - {"bn1"} == {"conv1", "layer1", "layer2"}
    kept = net.forward_intermediates(x, [0, 2], intermediates_only=True)
    assert torch.equal(kept[0], stem)
    assert torch.equal(kept[1], stage2)
    assert torch.equal(net(x), stage2)
    assert net.num_features == net.head_hidden_size == stage2.shape[1]


@pytest.mark.parametrize("prune_norm", [True, False])
def test_prune_nothing_but_the_norm(kind: str, prune_norm: bool) -> None:
    net, x = make(kind), images()
    raw = net.forward_intermediates(x, 1, intermediates_only=True)[0]
    expected = raw if prune_norm else net.forward_features(x)
    fc = net.fc
    last = len(net.feature_info) - 1
    assert net.prune_intermediate_layers(1, prune_norm=prune_norm, prune_head=False) == [last]
    assert torch.equal(net.forward_features(x), expected)
    assert net.fc is fc


# training aids


@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher_orders_parameters_by_depth(kind: str, coarse: bool) -> None:
    net = make(kind)
    groups = group_parameters(net, net.group_matcher(coarse=coarse), reverse=True)
    num_blocks = len(stages(net)) if coarse else FACTS[kind].blocks
    assert groups.keys() == dict(net.named_parameters()).keys()
    assert set(groups.values()) == set(range(num_blocks + 2))
    assert groups["conv1.weight"] == groups.get("bn1.weight", 0) == 0
    assert groups["layer1.0.bn1.weight"] == 1
    assert groups[f"layer{len(stages(net))}.0.conv1.weight"] == num_blocks - (kind == "basic" and not coarse)
    assert groups["fc.weight"] == groups["fc.bias"] == num_blocks + 1
    if FACTS[kind].norm:
        assert groups["bn_final.weight"] == num_blocks


def test_checkpointing_gives_the_same_gradients(kind: str) -> None:
    def gradients(checkpointing: bool) -> tuple[torch.Tensor, int]:
        net = make(kind).train()
        net.set_grad_checkpointing(checkpointing)
        calls = []
        net.layer2[0].register_forward_pre_hook(lambda *_: calls.append(1))
        net(images()).square().sum().backward()
        return nn.utils.parameters_to_vector(p.grad for p in net.parameters()), len(calls)

    (plain, once), (recomputed, twice) = gradients(False), gradients(True)
    assert torch.equal(plain, recomputed)
    assert (once, twice) == (1, 2)


def test_checkpointing_reaches_forward_intermediates(kind: str) -> None:
    net, calls = make(kind), []
    net.set_grad_checkpointing()
    net.layer3[0].register_forward_pre_hook(lambda *_: calls.append(1))
    net.forward_intermediates(images())[0].sum().backward()
    assert len(calls) == 2


# other ways to run


@pytest.mark.filterwarnings(TORCHSCRIPT_DEPRECATED)
@pytest.mark.parametrize("extra", [{"drop_path_rate": 0.2}, {"shakedrop_prob": 0.5, "drop_block_rate": 0.1}])
def test_torchscript(kind: str, extra: dict[str, float]) -> None:
    net = make(kind, **extra, drop_rate=0.1)
    assert torch.allclose(torch.jit.script(net)(images()), net(images()), atol=1e-5)


def test_fx_feature_extractor(kind: str) -> None:
    net, x = make(kind, drop_block_rate=0.1, shakedrop_prob=0.5), images()
    extracted = create_feature_extractor(net, {"act1": "stem", "layer2": "middle", "fc": "logits"})(x)
    _, maps = net.forward_intermediates(x)
    for actual, expected in zip(extracted.values(), (maps[0], maps[2], net(x)), strict=True):
        assert torch.allclose(actual, expected, atol=1e-5)


def test_compiles_without_graph_break(kind: str) -> None:
    net = make(kind)
    assert torch.allclose(torch.compile(net, backend="eager", fullgraph=True)(images()), net(images()), atol=1e-5)


@pytest.mark.parametrize("extra", [{"drop_path_rate": 0.2}, {"shakedrop_prob": 0.5, "drop_block_rate": 0.1}])
def test_regularizers_compile_without_graph_break(kind: str, extra: dict[str, float]) -> None:
    net = make(kind, **extra).train()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    logits = compiled(images())
    logits.sum().backward()
    torch.manual_seed(0)
    assert torch.allclose(logits, net(images()), atol=1e-4)
    assert all(p.grad is not None for p in net.parameters())


def test_onnx(kind: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    pytest.importorskip("onnxscript", reason="the onnx extra is not installed")
    net, file = make(kind, shakedrop_prob=0.5, drop_block_rate=0.1), tmp_path / "net.onnx"
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(net, (images(),), file, dynamo=True, verbose=False, dynamic_shapes=(batch,))
    session = onnxruntime.InferenceSession(file)
    x = images(3, 3, 32, 32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(logits), net(x), atol=1e-4)


def test_channels_last_stays_so_and_gives_the_same(kind: str) -> None:
    net, x = make(kind), images()
    expected = net(x)
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    assert torch.allclose(net(x), expected, atol=1e-5)
    _, maps = net.forward_intermediates(x)
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)


def test_bfloat16(kind: str) -> None:
    net, x = make(kind), images()
    expected = net(x)
    actual = net.bfloat16()(x.bfloat16())
    assert actual.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(actual.float(), expected).min() > 0.99


def test_autocast_trains(kind: str) -> None:
    net = make(kind).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(images())
    logits.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


# configuration


def test_architecture_cfg_takes_overrides() -> None:
    cfg = architecture_cfg("cifar100", pool_size=4, crop_pct=0.9, paper_ids="arXiv:1")
    assert (cfg["num_classes"], cfg["paper_ids"], cfg["input_size"]) == (100, "arXiv:1", (3, 32, 32))
    assert (cfg["pool_size"], cfg["crop_pct"]) == ((4, 4), 0.9)


@pytest.mark.parametrize(("depth", "bottleneck", "blocks"), [(8, False, 1), (110, False, 18), (110, True, 12)])
def test_blocks_per_stage(depth: int, bottleneck: bool, blocks: int) -> None:
    assert blocks_per_stage(depth, bottleneck) == blocks
    with pytest.raises(ValueError, match=f"n \\+ 2 .*, got {depth + 1}"):
        blocks_per_stage(depth + 1, bottleneck)


def test_blocks_may_be_anything_with_the_same_signature() -> None:
    def block(in_chs: int, out_chs: int, stride: int, device: None, dtype: None) -> nn.Module:
        return nn.Conv2d(in_chs, out_chs, 1, stride=stride, device=device, dtype=dtype)

    net = StagedNet(block, [[8], [12, 20], [24]], stem_width=5)
    maps = net.forward_intermediates(images(), intermediates_only=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(5, 32, 32), (8, 32, 32), (20, 16, 16), (24, 8, 8)]


def test_a_classifier_without_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="a classifier needs pooling: give global_pool='avg', or num_classes=0"):
        timm.create_model("cifar_resnet8", global_pool="")
    net = timm.create_model("cifar_resnet8", global_pool="", num_classes=0)
    net.reset_classifier(5, "avg")
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
