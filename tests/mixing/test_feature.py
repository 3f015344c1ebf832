"""Mixing inside a network, against forward passes written out by hand and loops over every place of a map."""

import copy
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cutmix_zoo.mixing import (
    BlendPlan,
    BoxPlan,
    Chain,
    ChoicePlan,
    CutMix,
    Cutout,
    FeatureMix,
    FeaturePlan,
    IdentityPlan,
    MixMethod,
    MixPlan,
    Mixup,
    OneOf,
    SaliencyMix,
    Scheduled,
    SequencePlan,
    concatenate,
    feature_modules,
    map_sizes,
    mix_features,
    needs_network,
)
from cutmix_zoo.models import CifarPyramidNet

HEIGHT, WIDTH, BATCH = 16, 24, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=5, **arguments)


def resnet() -> nn.Module:
    return make("cifar_resnet8").double()


def images(channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.rand(BATCH, channels, height, width, dtype=torch.float64, generator=generator(1))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def mix_by_loops(maps: Tensor, plan: MixPlan) -> Tensor:
    """Mix maps (B, C, h, w) place by place: own share and partner where blended, partner inside a box."""
    mixed = []
    for i in range(len(maps)):
        partner = maps[plan.partner[i]]
        if isinstance(plan, BlendPlan):
            share = float(plan.pixel_shares[i, 0])
            mixed.append(share * maps[i] + (1 - share) * partner)
            continue
        top, left, bottom, right = plan.boxes[i].tolist()
        rows = []
        for row in range(maps.shape[2]):
            places = []
            for column in range(maps.shape[3]):
                inside = top <= row < bottom and left <= column < right
                places.append((partner if inside else maps[i])[:, row, column])
            rows.append(torch.stack(places, dim=1))
        mixed.append(torch.stack(rows, dim=1))
    return torch.stack(mixed)


def cifar_by_hand(model: nn.Module, x: Tensor, mix: Callable[[Tensor], Tensor], depth: int) -> Tensor:
    stages = (lambda x: model.act1(model.bn1(model.conv1(x))), model.layer1, model.layer2, model.layer3)
    for number, stage in enumerate(stages, start=1):
        x = mix(stage(x)) if number == depth else stage(x)
    return model.forward_head(model.act_final(model.bn_final(x)))


def convnext_by_hand(model: nn.Module, x: Tensor, mix: Callable[[Tensor], Tensor], depth: int) -> Tensor:
    for number, stage in enumerate((model.stem, *model.stages), start=1):
        x = mix(stage(x)) if number == depth else stage(x)
    return model.forward_head(model.norm_pre(x))


def swin_by_hand(model: nn.Module, x: Tensor, mix: Callable[[Tensor], Tensor], depth: int) -> Tensor:
    for number, stage in enumerate((model.patch_embed, *model.layers), start=1):
        x = stage(x)
        assert x.ndim == 4
        if number == depth:
            x = mix(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return model.forward_head(model.norm(x))


def vit_by_hand(model: nn.Module, x: Tensor, mix: Callable[[Tensor], Tensor], depth: int) -> Tensor:
    def mix_tokens(x: Tensor) -> Tensor:
        return mix(x.flatten(1)[:, :, None, None]).reshape(x.shape)

    x = model.patch_embed(x)
    x = model.norm_pre(model.patch_drop(model._pos_embed(mix_tokens(x) if depth == 1 else x)))
    for number, block in enumerate(model.blocks, start=2):
        x = mix_tokens(block(x)) if number == depth else block(x)
    return model.forward_head(model.norm(x))


def small_swin() -> nn.Module:
    sizes = {"img_size": (16, 32), "patch_size": 2, "window_size": 4}
    return make("swin_tiny_patch4_window7_224", **sizes, embed_dim=8, depths=(1, 1), num_heads=(1, 2), drop_path_rate=0)


def small_vit() -> nn.Module:
    return make("vit_tiny_patch16_224", img_size=(16, 24), patch_size=8, embed_dim=12, depth=3, num_heads=2)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], tuple[int, int], int]] = {
    "cifar_resnet8": (lambda: make("cifar_resnet8"), cifar_by_hand, (HEIGHT, WIDTH), 5),
    "cifar_pyramidnet": (lambda: CifarPyramidNet(11, 9, num_classes=5), cifar_by_hand, (HEIGHT, WIDTH), 5),
    "convnext": (lambda: make("convnext_atto", depths=(1,) * 4, dims=(4, 8, 8, 8)), convnext_by_hand, (32, 48), 6),
    "swin": (small_swin, swin_by_hand, (16, 32), 4),
    "vit": (small_vit, vit_by_hand, (HEIGHT, WIDTH), 5),
}
"""How each is made and run by hand, the size of its images, and its number of depths."""

