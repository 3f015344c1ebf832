"""A network with its weights, by whatever names it: a tag, a folder, the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import timm

from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.training.run import RunFolder
from cutmix_zoo.zoo import zoo_table

if TYPE_CHECKING:
    from torch import nn


def load_network(model: str) -> nn.Module:
    """Load a network with its weights.

    Args:
        model: a timm name with weights, the folder of a run or of an exported model, or a Hub id ``OWNER/NAME``.

    Raises:
        UserError: if there is no such model, or its weights cannot be had.
    """
    name = _timm_name(model)
    try:
        return timm.create_model(name, pretrained=True)
    except (AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"cannot load {model!r} as {name!r}: {one_line(error)}") from error


def _timm_name(model: str) -> str:
    folder = Path(model)
    for place in (RunFolder(folder).model, folder):
        if (place / "config.json").is_file():
            return f"local-dir:{place}"
    if folder.is_dir():
        raise UserError(f"{model} has no model: neither config.json nor model/config.json; has its run finished?")
    # a row of the zoo table says by itself how to get its weights
    if timm.is_model(model) and not timm.is_model_pretrained(model) and model not in zoo_table():
        tagged = timm.list_pretrained(f"{model.partition('.')[0]}.*")
        hint = f"with weights there are {', '.join(tagged[:5])}" if tagged else "train one and give its run folder"
        raise UserError(f"no weights are known for {model}; {hint}.")
    is_hub_id = "/" in model and ":" not in model
    return f"hf-hub:{model}" if is_hub_id else model
