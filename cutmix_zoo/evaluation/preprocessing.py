"""The preprocessing that a network asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from timm.data import resolve_model_data_config

from cutmix_zoo.errors import UserError
from cutmix_zoo.models.export import DATA_KEYS

if TYPE_CHECKING:
    from torch import nn

    from cutmix_zoo.data.settings import DataSettings


def with_preprocessing(settings: DataSettings, network: nn.Module) -> DataSettings:
    """Complete settings with the preprocessing that a network asks for.

    Args:
        settings: the data section of a recipe.
        network: a network made by ``timm.create_model``.

    Returns:
        The settings with the network's input size, mean, standard deviation, interpolation and ``crop_pct``; size and
        crop are those for testing, where it has others than for training, as in timm's ``validate.py``.

    Raises:
        UserError: if the network asks for what :func:`~cutmix_zoo.data.transforms.eval_transform` does not make.
    """
    config = resolve_model_data_config(network, use_test_size=True)
    if config["crop_mode"] != "center":
        raise UserError(f"the model asks for crop_mode {config['crop_mode']!r}; only 'center' can be evaluated so far.")
    try:
        return replace(settings, **{key: config[key] for key in DATA_KEYS})
    except ValueError as error:
        raise UserError(f"the model asks for preprocessing that cannot be made: {error}.") from error
