"""Imports of checkpoints in the authors' format, and of files that should not be imported."""

import argparse
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.hub import checkpoint_file
from cutmix_zoo.hub.importer import import_checkpoint
from cutmix_zoo.store import file_sha256, stored_configs
from cutmix_zoo.zoo import zoo_table
from tests.hub import official

SMALL = "cifar_resnet8.mine"


def state(name: str = "cifar_resnet8", **kwargs: object) -> dict[str, torch.Tensor]:
    return timm.create_model(name, num_classes=100, **kwargs).state_dict()


def saved(content: object, file: Path, zipped: bool = True) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A sound checkpoint of a small network."""
    return saved({"state_dict": state()}, tmp_path / "small.pth")


@pytest.fixture
def untouched(store: Path) -> Path:
    """A store that must come out as it went in."""
    (store / "cifar_resnet14.kept").mkdir(parents=True)
    (store / "cifar_resnet14.kept" / "config.json").write_text("precious")
    return store


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(path: Path, match: str, store: Path, name: str = SMALL, dataset: str | None = None) -> None:
    before = content(store)
    with pytest.raises(UserError, match=match) as caught:
        import_checkpoint(path, name, dataset)
    assert "\n" not in str(caught.value)
    assert content(store) == before
    assert not list(store.glob(".import-*"))


# the authors' checkpoints


OFFICIAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "cifar_pyramidnet200_a240.cutmix_c100": (lambda: official.PyramidNet(200, 240, 100), (32, 32)),
    "cifar_pyramidnet110_a64.cutmix_c100": (lambda: official.PyramidNet(110, 64, 100), (32, 32)),
    "cifar_resnet110_bottleneck.cutmix_c100": (lambda: official.ResNet([12] * 3, 100, imagenet=False), (32, 32)),
    "resnet50.feature_cutmix_in1k": (lambda: official.ResNet([3, 4, 6, 3], 1000, imagenet=True), (64, 64)),
    "resnext101_32x4d.cutmix_in1k": (
        lambda: official.ResNet([3, 4, 23, 3], 1000, imagenet=True, groups=32, base=4),
        (64, 64),
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_official_checkpoint_computes_the_same_after_import(name: str, store: Path, tmp_path: Path) -> None:
    make, size = OFFICIAL[name]
    net = official.trained(make())
    file = saved(official.checkpoint(net), tmp_path / "model_best.pth.tar", zipped=name.endswith("in1k"))
    folder = import_checkpoint(file, name, None if name in zoo_table() else "cifar100")
    ours = timm.create_model(name, pretrained=True).eval()
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, expected = ours(x), net(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    weights = ours.state_dict()
    assert weights.keys() == net.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())

    config = ours.pretrained_cfg
    if name.endswith("c100"):
        assert [round(255 * v, 1) for v in (*config["mean"], *config["std"])] == [125.3, 123.0, 113.9, 63.0, 62.1, 66.7]
        assert (config["input_size"], config["crop_pct"]) == ((3, 32, 32), 1.0)
        assert list(config["label_names"])[-1] == "worm"
    else:
        assert (config["mean"], config["std"]) == (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
        # 224 of 256
        assert (config["input_size"], config["crop_pct"]) == ((3, 224, 224), 0.875)
    assert config["interpolation"] == "bilinear"
    assert timm.is_model_pretrained(name)
    written = json.loads((folder / "config.json").read_text())
    assert written["sha256"] == file_sha256(folder / "model.safetensors")
    assert written["provenance"]["source"] == {"file": "model_best.pth.tar", "sha256": file_sha256(file)}


def test_licence_paper_and_published_error_come_along(store: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in timm.create_model("resnet50").state_dict().items()}
    weights = {key: torch.zeros(shape) for key, shape in shapes.items() if not key.endswith("tracked")}
    folder = import_checkpoint(saved(weights, tmp_path / "bare.pth"), "resnet50.cutmix_in1k")
    config = json.loads((folder / "config.json").read_text())
    assert config["pretrained_cfg"]["license"] == "mit"
    assert config["pretrained_cfg"]["paper_ids"] == "arXiv:1905.04899"
    assert config["provenance"]["published_error"] == 21.40
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert not model.fc.weight.any()
    assert model.bn1.num_batches_tracked == 0  # which checkpoints of old versions lack


# what holds the checkpoint


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", ["dict", "module", "bare", "bare module"])
def test_both_formats_with_and_without_wrapping(wrapped: str, zipped: bool, store: Path, tmp_path: Path) -> None:
    weights = state()
    if "module" in wrapped:
        weights = {f"module.{key}": value for key, value in weights.items()}
    file = saved(weights if "bare" in wrapped else {"state_dict": weights, "epoch": 3}, tmp_path / "x.pth", zipped)
    folder = import_checkpoint(file, SMALL)
    assert folder == store / SMALL
    assert torch.equal(timm.create_model(SMALL, pretrained=True).fc.weight, state_of(weights)["fc.weight"])


def state_of(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix("module."): value for key, value in weights.items()}


@pytest.mark.parametrize("holder", ["folder", "zip", "zip with a folder"])
def test_a_shared_folder_as_a_browser_gets_it(holder: str, small: Path, store: Path, tmp_path: Path) -> None:
    inside = {"folder": "", "zip": "", "zip with a folder": "PyraNet200/"}[holder]
    path = tmp_path / "download"
    if holder == "folder":
        (path / "sub").mkdir(parents=True)
        (path / "sub" / "model_best.pth.tar").write_bytes(small.read_bytes())
        (path / "log.txt").write_text("")
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{inside}log.txt", "text")
            archive.writestr("__MACOSX/._model_best.pth.tar", "metadata")
            archive.writestr(f"{inside}._model_best.pth.tar", "metadata")
            archive.write(small, f"{inside}model_best.pth.tar")
    folder = import_checkpoint(path, SMALL)
    source = json.loads((folder / "config.json").read_text())["provenance"]["source"]
    assert source == {"file": "download", "sha256": file_sha256(small)}


@pytest.mark.parametrize("ema", [False, True])
def test_checkpoints_of_timms_own_script(ema: bool, store: Path, tmp_path: Path) -> None:
    net = timm.create_model("cifar_resnet8")
    average = ModelEmaV3(net) if ema else None
    arguments = argparse.Namespace(model="cifar_resnet8", lr=0.1, mean=(0.5,))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    saver = CheckpointSaver(net, optimizer, arguments, model_ema=average, checkpoint_dir=str(tmp_path))
    kept = net.fc.weight.detach().clone()
    nn.init.ones_(net.fc.weight)
    saver.save_checkpoint(0, metric=1.0)
    import_checkpoint(tmp_path / "last.pth.tar", SMALL)
    expected = kept if ema else torch.ones_like(kept)
    assert torch.equal(timm.create_model(SMALL, pretrained=True).fc.weight, expected)


def test_weights_under_the_name_that_torchvision_gives_them(store: Path, tmp_path: Path) -> None:
    weights = state()
    import_checkpoint(saved({"model": weights, "model_ema": {}, "epoch": 3}, tmp_path / "model_3.pth"), SMALL)
    assert torch.equal(timm.create_model(SMALL, pretrained=True).fc.weight, weights["fc.weight"])


def test_an_import_is_replaced_by_the_next(store: Path, tmp_path: Path) -> None:
    first, second = state(), state()
    for weights in (first, second):
        import_checkpoint(saved(weights, tmp_path / "x.pth"), SMALL)
        assert torch.equal(timm.create_model(SMALL, pretrained=True).fc.weight, weights["fc.weight"])
    assert not torch.equal(first["fc.weight"], second["fc.weight"])
    assert list(stored_configs()) == [SMALL]
    assert [folder.name for folder in store.iterdir()] == [SMALL]


# tags of the user's own


@pytest.mark.parametrize(
    ("name", "num_classes", "dataset", "expected"),
    [
        ("cifar_resnet8.said", 10, "cifar10", "cifar10"),
        ("cifar_resnet8.of_c10", 10, None, None),  # it might be any ten classes
        ("cifar_resnet8.unknown", 7, None, None),
        ("resnet18.of_in1k", 1000, "imagenet", "imagenet"),
    ],
)
def test_constants_of_own_tags(
    name: str, num_classes: int, dataset: str | None, expected: str | None, store: Path, tmp_path: Path
) -> None:
    architecture = name.partition(".")[0]
    weights = timm.create_model(architecture, num_classes=num_classes).state_dict()
    folder = import_checkpoint(saved(weights, tmp_path / "x.pth"), name, dataset)
    config = timm.create_model(name, pretrained=True).pretrained_cfg
    assert config["num_classes"] == num_classes
    assert config["mean"] == timm.get_pretrained_cfg(architecture).mean
    assert bool(config.get("label_names")) == (expected in ("cifar10", "cifar100"))
    assert json.loads((folder / "config.json").read_text())["provenance"]["dataset"] == expected
    assert "not a part of the zoo" in config["description"]
    assert "license" not in config or config["license"] is None


def test_channels_are_those_of_the_weights(store: Path, tmp_path: Path) -> None:
    weights = timm.create_model("cifar_resnet8", num_classes=10, in_chans=1).state_dict()
    import_checkpoint(saved(weights, tmp_path / "x.pth"), "cifar_resnet8.grey", "fashion_mnist")
    model = timm.create_model("cifar_resnet8.grey", pretrained=True)
    assert model.pretrained_cfg["input_size"] == (1, 28, 28)
    assert timm.create_model("cifar_resnet8.grey", pretrained=True, in_chans=1).conv1.in_channels == 1


@pytest.mark.parametrize(("in_chans", "dataset"), [(1, None), (5, None), (3, "fashion_mnist"), (1, "cifar10")])
def test_channels_that_do_not_fit(in_chans: int, dataset: str | None, untouched: Path, tmp_path: Path) -> None:
    weights = timm.create_model("cifar_resnet8", num_classes=10, in_chans=in_chans).state_dict()
    message = rf"has \d channels, but the weights take {in_chans}; give the dataset they are for: fashion_mnist, "
    refused(saved(weights, tmp_path / "x.pth"), message, untouched, dataset=dataset)


# names


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("resnet50", None, r"expected a name such as resnet50\.mine: .*; got 'resnet50'"),
        ("../resnet50.x", None, r"expected a name such as"),
        ("resnet50.a/b", None, r"expected a name such as"),
        ("resnet50.a.b", None, r"expected a name such as"),
        ("resnet5O.mine", None, r"no architecture is called 'resnet5O'; did you mean resnet50"),
        ("tv_resnet34.mine", None, r"tv_resnet34 has no default config of timm's kind"),
        ("resnet50.a1_in1k", None, r"resnet50\.a1_in1k is a tag of timm's own; choose another tag"),
        ("cifar_resnet8.cutmix_fmnist_mini", None, r"come with this package; choose another tag"),
        (SMALL, "cifar1000", r"no known dataset is called 'cifar1000'; did you mean cifar100\?"),
        (SMALL, "cifar10", r"cifar10 has 10 classes, but the weights have 100"),
        ("resnet50.cutmix_in1k", "cifar10", r"was trained on imagenet, got dataset 'cifar10'; leave it out"),
    ],
)
def test_names_that_cannot_be_used(name: str, dataset: str | None, message: str, small: Path, untouched: Path) -> None:
    refused(small, message, untouched, name, dataset)


@pytest.mark.parametrize(("error", "seen"), [(OSError("full"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_replacement_that_fails_leaves_the_old_import(
    error: BaseException,
    seen: type[BaseException],
    small: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import_checkpoint(small, SMALL)
    before, rename = content(store), Path.rename

    def fail(source: Path, target: Path) -> Path:
        if source.name == "new":
            raise error
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(seen, match=r"cannot write .*cifar_resnet8\.mine: full" if seen is UserError else None):
        import_checkpoint(saved(state(), tmp_path / "next.pth"), SMALL)
    assert content(store) == before
    assert [folder.name for folder in store.iterdir()] == [SMALL]


@pytest.mark.parametrize(
    "at", ["cifar_resnet8.mine", "new"], ids=["before the old one is away", "before the new one is there"]
)
def test_an_import_that_another_overtakes_says_so_or_comes_last(
    at: str, small: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_checkpoint(small, SMALL)
    theirs, ours, rename = state(), state(), Path.rename

    def overtake(source: Path, target: Path) -> Path:
        if source.name == at:
            monkeypatch.setattr(Path, "rename", rename)
            import_checkpoint(saved(theirs, tmp_path / "theirs.pth"), SMALL)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", overtake)
    file = saved(ours, tmp_path / "ours.pth")
    if at == "new":
        with pytest.raises(UserError, match=r"cannot write .*cifar_resnet8\.mine"):
            import_checkpoint(file, SMALL)
    else:
        import_checkpoint(file, SMALL)
    expected = (theirs if at == "new" else ours)["fc.weight"]
    assert torch.equal(timm.create_model(SMALL, pretrained=True).fc.weight, expected)
    assert [folder.name for folder in store.iterdir()] == [SMALL]


def test_weights_that_are_on_the_hub_alone_can_be_imported(
    small: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cifar_resnet8.on_the_hub"
    row = replace(zoo_table()["cifar_resnet8.cutmix_fmnist_mini"], name=name, repo="me/it", revision="0" * 40)
    monkeypatch.setattr("cutmix_zoo.hub.importer.zoo_table", lambda: {name: row})
    weights = timm.create_model("cifar_resnet8", num_classes=10, in_chans=1).state_dict()
    folder = import_checkpoint(saved(weights, tmp_path / "x.pth"), name)
    assert json.loads((folder / "config.json").read_text())["provenance"]["method"] == "CutMix"
    monkeypatch.setattr("cutmix_zoo.hub.importer.zoo_table", lambda: {name: replace(row, repo=None, revision=None)})
    with pytest.raises(UserError, match="come with this package"):
        import_checkpoint(small, name)


def test_networks_with_tables_beside_their_weights_are_imported(store: Path, tmp_path: Path) -> None:
    """Which no checkpoint holds: the network makes them itself."""
    torch.manual_seed(0)
    net = timm.create_model("efficientformerv2_s0").eval()
    assert len(dict(net.named_buffers()).keys() - net.state_dict().keys()) == 5
    import_checkpoint(saved(net.state_dict(), tmp_path / "x.pth"), "efficientformerv2_s0.mine")
    ours, image = timm.create_model("efficientformerv2_s0.mine", pretrained=True).eval(), torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(ours(image), net(image))


def test_an_import_leaves_the_global_random_numbers_alone(small: Path, store: Path) -> None:
    before = torch.get_rng_state()
    import_checkpoint(small, SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_name_too_long_for_a_folder(small: Path, untouched: Path) -> None:
    refused(small, r"cannot write .*File name too long", untouched, f"cifar_resnet8.{300 * 'a'}")


def test_a_store_that_cannot_be_written(small: Path, store: Path) -> None:
    store.write_text("a file")
    with pytest.raises(UserError, match=r"cannot write to .*; CUTMIX_ZOO_HOME may name another folder"):
        import_checkpoint(small, SMALL)
    assert store.read_text() == "a file"


# files that are damaged or hostile


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.proof}",)

    def __init__(self, proof: Path) -> None:
        self.proof = proof


@pytest.mark.parametrize("zipped", [True, False, None])
def test_nothing_is_executed(zipped: bool | None, untouched: Path, tmp_path: Path) -> None:
    proof, file = tmp_path / "executed", tmp_path / "evil.pth"
    bad = {"state_dict": state(), "extra": Evil(proof)}
    file.write_bytes(pickle.dumps(bad)) if zipped is None else saved(bad, file, zipped)
    refused(file, r"cannot read .*evil\.pth: it is .*nothing in it was executed", untouched)
    assert not proof.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_files(share: float, zipped: bool, untouched: Path, tmp_path: Path) -> None:
    file = saved({"state_dict": state()}, tmp_path / "x.pth", zipped)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    refused(file, r"cannot read .*x\.pth: it is|is a damaged zip archive", untouched)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (zipfile.ZIP_STORED, "Bad CRC-32"),
        (zipfile.ZIP_DEFLATED, "Error -3|Bad CRC-32"),
        (zipfile.ZIP_BZIP2, "Invalid data stream"),
        (zipfile.ZIP_LZMA, "Corrupt input data"),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_damaged_archives(share: float, kind: int, message: str, small: Path, untouched: Path, tmp_path: Path) -> None:
    path = tmp_path / "download.zip"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.write(small, "model_best.pth.tar")
    whole = bytearray(path.read_bytes())
    place = int(share * len(whole))
    whole[place : place + 20] = 20 * b"\xff"
    path.write_bytes(whole)
    refused(path, f"is a damaged zip archive: ({message})", untouched)


def test_an_archive_that_unpacks_to_too_much(
    small: Path, untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model_best.pth.tar", bytes(5_000_000))
    monkeypatch.setattr(checkpoint_file, "LARGEST", 1_000_000)
    refused(path, r"'model_best\.pth\.tar' in .*bomb\.zip would unpack to 5000000 bytes; at most 1000000", untouched)


def test_a_checkpoint_that_unpacks_to_more_than_it_is(untouched: Path, tmp_path: Path) -> None:
    """The reader of torch would unpack what somebody compressed, and a few bytes would fill the memory."""
    plain, path = (
        saved({"state_dict": state(), "bomb": torch.zeros(10**6)}, tmp_path / "plain.pth"),
        tmp_path / "bomb.pth",
    )
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    refused(path, r"cannot read .*bomb\.pth: its \d{6} bytes would unpack to 43\d{5}; torch writes no such", untouched)


def test_a_file_in_an_archive_is_called_by_its_name_there(untouched: Path, tmp_path: Path) -> None:
    path = tmp_path / "download.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PyraNet200/model_best.pth.tar", "text")
    refused(path, r"^cannot read 'PyraNet200/model_best.pth.tar' in .*/download.zip: it is", untouched)


def test_an_archive_has_no_say_in_where_it_is_unpacked(small: Path, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "traversal.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(small, "../../../outside.pth")
    before = set(tmp_path.rglob("*.pth"))
    import_checkpoint(path, SMALL)
    assert set(tmp_path.rglob("*.pth")) == before


def test_an_absurd_header_is_refused(small: Path, untouched: Path, tmp_path: Path) -> None:
    """A tensor that claims more numbers than the file has, in torch's own format."""
    file = tmp_path / "absurd.pth"
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(file, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                # the first size of the first weight, 16 output channels, becomes 2**31 - 1
                data = data.replace(b"(K\x10K\x03K\x03K\x03t", b"(J\xff\xff\xff\x7fK\x03K\x03K\x03t", 1)
            target.writestr(info.filename, data)
    refused(file, r"cannot read .*absurd\.pth: it is damaged or no checkpoint", untouched)


def test_an_absurd_size_in_the_old_format_is_refused(untouched: Path, tmp_path: Path) -> None:
    file = saved(state(), tmp_path / "old.pth", zipped=False)
    data = file.read_bytes()
    # numbers of the last storage's elements, before its bytes
    weight = state()["fc.bias"]
    place = data.rindex((100).to_bytes(8, "little"), 0, len(data) - 4 * len(weight) + 8)
    file.write_bytes(data[:place] + (2**60).to_bytes(8, "little") + data[place + 8 :])
    refused(file, r"cannot read .*old\.pth: it is", untouched)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fc.bias"), r"are not the weights of .*: 1 are missing \('fc\.bias'\), and 0 do not belong"),
        (lambda s: s.pop("fc.weight"), r"1 are missing \('fc\.weight'\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"0 are missing, and 1 do not belong to it \('extra'\)"),
        (lambda s: s.update({"a\n\x1b[31m" + 99 * "b": torch.zeros(1)}), r"\('a\\n\\x1b\[31mb{70}\.\.\.'\)$"),
        (lambda s: [s.pop(k) for k in list(s) if "layer2" in k], r"\d+ are missing \(.*, \.\.\.\)"),
        (lambda s: s.update({"conv1.weight": torch.zeros(16, 3, 5, 5)}), r"conv1\.weight has another shape: expected"),
        (lambda s: s.update({"bn1.weight": torch.zeros(17)}), r"expected \(16,\), got \(17,\)"),
        (
            lambda s: s.update({"bn1.weight": torch.zeros(16, dtype=torch.int64)}),
            r"expected numbers like torch.float32",
        ),
        (lambda s: s.update({"bn1.weight": torch.zeros(16, dtype=torch.complex64)}), r"got torch.complex64"),
        (lambda s: s.update({"bn1.weight": torch.zeros(16).to(torch.float8_e5m2)}), r"got torch.float8_e5m2"),
        (lambda s: s.update({"bn1.weight": torch.zeros(16).to_sparse()}), r"under 'bn1\.weight' is not dense"),
        (
            lambda s: s.update({"bn1.weight": torch.zeros(16, device="meta")}),
            r"'bn1\.weight' is not dense, or claims more",
        ),
        # 2**40 classes, of which the file has one number
        (lambda s: s.update({"fc.weight": torch.zeros(1, 1).expand(2**40, 64)}), r"claims more than the file holds"),
        (lambda s: s.update({"bn1.weight": torch.full((16,), 1e300, dtype=torch.float64)}), r"are not finite"),
        (lambda s: s["bn1.weight"].fill_(torch.nan), r"bn1\.weight of .* holds numbers that are not finite"),
        (lambda s: s["bn1.running_var"].fill_(torch.inf), r"bn1\.running_var of .* not finite"),
        (lambda s: s.update({"fc.weight": torch.zeros(0, 64), "fc.bias": torch.zeros(0)}), r"another shape"),
        (lambda s: s.update({"fc.weight": torch.zeros(())}), r"fc\.weight has another shape"),
        (lambda s: s.update({"fc.weight": "text"}), r"expected a tensor under 'fc\.weight', got str"),
    ],
)
def test_weights_that_are_not_sound(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, untouched: Path, tmp_path: Path
) -> None:
    weights = state()
    change(weights)
    refused(saved({"state_dict": weights}, tmp_path / "x.pth"), message, untouched)


