from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from cutmix_zoo.errors import UserError
from cutmix_zoo.mixing import FeatureMix, Mixup
from cutmix_zoo.train import train
from cutmix_zoo.training.job import make_job
from cutmix_zoo.training.launch import Consensus, make_accelerator
from cutmix_zoo.training.memory import find_micro_batch, largest_that_fits
from cutmix_zoo.training.settings import Recipe
from tests.processes import start_ranks, wait
from tests.stand_ins import short_of_memory, without_pictures


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


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["torch", "cublas", "cpu"],
)
def test_a_job_knows_its_passes_and_is_as_it_was(
    error: Exception, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = make_accelerator()
    before = make_job(tiny_recipe, accelerator)
    assert make_job(automatic(tiny_recipe), accelerator).micro_batch is None
    short_of_memory(monkeypatch, 5, error)
    job = make_job(automatic(tiny_recipe), accelerator)
    assert (job.micro_batch, job.recipe.runtime.micro_batch) == (4, "auto")
    assert job.recipe.data.batch_size == 16
    for (key, value), other in zip(job.network.state_dict().items(), before.network.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    assert all(parameter.grad is None for parameter in job.network.parameters())


def test_maps_of_a_whole_batch_cannot_be_mixed_in_passes(tiny_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"runtime.micro_batch must be null"):
        replace(automatic(tiny_recipe), mix=FeatureMix(Mixup(), [0, 1]))


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make_job(tiny_recipe, make_accelerator())
    short_of_memory(monkeypatch, 5, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        find_micro_batch(tiny)


def train_where_less_fits(recipe: Recipe, folder: Path) -> None:
    """Train two steps where 5 images fit, and the rest where 3 do; of two processes, each has 8 images of a batch."""
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        short_of_memory(patch, 5, torch.OutOfMemoryError("CUDA out of memory"))
        assert train(replace(recipe, schedule=replace(recipe.schedule, epochs=1)), folder / "one")["micro_batch"] == 4
        checkpoint = folder / "one" / "checkpoints" / "epoch-0001"
        short_of_memory(patch, 3, torch.OutOfMemoryError("CUDA out of memory"))
        again = replace(recipe, schedule=replace(recipe.schedule, epochs=1))
        assert train(again, folder / "two", resume=str(checkpoint))["micro_batch"] == 2


def test_a_run_goes_on_where_less_fits_with_one_process_and_with_two(tiny_recipe: Recipe, tmp_path: Path) -> None:
    train_where_less_fits(automatic(tiny_recipe), tmp_path / "alone")
    assert wait(start_ranks(partial(train_where_less_fits, automatic(tiny_recipe), tmp_path / "together"))) == [0, 0]


def test_statistics_of_all_processes_need_a_number(tiny_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"micro_batch cannot be auto where batch statistics are shared"):
        replace(automatic(tiny_recipe).runtime, sync_bn=True)
