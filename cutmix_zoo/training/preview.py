"""A picture of the images that a recipe trains on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cutmix_zoo.data.loaders import train_loader
from cutmix_zoo.data.sampler import local_batch_size
from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.mixing import IdentityPlan, collate_samples
from cutmix_zoo.mixing.feature import deepest
from cutmix_zoo.pictures import changed_settings, draw_mixed
from cutmix_zoo.training.mix import draw_mix

if TYPE_CHECKING:
    from pathlib import Path

    from cutmix_zoo.training.settings import Recipe
    from cutmix_zoo.training.splits import Splits

_STEPS = 50
"""How many batches of the first epoch are looked at for one that is mixed."""


def draw_preview(recipe: Recipe, splits: Splits, file: Path, *, world_size: int = 1) -> None:
    """Draw the first batch of a run that is mixed, as the first process trains on it; of a stream, with one worker.

    With no mixing method, or where none of the first batches is mixed, the first batch is drawn as it is. Where maps
    inside the network are mixed, the images are not, and the shares are those of maps of the images' size.

    Args:
        recipe: a resolved recipe.
        splits: its data.
        file: the picture to write; its ending names the format.
        world_size: number of processes.

    Raises:
        UserError: if matplotlib is not installed, or an image cannot be read or mixed.
    """
    in_process = replace(recipe.data, workers=0)
    loader = train_loader(
        splits.train,
        in_process,
        collate_fn=collate_samples,
        num_classes=len(splits.classes),
        seed=recipe.seed,
        world_size=world_size,
    )
    channels, height, width = input_spec(recipe.data).input_size
    sizes = ((height, width),) * (1 + deepest(recipe.mix)) if recipe.mix is not None else None
    # which batches are mixed does not depend on their images, so that only one batch need be loaded
    blank = torch.zeros(
        local_batch_size(recipe.data.batch_size, world_size), channels, height, width, dtype=torch.uint8
    )
    plans = (draw_mix(recipe, blank, epoch=0, step=step, sizes=sizes) for step in range(min(_STEPS, len(loader))))
    step = next((step for step, plan in enumerate(plans) if not isinstance(plan, IdentityPlan)), 0)
    images, labels = next(loader.epoch(0, start_step=step))
    plan = draw_mix(recipe, images, epoch=0, step=step, sizes=sizes)
    method = "no mixing" if recipe.mix is None else changed_settings(recipe.mix)
    draw_mixed(
        plan.apply(images), labels, plan, splits.classes, file, title=f"{recipe.name}, step {step + 1}: {method}"
    )
