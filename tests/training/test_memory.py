from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.mixing import FeatureMix, Mixup
from cutmix_zoo.training.job import make_job
from cutmix_zoo.training.launch import Consensus, make_accelerator
from cutmix_zoo.training.memory import largest_that_fits
from cutmix_zoo.training.settings import Recipe
from tests.processes import start_ranks, wait


@pytest.mark.parametrize(("whole", "room", "expected"), [(16, 16, 16), (16, 15, 8), (16, 1, 1), (25, 12, 7), (1, 1, 1)])
def test_a_batch_is_halved_until_it_fits(whole: int, room: int, expected: int) -> None:
    tried = []
    consensus = Consensus(make_accelerator())
    assert largest_that_fits(whole, lambda size: tried.append(size) or size <= room, consensus) == expected
    assert tried[0] == whole
    assert all(later == -(-earlier // 2) for earlier, later in pairwise(tried))


def test_where_no_image_fits_it_is_said() -> None:
    with pytest.raises(UserError, match="a single image does not fit into memory"):
        largest_that_fits(8, lambda _: False, Consensus(make_accelerator()))


def of_two_processes() -> None:
    accelerator = make_accelerator()
    room = 5 if accelerator.is_main_process else 100
    assert largest_that_fits(16, lambda size: size <= room, Consensus(accelerator)) == 4


def test_processes_agree_on_what_fits_the_smallest() -> None:
    assert wait(start_ranks(of_two_processes)) == [0, 0]


def automatic(recipe: Recipe) -> Recipe:
    return replace(recipe, runtime=replace(recipe.runtime, micro_batch="auto"))


def test_a_job_knows_its_passes_and_is_as_it_was(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = make_accelerator()
    before = make_job(tiny_recipe, accelerator)
    assert make_job(automatic(tiny_recipe), accelerator).recipe.runtime.micro_batch is None
    forward = nn.Conv2d.forward

    def short_of_memory(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(layer, images)

    monkeypatch.setattr(nn.Conv2d, "forward", short_of_memory)
    job = make_job(automatic(tiny_recipe), accelerator)
    assert job.recipe.runtime.micro_batch == 4
    assert job.recipe.data.batch_size == 16
    for (key, value), other in zip(job.network.state_dict().items(), before.network.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    assert all(parameter.grad is None for parameter in job.network.parameters())


def test_maps_of_a_whole_batch_cannot_be_mixed_in_passes(tiny_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"runtime.micro_batch must be null"):
        replace(automatic(tiny_recipe), mix=FeatureMix(Mixup(), [0, 1]))