CASES = [
    (name, mix, depth)
    for name, (*_, depths) in NETWORKS.items()
    for mix in (Mixup(per="sample"), CutMix(box="inside", per="sample"))
    for depth in range(depths)
    if name != "vit" or depth == 0 or isinstance(mix, Mixup)
]


@pytest.mark.parametrize(("name", "mix", "depth"), CASES, ids=str)
def test_every_depth_equals_a_forward_pass_by_hand(name: str, mix: Mixup | CutMix, depth: int) -> None:
    build, by_hand, (height, width), _ = NETWORKS[name]
    torch.manual_seed(0)
    model = build().double().train()
    reference = copy.deepcopy(model)
    sizes = map_sizes(model, height, width)
    plan = FeatureMix(mix, depths=[depth]).draw(BATCH, height, width, generator=generator(3), map_sizes=sizes)
    inner = plan.inner if isinstance(plan, FeaturePlan) else plan
    assert isinstance(plan, FeaturePlan) == (depth > 0)
    assert (inner.height, inner.width) == (sizes[depth] or (1, 1))
    x = images(height=height, width=width)
    with mix_features(model, plan):
        logits = model(plan.apply(x))
    expected = by_hand(
        reference, mix_by_loops(x, inner) if depth == 0 else x, lambda maps: mix_by_loops(maps, inner), depth
    )
    torch.testing.assert_close(logits, expected)
    assert not torch.allclose(logits, copy.deepcopy(reference)(x))  # it did mix
    targets = plan.mix_targets(torch.arange(BATCH), 5).double()
    for output in (logits, expected):
        nn.functional.cross_entropy(output, targets).backward()
    for (key, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=key)
    for buffer, other in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(buffer, other)
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("cifar_pyramidnet110_a64", {}, ("act1", "layer1", "layer2", "layer3")),
        ("resnet50", {}, ("act1", "layer1", "layer2", "layer3", "layer4")),
        ("convnext_tiny", {}, ("stem", "stages.0", "stages.1", "stages.2", "stages.3")),
        ("efficientnet_b0", {}, ("bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6")),
        ("regnety_002", {}, ("stem", "s1", "s2", "s3", "s4")),
        ("swin_tiny_patch4_window7_224", {}, ("patch_embed", "layers.0", "layers.1", "layers.2", "layers.3")),
        ("vit_tiny_patch16_224", {"depth": 2}, ("patch_embed", "blocks.0", "blocks.1")),
        ("resnet18", {"features_only": True, "out_indices": (0, 2)}, ("act1", "layer2")),
        ("vgg11", {}, ("features.1", "features.4", "features.9", "features.14", "features.19", "features.20")),
        ("xception41", {}, ("stem", *(f"blocks.{i}.stack.act3" for i in (0, 1, 2, 11)), "blocks.12")),
    ],
)
def test_stem_and_stages_are_named(name: str, arguments: dict[str, object], expected: tuple[str, ...]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    assert feature_modules(model) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("cifar_resnet8", "resnet18", "convnext_atto", "efficientnet_b0", "regnety_002"),
        *("swin_tiny_patch4_window7_224", "pvt_v2_b0", "mambaout_femto"),
    ],
)
def test_maps_have_the_sizes_of_timms_features(name: str) -> None:
    """Channels-last maps (swin, mambaout) and a stem laid out otherwise than the stages (pvt) included."""
    arguments = {"img_size": (96, 64)} if "swin" in name else {}
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
        features = model.forward_intermediates(torch.zeros(1, 3, 96, 64), intermediates_only=True)
    sizes = map_sizes(model, 96, 64)
    names = feature_modules(model)
    assert (sizes[0], len(sizes)) == ((96, 64), 1 + len(names))
    expected = [tuple(map_.shape[2:]) for map_ in features]
    stem = len(names) - len(expected)
    assert list(sizes[1 + stem :]) == expected
    if stem:
        assert sizes[1] is not None
        assert sizes[1][0] * 2 == sizes[1][1] * 3


