import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

from cutmix_zoo.models import export_model

NAMES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
GREY = {"input_size": (1, 28, 28), "mean": (0.286,), "std": (0.353,), "interpolation": "bicubic", "crop_pct": 1.0}
RGB = {
    "input_size": (3, 40, 40),
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "interpolation": "bilinear",
    "crop_pct": 0.95,
    "crop_mode": "squash",
}
PROVENANCE = {
    "tag": "cutmix_fashion",
    "license": "mit",
    "description": "CutMix on Fashion-MNIST",
    "recipe": "quickstart",
    "top1": 88.5,
}


def export(model: nn.Module, folder: Path, **kwargs: Any) -> None:
    settings = {"data_config": GREY, "label_names": NAMES, "provenance": PROVENANCE, **kwargs}
    export_model(model, folder, **settings)


def load(folder: Path, **kwargs: Any) -> nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()


def moved(model: nn.Module) -> nn.Module:
    """The model with statistics of its own, so that buffers count."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            module.num_batches_tracked.fill_(7)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "kwargs", "data_config"),
    [
        ("cifar_resnet8", {"in_chans": 1}, GREY),
        ("cifar_pyramidnet110_a64", {}, RGB),
        ("cifar_pyramidnet110_a64", {"in_chans": 1}, GREY),
        ("resnet18", {}, RGB),
        ("resnet18", {"in_chans": 1}, GREY),
    ],
)
def test_round_trip_through_timm(
    tmp_path: Path, name: str, kwargs: dict[str, Any], data_config: dict[str, Any]
) -> None:
    model = moved(timm.create_model(name, num_classes=10, **kwargs))
    export(model, tmp_path / "model", data_config=data_config)
    loaded = load(tmp_path / "model")
    images = torch.randn(2, *data_config["input_size"], generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), model(images))
    assert (loaded.num_classes, loaded.conv1.in_channels) == (10, data_config["input_size"][0])
    assert [key for key, value in model.state_dict().items() if not torch.equal(value, loaded.state_dict()[key])] == []
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    # others may read the weights as they may read any file
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1


@pytest.mark.parametrize(("name", "data_config"), [("cifar_resnet8", GREY), ("resnet18", RGB)])
def test_preprocessing_comes_back(tmp_path: Path, name: str, data_config: dict[str, Any]) -> None:
    export(
        timm.create_model(name, num_classes=10, in_chans=data_config["input_size"][0]),
        tmp_path,
        data_config=data_config,
    )
    for use_test_size in (False, True):
        resolved = timm.data.resolve_model_data_config(load(tmp_path), use_test_size=use_test_size)
        as_tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in resolved.items()}
        assert as_tuples == {"crop_mode": "center", **data_config}


def test_provenance_is_the_models_own(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=10)
    leftovers = {key: model.pretrained_cfg[key] for key in ("tag", "origin_url", "paper_ids", "test_input_size")}
    assert leftovers["tag"] == "a1_in1k"
    export(model, tmp_path, data_config=RGB)
    cfg = load(tmp_path).pretrained_cfg
    assert {key: cfg[key] for key in ("tag", "license", "description")} == {
        "tag": "cutmix_fashion",
        "license": "mit",
        "description": "CutMix on Fashion-MNIST",
    }
    assert cfg.keys().isdisjoint({"origin_url", "paper_ids", "test_input_size", "test_crop_pct", "hf_hub_id", "url"})
    text = (tmp_path / "config.json").read_text()
    assert [str(value) for value in leftovers.values() if str(value) in text] == []
    assert json.loads(text)["provenance"] == {"recipe": "quickstart", "top1": 88.5}


def test_label_names_come_back(tmp_path: Path) -> None:
    model = timm.create_model("cifar_resnet8", in_chans=1)
    export(model, tmp_path)
    assert load(tmp_path).pretrained_cfg["label_names"] == NAMES
    export(model, tmp_path, label_names=None)
    assert "label_names" not in load(tmp_path).pretrained_cfg


def test_model_args_rebuild_the_network(tmp_path: Path) -> None:
    kwargs = {"global_pool": "catavgmax", "drop_rate": 0.25}
    model = moved(timm.create_model("cifar_resnet8", in_chans=1, num_classes=10, **kwargs))
    export(model, tmp_path, model_args=kwargs)
    loaded, images = load(tmp_path), torch.randn(2, 1, 28, 28)
    assert torch.equal(loaded(images), model(images))
    assert loaded.head_drop.p == 0.25


def test_a_loaded_model_fine_tunes(tmp_path: Path) -> None:
    export(timm.create_model("cifar_resnet8", in_chans=1), tmp_path)
    net = load(tmp_path, num_classes=4)
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 4)


def test_weights_are_plain_float32_whatever_the_model_is(tmp_path: Path) -> None:
    model = moved(timm.create_model("cifar_resnet8", in_chans=1))
    export(model, tmp_path / "plain")
    export(model.to(memory_format=torch.channels_last), tmp_path / "channels_last")
    names = ("plain", "channels_last")
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in names}) == 1
    export(model.bfloat16(), tmp_path / "bfloat16")
    with safe_open(tmp_path / "bfloat16" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    assert {t.dtype for key, t in tensors.items() if not key.endswith("num_batches_tracked")} == {torch.float32}
    assert tensors["bn1.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(tensors["conv1.weight"], model.conv1.weight.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_of_half_precision_with_shakedrop_is_exported(dtype: torch.dtype, tmp_path: Path) -> None:
    model = moved(timm.create_model("cifar_resnet20", in_chans=1, shakedrop_prob=0.5))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    export(model.to(dtype), tmp_path)
    image = torch.randn(2, 1, 28, 28)
    expected = model.float()(image).detach()
    torch.testing.assert_close(load(tmp_path)(image), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_numbers_may_be_those_of_numpy(tmp_path: Path) -> None:
    numbers = {"mean": (np.float32(0.25),), "std": np.array([0.5]), "crop_pct": np.float32(1.0)}
    model = timm.create_model("cifar_resnet8", in_chans=1)
    export(model, tmp_path, data_config=GREY | numbers, provenance={"top1": np.float64(88.5), "seen": np.int64(3)})
    config = json.loads((tmp_path / "config.json").read_text())
    assert [config["pretrained_cfg"][key] for key in numbers] == [[0.25], [0.5], 1.0]
    assert config["provenance"] == {"top1": 88.5, "seen": 3}
    with pytest.raises(TypeError, match="Path cannot be written as JSON"):
        export(model, tmp_path, provenance={"where": tmp_path})


def test_tied_weights_are_written_twice(tmp_path: Path) -> None:
    model = timm.create_model("cifar_resnet14", in_chans=1).eval()
    model.layer1[1].conv1.weight = model.layer1[0].conv1.weight
    export(model, tmp_path)
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(load(tmp_path)(images), model(images))


def test_an_earlier_export_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("card")
    export(timm.create_model("cifar_resnet8", in_chans=1), tmp_path)
    model = timm.create_model("cifar_resnet14", in_chans=1)
    export(model, tmp_path)
    assert torch.equal(load(tmp_path).conv1.weight, model.conv1.weight)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_global_random_numbers_are_left_alone(tmp_path: Path) -> None:
    model = timm.create_model("cifar_resnet8", in_chans=1)
    before = torch.get_rng_state()
    export(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"label_names": NAMES[:9]}, "label_names must name the 10 classes of the model, got 9"),
        ({"data_config": {k: v for k, v in GREY.items() if k != "mean"}}, r"missing: \['mean'\], unknown: \[\]"),
        ({"data_config": {**GREY, "scale": 1}}, r"missing: \[\], unknown: \['scale'\]"),
        ({"data_config": {**GREY, "std": RGB["std"]}}, r"data_config\['std'\] must hold one number for each of the 1"),
        ({"data_config": RGB}, "timm cannot load this model back"),
        ({"model_args": {"colour": "red"}}, "(?s)give the arguments .* as model_args.*colour"),
    ],
)
def test_bad_arguments_leave_the_earlier_export(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    export(timm.create_model("cifar_resnet8", in_chans=1), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        export(timm.create_model("cifar_resnet8", in_chans=1), tmp_path, **kwargs)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_model_args_are_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timm cannot load this model back"):
        export(timm.create_model("cifar_resnet8", in_chans=1, global_pool="catavgmax"), tmp_path)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("cifar_resnet8", {"global_pool": "max"}),
        ("resnet18", {"output_stride": 8}),
        ("resnet18", {"act_layer": "gelu"}),
    ],
)
def test_missing_model_args_that_no_weight_shows_are_found(tmp_path: Path, name: str, kwargs: dict[str, Any]) -> None:
    model = moved(timm.create_model(name, num_classes=10, in_chans=1, **kwargs))
    with pytest.raises(ValueError, match=r"(?s)give the arguments .* as model_args.* its logits are off by up to \d"):
        export(model, tmp_path / "without")
    assert list((tmp_path / "without").iterdir()) == []
    export(model, tmp_path / "with", model_args=kwargs)
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load(tmp_path / "with")(images), model(images))


def test_outputs_of_another_shape_are_found(tmp_path: Path) -> None:
    model = timm.create_model("cifar_resnet8", in_chans=1, num_classes=0, global_pool="")
    with pytest.raises(ValueError, match=r"has outputs of \(1, 64\) instead of \(1, 64, 7, 7\)"):
        export(model, tmp_path, label_names=None)


def test_a_model_is_exported_in_the_midst_of_its_training_and_stays_as_it_is(tmp_path: Path) -> None:
    model = moved(timm.create_model("cifar_resnet8", in_chans=1, drop_rate=0.5, shakedrop_prob=0.5)).train()
    model.bn1.eval()
    model(torch.randn(4, 1, 28, 28)).sum().backward()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    export(model, tmp_path)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.conv1.weight.grad is not None
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(load(tmp_path)(images), model.eval()(images), rtol=1e-4, atol=1e-5)


def test_a_network_that_came_to_nothing_is_exported_too(tmp_path: Path) -> None:
    model = timm.create_model("cifar_resnet8", in_chans=1)
    nn.init.constant_(model.fc.bias, float("nan"))
    export(model, tmp_path)
    assert load(tmp_path).fc.bias.isnan().all()


@pytest.mark.parametrize("wrap", [nn.Sequential, torch.nn.DataParallel])
def test_only_bare_timm_models(tmp_path: Path, wrap: type) -> None:
    with pytest.raises(ValueError, match=f"made by timm.create_model and unwrapped, got {wrap.__name__}"):
        export(wrap(timm.create_model("cifar_resnet8", in_chans=1)), tmp_path / "model")
    assert not (tmp_path / "model").exists()
