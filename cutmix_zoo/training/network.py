"""The network of a recipe and its optimizer."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import timm
from timm.optim import create_optimizer_v2
from torch import Tensor

from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.keys import Stream, isolated_rng
from cutmix_zoo.known import known_dataset
from cutmix_zoo.models.regularize import regularize_blocks
from cutmix_zoo.models.trial import MODEL_ERRORS, try_image
from cutmix_zoo.store import WEIGHTS_FILE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cutmix_zoo.models.regularize import BlockRegularizers
    from cutmix_zoo.training.settings import Recipe, RegularizeSettings


def complete_input(recipe: Recipe) -> Recipe:
    """Take input size, mean and standard deviation from the network, where neither data nor recipe says.

    Args:
        recipe: a recipe.

    Returns:
        The recipe as it is, if its dataset is known or the network does not say.

    Raises:
        UserError: if the network is in a folder or on the Hub, and is not there, or asks for what cannot be made.

    Example:
        >>> from cutmix_zoo.training.recipe import load_recipe
        >>> complete_input(load_recipe("finetune_folder")).data.input_size
        (3, 224, 224)
    """
    config = None if known_dataset(recipe.data.name) else _pretrained_cfg(recipe.model.name)
    if config is None or recipe.model.in_chans not in (None, config["input_size"][0]):
        return recipe
    keys = ("input_size", "mean", "std")
    missing: dict[str, Any] = {key: tuple(config[key]) for key in keys if getattr(recipe.data, key) is None}
    try:
        return replace(recipe, data=replace(recipe.data, **missing))
    except ValueError as error:
        raise UserError(f"{recipe.model.name} asks for preprocessing that cannot be made: {error}.") from error


def _pretrained_cfg(name: str) -> dict[str, Any] | None:
    """Return what timm knows of a model's input; of a folder or a Hub id, what its config says."""
    # a tag that timm does not list is found, or said not to be one, when the network is made
    with suppress(RuntimeError):
        if timm.is_model(name):
            config = timm.get_pretrained_cfg(name)
            return None if config is None else config.to_dict()
    try:
        found: dict[str, Any] = timm.create_model(name).pretrained_cfg
    except MODEL_ERRORS as error:
        raise UserError(f"cannot make model {name!r}: {one_line(error)}") from error
    return found


def make_network(recipe: Recipe) -> nn.Module:
    """Make the network of a resolved recipe; its initial weights are a function of the seed.

    Raises:
        UserError: if the model does not take the recipe's arguments, or its weights cannot be had.
    """
    arguments, others = _regularizer_args(recipe.regularize)
    arguments.update(recipe.model.args)
    if recipe.model.name.startswith(("hf-hub:", "hf_hub:")):
        # a repository without it may hold a pickle, which is not opened
        arguments["pretrained_cfg_overlay"] = {"hf_hub_filename": WEIGHTS_FILE}
    try:
        with isolated_rng(recipe.seed, Stream.INIT):
            network = timm.create_model(
                recipe.model.name,
                pretrained=recipe.model.pretrained,
                in_chans=recipe.model.in_chans,
                num_classes=recipe.model.num_classes,
                **arguments,
            )
        regularize_blocks(network, others)
        if recipe.model.train == "classifier":
            network.requires_grad_(False)
            for classifier in classifiers(network):
                classifier.requires_grad_(True)
        return network
    except MODEL_ERRORS as error:
        raise UserError(
            f"cannot make model {recipe.model.name!r} with {arguments or 'no arguments'}: {one_line(error)}"
        ) from error


def saved_args(network: nn.Module) -> dict[str, Any]:
    """Return the arguments that shaped a network whose folder or Hub repository has them, as timm keeps them."""
    saved: dict[str, Any] = getattr(network, "pretrained_model_args", {})
    return {key: value for key, value in saved.items() if key not in ("in_chans", "num_classes")}


def classifiers(network: nn.Module) -> tuple[nn.Module, ...]:
    """List what makes logits of features; some networks of timm have two of them."""
    found = network.get_classifier()  # type: ignore[operator]  # torch types every attribute as a tensor
    return found if isinstance(found, tuple) else (found,)


def _regularizer_args(settings: RegularizeSettings) -> tuple[dict[str, Any], BlockRegularizers]:
    """Part the regularizers that timm's models take as arguments from those that are put into their blocks."""
    rates = {"drop_rate": settings.drop_rate}
    if settings.drop_path_rule == "linear":
        rates["drop_path_rate"], settings = settings.drop_path_rate, replace(settings, drop_path_rate=0.0)
    # a rate of 0 is not passed on: not every model has one
    return {key: rate for key, rate in rates.items() if rate}, settings


def check_takes_images(network: nn.Module, recipe: Recipe) -> None:
    """Try the network on one image, before anything is written.

    Raises:
        UserError: if it does not take it, or does not make logits of it.
    """
    size = input_spec(recipe.data).input_size
    try:
        logits = try_image(network, size)
        if not isinstance(logits, Tensor) or logits.shape != (1, recipe.model.num_classes):
            raise ValueError(
                f"it gives {type(logits).__name__} where logits (1, {recipe.model.num_classes}) were expected."
            )
    except ValueError as error:
        raise UserError(
            f"{recipe.model.name} does not classify images of data.input_size {list(size)}: {error} "
            "Set data.input_size, or what model.args needs for it, such as {img_size: 32}."
        ) from error


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe.

    Raises:
        UserError: if the optimizer does not take the recipe's arguments.
    """
    settings = recipe.optimizer
    try:
        optimizer = create_optimizer_v2(
            network,
            opt=settings.name,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=not settings.decay_all,
            layer_decay=settings.layer_decay,
            **settings.args,
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"cannot make optimizer {settings.name!r} with {settings.args}: {one_line(error)}") from error
    if settings.backbone_lr_scale is not None:
        _scale_backbone(optimizer, network, settings.backbone_lr_scale)
    return optimizer


def _scale_backbone(optimizer: torch.optim.Optimizer, network: nn.Module, scale: float) -> None:
    """Part each group of parameters into the classifier's and the others, and let timm's schedules scale these."""
    heads = {id(parameter) for classifier in classifiers(network) for parameter in classifier.parameters()}
    parted = []
    for group in optimizer.param_groups:
        for of_head, lr_scale in ((True, 1.0), (False, scale)):
            parameters = [parameter for parameter in group["params"] if (id(parameter) in heads) == of_head]
            if parameters:
                parted.append({**group, "params": parameters, "lr_scale": lr_scale})
    optimizer.param_groups = parted