def test_tokens_have_no_size() -> None:
    assert map_sizes(small_vit(), HEIGHT, WIDTH) == ((HEIGHT, WIDTH), None, None, None, None)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = make("cifar_resnet8", in_chans=1).train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    seed = torch.get_rng_state()
    assert map_sizes(model, 9, 5) == ((9, 5), (9, 5), (9, 5), (5, 3), (3, 2))  # asks the model for its channels
    assert map_sizes(model.bfloat16(), 8, 8, in_chans=1)[-1] == (2, 2)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key].to(value.dtype)) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), seed)
    with pytest.raises(RuntimeError):
        map_sizes(model, 8, 8, in_chans=3)
    assert [module.training for module in model.modules()] == modes
    assert hooks(model) == 0


class Named(nn.Module):
    """A network whose maps someone has named by hand, and whose forward pass is a function."""

    def __init__(self, forward: Callable[["Named", Tensor], object], modules: list[str]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.pair, self.unused = nn.Identity(), nn.Identity()
        self.run = forward
        self.feature_info = [{"module": name, "num_chs": 4} for name in modules]

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


def test_maps_that_cannot_be_named_or_measured_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear cannot be named: it has no feature_info; set model.feature_info"):
        feature_modules(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"feature_info names 'layer1', which it lacks; set model.feature_info to"):
        feature_modules(Named(lambda model, x: model.conv(x), ["layer1"]))
    named = Named(lambda model, x: model.conv(x), ["conv"])
    assert map_sizes(named, 3, 5) == ((3, 5), (3, 5))
    with pytest.raises(ValueError, match=r"\['unused'\] of Named did not run"):
        map_sizes(Named(lambda model, x: model.conv(x), ["unused"]), 3, 5)
    with pytest.raises(ValueError, match="pair gives tuple, where maps"):
        map_sizes(Named(lambda model, x: model.pair((x, x)), ["pair"]), 3, 5)
    with pytest.raises(ValueError, match=r"pair gives shape \(1, 45\), where maps"):
        map_sizes(Named(lambda model, x: model.pair(x.flatten(1)), ["pair"]), 3, 5)
    blind = nn.Sequential(nn.Identity())
    blind.feature_info = [{"module": "0", "num_chs": 3}]
    with pytest.raises(ValueError, match="no convolution that tells its channels: give in_chans"):
        map_sizes(blind, 3, 5)
    assert map_sizes(blind, 3, 5, in_chans=3) == ((3, 5), (3, 5))


def test_where_all_sizes_are_equal_the_layout_is_timms() -> None:
    inner = BoxPlan(2, 4, 4, donor=torch.tensor([1, 0]), box=torch.tensor([0, 0, 1, 4]))
    plan = FeaturePlan(2, 8, 8, inner, depth=1)
    maps = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 4, 4, 4)
    first, last = plan.apply_maps(maps), plan.apply_maps(maps, channels_last=True)
    assert first[0, :, 0].eq(1).all()
    assert last[0, 0].eq(1).all()
    assert (float(first[0].sum()), float(last[0].sum())) == (16, 16)
    model = make("mambaout_femto", depths=(1,), dims=(4,)).eval()
    assert map_sizes(model, 16, 16) == ((16, 16), (4, 4), (4, 4))
    seen = []
    handle = model.stages[0].register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    for drawn in (IdentityPlan(2, 16, 16), FeaturePlan(2, 16, 16, inner, depth=1)):
        with mix_features(model, drawn):
            model(torch.rand(2, 3, 16, 16, generator=generator()))
    handle.remove()
    plain, mixed = seen
    assert torch.equal(mixed[0, :1], plain[1, :1])
    assert torch.equal(mixed[0, 1:], plain[0, 1:])


