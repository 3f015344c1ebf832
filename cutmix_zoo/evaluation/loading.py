"""A network with its weights, by whatever names it: a tag, a folder, the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import timm
from timm.models import parse_model_name

from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.models.exported import CONFIG_FILE, load_exported
from cutmix_zoo.models.resnet_stride16 import weights_name
from cutmix_zoo.models.trial import MODEL_ERRORS
from cutmix_zoo.store import WEIGHTS_FILE, fetch_files
from cutmix_zoo.training.run import RunFolder
from cutmix_zoo.zoo import zoo_table

if TYPE_CHECKING:
    from torch import nn


def load_network(model: str) -> nn.Module:
    """Load a network with its weights.

    Folders and Hub repositories, which anybody may have written, are checked first; no pickle of theirs is opened.

    Args:
        model: a timm name with weights, the folder of a run or of an exported model, or a Hub id ``OWNER/NAME``, with
            ``hf-hub:`` in front and ``@REVISION`` behind it if you like.

    Raises:
        UserError: if there is no such model, its weights cannot be had, or they are not what they should be.
    """
    folder = Path(model)
    for place in (RunFolder(folder).model, folder):
        if (place / CONFIG_FILE).is_file():
            return load_exported(place)
    if folder.is_dir():
        raise UserError(f"{model} has no model: neither config.json nor model/config.json; has its run finished?")
    if "/" in model and ":" not in model:
        return _from_hub(model)
    scheme, place = parse_model_name(model)
    if scheme == "hf-hub":
        return _from_hub(place)
    if scheme == "local-dir":
        return load_exported(Path(place))
    _check_has_weights(model)
    try:
        return timm.create_model(model, pretrained=True)
    except MODEL_ERRORS as error:
        raise UserError(f"cannot load {model!r}: {one_line(error)}") from error


def _from_hub(repo: str) -> nn.Module:
    repo, _, revision = repo.partition("@")
    named = repo.rpartition("/")[2].partition(".")[0]
    folder = fetch_files(repo, (CONFIG_FILE, WEIGHTS_FILE), revision or None)
    return load_exported(folder, named if timm.is_model(named) else None)


def _check_has_weights(model: str) -> None:
    # of a network of stride 16 timm lists none of our tags; a row of the zoo table says how to get its weights
    known = any(timm.is_model_pretrained(name) or name in zoo_table() for name in (model, weights_name(model)))
    if timm.is_model(model) and not known:
        tagged = timm.list_pretrained(f"{model.partition('.')[0]}.*")
        hint = f"with weights there are {', '.join(tagged[:5])}" if tagged else "train one and give its run folder"
        raise UserError(f"no weights are known for {model}; {hint}.")
