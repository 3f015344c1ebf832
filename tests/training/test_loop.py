"""One update of a run against what it is by definition."""

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file, save_file
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from tqdm import tqdm

from cutmix_zoo.errors import UserError
from cutmix_zoo.mixing.joined_plans import concatenate
from cutmix_zoo.train import train
from cutmix_zoo.training.checkpoint import Progress
from cutmix_zoo.training.gradient import GradientGuard
from cutmix_zoo.training.job import Job, make_job
from cutmix_zoo.training.launch import make_accelerator
from cutmix_zoo.training.loop import _backward, _train_step, train_epoch
from cutmix_zoo.training.mix import draw_mix
from cutmix_zoo.training.network import make_network
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.settings import EmaSettings, Recipe
from tests.processes import start_ranks, wait


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.contiguous() for name, parameter in network.named_parameters()}


def first_update(job: Job) -> dict[str, Tensor]:
    """The gradient of a run's first update, with running statistics: those of a batch are not those of its parts."""
    job.model.eval()
    images, targets, _ = job.mixed(next(job.train_loader.epoch(0)), 0, 0)
    _backward(job, images, targets)
    return gradients(job.network)


@pytest.mark.parametrize("micro_batch", [1, 6, 16, 100])
def test_the_passes_of_a_batch_add_up_to_its_gradient(micro_batch: int, tiny_recipe: Recipe) -> None:
    accelerator = make_accelerator()
    expected = first_update(make_job(tiny_recipe, accelerator))
    parts = replace(tiny_recipe, runtime=replace(tiny_recipe.runtime, micro_batch=micro_batch))
    got = first_update(make_job(parts, accelerator))
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_loss_and_logits_of_the_passes_are_those_of_the_batch(tiny_recipe: Recipe) -> None:
    parts = replace(tiny_recipe, runtime=replace(tiny_recipe.runtime, micro_batch=6))
    job = make_job(parts, make_accelerator())
    job.model.eval()
    images, targets, _ = job.mixed(next(job.train_loader.epoch(0)), 0, 0)
    loss, logits = _backward(job, images, targets)
    expected = job.model(images)
    torch.testing.assert_close(logits, expected.detach())
    torch.testing.assert_close(loss, SoftTargetCrossEntropy()(expected, targets).detach())


def save_first_update(recipe: Recipe, folder: Path) -> None:
    job = make_job(recipe, make_accelerator())
    save_file(first_update(job), folder / f"rank-{job.accelerator.process_index}.safetensors")


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_two_processes_have_the_gradient_of_one_that_sees_both_halves(
    micro_batch: int | None, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, runtime=replace(tiny_recipe.runtime, micro_batch=micro_batch))
    assert wait(start_ranks(partial(save_first_update, recipe, tmp_path))) == [0, 0]
    first, second = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in (0, 1))
    job = make_job(tiny_recipe, make_accelerator())
    job.model.eval()
    # the batch of one process is the halves of two, in the order of their ranks
    images, labels = next(job.train_loader.epoch(0))
    plans = [draw_mix(tiny_recipe, half, 0, 0, rank) for rank, half in enumerate(images.split(8))]
    assert not torch.equal(plans[0].pixel_shares, plans[1].pixel_shares), "each draws its own"
    plan = concatenate(plans)
    output = job.model(job.prepare(plan.apply(images)))
    SoftTargetCrossEntropy()(output, plan.mix_targets(labels, 10)).backward()
    for name, gradient in gradients(job.network).items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def states(job: Job) -> dict[str, Tensor]:
    networks = {"network": job.network, "average": job.ema.module}
    return {
        f"{name}.{key}": value.clone() for name, each in networks.items() for key, value in each.state_dict().items()
    }


