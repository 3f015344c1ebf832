"""Regularizers in the blocks of our networks and of timm's ResNets."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from cutmix_zoo.models import export_model
from cutmix_zoo.models.drop_block import DropBlock2d
from cutmix_zoo.models.regularize import BlockRegularizers, plain_weights, regularize_blocks, residual_blocks
from cutmix_zoo.models.shakedrop import ShakeDrop
from tests.models.nets import FACTS, NETS, images, make


def small_timm(name: str = "resnet26", **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10, **kwargs).eval()


def drop_probs(net: nn.Module) -> list[float]:
    return [getattr(block.drop_path, "drop_prob", 0.0) for block in residual_blocks(net).values()]


def blocks_with_drop_block(net: nn.Module) -> dict[str, DropBlock2d]:
    blocks = residual_blocks(net).items()
    return {name: block.drop_block for name, block in blocks if isinstance(block.drop_block, DropBlock2d)}


# stochastic depth


@pytest.mark.parametrize("kind", NETS)
def test_blocks_are_found_in_the_order_of_computation(kind: str) -> None:
    net, called = make(kind), []
    blocks = residual_blocks(net)
    assert len(blocks) == FACTS[kind].blocks
    for name, block in blocks.items():
        block.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    net(images())
    assert called == list(blocks)


def test_drop_path_rates_grow_linearly() -> None:
    assert drop_probs(make("basic", drop_path_rate=0.5)) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert not any(isinstance(module, DropPath) for module in make("basic").modules())


def test_drop_path_rates_may_be_uniform() -> None:
    assert drop_probs(make("basic", drop_path_rate=0.25, drop_path_rule="uniform")) == [0.25] * 6


@pytest.mark.parametrize("rule", ["linear", "uniform"])
def test_timms_resnets_take_the_same_rules(rule: str) -> None:
    net = small_timm()
    regularize_blocks(net, BlockRegularizers(drop_path_rate=0.25, drop_path_rule=rule))
    if rule == "linear":
        assert drop_probs(net) == pytest.approx(drop_probs(small_timm(drop_path_rate=0.25)))
    else:
        assert drop_probs(net) == [0.25] * 8
    x = images(2, 3, 64, 64)
    assert torch.equal(net(x), small_timm()(x))  # what is put into a network takes its mode
    net.train()(x).sum().backward()


@pytest.mark.parametrize("kind", NETS)
def test_drop_path_leaves_the_shortcut_alone_in_training_only(kind: str) -> None:
    net, x = make(kind, drop_path_rate=0.5), images()
    assert torch.equal(net(x), make(kind)(x))
    block = list(residual_blocks(net).values())[-1]
    x = images(2, block.conv1.in_channels, 8, 8)
    block.drop_path.train()
    block.drop_path.drop_prob = 1.0
    dropped = block(x)
    # without a branch: a last layer of zeros
    block.drop_path.eval()
    last = block.conv2 if kind == "wide" else [m for m in block.children() if isinstance(m, nn.BatchNorm2d)][-1]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    if kind != "wide":
        last.running_mean.zero_()
    assert torch.equal(dropped, block(x))


# DropBlock


@pytest.mark.parametrize("kind", NETS)
def test_drop_block_is_in_the_last_two_stages(kind: str) -> None:
    net = make(kind, drop_block_rate=0.1, drop_block_size=4)
    layers = blocks_with_drop_block(net)
    last = len(FACTS[kind].channels) - 1
    assert {name.split(".")[0] for name in layers} == {f"layer{last - 1}", f"layer{last}"}
    assert {(layer.drop_prob, layer.block_size) for layer in layers.values()} == {(0.1, 4)}


@pytest.mark.parametrize("kind", NETS)
def test_drop_block_acts_on_the_norm_of_the_3x3_convolution(kind: str) -> None:
    net, seen = make(kind, drop_block_rate=0.1), []
    block = residual_blocks(net)[next(iter(blocks_with_drop_block(net)))]
    conv = block.conv2 if hasattr(block, "conv3") else block.conv1
    conv.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    block.drop_block.register_forward_hook(lambda module, args, output: seen.append(args[0].clone()))
    net(images())
    before, after = seen
    width = conv.out_channels
    norms = [m for m in block.children() if isinstance(m, nn.BatchNorm2d) and m.num_features == width]
    assert any(torch.allclose(norm(before), after, atol=1e-6) for norm in norms)


def test_sizes_in_force_on_timms_resnets() -> None:
    """timm's own argument hard-codes blocks of 5 and 3, and a quarter of the rate for the former."""
    theirs = [m for m in small_timm(drop_block_rate=0.1).modules() if type(m).__name__ == "DropBlock2d"]
    assert {(layer.block_size, layer.gamma_scale) for layer in theirs} == {(5, 0.25), (3, 1.0)}
    for kwargs in ({}, {"drop_block_rate": 0.1}):
        net = small_timm(**kwargs)
        regularize_blocks(net, BlockRegularizers(drop_block_rate=0.1, drop_block_size=7))
        layers = blocks_with_drop_block(net)
        assert list(layers) == ["layer3.0", "layer3.1", "layer4.0", "layer4.1"]
        assert {(layer.drop_prob, layer.block_size) for layer in layers.values()} == {(0.1, 7)}
        assert [m for m in net.modules() if type(m).__name__ == "DropBlock2d"] == list(layers.values())


