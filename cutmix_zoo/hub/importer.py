"""Import of checkpoints into the local store: ``cutmix-zoo import FILE --as NAME.TAG``."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn

from cutmix_zoo.errors import UserError, did_you_mean, one_line
from cutmix_zoo.hub.checkpoint_file import checkpoint_file, read_state_dict
from cutmix_zoo.keys import isolated_rng
from cutmix_zoo.known import KNOWN_DATASETS, KnownDataset
from cutmix_zoo.models.export import DATA_KEYS, export_model
from cutmix_zoo.models.tags import is_foreign_tag, refresh_tags, takes_tags
from cutmix_zoo.models.weights import check_weights
from cutmix_zoo.store import WEIGHTS_NAME, file_sha256, store_folder
from cutmix_zoo.zoo import ZooEntry, zoo_table

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTER = "num_batches_tracked"
"""What BatchNorm counts, and nothing reads in evaluation; older checkpoints lack it."""


def import_checkpoint(path: str | Path, name: str, dataset: str | None = None) -> Path:
    """Read a checkpoint, check all of it, and put it into the local store, where timm finds it under its name.

    An import of the same name is replaced. If anything is wrong, the store stays as it was.

    Args:
        path: a checkpoint file of torch, or a folder or zip archive that holds one.
        name: ``architecture.tag``: a row of the zoo table, or a tag of your own for any registered architecture.
        dataset: for a tag of your own, the known dataset it was trained on, whose input size, mean, standard deviation
            and label names it gets; None takes what the architecture has by default, without label names.

    Returns:
        The folder in the store, with ``config.json`` and ``model.safetensors``.

    Raises:
        UserError: if the name cannot be used, or the file is not a sound checkpoint of that architecture.
    """
    path, entry = Path(path), zoo_table().get(name)
    _check_name(name, entry, dataset)
    with checkpoint_file(path) as file:
        weights = read_state_dict(file)
        source = {"file": path.name, "sha256": file_sha256(file.path)}
    model = _network(name, weights)
    known = _dataset(model, entry, dataset)
    data_config = _data_config(model, entry, known)
    with _replacing(store_folder() / name) as folder:
        try:
            export_model(
                model,
                folder,
                data_config=data_config,
                label_names=known.classes or None if known else None,
                provenance={"source": source, **_credit(name, entry, known)},
            )
        except (OSError, ValueError) as error:
            raise UserError(f"cannot import {path} as {name}: {one_line(error)}") from error
    refresh_tags()
    return store_folder() / name


def _check_name(name: str, entry: ZooEntry | None, dataset: str | None) -> None:
    architecture = name.partition(".")[0]
    if not WEIGHTS_NAME.fullmatch(name):
        raise UserError(f"expected a name such as resnet50.mine: an architecture, a dot and a tag; got {name!r}")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise UserError(f"no architecture is called {architecture!r}; {hint}timm.list_models() lists the valid names.")
    if not takes_tags(architecture):
        raise UserError(f"{architecture} has no default config of timm's kind, beside which a tag could stand.")
    if is_foreign_tag(name):
        raise UserError(f"{name} is a tag of timm's own; choose another tag.")
    if entry is not None and entry.shipped:
        raise UserError(f"the weights of {name} come with this package; choose another tag.")
    if dataset is not None and dataset not in KNOWN_DATASETS:
        hint = did_you_mean(dataset, KNOWN_DATASETS)
        raise UserError(f"no known dataset is called {dataset!r}; {hint}there are {', '.join(KNOWN_DATASETS)}.")
    if entry is not None and dataset not in (None, entry.dataset):
        raise UserError(f"{name} was trained on {entry.dataset}, got dataset {dataset!r}; leave it out.")


def _network(name: str, weights: dict[str, Tensor]) -> nn.Module:
    """Make the network of some weights; on the meta device first, so that a wrong file costs no memory."""
    architecture = name.partition(".")[0]
    config = timm.get_pretrained_cfg(architecture)
    shapes: dict[str, Any] = {}
    for argument, layer, axis in (("num_classes", config.classifier, 0), ("in_chans", config.first_conv, 1)):
        weight = weights.get(f"{layer}.weight")
        if weight is not None and weight.ndim > axis and weight.shape[axis] > 0:
            shapes[argument] = weight.shape[axis]
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, **shapes)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"cannot make {architecture} with {shapes}: {one_line(error)}") from error
    expected = model.state_dict()
    for key in expected.keys() - weights.keys():
        if key.endswith(_COUNTER):
            weights[key] = torch.zeros((), dtype=expected[key].dtype)
    check_weights(name, expected, weights)
    with isolated_rng(0):
        model = timm.create_model(architecture, **shapes)
    model.load_state_dict(weights)
    return model


def _dataset(model: nn.Module, entry: ZooEntry | None, dataset: str | None) -> KnownDataset | None:
    """Look up the constants of what a network was trained on."""
    name = dataset if entry is None else entry.dataset
    if name is None:
        return None
    known = KNOWN_DATASETS[name]
    if known.num_classes != model.num_classes:
        raise UserError(f"{known.name} has {known.num_classes} classes, but the weights have {model.num_classes}")
    return known


def _data_config(model: nn.Module, entry: ZooEntry | None, known: KnownDataset | None) -> dict[str, Any]:
    """Describe the input: as the architecture does, but for what the dataset and the zoo table know better."""
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    data_config = {key: config[key] for key in DATA_KEYS}
    for source in (known, entry):
        data_config |= {key: getattr(source, key) for key in DATA_KEYS if hasattr(source, key)}
    first, channels = model.state_dict().get(f"{config['first_conv']}.weight"), data_config["input_size"][0]
    if first is not None and first.shape[1] != channels:
        raise UserError(
            f"the input has {channels} channels, but the weights take {first.shape[1]}; give the dataset they are for: "
            f"{', '.join(KNOWN_DATASETS)}"
        )
    return data_config


def _credit(name: str, entry: ZooEntry | None, known: KnownDataset | None) -> dict[str, Any]:
    """Say what is known of where weights come from."""
    tag = name.partition(".")[2]
    dataset = known.name if known else None
    if entry is None:
        return {"tag": tag, "dataset": dataset, "description": "Imported by its user; not a part of the zoo."}
    credit = {"license": entry.license, "origin_url": entry.page, "paper_ids": entry.paper}
    facts = {"dataset": dataset, "method": entry.method, "published_error": entry.published_error}
    return {"tag": tag, "description": entry.description, **credit, **facts}


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside another, and put it in the place of that one if all goes well."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".import-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error}; CUTMIX_ZOO_HOME may name another folder") from error
    try:
        new, old = staging / "new", staging / "old"
        new.mkdir()
        yield new
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error}") from error
        finally:
            # also after Ctrl-C between the two; where another process has imported the same name meanwhile, its stays
            if new.exists() and old.exists() and not folder.exists():
                with suppress(OSError):  # it may come in here, too
                    old.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
