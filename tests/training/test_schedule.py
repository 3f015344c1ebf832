import math

import pytest
import torch
from timm.optim import create_optimizer_v2

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.schedule import make_schedule
from cutmix_zoo.training.settings import ScheduleSettings


def learning_rates(settings: ScheduleSettings, updates_per_epoch: int, lr: float = 0.25) -> list[float]:
    optimizer = create_optimizer_v2([torch.nn.Parameter(torch.zeros(1))], "sgd", lr=lr)
    schedule = make_schedule(settings, optimizer, updates_per_epoch)
    rates = []
    for update in range(settings.epochs * updates_per_epoch):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(
    ("epochs", "milestones", "at"),
    [(300, (0.5, 0.75), [150, 225]), (300, (0.25, 0.5, 0.75), [75, 150, 225]), (300, (0.1,), [30]), (10, (0.25,), [3])],
)
def test_multistep_falls_at_the_epochs_of_the_authors(
    epochs: int, milestones: tuple[float, ...], at: list[int]
) -> None:
    rates = learning_rates(ScheduleSettings(epochs=epochs, milestones=milestones, gamma=0.1), updates_per_epoch=3)
    for epoch in range(epochs):
        expected = 0.25 * 0.1 ** sum(epoch >= milestone for milestone in at)
        assert rates[3 * epoch : 3 * epoch + 3] == pytest.approx([expected] * 3)


def test_multistep_agrees_with_the_official_formula() -> None:
    rates = learning_rates(ScheduleSettings(epochs=300), updates_per_epoch=1)
    official = [0.25 * 0.1 ** (epoch // (300 * 0.5)) * 0.1 ** (epoch // (300 * 0.75)) for epoch in range(300)]
    assert rates == pytest.approx(official)


def test_cosine_is_a_cosine_over_updates_after_its_warmup() -> None:
    settings = ScheduleSettings(epochs=10, name="cosine", warmup_epochs=2, warmup_lr=0.01, min_lr=0.02)
    rates = learning_rates(settings, updates_per_epoch=5)
    assert rates[:10] == pytest.approx([0.01 + (0.25 - 0.01) * update / 10 for update in range(10)])
    assert rates[10:] == pytest.approx(
        [0.02 + (0.25 - 0.02) * (1 + math.cos(math.pi * u / 50)) / 2 for u in range(10, 50)]
    )


def test_constant_stays_and_warms_up() -> None:
    assert set(learning_rates(ScheduleSettings(epochs=3, name="constant"), 2)) == {0.25}
    rates = learning_rates(ScheduleSettings(epochs=3, name="constant", warmup_epochs=1.5, warmup_lr=0.1), 2)
    assert rates == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.25, 0.25])


def test_each_group_keeps_its_own_base_rate() -> None:
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    schedule = make_schedule(ScheduleSettings(epochs=4, milestones=(0.5,)), optimizer, 1)
    schedule.step_update(2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])


def test_schedules_of_timm_are_functions_of_the_update() -> None:
    step = ScheduleSettings(epochs=6, name="step", gamma=0.5, args={"decay_epochs": 2})
    assert learning_rates(step, 2) == pytest.approx([0.25] * 4 + [0.125] * 4 + [0.0625] * 4)
    poly = ScheduleSettings(epochs=4, name="poly", min_lr=0.05, args={"decay_rate": 2.0})
    assert learning_rates(poly, 2) == pytest.approx([0.05 + 0.2 * (1 - update / 8) ** 2 for update in range(8)])
    wsd = ScheduleSettings(epochs=10, name="wsd", warmup_epochs=2, warmup_lr=0.05, args={"decay_epochs": 3})
    rates = learning_rates(wsd, 1)
    assert rates[:7] == pytest.approx([0.05, 0.15, *[0.25] * 5])
    assert rates[7:] == pytest.approx([0.25 * (1 - math.sqrt(update / 3)) for update in range(3)])
    for name in ("tanh", "rsqrt"):
        rates = learning_rates(ScheduleSettings(epochs=10, name=name, warmup_epochs=2), 3)
        assert rates[6] > rates[-1] > 0
        optimizer = create_optimizer_v2([torch.nn.Parameter(torch.zeros(1))], "sgd", lr=0.25)
        make_schedule(ScheduleSettings(epochs=10, name=name, warmup_epochs=2), optimizer, 3).step_update(17)
        assert optimizer.param_groups[0]["lr"] == rates[17], "wherever it comes from"


@pytest.mark.parametrize(("name", "args"), [("cosine", {"nonsense": 1}), ("wsd", {"decay_epochs": 50})])
def test_arguments_that_timm_does_not_take(name: str, args: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"cannot make schedule '{name}' with "):
        learning_rates(ScheduleSettings(epochs=10, name=name, args=args), 1)


@pytest.mark.parametrize(
    ("args", "warmup", "epochs"),
    [({"cycle_limit": 3}, 0, 30), ({"cooldown_epochs": 5}, 0, 15), ({"warmup_prefix": True}, 5, 15)],
)
def test_a_schedule_that_does_not_end_with_the_run_is_refused(args: dict[str, int], warmup: int, epochs: int) -> None:
    cosine = ScheduleSettings(epochs=10, name="cosine", warmup_epochs=warmup, args=args)
    with pytest.raises(UserError, match=f"make a schedule of {epochs} epochs, and the run has 10: leave out"):
        learning_rates(cosine, 2)


@pytest.mark.parametrize("name", ["multistep", "constant"])
def test_ours_take_no_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=f"args must be empty for {name}"):
        ScheduleSettings(epochs=10, name=name, args={"decay_epochs": 5})