@pytest.mark.parametrize("make_net", [lambda: make("basic", drop_block_rate=0.2, drop_block_size=2), None])
def test_drop_block_acts_in_training_only(make_net: object) -> None:
    if make_net is None:
        net, x = small_timm(zero_init_last=False), images(2, 3, 96, 96)
        plain = net(x)
        regularize_blocks(net, BlockRegularizers(drop_block_rate=0.2, drop_block_size=2))
    else:
        net, x = make_net(), images()
        plain = make("basic")(x)
    assert torch.equal(net(x), plain)
    for module in net.modules():
        module.training = isinstance(module, DropBlock2d)
    assert not torch.allclose(net(x), plain, atol=1e-3)


# ShakeDrop


@pytest.mark.parametrize("kind", NETS)
def test_shakedrop_grows_linearly_with_its_settings(kind: str) -> None:
    net = make(kind, shakedrop_prob=0.5, shakedrop_per="channel", shakedrop_gate="sample")
    layers = [block.drop_path for block in residual_blocks(net).values()]
    depth = len(layers)
    assert [layer.drop_prob for layer in layers] == pytest.approx([0.5 * (i + 1) / depth for i in range(depth)])
    assert {(layer.per, layer.gate) for layer in layers} == {("channel", "sample")}
    defaults = residual_blocks(make(kind, shakedrop_prob=0.5)).values()
    assert {(block.drop_path.per, block.drop_path.gate) for block in defaults} == {("sample", "batch")}


@pytest.mark.parametrize("kind", NETS)
def test_every_parameter_receives_a_gradient_from_shaken_blocks(kind: str) -> None:
    torch.manual_seed(0)
    net = make(kind, shakedrop_prob=0.9).train()
    nn.functional.cross_entropy(net(images(4, 3, 32, 32)), torch.tensor([3, 8, 1, 2])).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", [*NETS, "timm"])
def test_plain_weights_compute_the_same_without_shakedrop(kind: str) -> None:
    if kind == "timm":
        net, plain, x = small_timm(zero_init_last=False), small_timm(), images(2, 3, 64, 64)
        regularize_blocks(net, BlockRegularizers(shakedrop_prob=0.5))
    else:
        net, plain, x = make(kind, shakedrop_prob=0.5), NETS[kind]().eval(), images()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    plain.load_state_dict(plain_weights(net))
    assert torch.allclose(plain(x), net(x), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(plain(x), _loaded(plain, before)(x), atol=1e-3)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
def test_the_scale_of_shakedrop_is_not_that_of_an_activation_with_weights(name: str) -> None:
    kwargs = {"act_layer": "prelu", "zero_init_last": False}
    net, plain, x = small_timm(name, **kwargs), small_timm(name, **kwargs), images(2, 3, 64, 64)
    regularize_blocks(net, BlockRegularizers(shakedrop_prob=0.5))
    weights = plain_weights(net)
    changed = {
        key.rpartition(".")[0] for key, value in weights.items() if not torch.equal(value, plain.state_dict()[key])
    }
    assert {key.rpartition(".")[2] for key in changed} == {"bn2" if name == "resnet18" else "bn3"}
    plain.load_state_dict(weights)
    torch.testing.assert_close(plain(x), net(x), atol=1e-5, rtol=1e-4)


def _loaded(net: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    net.load_state_dict(weights)
    return net


def test_plain_weights_without_shakedrop_are_the_weights() -> None:
    net = make("pyramid", drop_path_rate=0.5, drop_block_rate=0.1)
    weights = plain_weights(net)
    assert weights.keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in weights.items())


@pytest.mark.parametrize("model_args", [{}, {"shakedrop_prob": 0.5, "shakedrop_per": "batch"}])
def test_exports_hold_the_plain_weights(model_args: dict[str, object], tmp_path: Path) -> None:
    net = timm.create_model("cifar_resnet8", shakedrop_prob=0.5).eval()
    data = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}
    export_model(
        net, tmp_path, data_config={**data, "crop_pct": 1.0}, label_names=None, provenance={}, model_args=model_args
    )
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert drop_probs(loaded) == [0.0] * 3
    assert torch.allclose(loaded(images()), net(images()), atol=1e-5)


