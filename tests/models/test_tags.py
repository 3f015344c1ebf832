import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import cutmix_zoo.models.tags
from cutmix_zoo.errors import UserError
from cutmix_zoo.models import cifar_resnet
from cutmix_zoo.models.tags import add_tags
from cutmix_zoo.store import weights_file
from cutmix_zoo.zoo import ZooEntry, zoo_table

NAME = "cifar_resnet8.cutmix_fmnist_mini"


def test_a_tag_loads_its_weights_with_its_own_config() -> None:
    model = timm.create_model(NAME, pretrained=True)
    weights = load_file(weights_file(zoo_table()[NAME]))
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    config = model.pretrained_cfg
    assert (config["architecture"], config["tag"], tuple(config["input_size"])) == (*NAME.split("."), (1, 28, 28))
    assert config["label_names"][9] == "Ankle boot"
    assert (config["license"], config["paper_ids"]) == ("apache-2.0", "arXiv:1905.04899")
    assert "paper_name" not in config
    assert NAME in timm.list_pretrained("cifar_*")


def test_a_tag_can_be_fine_tuned_to_other_classes_and_channels() -> None:
    model = timm.create_model(NAME, pretrained=True, num_classes=3, in_chans=3)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_the_architecture_without_a_tag_stays_what_it_was() -> None:
    default = cifar_resnet.default_cfgs["cifar_resnet8"]
    assert default.tags[0] == ""
    assert not timm.is_model_pretrained("cifar_resnet8")
    model = timm.create_model("cifar_resnet8")
    assert (model.conv1.in_channels, model.num_classes) == (3, 10)
    ours, plain = (asdict(timm.get_pretrained_cfg(name)) for name in ("cifar_resnet8", "cifar_resnet14"))
    assert ours | {"architecture": None} == plain | {"architecture": None}


def test_adding_twice_changes_nothing() -> None:
    before = timm.list_models(include_tags=True), list(cifar_resnet.default_cfgs["cifar_resnet8"].tags)
    add_tags(zoo_table().values())
    after = timm.list_models(include_tags=True), list(cifar_resnet.default_cfgs["cifar_resnet8"].tags)
    assert before == after
    assert before[0].count(NAME) == 1


def test_weights_are_checked_before_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def refuse(entry: ZooEntry) -> None:
        checked.append(entry.name)
        raise UserError("damaged")

    monkeypatch.setattr(cutmix_zoo.models.tags, "check_weights", refuse)
    with pytest.raises(UserError, match="damaged"):
        timm.create_model(NAME, pretrained=True)
    assert checked == [NAME]
    timm.create_model(NAME)  # without weights there is nothing to check


def test_a_tag_on_an_architecture_of_timm_takes_nothing_over() -> None:
    """In a process of its own, because a registration cannot be undone."""
    code = f"""
from dataclasses import replace
import timm, cutmix_zoo.models.tags
from cutmix_zoo.zoo import ZooEntry, zoo_table
before = timm.get_pretrained_cfg("resnet18"), timm.list_models("resnet18*", include_tags=True)
row = zoo_table()["{NAME}"]
rows = [replace(row, name=f"resnet18.{{tag}}", dataset="imagenet") for tag in ("mine", "other")]
checked = []
cutmix_zoo.models.tags.check_weights = lambda entry: checked.append(entry.name)
cutmix_zoo.models.tags.add_tags(rows)
assert timm.get_pretrained_cfg("resnet18") == before[0]
assert set(timm.list_models("resnet18*", include_tags=True)) == {{*before[1], "resnet18.mine", "resnet18.other"}}
config = timm.get_pretrained_cfg("resnet18.mine")
assert not any((config.url, config.hf_hub_id, config.test_input_size, config.paper_name))
assert config.crop_pct == 1.0
assert (config.first_conv, config.classifier, config.paper_ids) == ("conv1", "fc", "arXiv:1905.04899")
try:
    timm.create_model("resnet18.mine", pretrained=True)
except FileNotFoundError:
    pass  # there are no such weights
assert checked == ["resnet18.mine"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_models_of_timm_are_untouched(tmp_path: Path) -> None:
    code = (
        "import timm; options = dict(include_tags=True, exclude_filters=['cifar_*', 'pyramidnet*']);"
        "names, modules = timm.list_models(**options), timm.list_modules();"
        "import cutmix_zoo; assert timm.list_models(**options) == names;"
        "assert set(modules) <= set(timm.list_modules())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
