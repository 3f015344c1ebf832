"""The maps inside a network: the modules that give them, and their sizes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cutmix_zoo.checks import require

_STEMS = ("stem", "patch_embed", "bn1")
"""What timm calls the end of a stem that its ``feature_info`` leaves out."""


class Stage(NamedTuple):
    """The module behind a depth from 1 on."""

    name: str
    channels: int | None


def feature_modules(model: nn.Module) -> tuple[str, ...]:
    """Name the modules whose outputs are the maps at depth 1, 2, ...: the stem, then what timm lists as features.

    The names are those of ``model.feature_info``. Where that begins after the stem, the module called ``stem``,
    ``patch_embed`` or ``bn1`` is put before them; where there is none either, as in VGG, the list is taken as it is.
    What a network sends past such a module (NASNet, Xception) stays unmixed there.

    Args:
        model: a timm model, or one with such a ``feature_info``; perhaps within DistributedDataParallel.

    Returns:
        The names, as ``model.get_submodule`` takes them.

    Raises:
        ValueError: if the model has no ``feature_info``, it names what the model lacks, or the model is compiled.

    Example:
        >>> import timm
        >>> feature_modules(timm.create_model("cifar_resnet8"))
        ('act1', 'layer1', 'layer2', 'layer3')
    """
    return tuple(stage.name for stage in stages_of(bare_model(model)))


def map_sizes(
    model: nn.Module, height: int, width: int, in_chans: int | None = None
) -> tuple[tuple[int, int] | None, ...]:
    """Measure the maps inside a network: at depth 0 (the image), 1 (the stem) and 2, ... (the stages).

    One image of zeros is sent through the network in evaluation mode; afterwards its modes, buffers
    and weights are what they were.

    Args:
        model: see :func:`feature_modules`.
        height: height of the images in pixels.
        width: width of the images in pixels.
        in_chans: channels of the images; None asks the first convolution.

    Returns:
        Height and width at each depth; None where the map is a row of tokens.

    Raises:
        ValueError: if the maps cannot be named or measured.

    Example:
        >>> import timm
        >>> map_sizes(timm.create_model("cifar_resnet8"), 32, 32)
        ((32, 32), (32, 32), (32, 32), (16, 16), (8, 8))
    """
    model = bare_model(model)
    stages = stages_of(model)
    shapes = _map_shapes(model, stages, height, width, in_chans or _in_chans(model))
    planes = [_plane(model, stage, shape, height / width) for stage, shape in zip(stages, shapes, strict=True)]
    return ((height, width), *planes)


def bare_model(model: nn.Module) -> nn.Module:
    """Unwrap a model from DistributedDataParallel."""
    _check_not_compiled(model)
    while isinstance(model, DistributedDataParallel):
        model = model.module
        _check_not_compiled(model)
    return model


def _check_not_compiled(module: nn.Module) -> None:
    compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
    require(
        not compiled,
        f"{type(module).__name__} is compiled, and what torch.compile made ignores the hook that mixes its maps: "
        "use the model before torch.compile (under accelerate: --dynamo_backend no)",
    )


def stages_of(model: nn.Module) -> list[Stage]:
    """Find the modules behind depth 1, 2, ...; see :func:`feature_modules`."""
    info: Any = getattr(model, "feature_info", None)
    dicts = info.get_dicts() if hasattr(info, "get_dicts") else info
    stages = [Stage(entry["module"], entry.get("num_chs")) for entry in dicts or ()]
    names = [name for name, _ in model.named_modules() if name]
    missing = [stage.name for stage in stages if stage.name not in names]
    if not stages or missing:
        found = f"its feature_info names {missing[0]!r}, which it lacks" if missing else "it has no feature_info"
        raise ValueError(
            f"the maps of {type(model).__name__} cannot be named: {found}; set model.feature_info to "
            "[{'module': NAME, 'num_chs': CHANNELS}, ...], the stem first and then each stage"
        )
    stem = _separate_stem(model, stages[0].name, names)
    return stages if stem is None else [Stage(stem, None), *stages]


def _separate_stem(model: nn.Module, first: str, names: list[str]) -> str | None:
    """Find the end of a stem that comes before the first feature; None if that is the stem itself."""
    # an activation such as ResNet's act1 is the end of the stem, and its bn1 is not
    only_acts = next(model.get_submodule(first).parameters(), None) is None
    for stem in _STEMS[:-1] if only_acts else _STEMS:
        if stem in names[: names.index(first)] and not first.startswith(f"{stem}."):
            return stem
    return None


def module_of(model: nn.Module, name: str) -> nn.Module:
    """Find the module whose call gives a map."""
    module = model
    for part in name.split("."):
        module = module.get_submodule(part)
        _check_not_compiled(module)
    # gradient checkpointing calls the blocks of a Sequential one by one, and never the Sequential itself
    while type(module) is nn.Sequential and len(module) > 0:
        module = module[-1]
        _check_not_compiled(module)
    return module


def _plane(model: nn.Module, stage: Stage, shape: torch.Size, aspect: float) -> tuple[int, int] | None:
    """Find height and width in the shape of a map."""
    if len(shape) == 3:
        return None
    first, last = (shape[2], shape[3]), (shape[1], shape[2])
    if (shape[1] == stage.channels) != (shape[3] == stage.channels):
        return last if shape[3] == stage.channels else first
    # nobody names the channels of some stems: the plane is what has the proportions of the image
    bends = [abs(height / width - aspect) for height, width in (first, last)]
    return last if bends[1] < bends[0] or (bends[1] == bends[0] and is_channels_last(model)) else first


def is_channels_last(model: nn.Module) -> bool:
    """Ask timm whether maps are (B, h, w, C): for those that do not show it by their shape."""
    return str(getattr(model, "output_fmt", "")) == "NHWC"


def as_map(output: Any, name: str) -> Tensor:
    """Return the output of a module, or raise ValueError if it is no map."""
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"{name} gives {given}, where maps (B, C, h, w) or tokens (B, N, C) were expected: "
            "this network cannot be mixed inside"
        )
    return output


def _in_chans(model: nn.Module) -> int:
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    require(first is not None, f"{type(model).__name__} has no convolution that tells its channels: give in_chans")
    assert first is not None
    return first.in_channels


def _map_shapes(model: nn.Module, stages: list[Stage], height: int, width: int, in_chans: int) -> list[torch.Size]:
    """Send one image through a network and return the shapes of its maps."""
    shapes: dict[str, torch.Size] = {}

    def remember(name: str) -> Any:
        def hook(_: nn.Module, _inputs: Any, output: Any) -> None:
            shapes[name] = as_map(output, name).shape

        return hook

    like = next(model.parameters(), torch.empty(0))
    modes = [(module, module.training) for module in model.modules()]
    handles = [module_of(model, stage.name).register_forward_hook(remember(stage.name)) for stage in stages]
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, in_chans, height, width, device=like.device, dtype=like.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    missing = [stage.name for stage in stages if stage.name not in shapes]
    require(not missing, f"{missing[:1]} of {type(model).__name__} did not run, so its map has no size")
    return [shapes[stage.name] for stage in stages]
