import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from cutmix_zoo.errors import UserError
from cutmix_zoo.models import cifar_resnet
from cutmix_zoo.models.tags import is_foreign_tag, refresh_tags, resolve_weights
from cutmix_zoo.store import Weights
from cutmix_zoo.zoo import zoo_table

NAME = "cifar_resnet8.cutmix_fmnist_mini"
SHIPPED = {entry.name for entry in zoo_table().values() if entry.sha256}


def test_a_tag_loads_its_weights_with_its_own_config() -> None:
    model = timm.create_model(NAME, pretrained=True)
    weights = load_file(resolve_weights(NAME))
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
    entrypoint = timm.models.model_entrypoint("cifar_resnet8")
    refresh_tags()
    assert (timm.list_models(include_tags=True), list(cifar_resnet.default_cfgs["cifar_resnet8"].tags)) == before
    assert before[0].count(NAME) == 1
    assert timm.models.model_entrypoint("cifar_resnet8") is entrypoint


def test_weights_are_checked_before_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def refuse(weights: Weights) -> None:
        checked.append(weights.file.name)
        raise UserError("damaged")

    monkeypatch.setattr(Weights, "check", refuse)
    with pytest.raises(UserError, match="damaged"):
        timm.create_model(NAME, pretrained=True)
    with pytest.raises(UserError, match="damaged"):
        timm.create_model("cifar_resnet8", pretrained=True, pretrained_cfg=timm.get_pretrained_cfg(NAME))
    assert checked == [f"{NAME}.safetensors"] * 2
    timm.create_model(NAME)  # without weights there is nothing to check


def test_entry_points_can_still_be_pickled_and_called_by_their_names() -> None:
    for name in ("resnet50", "cifar_resnet8"):
        entrypoint = timm.models.model_entrypoint(name)
        assert pickle.loads(pickle.dumps(entrypoint)) is entrypoint
    with pytest.raises(UserError, match="cutmix-zoo import FILE --as resnet50"):
        timm.models.resnet50(pretrained=True, pretrained_cfg="cutmix_in1k")


def test_a_config_of_the_callers_own_wins(tmp_path: Path) -> None:
    state = {key: torch.zeros_like(value) for key, value in timm.create_model(NAME, in_chans=1).state_dict().items()}
    torch.save(state, tmp_path / "mine.pth")
    mine = replace(timm.get_pretrained_cfg(NAME), file=str(tmp_path / "mine.pth"))
    for config in (mine, asdict(mine), replace(mine, state_dict=state)):
        model = timm.create_model("cifar_resnet8", pretrained=True, pretrained_cfg=config, in_chans=1)
        assert not model.conv1.weight.any()
    ours = timm.create_model("cifar_resnet8", pretrained=True, pretrained_cfg=timm.get_pretrained_cfg(NAME), in_chans=1)
    assert ours.conv1.weight.any()


def test_the_callers_own_weights_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = {key: torch.zeros_like(value) for key, value in timm.create_model(NAME, in_chans=1).state_dict().items()}
    torch.save(state, tmp_path / "mine.pth")
    for overlay in ({"state_dict": state}, {"file": str(tmp_path / "mine.pth")}):
        model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay)
        assert not model.conv1.weight.any()
    kept = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"description": "mine"})
    assert kept.pretrained_cfg["description"] == "mine"
    assert kept.conv1.weight.any()


