"""Folders that somebody else wrote: what is sound loads, and nothing hostile gets anywhere."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from cutmix_zoo.errors import UserError
from cutmix_zoo.models import export_model
from cutmix_zoo.models.exported import load_exported, read_config, read_weights

NAME = "cifar_resnet8.cutmix_fmnist_mini"
DATA = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.2,), "interpolation": "nearest", "crop_pct": 1.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = timm.create_model(NAME, pretrained=True)
    names = [f"kind {number}" for number in range(10)]
    export_model(model, tmp_path / "model", data_config=DATA, label_names=names, provenance={})
    return tmp_path / "model"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def described(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["pretrained_cfg"].update(changes)


def test_what_was_exported_is_loaded_as_timm_loads_it(folder: Path) -> None:
    expected = timm.create_model(f"local-dir:{folder}", pretrained=True)
    state = torch.get_rng_state()
    found = load_exported(folder, "cifar_resnet8")
    assert torch.equal(state, torch.get_rng_state())
    assert not found.training
    assert found.pretrained_cfg == expected.pretrained_cfg
    assert all(torch.equal(found.state_dict()[key], value) for key, value in expected.state_dict().items())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda config: config.update(architecture="resnet18"), "these are not the weights of resnet18"),
        (lambda config: config.update(architecture="cifar_resnet9"), r"timm knows no architecture 'cifar_resnet9' did"),
        (lambda config: config.update(architecture=["a"]), "timm knows no architecture"),
        (lambda config: config.update(architecture="../evil"), "timm knows no architecture"),
        (lambda config: config.pop("pretrained_cfg"), "it has no pretrained_cfg"),
        (lambda config: config.update(num_classes=True), "num_classes is 'True'"),
        (lambda config: config.update(num_classes=2**40), "num_classes is"),
        (lambda config: config.update(num_classes=11, label_names=None), "fc.bias has another shape"),
        (lambda config: config.update(label_names=["a"]), "label_names are not the names of 10 classes"),
        (lambda config: config.update(label_names=[1] * 10), "label_names are not the names of 10 classes"),
        (lambda config: config.update(model_args=[]), "model_args is not a mapping"),
        (lambda config: config.update(model_args={"depth": 10**9}), "model_args has 'depth': '1000000000'"),
        (lambda config: config.update(model_args={"depth": [8] * 65}), "model_args has 'depth'"),
        (lambda config: config.update(model_args={"depth": {"a": 1}}), "model_args has 'depth'"),
        (lambda config: config.update(model_args={"depth": 26}), "these are not the weights of cifar_resnet8"),
        (lambda config: config.update(model_args={"nonsense": 1}), "cannot make cifar_resnet8 as"),
        (lambda config: config.update(model_args={"pretrained_strict": False}), "model_args has 'pretrained_strict'"),
        (
            lambda config: config.update(model_args={"pretrained_cfg_overlay": "x"}),
            "model_args has 'pretrained_cfg_over",
        ),
        (lambda config: config.update(model_args={"checkpoint_path": "/x.pth"}), "model_args has 'checkpoint_path'"),
        (lambda config: config.update(model_args={"features_only": True}), "model_args has 'features_only'"),
        (described(url="http://127.0.0.1/x.pth"), "pretrained_cfg has 'url'"),
        (described(file="/etc/passwd"), "pretrained_cfg has 'file'"),
        (described(custom_load=True), "pretrained_cfg has 'custom_load'"),
        (described(hf_hub_id="somebody/else"), "pretrained_cfg has 'hf_hub_id'"),
        (described(nonsense=1), "pretrained_cfg has 'nonsense'"),
        (described(input_size=[1, 28]), "input_size is"),
        (described(input_size=[1, 28, 10**6]), "input_size is"),
        (described(input_size=[3, 28, 28]), "conv1.weight has another shape"),
        (described(mean=[float("nan")]), "it holds NaN, which is not JSON"),
        (described(mean="x"), "mean is 'x', expected a number for each channel"),
        (described(std=[[1]]), "std is"),
        (described(crop_pct="a"), "crop_pct is 'a', expected a share of the side"),
        (described(interpolation=1), "interpolation is '1', expected a word"),
        (lambda config: config.update(provenance=None), "provenance is not a mapping"),
        (
            lambda config: config.update(num_classes=7, label_names=None, model_args={"num_classes": 10}),
            "num_classes is 7, but by model_args the network has 10 classes",
        ),
    ],
)
def test_a_config_that_is_not_of_this_network_is_refused(
    edit: Callable[[dict[str, Any]], object], message: str, folder: Path
) -> None:
    change(folder, edit)
    with pytest.raises(UserError, match=message) as caught:
        load_exported(folder)
    assert "\n" not in str(caught.value)


def test_what_was_checked_is_what_is_loaded(folder: Path) -> None:
    """Some of the config makes timm change weights while it loads them; here it has no say in it."""
    weights = load_file(folder / "model.safetensors")
    for said in (
        {"num_classes": 11},
        {"label_offset": 1},
        {"classifier": "elsewhere"},
        {"first_conv": "layer1.0.conv1"},
    ):
        change(folder, described(num_classes=10, label_offset=None, classifier="fc", first_conv="conv1"))
        change(folder, described(**said))
        found = load_exported(folder).state_dict()
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], value) for key, value in weights.items()), said


def test_another_architecture_than_the_name_says_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"describes 'cifar_resnet8', expected resnet50"):
        load_exported(folder, "resnet50")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"architecture": "cifar_resnet8", "architecture": "resnet18"}', "it has a key twice"),
        ('{"a": {"b": 1, "b": 2}}', "it has a key twice"),
        ("[" * 100_000, "is not a config"),
        ("{", "is not a config"),
        ("[]", "it has no pretrained_cfg"),
        (" " * (16 * 2**20 + 1), "it has 16777217 bytes"),
    ],
    ids=["twice", "twice inside", "deep", "half", "list", "long"],
)
def test_a_text_that_is_no_config_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "config.json")
    with pytest.raises(UserError, match="No such file"):
        read_config(tmp_path / "nothing.json")


def test_a_pickle_is_never_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    load_exported(folder)
    (folder / "pytorch_model.bin").replace(weights)
    with pytest.raises(UserError, match="is not a sound safetensors file"):
        load_exported(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"is not a sound safetensors file: .*No such file"):
        load_exported(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["fc.bias"][3] = value
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"its sha256 is not that of config.json"):
        load_exported(folder)
    change(folder, lambda config: config.pop("sha256"))
    with pytest.raises(UserError, match=r"fc.bias of cifar_resnet8 holds numbers that are not finite"):
        load_exported(folder)


def test_a_tensor_named_twice_is_refused(tmp_path: Path) -> None:
    entry = '"a":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    for header, message in (
        (f"{{{entry % (0, 4)},{entry % (4, 8)}}}", "it has a key twice"),
        ("{" * 64, "not a sound"),
    ):
        content = struct.pack("<Q", len(header)) + header.encode() + bytes(8)
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize("length", [0, 5, 8, 100, 300_000])
def test_a_truncated_file_is_refused(length: int, folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:length])
    with pytest.raises(UserError, match="is not a sound safetensors file"):
        read_weights(folder / "model.safetensors")


def test_tables_larger_than_any_networks_are_refused(tmp_path: Path) -> None:
    arguments = {"window_size": 256, "img_size": 1024, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4}
    with torch.device("meta"):
        planned = timm.create_model("swin_tiny_patch4_window7_224", num_classes=2, **arguments)
    save_file(
        {key: torch.zeros(value.shape) for key, value in planned.state_dict().items()}, tmp_path / "model.safetensors"
    )
    config = {
        "architecture": "swin_tiny_patch4_window7_224",
        "num_classes": 2,
        "pretrained_cfg": {"input_size": [3, 1024, 1024]},
        "model_args": arguments,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"it would take 36\.6 GB beside its weights"):
        load_exported(tmp_path)
