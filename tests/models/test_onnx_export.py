import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.models import onnx_export
from cutmix_zoo.models.onnx_export import TOLERANCE, export_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxscript", reason="the onnx extra is not installed")


class Computes(nn.Module):
    """A small network that computes what it is told to."""

    num_classes = 12

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.what = what
        self.scale = nn.Parameter(torch.ones(()))
        self.pretrained_cfg = {"input_size": (3, 2, 2), "mean": (0.5,) * 3, "std": (0.2,) * 3}

    def forward(self, images: Tensor) -> Tensor:
        return self.what(images) * self.scale


@pytest.fixture(scope="module")
def exported(shipped: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    file = tmp_path_factory.mktemp("onnx") / "new" / "net.onnx"
    return file, export_onnx(shipped, file)


def test_onnxruntime_computes_what_torch_does_for_any_batch(shipped: nn.Module, exported: tuple[Path, float]) -> None:
    file, difference = exported
    session = onnxruntime.InferenceSession(file)
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = shipped(images)
    for count in (1, 2, 5):
        (logits,) = session.run(None, {"images": images[:count].numpy()})
        assert torch.allclose(torch.from_numpy(logits), expected[:count], atol=1e-4)
    assert 0 <= difference <= TOLERANCE * float(expected.abs().max())
    assert [output.name for output in session.get_outputs()] == ["logits"]
    # the one file holds everything
    assert list(file.parent.iterdir()) == [file]
    onnx.checker.check_model(file, full_check=True)


def test_metadata_says_how_images_are_prepared(shipped: nn.Module, exported: tuple[Path, float]) -> None:
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(exported[0]).metadata_props}
    config = timm.data.resolve_model_data_config(shipped)
    assert metadata.pop("label_names") == list(shipped.pretrained_cfg["label_names"])  # type: ignore[index, arg-type]
    assert metadata == json.loads(json.dumps(config))
    assert metadata.keys() == {"input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"}


def test_the_size_is_that_of_testing_where_there_are_two(tmp_path: Path) -> None:
    network = Computes(lambda images: images.flatten(1))
    network.pretrained_cfg |= {"test_input_size": (3, 4, 4), "test_crop_pct": 0.5}
    export_onnx(network, tmp_path / "net.onnx")
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert (metadata["input_size"], metadata["crop_pct"]) == ([3, 4, 4], 0.5)


def test_the_operators_are_of_the_version_asked_for(tmp_path: Path) -> None:
    assert export_onnx(Computes(lambda images: images.flatten(1)), tmp_path / "net.onnx", opset=21) == 0
    model = onnx.load(tmp_path / "net.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [21]
    assert {entry.key: entry.value for entry in model.metadata_props}["label_names"] == "null"


def test_network_and_global_generators_stay_as_they_were(tmp_path: Path) -> None:
    network = Computes(nn.Sequential(nn.Dropout(), nn.Flatten())).to(torch.bfloat16)
    state = torch.get_rng_state()
    assert export_onnx(network, tmp_path / "net.onnx") == 0
    assert all(module.training for module in network.modules())
    assert network.scale.dtype == torch.bfloat16
    assert torch.equal(state, torch.get_rng_state())


def otherwise_in_onnx(images: Tensor) -> Tensor:
    return images.flatten(1) + (1e-3 if torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting() else 0)


@pytest.mark.parametrize(
    ("what", "opset", "message"),
    [
        (
            otherwise_in_onnx,
            None,
            r"does not compute what the model does: .* differ by 0\.001, expected at most 0\.000",
        ),
        (lambda images: images.flatten(1) * torch.nan, None, "differ by nan"),
        (
            lambda images: torch.stack([image.flatten() for image in images]),
            None,
            "onnxruntime cannot run the exported file: ",
        ),
        (lambda images: torch.linalg.svd(images)[1].flatten(1), None, "torch cannot write Computes as ONNX: "),
        (lambda images: images.flatten(1), 17, "opset 17 cannot be written: take 18 or more"),
        (lambda images: images.flatten(1), 99, "opset 99 cannot be written, only 18 could"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    what: Callable[[Tensor], Tensor], opset: int | None, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        export_onnx(Computes(what), tmp_path / "net.onnx", opset=opset)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    out, err = capfd.readouterr()
    assert out == ""
    assert "Error" not in err


def test_a_file_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("precious")
    with pytest.raises(UserError, match="exists and is not overwritten"):
        export_onnx(Computes(torch.relu), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_text() == "precious"


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name.startswith("onnx") else 1)
    with pytest.raises(UserError, match=r"onnxruntime.*pip install onnx onnxscript onnxruntime"):
        export_onnx(Computes(torch.relu), tmp_path / "net.onnx")


def test_a_network_too_large_for_one_file_is_refused(tmp_path: Path) -> None:
    network = Computes(torch.relu)
    network.scale = nn.Parameter(torch.empty(2**29, device="meta"))
    with pytest.raises(UserError, match=r"holds less than 2 GiB, and the weights take 2\.0"):
        export_onnx(network, tmp_path / "net.onnx")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    program = SimpleNamespace(model=SimpleNamespace(metadata_props={}), save=full)
    monkeypatch.setattr(onnx_export, "_convert", lambda *_: program)
    with pytest.raises(UserError, match=r"cannot write .*net\.onnx: No space left"):
        export_onnx(Computes(lambda images: images.flatten(1)), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