@pytest.mark.parametrize("name", [name for name, entry in zoo_table().items() if entry.sha256 is None])
def test_a_tag_without_weights_is_listed_and_not_claimed(name: str) -> None:
    architecture = name.partition(".")[0]
    assert name in timm.list_models(f"{architecture}.*", include_tags=True)
    assert not timm.is_model_pretrained(name)
    assert name not in timm.list_pretrained(f"{architecture}.*")
    config, entry = timm.get_pretrained_cfg(name), zoo_table()[name]
    assert not config.has_weights
    assert (config.license, config.paper_ids, config.origin_url) == ("mit", "arXiv:1905.04899", entry.page)
    assert f"{entry.published_error:.2f} % top-1 error" in config.description
    if entry.dataset == "imagenet":
        assert (config.input_size, config.crop_pct, config.interpolation) == ((3, 224, 224), 0.875, "bilinear")
        assert (config.test_input_size, config.num_classes) == (None, 1000)
    else:
        assert (config.input_size, config.crop_pct, config.num_classes) == ((3, 32, 32), 1.0, 100)
        assert [round(255 * v, 1) for v in (*config.mean, *config.std)] == [125.3, 123.0, 113.9, 63.0, 62.1, 66.7]
        assert config.label_names[0] == "apple"
    with torch.device("meta"), pytest.raises(UserError) as caught:
        timm.create_model(name, pretrained=True)
    message = str(caught.value)
    assert entry.row in message
    assert f"{entry.page}, then run: cutmix-zoo import FILE --as {name}" in message


def test_tags_take_nothing_over(tmp_path: Path) -> None:
    """Default configs with an empty and a full store; in processes of their own, as a registration cannot be undone."""
    code = """
import json, sys, timm
def state(names):
    return {name: (repr(timm.get_pretrained_cfg(name)), timm.is_model_pretrained(name)) for name in names}
names = timm.list_models(include_tags=True) + timm.list_models()
modules = {name: sorted(timm.list_models(module=name)) for name in timm.list_modules()}
before, pretrained = state(names), timm.list_pretrained()
import cutmix_zoo
assert state(names) == before
assert set(pretrained) <= set(timm.list_pretrained())
assert {name: sorted(timm.list_models(module=name)) for name in modules} == modules
new = [name for name in timm.list_models(include_tags=True) if name not in names]
ours = state(timm.list_models(["cifar_*", "pyramidnet*"]))
found = [name for name in timm.list_pretrained() if "_stride16" not in name]  # those have the tags of timm's
print(json.dumps([ours, new, sorted(set(found) - set(pretrained))]))
"""

    def outcome() -> list[object]:
        done = subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True)
        return json.loads(done.stdout)

    defaults, new, pretrained = outcome()
    assert set(pretrained) == SHIPPED
    os.environ["CUTMIX_ZOO_HOME"], before = str(tmp_path / "full"), os.environ["CUTMIX_ZOO_HOME"]
    try:
        every = [name for name, entry in zoo_table().items() if entry.sha256 is None]
        for name in [*every, "resnet18.mine", "cifar_resnet20.mine"]:
            put_into_store(tmp_path / "full", name)
        full_defaults, full_new, full_pretrained = outcome()
    finally:
        os.environ["CUTMIX_ZOO_HOME"] = before
    assert full_defaults == defaults
    assert set(full_new) == {*new, "resnet18.mine", "cifar_resnet20.mine"}
    assert set(full_pretrained) == {*SHIPPED, *every, "resnet18.mine", "cifar_resnet20.mine"}


def put_into_store(store: Path, name: str, **changes: object) -> None:
    """Something that looks like an import."""
    folder = store / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"no weights")
    described = {"input_size": [3, 40, 40], "num_classes": 7, "label_names": None, "unknown": 3}
    config = {"architecture": name.partition(".")[0], "num_classes": 7, "pretrained_cfg": described, "sha256": "00"}
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_tags_of_the_users_own_come_from_the_store(store: Path) -> None:
    put_into_store(store, "cifar_resnet14.mine", label_names=["a"] * 7)
    refresh_tags()
    config = timm.get_pretrained_cfg("cifar_resnet14.mine")
    assert (config.input_size, config.num_classes, config.label_names) == ((3, 40, 40), 7, ("a",) * 7)
    assert timm.is_model_pretrained("cifar_resnet14.mine")
    assert not timm.is_model_pretrained("cifar_resnet14")
    with pytest.raises(UserError, match=r"is damaged or was replaced: its sha256 is .* import the weights again"):
        timm.create_model("cifar_resnet14.mine", pretrained=True)
    shutil.rmtree(store)
    with pytest.raises(UserError, match=r"cifar_resnet14\.mine are no longer in the local store; import them again"):
        timm.create_model("cifar_resnet14.mine", pretrained=True)