def test_a_depth_is_drawn_for_each_batch_and_the_shares_are_those_of_its_map() -> None:
    sizes = [(32, 48), (16, 24), (5, 7), None]
    mix = FeatureMix(CutMix(per="sample"), depths=[0, 1, 2])
    drawn = generator()
    depths = []
    for _ in range(300):
        plan = mix.draw(6, 32, 48, generator=drawn, map_sizes=sizes)
        assert (plan.batch_size, plan.height, plan.width) == (6, 32, 48)
        depths.append(plan.depth if isinstance(plan, FeaturePlan) else 0)
        if isinstance(plan, FeaturePlan):
            assert (plan.inner.height, plan.inner.width) == sizes[plan.depth]
            painted = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, *sizes[plan.depth])
            own = plan.apply_maps(painted).eq(painted).double().mean((1, 2, 3)).float()
            assert torch.equal(plan.pixel_shares[:, 0], own)
            assert torch.equal(plan.label_shares[:, 0], own)
            assert not plan.boxes.any()
    counts = np.bincount(depths, minlength=3)
    assert (abs(counts - 100) < 4 * np.sqrt(300 * 2 / 9)).all(), counts


def test_the_generator_moves_on_by_one_draw_and_gives_the_same_plan_again() -> None:
    sizes = [(8, 8)] * 3
    for depths in ((0,), (0, 1, 2)):
        used, other = generator(), generator()
        first = FeatureMix(Mixup(), depths).draw(4, 8, 8, generator=used, map_sizes=sizes)
        again = FeatureMix(Mixup(), depths).draw(4, 8, 8, generator=generator(), map_sizes=sizes)
        torch.randint(2**63 - 1, (), generator=other)
        assert torch.equal(used.get_state(), other.get_state())
        assert torch.equal(first.label_shares, again.label_shares)
        assert torch.equal(first.sources, again.sources)


def test_what_is_not_mixed_is_an_identity_of_the_images() -> None:
    never = FeatureMix(CutMix(prob=0.0), depths=[1])
    plan = never.draw(4, 8, 6, generator=generator(), map_sizes=[(8, 6), (4, 3)])
    assert isinstance(plan, IdentityPlan)
    assert (plan.height, plan.width) == (8, 6)