# several processes

RANK = """
import sys
import timm, torch
from torch import distributed, nn
import cutmix_zoo

rank, store, kwargs = int(sys.argv[1]), sys.argv[2], eval(sys.argv[3])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
net = timm.create_model("cifar_resnet8", **kwargs)

def gradients(model, seed):
    # the data and the draws are those of a rank
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    net.zero_grad(set_to_none=True)
    model(x).square().sum().backward()
    return nn.utils.parameters_to_vector(p.grad for p in net.parameters())

alone = [gradients(net.train(), seed) for seed in (0, 1)]
together = gradients(nn.parallel.DistributedDataParallel(net), rank)
torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)
assert not torch.allclose(alone[0], alone[1])
distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    "kwargs",
    [
        {"shakedrop_prob": 0.9},
        {"drop_block_rate": 0.3, "drop_block_size": 3},
        {"drop_path_rate": 0.5, "drop_path_rule": "uniform"},
    ],
)
def test_two_processes_average_gradients_of_draws_of_their_own(kwargs: dict[str, object], tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), repr(kwargs)], stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors


# errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"drop_path_rate": 1.0}, "drop_path_rate must be at least 0 and below 1, got 1.0"),
        ({"drop_block_rate": -0.1}, "drop_block_rate must be at least 0 and below 1, got -0.1"),
        ({"shakedrop_prob": 1.5}, "shakedrop_prob must be at least 0 and below 1, got 1.5"),
        ({"drop_block_size": 0}, "drop_block_size must be a whole number of at least 1, got 0"),
        ({"drop_path_rule": "cosine"}, "drop_path_rule must be one of linear, uniform, got 'cosine'"),
        ({"shakedrop_per": "pixel"}, "shakedrop_per must be one of batch, sample, channel, got 'pixel'"),
        ({"shakedrop_gate": "channel"}, "shakedrop_gate must be one of batch, sample, got 'channel'"),
        (
            {"shakedrop_prob": 0.5, "drop_path_rate": 0.2},
            "shakedrop_prob and drop_path_rate both scale the residual branch: give one of them, got 0.5 and 0.2",
        ),
    ],
)
def test_settings_out_of_range(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockRegularizers(**kwargs)
    with pytest.raises(ValueError, match=message):
        make("basic", **kwargs)


def test_a_network_without_such_blocks_is_refused() -> None:
    net = timm.create_model("vgg11", device="meta")
    regularize_blocks(net, BlockRegularizers())  # nothing asked for
    with pytest.raises(ValueError, match="drop_block_rate, shakedrop_prob: VGG has no residual blocks with slots"):
        regularize_blocks(net, BlockRegularizers(drop_block_rate=0.1, shakedrop_prob=0.5))


def test_blocks_that_only_look_alike_are_refused() -> None:
    net = timm.create_model("resnest14d", device="meta")  # its drop_path is in front of the branch
    with pytest.raises(ValueError, match="shakedrop_prob: ResNet has no residual blocks with slots"):
        regularize_blocks(net, BlockRegularizers(shakedrop_prob=0.5))


def test_shakedrop_beside_stochastic_depth_is_refused() -> None:
    net = timm.create_model("resnet18", drop_path_rate=0.2, device="meta")
    with pytest.raises(ValueError, match="has stochastic depth already; make it without drop_path_rate"):
        regularize_blocks(net, BlockRegularizers(shakedrop_prob=0.5))


def test_shakedrop_behind_attention_is_refused() -> None:
    net = timm.create_model("seresnet50", device="meta")
    with pytest.raises(ValueError, match=r"shakedrop_prob: the branch of layer1\.0 ends with attention"):
        regularize_blocks(net, BlockRegularizers(shakedrop_prob=0.5))
    assert not any(isinstance(module, ShakeDrop) for module in net.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_scale_of_shakedrop_does_not_round_weights_of_half_precision(dtype: torch.dtype) -> None:
    net = make("pyramid", shakedrop_prob=0.5)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    net.to(dtype)
    found, exact = plain_weights(net), plain_weights(copy.deepcopy(net).double())
    for name, value in found.items():
        torch.testing.assert_close(value.double(), exact[name].double(), rtol=1e-6, atol=0)
        scaled = not torch.equal(value, net.state_dict()[name])
        assert value.dtype == (torch.promote_types(dtype, torch.float32) if scaled else net.state_dict()[name].dtype)
