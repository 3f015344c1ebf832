import os
import sys
import time
from datetime import timedelta

import pytest
import torch

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.launch import check_launch, make_accelerator, on_main
from tests.processes import start_ranks, wait

LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}


def test_a_launch_that_lost_its_processes_is_refused_with_the_command_that_works() -> None:
    with pytest.raises(UserError, match="ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2"):
        check_launch({**LAUNCHED, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_a_launch_that_spreads_a_network_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"asked for {name}, and networks are trained whole .* with --config_file"):
        check_launch({**LAUNCHED, f"ACCELERATE_USE_{name}": "true"})
    check_launch({**LAUNCHED, f"ACCELERATE_USE_{name}": "false"})


def test_a_launch_that_compiles_is_refused_with_the_key_that_does() -> None:
    with pytest.raises(UserError, match=r"compile with INDUCTOR.* no \(.* runtime.compile: inductor\)"):
        check_launch({**LAUNCHED, "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"})
    check_launch({**LAUNCHED, "ACCELERATE_DYNAMO_BACKEND": "NO"})


@pytest.mark.usefixtures("own_accelerator")
def test_a_launch_does_not_divide_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.ones(1, requires_grad=True)
    make_accelerator().backward(weight.sum())
    assert weight.grad == 1.0


@pytest.mark.parametrize(
    "environment",
    [{}, LAUNCHED, {"MASTER_ADDR": "head-node"}, {**LAUNCHED, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}],
)
def test_other_launches_pass(environment: dict[str, str]) -> None:
    check_launch(environment)


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("tensorboard", "torch.utils.tensorboard", "tensorboard"),
        ("wandb", "wandb", "wandb"),
        ("trackio", "trackio", "trackio"),
    ],
)
def test_a_missing_tracker_says_how_to_get_it(
    name: str, module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"runtime.trackers names {name}, .* pip install {install}"):
        make_accelerator(trackers=(name,))


@pytest.mark.usefixtures("own_accelerator")
def test_fp16_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        make_accelerator()


def ask_main() -> None:
    accelerator = make_accelerator()
    pid = on_main(accelerator, os.getpid)
    assert (pid == os.getpid()) == accelerator.is_main_process

    def fail() -> None:
        raise UserError(f"process {os.getpid()} has no disk")

    with pytest.raises(UserError, match=f"process {pid} has no disk"):
        on_main(accelerator, fail)


def test_what_comes_of_the_main_process_comes_to_all() -> None:
    ask_main()
    assert wait(start_ranks(ask_main)) == [0, 0]


def wait_for_main() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cutmix_zoo.training.launch.PATIENCE", timedelta(seconds=1))
        accelerator = make_accelerator()
    if accelerator.is_main_process:
        time.sleep(3)
        return
    with pytest.raises(RuntimeError, match=r"(?i)timed? ?out"):
        accelerator.wait_for_everyone()


def test_processes_wait_for_each_other_as_long_as_it_is_said() -> None:
    assert wait(start_ranks(wait_for_main)) == [0, 0]