def test_weights_of_another_architecture(small: Path, untouched: Path) -> None:
    refused(small, r"these are not the weights of resnet18\.mine: \d+ are missing", untouched, "resnet18.mine")
    refused(small, r"these are not the weights of cifar_resnet14\.mine", untouched, "cifar_resnet14.mine")


def test_an_architecture_that_cannot_be_made_so(small: Path, untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that somebody registered, which does not take every number of channels or classes."""

    def picky(*_: object, **__: object) -> nn.Module:
        raise AssertionError("ten classes\nalone")

    monkeypatch.setattr(timm, "create_model", picky)
    message = r"^cannot make cifar_resnet8 with \{'num_classes': 100, 'in_chans': 3\}: ten classes alone$"
    refused(small, message, untouched)


def test_a_network_that_does_not_take_the_images_of_its_dataset(untouched: Path, tmp_path: Path) -> None:
    weights = timm.create_model("test_vit", num_classes=10, in_chans=1).state_dict()
    message = r"^cannot import .*x\.pth as test_vit\.mine: timm cannot load this model back .*height \(28\) should be"
    refused(saved(weights, tmp_path / "x.pth"), message, untouched, "test_vit.mine", "fashion_mnist")


def test_weights_for_another_number_of_classes(untouched: Path, tmp_path: Path) -> None:
    weights = timm.create_model("cifar_pyramidnet110_a64", num_classes=10).state_dict()
    file = saved(weights, tmp_path / "x.pth")
    refused(
        file, r"cifar100 has 100 classes, but the weights have 10", untouched, "cifar_pyramidnet110_a64.x", "cifar100"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [([1, 2], "holds no state dict, but list"), ({}, "holds no state dict"), ({3: 4}, "holds no state dict")],
)
def test_files_without_a_state_dict(value: object, message: str, untouched: Path, tmp_path: Path) -> None:
    refused(saved(value, tmp_path / "x.pth"), message, untouched)


def test_what_holds_no_checkpoint(small: Path, untouched: Path, tmp_path: Path) -> None:
    refused(tmp_path / "missing.pth", r"there is no file or folder .*missing\.pth", untouched)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, r"expected one file that ends in \.pth, \.pth\.tar, \.pt in .*empty, found 0$", untouched)
    for name in ("a.pth", "b.pth.tar"):
        (empty / name).write_bytes(small.read_bytes())
    refused(
        empty, r"found 2: 'a\.pth', 'b\.pth\.tar'; unpack it if need be, and give the path of one of them", untouched
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "text")
    (tmp_path / "none.zip").write_bytes(archive.getvalue())
    refused(tmp_path / "none.zip", r"found 0$", untouched)


def test_a_text_file_is_no_checkpoint(untouched: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text("<html>sign in</html>")
    refused(tmp_path / "x.pth", r"it is no checkpoint of torch, is damaged, or holds more than", untouched)