@pytest.mark.parametrize("with_scaler", [False, True])
def test_an_update_that_is_left_out_leaves_everything_as_it_was(
    with_scaler: bool, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(replace(tiny_recipe, ema=EmaSettings(decay=0.5)), make_accelerator())
    if with_scaler:  # as in fp16 on a GPU
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        monkeypatch.setattr(job.accelerator, "scaler", scaler)
        job = replace(job, optimizer=AcceleratedOptimizer(job.torch_optimizer, scaler=scaler))
    guard, batches = GradientGuard(may_skip=1), job.train_loader.epoch(0)
    job.train_mode()
    assert _train_step(job, next(batches), 0, 0, guard)[2] == 16
    before = states(job)

    mixed = Job.mixed

    def poisoned(*arguments: object) -> object:
        images, targets, plan = mixed(*arguments)
        return images * float("inf"), targets, plan

    with monkeypatch.context() as patch:
        patch.setattr(Job, "mixed", poisoned)
        assert _train_step(job, next(batches), 0, 1, guard).tolist() == [0, 0, 0]
    after = states(job)
    assert {key for key, value in before.items() if not torch.equal(value, after[key])} == set()
    assert guard.skipped == (not with_scaler)

    _train_step(job, next(batches), 0, 2, guard)
    assert all(torch.isfinite(value).all() for value in states(job).values())
    assert not torch.equal(states(job)["average.fc.weight"], before["average.fc.weight"])


@pytest.mark.parametrize("saving", [0.0, 4.0, 10.0])
def test_an_epoch_takes_the_time_of_waiting_for_others_and_not_that_of_saving(
    saving: float, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0

    def after_step(*_: object) -> float:
        nonlocal clock
        clock += 10
        return saving

    job, progress = make_job(tiny_recipe, make_accelerator()), Progress({})
    monkeypatch.setattr("cutmix_zoo.training.loop.time", SimpleNamespace(perf_counter=lambda: clock))
    train_epoch(job, progress, GradientGuard(), tqdm(disable=True), after_step)
    assert progress.epoch_seconds == job.updates_per_epoch * (10 - saving)


@pytest.mark.parametrize("warmup", [True, False])
def test_averaged_weights_are_those_of_the_definition(warmup: bool, tiny_recipe: Recipe, tmp_path: Path) -> None:
    runtime = replace(tiny_recipe.runtime, checkpoint_every_steps=1, keep_checkpoints=100)
    recipe = replace(tiny_recipe, runtime=runtime, ema=EmaSettings(decay=0.7, warmup=warmup))
    summary = train(recipe, tmp_path / "run")
    average: dict[str, Tensor] = {}
    # the last step of an epoch is saved as the epoch's end too, with the same weights
    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("*-step-*"))
    assert len(checkpoints) == 15
    for update, checkpoint in enumerate(checkpoints):
        decay = min(0.7, 1 - (1 + update) ** (-2 / 3)) if warmup else 0.7 * (update > 0)
        for key, value in load_file(checkpoint / "model.safetensors").items():
            moved = value.is_floating_point() and update > 0
            average[key] = decay * average[key] + (1 - decay) * value if moved else value
    exported = load_file(tmp_path / "run" / "model" / "model.safetensors")
    last = load_file(checkpoints[-1] / "model.safetensors")
    for key, value in average.items():
        torch.testing.assert_close(exported[key], value, msg=key)
    assert not torch.equal(exported["fc.weight"], last["fc.weight"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for name in ("top1", "top5", "val_loss"):
        assert summary[name] == lines[-1][f"ema_{name}"]
    assert summary["val_loss"] != lines[-1]["val_loss"]


@pytest.mark.usefixtures("own_accelerator")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_compiled_network_is_trained_as_it_is(
    precision: str, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    recipe = replace(tiny_recipe, runtime=replace(tiny_recipe.runtime, compile="eager"))
    job = make_job(recipe, make_accelerator())
    assert isinstance(job.model, torch._dynamo.OptimizedModule)
    assert job.accelerator.mixed_precision == precision
    assert job.network.eval()(torch.zeros(1, 1, 28, 28)).dtype == torch.float32
    train(recipe, tmp_path / "compiled")
    train(tiny_recipe, tmp_path / "plain")
    plain, compiled = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("plain", "compiled"))
    assert compiled == plain


def test_a_linear_probe_moves_the_classifier_and_nothing_else(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe, model=replace(tiny_recipe.model, train="classifier"))
    train(recipe, tmp_path / "run")
    before = make_network(load_recipe(tmp_path / "run" / "recipe.yaml")).state_dict()
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"fc.weight", "fc.bias"}


def test_a_probe_of_two_classifiers_trains_both(tiny_recipe: Recipe) -> None:
    model = replace(tiny_recipe.model, name="deit_tiny_distilled_patch16_224", train="classifier", in_chans=1)
    recipe = replace(tiny_recipe, model=replace(model, num_classes=10, args={"img_size": 32, "depth": 1}))
    trained = {name for name, parameter in make_network(recipe).named_parameters() if parameter.requires_grad}
    assert trained == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_an_optimizer_that_cannot_be_saved_is_found_out_at_once(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe, optimizer=replace(tiny_recipe.optimizer, name="adafactorbv"))
    with pytest.raises(UserError, match=r"cannot be saved without pickles .* choose another optimizer.name"):
        train(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "", "before an epoch is lost"


def test_layers_nearer_to_the_image_learn_more_slowly(tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, optimizer=replace(tiny_recipe.optimizer, layer_decay=0.5))
    job = make_job(recipe, make_accelerator())
    job.set_update(job.updates_per_epoch * 2)
    names = {parameter: name for name, parameter in job.network.named_parameters()}
    rates = {names[p]: group["lr"] for group in job.torch_optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    assert job.lr == pytest.approx(rates["fc.weight"])
    chain = [
        rates[f"{layer}.weight"] for layer in ("conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "fc")
    ]
    assert [later / earlier for earlier, later in pairwise(chain)] == pytest.approx([2] * 4)


def test_batch_statistics_are_shared_on_gpus_only(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe, runtime=replace(tiny_recipe.runtime, sync_bn=True))
    assert wait(start_ranks(partial(refused_sync_bn, recipe))) == [0, 0]
    job = make_job(recipe, make_accelerator())  # alone there is nobody to share with
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in job.network.modules())


def refused_sync_bn(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"runtime.sync_bn needs a GPU for each process"):
        make_job(recipe, make_accelerator())


def loss_of_first_batch(recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """The loss that a job computes, and the logits and targets it is of."""
    job = make_job(recipe, make_accelerator())
    job.model.eval()
    images, targets, _ = job.mixed(next(job.train_loader.epoch(0)), 0, 0)
    loss, logits = _backward(job, images, targets)
    return loss, logits, targets


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_class_weights_are_those_of_torchs_loss(micro_batch: int | None, tiny_recipe: Recipe) -> None:
    weights = (0.0, 1.0, 2.0, 0.5, 1.5, 1.0, 3.0, 1.0, 1.0, 1.0)
    regularize = replace(tiny_recipe.regularize, class_weights=weights, label_smoothing=0.1)
    runtime = replace(tiny_recipe.runtime, micro_batch=micro_batch)
    loss, logits, targets = loss_of_first_batch(replace(tiny_recipe, regularize=regularize, runtime=runtime))
    expected = nn.functional.cross_entropy(logits, targets, weight=torch.tensor(weights))
    torch.testing.assert_close(loss, expected)


def test_a_balanced_run_is_the_same_resident_and_streamed(tiny_recipe: Recipe, tmp_path: Path) -> None:
    for resident in (True, False):
        data = replace(tiny_recipe.data, balanced=True, resident=resident)
        best = replace(tiny_recipe.evaluate, best_by="macro_f1")
        train(replace(tiny_recipe, data=data, evaluate=best), tmp_path / str(resident))
    weights = [(tmp_path / str(resident) / "model" / "model.safetensors").read_bytes() for resident in (True, False)]
    assert weights[0] == weights[1]
