"""A trained network as an ONNX file that says itself how its images are prepared."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.data import resolve_model_data_config
from torchvision.transforms.functional import normalize

from cutmix_zoo.errors import UserError, one_line, prepare_new_file
from cutmix_zoo.models.labels import known_label_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

TOLERANCE = 1e-4
"""How far logits of the file may be from torch's, as a share of the largest of them."""

LOWEST_OPSET = 18
"""The first version of ONNX's operators that torch's exporter writes without converting."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_MOST_BYTES = (1 << 31) - (1 << 24)


def export_onnx(network: nn.Module, file: Path, *, opset: int | None = None) -> float:
    """Write a network as an ONNX file, and check with onnxruntime that it computes what the network does.

    The file's input is ``images`` (B, C, H, W) float32, normalised, for any B; its output ``logits`` (B, K) float32.
    Its metadata holds, each as JSON, ``label_names`` (null if they are not known) and how the network's images are
    prepared, under timm's names: ``input_size``, ``mean`` and ``std`` (of pixels scaled to [0, 1]), ``interpolation``,
    ``crop_pct`` and ``crop_mode``. What is compared are the logits of random images, one and three at a time.

    Args:
        network: a network made by ``timm.create_model``, on any device; it is not modified.
        file: the file to write; its folder is made if need be.
        opset: version of ONNX's operators, at least 18; None takes what torch's exporter thinks best.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        UserError: if a package is missing, the file exists, the network is too large for one file, it cannot be written
            with these operators, or the file does not compute the same. Then no file is left.
    """
    _check_packages()
    prepare_new_file(file)
    if opset is not None and opset < LOWEST_OPSET:
        raise UserError(f"opset {opset} cannot be written: take {LOWEST_OPSET} or more, or leave it out.")
    _check_size(network)
    network = copy.deepcopy(network).to("cpu", torch.float32).eval()
    config = resolve_model_data_config(network, use_test_size=True)
    program = _convert(network, config["input_size"], opset)
    facts = {"label_names": known_label_names(network), **config}
    program.model.metadata_props.update({name: json.dumps(fact) for name, fact in facts.items()})
    try:
        # beside the file, so that it is moved and not copied, once it is known to be right
        with tempfile.TemporaryDirectory(prefix=".export-", dir=file.parent) as staging:
            staged = Path(staging, "model.onnx")
            program.save(staged, external_data=False)
            difference = _compare(network, staged, config)
            staged.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {one_line(error)}") from error
    return difference


def _check_packages() -> None:
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise UserError(f"ONNX needs {' and '.join(missing)}, not installed: pip install {' '.join(missing)}")


def _check_size(network: nn.Module) -> None:
    size = sum(tensor.numel() for tensor in network.state_dict().values()) * 4
    if size > _MOST_BYTES:
        raise UserError(
            f"an ONNX file holds less than 2 GiB, and the weights take {size / 2**30:.1f}: take a smaller one."
        )


def _convert(network: nn.Module, input_size: tuple[int, int, int], opset: int | None) -> Any:
    # two images: torch would take a batch of one for a batch that is always one
    example, batch = torch.zeros(2, *input_size), {0: torch.export.Dim("batch")}
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=(batch,),
                opset_version=opset,
            )
    except torch.onnx.OnnxExporterError as error:
        # torch's own message is a page of advice to the developers of a network
        cause = str(error.__cause__ or error).strip().partition("\n")[0]
        raise UserError(f"torch cannot write {type(network).__name__} as ONNX: {cause}") from error
    written = program.model.opset_imports[""]
    if opset not in (None, written):
        raise UserError(f"opset {opset} cannot be written, only {written} could: take another, or leave it out.")
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's talk about its passes from the terminal: what counts is the comparison after it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _compare(network: nn.Module, file: Path, config: Mapping[str, Any]) -> float:
    """Return how far the file's logits are from the network's; refuse what is too far."""
    batches = list(_random_images(config))
    with torch.inference_mode():
        expected = torch.cat([network(images) for images in batches])
    difference = float((torch.cat(_run(file, batches)) - expected).abs().max())
    largest = float(expected.abs().max())
    # not a number is no agreement either
    if not difference <= TOLERANCE * largest:
        raise UserError(
            f"the ONNX file does not compute what the model does: logits as large as {largest:.3g} differ by "
            f"{difference:.3g}, expected at most {TOLERANCE * largest:.3g}; try another opset."
        )
    return difference


def _random_images(config: Mapping[str, Any]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 3):
        pixels = torch.randint(256, (count, *config["input_size"]), generator=generator)
        yield normalize(pixels / 255, config["mean"], config["std"])


def _run(file: Path, batches: Sequence[Tensor]) -> list[Tensor]:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        # copies: what a session returns may lie in its own memory, which ends with it
        return [torch.tensor(session.run(["logits"], {"images": images.numpy()})[0]) for images in batches]
    except Exception as error:  # its own have nothing narrower in common
        raise UserError(f"onnxruntime cannot run the exported file: {one_line(error)}; try another opset.") from error
