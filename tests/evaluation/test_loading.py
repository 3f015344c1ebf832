from pathlib import Path

import pytest
import timm
import torch

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.loading import load_network
from cutmix_zoo.models import export_model, refresh_tags


def test_a_tag_an_exported_folder_and_a_run_are_loaded(tmp_path: Path) -> None:
    name = "cifar_resnet8.cutmix_fmnist_mini"
    expected = timm.create_model(name, pretrained=True)
    config = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.2,), "interpolation": "nearest", "crop_pct": 1.0}
    folder = tmp_path / "run" / "model"
    export_model(expected, folder, data_config=config, label_names=None, provenance={})
    for model in (name, str(folder), str(tmp_path / "run")):
        state = load_network(model).state_dict()
        assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())


def test_a_network_of_stride_16_has_the_tags_of_the_one_without(store: Path) -> None:
    network = timm.create_model("resnet18", num_classes=3, zero_init_last=False)
    config = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.2,) * 3, "interpolation": "nearest"}
    export_model(
        network, store / "resnet18.mine", data_config=config | {"crop_pct": 1.0}, label_names=None, provenance={}
    )
    refresh_tags()
    found = load_network("resnet18_stride16.mine")
    assert found.pretrained_cfg["architecture"] == "resnet18_stride16"
    assert all(torch.equal(found.state_dict()[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("cifar_resnet56", "no weights are known for cifar_resnet56; train one"),
        ("cifar_resnet8", r"with weights there are cifar_resnet8\.cutmix_fmnist_mini"),
        ("cifar_resnet8.cutmix_fmnist_min", r"with weights there are cifar_resnet8\.cutmix_fmnist_mini"),
        (
            "resnet50_stride16.cutmix_in1k",
            r"weights of resnet50\.cutmix_in1k are not on .*FILE --as resnet50\.cutmix_in1k",
        ),
        ("resnet50_stride16.nobodys", r"no weights are known for resnet50_stride16\.nobodys; .* resnet50_stride16\."),
        ("resnet18x", "cannot load 'resnet18x'"),
        ("nobody/nothing", "cannot get config.json of nobody/nothing from the Hugging Face Hub: .*offline mode"),
        ("hf_hub:nobody/nothing@main", "cannot get config.json of nobody/nothing from the Hugging Face Hub"),
        ("a--b/../c", "'a--b/../c' is not the name of a repository"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(model: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_network(model)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no model"):
        load_network(str(tmp_path))


@pytest.mark.parametrize("config", ["{}", '{"model_type": "vit"}', "{"])
def test_a_folder_with_a_foreign_config_is_refused(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    for name in (str(tmp_path), f"local-dir:{tmp_path}"):
        with pytest.raises(UserError, match=r"config.json is not a config of an exported model"):
            load_network(name)