def test_a_config_in_the_store_has_no_say_in_where_its_weights_are(store: Path) -> None:
    described = {
        "input_size": [3, 32, 32],
        "source": "hf-hub",
        "hf_hub_id": "some/one",
        "url": "x",
        "custom_load": "hf",
    }
    put_into_store(store, "cifar_resnet14.elsewhere", pretrained_cfg=described)
    refresh_tags()
    config = timm.get_pretrained_cfg("cifar_resnet14.elsewhere")
    assert (config.source, config.hf_hub_id, config.url, config.custom_load) == (None, None, None, False)
    assert config.file == str(store / "cifar_resnet14.elsewhere" / "model.safetensors")


def test_a_store_that_makes_no_sense_breaks_nothing(store: Path) -> None:
    before = timm.list_models(include_tags=True)
    (store / "loose file").parent.mkdir()
    (store / "loose file").write_text("")
    (store / "cifar_resnet8.empty").mkdir()
    put_into_store(store, "no_such_net.mine")
    put_into_store(store, "tv_resnet34.mine")  # a deprecated name of timm's, without default configs
    put_into_store(store, "resnet18.a1_in1k")  # a tag of timm's
    put_into_store(store, ".import-123")
    for number, changes in enumerate(
        [
            {"pretrained_cfg": 3},
            {"sha256": None},
            {"architecture": "resnet50"},
            {"num_classes": "x"},
            {"num_classes": True},
            {"pretrained_cfg": {}},
            {"pretrained_cfg": {"input_size": ["x", 32, 32]}},
            {"pretrained_cfg": {"input_size": [0, 32, 32]}},
            {"provenance": 3},
            {"provenance": {"dataset": ["cifar10"]}},
        ]
    ):
        put_into_store(store, f"cifar_resnet8.bad{number}", **changes)
    (store / "cifar_resnet8.empty" / "config.json").write_text("{")
    known = timm.get_pretrained_cfg("resnet18.a1_in1k")
    refresh_tags()
    assert timm.list_models(include_tags=True) == before
    assert timm.get_pretrained_cfg("resnet18.a1_in1k") == known
    shutil.rmtree(store)
    store.write_text("a file where the store should be")
    refresh_tags()


def test_what_another_process_takes_away_meanwhile_is_left_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cifar_resnet14.gone", "cifar_resnet14.stays"):
        put_into_store(store, name)
    iterdir = Path.iterdir

    def take(folder: Path) -> list[Path]:
        listed = list(iterdir(folder))
        (store / "cifar_resnet14.gone").rename(store / ".away")
        return listed

    monkeypatch.setattr(Path, "iterdir", take)
    refresh_tags()
    names = timm.list_models("cifar_resnet14.*", include_tags=True)
    assert "cifar_resnet14.stays" in names
    assert "cifar_resnet14.gone" not in names


def test_a_config_of_the_store_is_read_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_into_store(store, "cifar_resnet14.once")
    read, read_text = [], Path.read_text

    def count(file: Path, **kwargs: str) -> str:
        read.append(file)
        return read_text(file, **kwargs)

    monkeypatch.setattr(Path, "read_text", count)
    refresh_tags()
    assert read == [store / "cifar_resnet14.once" / "config.json"]


def test_foreign_tags() -> None:
    assert is_foreign_tag("resnet50.a1_in1k")
    assert not is_foreign_tag("resnet50.cutmix_in1k")
    assert not is_foreign_tag("resnet50.nobodys")
