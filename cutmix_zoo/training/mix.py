"""What a recipe's mixing method needs of the run around it: its data, its network, its progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutmix_zoo.data.settings import InputSpec, input_spec
from cutmix_zoo.errors import OneProcessError, UserError
from cutmix_zoo.mixing import IdentityPlan, MixCollate, MixPlan, collate_samples, map_sizes, needs_network, plan_for
from cutmix_zoo.mixing.feature import FeatureMix, MapSizes, feature_part, inner_methods
from cutmix_zoo.mixing.trial import try_maps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cutmix_zoo.mixing.method import Context, MixMethod
    from cutmix_zoo.training.settings import Recipe


def draw_mix(
    recipe: Recipe, images: Tensor, epoch: int, step: int, rank: int = 0, sizes: MapSizes | None = None
) -> MixPlan:
    """Draw the plan of one batch of a run: the same one that the collate draws in a worker.

    Args:
        recipe: what is trained.
        images: (B, C, H, W) uint8, the batch as it was loaded.
        epoch: epoch, from 0.
        step: step within the epoch, from 0.
        rank: this process.
        sizes: height and width of the maps inside the network, for methods that mix those.

    Raises:
        OneProcessError: if the method cannot mix such a batch, of which each process draws its own.
    """
    shape = (len(images), *images.shape[-2:])
    if recipe.mix is None:
        return IdentityPlan(*shape)
    # the progress that the collate gives it
    context: Context = {"images": images, "progress": epoch / recipe.schedule.epochs}
    if sizes is not None:
        context["map_sizes"] = sizes
    try:
        plan = plan_for(recipe.mix, *shape, seed=recipe.seed, epoch=epoch, step=step, rank=rank, **context)
        feature_part(plan)
    except ValueError as error:
        raise OneProcessError(f"mix: {error}") from error
    return plan


def check_fills(mix: MixMethod, spec: InputSpec) -> None:
    """Refuse a fill that bytes do not take: they are mixed before they are normalised, so their mean is not 0.

    Args:
        mix: the method of a recipe; those inside it are checked too.
        spec: what is known of the data.

    Raises:
        UserError: if the fill is missing, has another number of channels, or is no grey level.
    """
    if isinstance(mix, FeatureMix) and 0 not in mix.depths:
        return  # the maps of a network are numbers around 0
    channels, fill = spec.input_size[0], getattr(mix, "fill", (0.0,))
    if fill is None or len(fill) not in (1, channels) or not 0 <= min(fill) <= max(fill) <= 255:
        counts, mean = {1: "1 value"}.get(channels, f"1 or {channels} values"), [round(255 * m) for m in spec.mean]
        raise UserError(
            f"mix: fill of {type(mix).__name__} must be {counts}, such as {mean}, "
            f"the grey levels of the dataset's mean, got {fill}"
        )
    for inner in inner_methods(mix):
        check_fills(inner, spec)


def measure_maps(recipe: Recipe, model: nn.Module) -> MapSizes | None:
    """Measure the maps inside the network and try to mix them, where the method does; None where it does not.

    Args:
        recipe: what is trained.
        model: its network, as it is trained.

    Raises:
        UserError: if the maps cannot be mixed, or there are fewer than the method names.
    """
    if recipe.mix is None or not needs_network(recipe.mix):
        return None
    channels, height, width = input_spec(recipe.data).input_size
    try:
        sizes = map_sizes(model, height, width, channels)
        try_maps(recipe.mix, sizes)
    except ValueError as error:
        raise UserError(f"mix: {error}") from error
    return sizes


def make_collate(recipe: Recipe, rank: int) -> Any:
    """Make what collates the training batches of a resolved recipe, and mixes them where ``runtime.mix_on`` says so."""
    if recipe.mix is None or recipe.runtime.mix_on == "device":
        return collate_samples
    classes = recipe.model.num_classes
    assert classes is not None  # resolved
    return MixCollate(
        recipe.mix,
        classes,
        recipe.regularize.label_smoothing,
        seed=recipe.seed,
        rank=rank,
        epochs=recipe.schedule.epochs,
    )
