import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

import cutmix_zoo.store
from cutmix_zoo.errors import UserError
from cutmix_zoo.store import Weights, file_sha256, forget, locate, store_folder, stored_config, stored_configs
from cutmix_zoo.zoo import zoo_table

SHIPPED = "cifar_resnet8.cutmix_fmnist_mini"
CONFIG = {
    "architecture": "cifar_resnet8",
    "num_classes": 10,
    "pretrained_cfg": {"input_size": [3, 32, 32]},
    "sha256": hashlib.sha256(b"weights").hexdigest(),
}


def put(store: Path, name: str, text: str | None = None) -> None:
    (store / name).mkdir(parents=True)
    (store / name / "config.json").write_text(json.dumps(CONFIG) if text is None else text)
    (store / name / "model.safetensors").write_bytes(b"weights")


def test_missing_and_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = locate(SHIPPED, zoo_table()[SHIPPED])
    assert weights is not None
    assert weights.where == "package"
    weights.check()
    content = bytearray(weights.file.read_bytes())
    monkeypatch.setattr(cutmix_zoo.store, "PACKAGE_WEIGHTS", tmp_path)
    weights = locate(SHIPPED, zoo_table()[SHIPPED])
    with pytest.raises(UserError, match=r"there are no weights at .*install cutmix_zoo again"):
        weights.check()
    content[-1] ^= 1
    weights.file.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged or was replaced.* install cutmix_zoo again"):
        weights.check()
    with pytest.raises(UserError, match=r"expected 00; import the weights again"):
        replace(weights, sha256="00", where="store").check()


def test_the_store_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTMIX_ZOO_HOME", "/mine")
    assert store_folder() == Path("/mine")
    monkeypatch.delenv("CUTMIX_ZOO_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert store_folder() == Path("/cache/cutmix_zoo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert store_folder() == Path("/home/me/.cache/cutmix_zoo")
    monkeypatch.setenv("CUTMIX_ZOO_HOME", "~/mine")
    assert store_folder() == Path("/home/me/mine")


def test_without_a_home_there_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert stored_configs() == {}
    assert stored_config("cifar_resnet8.mine") is None
    with pytest.raises(UserError, match=r"home directory\. Set CUTMIX_ZOO_HOME to the folder for imported weights"):
        store_folder()


def test_weights_in_the_store_are_found_and_checked(store: Path) -> None:
    assert stored_configs() == {}
    assert locate("cifar_resnet8.mine", None) is None
    put(store, "cifar_resnet8.mine")
    put(store, "cifar_resnet8.broken", text="{")
    put(store, "cifar_resnet8.deep", text="[" * 100_000)
    put(store, "cifar_resnet8")  # without a tag it would mean the architecture
    put(store, "cifar_resnet8.another")
    assert stored_configs() == {"cifar_resnet8.another": CONFIG, "cifar_resnet8.mine": CONFIG}
    assert list(stored_configs()) == ["cifar_resnet8.another", "cifar_resnet8.mine"]
    assert stored_config("cifar_resnet8.mine") == CONFIG
    weights = locate("cifar_resnet8.mine", None)
    assert weights == Weights(store / "cifar_resnet8.mine" / "model.safetensors", CONFIG["sha256"], "store")
    weights.check()


def test_the_package_comes_before_the_store(store: Path) -> None:
    put(store, SHIPPED)
    assert locate(SHIPPED, zoo_table()[SHIPPED]).where == "package"


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # the example of FIPS 180-2
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_is_on_the_hub_is_here_once_it_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(zoo_table()[SHIPPED], name="cifar_resnet8.hub", repo="me/it", revision="0" * 40)
    assert locate(entry.name, entry) is None
    fetched = tmp_path / "model.safetensors"
    fetched.write_bytes(b"weights")
    monkeypatch.setattr(cutmix_zoo.store, "try_to_load_from_cache", lambda *_, **__: str(fetched))
    found = locate(entry.name, entry)
    assert found == Weights(fetched, entry.sha256, "cache")
    with pytest.raises(UserError, match="delete the file, and it will be fetched again"):
        found.check()
    assert locate(SHIPPED, replace(entry, name=SHIPPED)).where == "package", "what ships need not be fetched"


def test_a_file_is_forgotten_with_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"weights")
    (tmp_path / "link").symlink_to(tmp_path / "blob")
    forget(tmp_path / "link")
    assert list(tmp_path.iterdir()) == []
