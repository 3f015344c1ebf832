import pytest

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.launch import check_launch, make_accelerator

LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}


def test_a_launch_that_lost_its_processes_is_refused_with_the_command_that_works() -> None:
    with pytest.raises(UserError, match="ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2"):
        check_launch({**LAUNCHED, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})


@pytest.mark.parametrize(
    "environment",
    [{}, LAUNCHED, {"MASTER_ADDR": "head-node"}, {**LAUNCHED, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}],
)
def test_other_launches_pass(environment: dict[str, str]) -> None:
    check_launch(environment)


def test_missing_tensorboard_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'cutmix_zoo\[tensorboard\]'"):
        make_accelerator(trackers=("tensorboard",))