class Asks:
    """A method that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[tuple[int, int], dict[str, object]]] = []

    def draw(self, batch_size: int, height: int, width: int, **context: object) -> MixPlan:
        assert isinstance(context.pop("generator"), torch.Generator)
        self.told.append(((height, width), context))
        return IdentityPlan(batch_size, height, width)


def test_the_inner_method_is_told_how_far_the_run_is_and_sees_images_only_at_depth_0() -> None:
    inner = Asks()
    x = images()
    context = {"images": x, "progress": 0.25, "map_sizes": [(HEIGHT, WIDTH), (3, 5)]}
    for depth in (0, 1):
        FeatureMix(inner, [depth]).draw(BATCH, HEIGHT, WIDTH, generator=generator(), **context)
    FeatureMix(inner, [1]).draw(BATCH, HEIGHT, WIDTH, generator=generator(), map_sizes=[(HEIGHT, WIDTH), (3, 5)])
    assert [size for size, _ in inner.told] == [(HEIGHT, WIDTH), (3, 5), (3, 5)]
    assert inner.told[0][1] == context
    assert [told for _, told in inner.told[1:]] == [{"progress": 0.25}, {}]


@pytest.mark.parametrize(
    "mix",
    [Mixup(), OneOf([Mixup(0.1), Mixup(2.0)], per="sample"), Chain([Mixup(), Mixup()]), Scheduled(Mixup())],
    ids=str,
)
def test_tokens_are_blended(mix: Mixup) -> None:
    plan = FeatureMix(mix, [1]).draw(4, 8, 8, generator=generator(), progress=0.5, map_sizes=[(8, 8), None])
    assert isinstance(plan, FeaturePlan)
    tokens = torch.rand(4, 7, 5, dtype=torch.float64, generator=generator())
    shares = torch.zeros(4, 4, dtype=torch.float64)
    shares.scatter_add_(1, plan.sources, plan.pixel_shares.double())
    expected = torch.stack([sum(shares[i, j] * tokens[j] for j in range(4)) for i in range(4)])
    torch.testing.assert_close(plan.apply_maps(tokens), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mix", [CutMix(), Cutout(4, fill=(0.0,)), Chain([Mixup(), CutMix()])], ids=str)
def test_what_has_a_place_cannot_mix_tokens(mix: CutMix) -> None:
    with pytest.raises(ValueError, match=r"depth 1 is a row of tokens, which .* cannot mix: use a method that blends"):
        FeatureMix(mix, [1]).draw(4, 8, 8, generator=generator(), map_sizes=[(8, 8), None])


def test_drawing_says_what_it_lacks() -> None:
    def draw(depths: list[int], **context: object) -> MixPlan:
        return FeatureMix(Mixup(), depths).draw(4, 8, 8, generator=generator(), **context)

    assert isinstance(draw([0]), BlendPlan)
    with pytest.raises(ValueError, match=r"draw with map_sizes=map_sizes\(model, height, width\)"):
        draw([0, 1])
    with pytest.raises(ValueError, match=r"depths must be below 3 for this network, got \(0, 3\)"):
        draw([0, 3], map_sizes=[(8, 8)] * 3)
    with pytest.raises(ValueError, match=r"map_sizes is for images of \(9, 8\).*these have \(8, 8\): draw with"):
        draw([1], map_sizes=[(9, 8), (4, 4)])
    assert isinstance(draw([1], map_sizes=[[8, 8], [4, 4]]), FeaturePlan)


@pytest.mark.parametrize("depths", [(), (-1,), (0.5,), (True,), ("1",)])
def test_depths_are_whole_numbers(depths: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"^depths must be whole numbers from 0, at least one, got \("):
        FeatureMix(Mixup(), depths)


def test_settings_are_checked_and_are_values() -> None:
    with pytest.raises(TypeError, match=r"^mix must be a mixing method"):
        FeatureMix("cutmix")
    with pytest.raises(ValueError, match=r"^mix must not hold another FeatureMix"):
        FeatureMix(Chain([Cutout(), FeatureMix(Mixup(), [0])]))
    mix = FeatureMix(Mixup(), [0, 2])
    assert mix.depths == (0, 2)
    assert hash(mix) == hash(FeatureMix(Mixup(), (0, 2)))
    assert pickle.loads(pickle.dumps(mix)) == mix


def test_methods_that_need_the_network_are_told_apart() -> None:
    inside = FeatureMix(Mixup())
    nested = (OneOf([CutMix(), inside]), Chain([Cutout(), inside]), Scheduled(inside), Scheduled(Chain([inside])))
    for mix in (inside, *nested):
        assert needs_network(mix)
    for mix in (CutMix(), OneOf([CutMix(), Mixup()]), FeatureMix(Mixup(), [0]), Scheduled(CutMix()), Asks()):
        assert not needs_network(mix)


def feature_plan(depth: int = 2, size: tuple[int, int] = (HEIGHT, WIDTH)) -> FeaturePlan:
    inner = Mixup(per="sample").draw(BATCH, *size, generator=generator())
    return FeaturePlan(BATCH, HEIGHT, WIDTH, inner, depth)


def test_a_plan_leaves_images_alone_and_mixes_labels() -> None:
    plan = feature_plan()
    x = images()
    assert plan.apply(x) is x
    assert plan._transform(x) is x
    pixels = torch.randint(256, (BATCH, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator())
    out = np.empty(pixels.shape, np.uint8)
    plan.write(list(pixels.numpy()), out)
    assert np.array_equal(out, pixels.numpy())
    chained = SequencePlan(BATCH, HEIGHT, WIDTH, (plan,))
    assert torch.equal(chained.apply(pixels), pixels)
    labels = torch.arange(BATCH)
    for other in (plan.inner, chained, pickle.loads(pickle.dumps(plan)), concatenate([plan])):
        assert torch.equal(plan.mix_targets(labels, 5, 0.1), other.mix_targets(labels, 5, 0.1))
        assert torch.equal(plan.sources, other.sources)
    assert torch.equal(plan.pixel_shares, plan.inner.pixel_shares)
    assert plan.boxes.tolist() == [[0, 0, 0, 0]] * BATCH


def test_a_plan_refuses_what_does_not_fit() -> None:
    plan = feature_plan()
    with pytest.raises(ValueError, match=r"mixes the maps inside the network.*depths=\(0,\)"):
        plan.apply_masks(torch.zeros(BATCH, HEIGHT, WIDTH, dtype=torch.int64))
    with pytest.raises(ValueError, match="the plan was drawn for 4 images"):
        plan.apply(images()[:2])
    with pytest.raises(ValueError, match="inner must be for 3 images, got 4"):
        FeaturePlan(3, HEIGHT, WIDTH, plan.inner, 1)
    with pytest.raises(ValueError, match="inner must mix maps as if they were images"):
        FeaturePlan(BATCH, HEIGHT, WIDTH, plan, 1)
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        FeaturePlan(BATCH, HEIGHT, WIDTH, plan.inner, 0)
    for shape in [(BATCH, 8, HEIGHT, WIDTH + 1), (2, 8, HEIGHT, WIDTH), (BATCH, 9, 8), (BATCH, 8)]:
        with pytest.raises(ValueError, match=r"4 maps of 16 x 24 .*depth 2, which gives .*map_sizes\(model"):
            plan.apply_maps(torch.zeros(shape))


def test_only_the_last_step_may_be_inside_the_network() -> None:
    model, x = resnet(), images()
    erase = Cutout(4).draw(BATCH, HEIGHT, WIDTH, generator=generator())
    part = feature_plan()
    shape = (BATCH, HEIGHT, WIDTH)
    good = [SequencePlan(*shape, (erase, part)), SequencePlan(*shape, (SequencePlan(*shape, (erase, part)),))]
    for plan in good:
        with mix_features(model.eval(), plan):
            logits = model(plan.apply(x))
        torch.testing.assert_close(
            logits, cifar_by_hand(model, erase.apply(x), lambda maps: mix_by_loops(maps, part.inner), depth=2)
        )
        assert torch.equal(plan.mix_targets(torch.arange(4), 4), part.mix_targets(torch.arange(4), 4))
    bad = [
        SequencePlan(*shape, (part, erase)),
        SequencePlan(*shape, (part, part)),
        ChoicePlan(*shape, (part, erase), torch.zeros(4, dtype=torch.int64)),
        concatenate([part, part]),
    ]
    for plan in bad:
        with pytest.raises(ValueError, match=f"in the midst of a {type(plan).__name__}: put FeatureMix last"):
            run(model, plan)
    assert hooks(model) == 0


def test_a_chain_of_cutout_and_manifold_mixup() -> None:
    model, x = resnet().eval(), images()
    sizes = map_sizes(model, HEIGHT, WIDTH)
    for seed in range(8):
        mix = Chain([Cutout(6), FeatureMix(Mixup())])
        plan = mix.draw(BATCH, HEIGHT, WIDTH, generator=generator(seed), map_sizes=sizes)
        erase, part = plan.parts
        with mix_features(model, plan):
            logits = model(plan.apply(x))
        depth, inner = (part.depth, part.inner) if isinstance(part, FeaturePlan) else (0, part)
        start = mix_by_loops(erase.apply(x), inner) if depth == 0 else erase.apply(x)
        expected = cifar_by_hand(model, start, partial(mix_by_loops, plan=inner), depth)
        torch.testing.assert_close(logits, expected)


def test_plans_of_images_add_no_hook() -> None:
    model = nn.Linear(2, 2)  # not even maps with names
    with mix_features(model, Mixup().draw(4, 8, 8, generator=generator())):
        assert hooks(model) == 0


def run(model: nn.Module, plan: MixPlan, *batches: Tensor) -> None:
    with mix_features(model, plan):
        for batch in batches:
            model(batch)


def test_misuse_is_said_and_leaves_no_hook() -> None:
    model, x, plan = resnet(), images(), feature_plan()
    with pytest.raises(ValueError, match="nothing was mixed: layer1 did not run inside mix_features"):
        run(model, plan)
    with pytest.raises(ValueError, match="one forward pass, but layer1 ran twice: draw another one"):
        run(model, plan, x, x)
    with pytest.raises(ValueError, match=r"maps of 3 x 3 \(height x width\) at depth 2.*gives \(4, 16, 16, 24\)"):
        run(model, feature_plan(size=(3, 3)), x)
    with pytest.raises(ValueError, match="drawn for 4 maps"):
        run(model, plan, x[:3])
    with pytest.raises(ValueError, match="mixes at depth 5, but the model has 4"):
        run(model, feature_plan(depth=5), x)
    with pytest.raises(ValueError, match="cannot be named"):
        run(nn.Linear(2, 2), plan, x)
    with pytest.raises(RuntimeError, match="channels"):  # what goes wrong in the loop itself comes through
        run(model, plan, x[:, :1])
    assert hooks(model) == 0


@pytest.mark.parametrize("name", ["cifar_resnet8", "convnext"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_mixes_the_recomputed_maps_alike(name: str, depth: int, reentrant: bool) -> None:
    build, _, size, _ = NETWORKS[name]
    x = images(3, *size).requires_grad_()
    gradients = []
    timm.layers.set_reentrant_ckpt(reentrant)
    try:
        for checkpointing in (False, True):
            torch.manual_seed(0)
            model = build().double().eval()
            sizes = map_sizes(model, *size)
            mix = FeatureMix(CutMix(per="sample"), [depth])
            plan = mix.draw(BATCH, *size, generator=generator(), map_sizes=sizes)
            model.set_grad_checkpointing(checkpointing)
            with mix_features(model, plan):
                model(x).square().sum().backward()
            gradients.append([x.grad, *(parameter.grad for parameter in model.parameters())])
            x.grad = None
    finally:
        timm.layers.set_reentrant_ckpt(False)
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_backward_pass_that_comes_too_late_for_checkpointing_is_refused() -> None:
    model, x = resnet(), images()
    model.set_grad_checkpointing()
    with pytest.raises(ValueError, match="call backward inside mix_features too"):
        run(model, feature_plan(), x)
    with torch.no_grad(), mix_features(model, feature_plan()):
        model(x)
    assert hooks(model) == 0


def compile_whole(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compile_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compile_stage(model: nn.Module) -> nn.Module:
    model.layer1.compile(backend="eager")
    return model


def compile_last_block(model: nn.Module) -> nn.Module:
    model.layer1[-1] = torch.compile(model.layer1[-1], backend="eager")
    return model


@pytest.mark.parametrize("compile_", [compile_whole, compile_in_place, compile_stage, compile_last_block])
def test_what_torch_compile_would_ignore_is_refused(compile_: Callable[[nn.Module], nn.Module]) -> None:
    model = compile_(resnet())
    for use in (lambda: run(model, feature_plan()), lambda: map_sizes(model, HEIGHT, WIDTH)):
        with pytest.raises(ValueError, match=r"is compiled, and what torch.compile made ignores.*--dynamo_backend"):
            use()


@torch.no_grad()
def test_a_part_may_be_compiled_that_the_hook_is_not_in() -> None:
    model, x = resnet().eval(), images()
    model.layer3.compile(backend="eager")
    expected = cifar_by_hand(model, x, lambda maps: mix_by_loops(maps, feature_plan().inner), depth=2)
    with mix_features(model, feature_plan()):
        torch.testing.assert_close(model(x), expected)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_distributed_model_is_mixed_inside(process_group: None) -> None:
    model = resnet()
    wrapped, plain = DistributedDataParallel(copy.deepcopy(model)), copy.deepcopy(model)
    assert feature_modules(wrapped) == feature_modules(model)
    plan = feature_plan()
    assert map_sizes(wrapped, HEIGHT, WIDTH)[plan.depth] == (HEIGHT, WIDTH)
    with mix_features(wrapped, plan):
        wrapped(images()).sum().backward()
    cifar_by_hand(plain, images(), lambda maps: mix_by_loops(maps, plan.inner), plan.depth).sum().backward()
    for parameter, other in zip(wrapped.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    assert hooks(wrapped) == 0
    inside = DistributedDataParallel(compile_whole(model))
    with pytest.raises(ValueError, match="is compiled"):
        run(inside, plan)


@pytest.mark.parametrize("mix", [Mixup(per="sample"), CutMix(per="sample")], ids=str)
def test_maps_are_mixed_in_the_precision_of_autocast(mix: Mixup) -> None:
    model, x = resnet().float(), images().float()
    sizes = map_sizes(model, HEIGHT, WIDTH)
    plan = FeatureMix(mix, [2]).draw(BATCH, HEIGHT, WIDTH, generator=generator(), map_sizes=sizes)
    seen: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for module in (model.layer2, model.layer2[0])
    ]
    with torch.autocast("cpu", torch.bfloat16):
        model.eval()(x)
        plain = seen[0]
        seen.clear()
        with mix_features(model, plan):
            model(x).float().sum().backward()
    for handle in handles:
        handle.remove()
    assert seen[0].dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(seen[0].float(), mix_by_loops(plain.float(), plan.inner), atol=0.02, rtol=0.02)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (Cutout(4, fill=(125.0,)), "mix must not fill maps with the grey level of Cutout"),
        (Chain([Cutout(4, fill=(1.0, 0.0, 2.0)), CutMix()]), "mix must not fill maps"),
        (SaliencyMix(), "mix must not look at images beyond depth 0"),
    ],
    ids=str,
)
def test_what_only_images_can_bear_is_refused_inside_the_network(mix: MixMethod, message: str) -> None:
    FeatureMix(mix, depths=[0])
    with pytest.raises(ValueError, match=message):
        FeatureMix(mix, depths=[0, 1])


def test_one_depth_may_be_given_as_a_number() -> None:
    assert FeatureMix(CutMix(), depths=2) == FeatureMix(CutMix(), depths=[2])  # type: ignore[arg-type]


def test_depths_may_be_an_array() -> None:
    assert FeatureMix(CutMix(), depths=np.arange(2)) == FeatureMix(CutMix(), depths=(0, 1))  # type: ignore[arg-type]
    assert FeatureMix(CutMix(), depths=np.int64(2)) == FeatureMix(CutMix(), depths=(2,))  # type: ignore[arg-type]
