import json

import pytest
import torch
from torch import nn

import cutmix_zoo.bench.training
from cutmix_zoo.bench.timing import Timing, images_per_second
from cutmix_zoo.bench.training import BARE, bench_training, format_table
from cutmix_zoo.errors import UserError

NAMES = [BARE, "resident, CutMix", "resident", "streamed, CutMix", "streamed", "as timm's script, CutMix"]


def test_every_candidate_takes_the_same_steps_on_batches_of_the_same_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    forward = nn.Linear.forward

    def counted(layer: nn.Linear, features: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            sizes.append(tuple(features.shape))
        return forward(layer, features)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    result = bench_training(batch_size=16, steps=2, repeats=2)
    # one turn that does not count and two that do, of two steps each
    assert sizes == [(16, 64)] * len(NAMES) * 3 * 2
    assert [row["name"] for row in result["rows"]] == NAMES
    assert result["rows"][0]["ratio"] == 1
    for row in result["rows"]:
        speed = row["images_per_second"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert row["ratio"] == pytest.approx(speed["median"] / result["rows"][0]["images_per_second"]["median"])
    assert 0 < result["mixing"]["low"] <= result["mixing"]["median"] <= result["mixing"]["high"]
    assert (result["model"], result["batch_size"]) == ("cifar_resnet8", 16)
    assert json.loads(json.dumps(result)) == result
    table = format_table(result)
    assert all(f"  {name} " in table for name in NAMES)
    assert max(map(len, table.splitlines())) <= 100


def test_a_turn_is_not_longer_than_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def speed(images: int, timing: Timing) -> dict[str, float]:
        counted.append(images)
        return images_per_second(images, timing)

    monkeypatch.setattr(cutmix_zoo.bench.training, "dataset_size", lambda _: 40)
    monkeypatch.setattr(cutmix_zoo.bench.training, "images_per_second", speed)
    bench_training(batch_size=16, steps=5, repeats=2)
    assert counted == [32] * len(NAMES)


def test_what_cannot_be_timed_is_refused() -> None:
    with pytest.raises(UserError, match="no model is called 'cifar_resnet21'; did you mean cifar_resnet"):
        bench_training("cifar_resnet21")
    with pytest.raises(UserError, match="a batch of 10001 is more than the 10,000 training images"):
        bench_training(batch_size=10_001)


def test_the_share_of_mixing_is_of_the_bare_step() -> None:
    speed = {"median": 1000.0, "low": 900.0, "high": 1100.0}
    result = {
        "environment": {"torch": "2"},
        "model": "cifar_resnet8",
        "batch_size": 100,
        "mixing": {"median": 2.0, "low": 1.0, "high": 3.0},
        "rows": [{"name": BARE, "images_per_second": speed, "ratio": 1.0}],
    }
    lines = format_table(result).splitlines()
    assert lines[2].startswith("cifar_resnet8, batches of 100 ")
    assert lines[3].split() == ["bare", "step", "1000", "(900", "to", "1100)", "1.000"]
    assert lines[-1] == "mixing a batch: 2.00 ms (1.00 to 3.00), 2.0 % of the bare step"
