import json
from functools import partial

import pytest
import timm
import torch
import torch._inductor.config

from cutmix_zoo.bench.models import (
    BASELINES,
    PASSES,
    Pass,
    Task,
    Variant,
    _make_step,
    _variants,
    bench_models,
    format_table,
    registered_models,
)
from cutmix_zoo.errors import UserError
from cutmix_zoo.models import CifarResNet
from cutmix_zoo.training.environment import versions

TINY = "cifar_resnet8"
LAYOUTS = ("contiguous", "channels_last")


def variants(result: dict) -> list[tuple]:
    keys = ("model", "pass", "how", "memory", "precision")
    return [tuple(row[key] for key in keys) for row in result["rows"]]


def expected(model: str, *hows: str) -> list[tuple]:
    return [(model, what, how, memory, "float32") for what in PASSES for how in hows for memory in LAYOUTS]


@pytest.fixture
def tiny_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A naive network to measure against, as small as the one that is measured."""
    monkeypatch.setitem(BASELINES, TINY, partial(timm.create_model, TINY))


@pytest.fixture
def quick_compile(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Compile without Inductor, which takes a minute, and keep how ``torch.compile`` is called."""
    settings: list[dict] = []
    compile_ = torch.compile

    def quick(function: object, **given: object) -> object:
        settings.append(given)
        return compile_(function, **given, backend="eager")

    monkeypatch.setattr(torch, "compile", quick)
    return settings


def check_numbers(row: dict, *, compiled: bool) -> None:
    speed = row["images_per_second"]
    assert 0 < speed["low"] <= speed["median"] <= speed["high"]
    assert row["skipped"] is None
    assert (row["compile_seconds"] is not None) == compiled
    assert not compiled or row["compile_seconds"] > 0


def test_every_variant_has_a_row_with_its_numbers(quick_compile: list[dict]) -> None:
    result = bench_models([TINY], batch_size=2, device="cpu", seconds=0)
    assert json.loads(json.dumps(result)) == result
    assert set(result["environment"]) == {"device", *versions()}
    assert variants(result) == expected(TINY, "eager", "compiled")
    for row in result["rows"]:
        assert (row["batch_size"], row["input_size"], row["ratio"]) == (2, [3, 32, 32], None)
        check_numbers(row, compiled=row["how"] == "compiled")
    assert quick_compile == [{}, *[{"dynamic": False}] * 4]


@pytest.mark.slow
def test_the_default_compiler() -> None:
    result = bench_models([TINY], batch_size=2, device="cpu", seconds=0)
    for row in result["rows"]:
        check_numbers(row, compiled=row["how"] == "compiled")


@pytest.mark.usefixtures("tiny_baseline")
def test_the_ratio_is_to_the_naive_network() -> None:
    result = bench_models([TINY], batch_size=2, device="cpu", compiled=False, seconds=0)
    ours = expected(TINY, "eager")
    naive = [(TINY, what, "naive", "contiguous", "float32") for what in PASSES]
    assert variants(result) == [naive[0], *ours[:2], naive[1], *ours[2:]]
    for what in PASSES:
        speeds = [(row["images_per_second"]["median"], row["ratio"]) for row in result["rows"] if row["pass"] == what]
        for speed, ratio in speeds:
            assert ratio == pytest.approx(speed / speeds[0][0])
        assert speeds[0][1] == 1


def test_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple] = []
    forward = CifarResNet.forward

    def spy(self: CifarResNet, x: torch.Tensor) -> torch.Tensor:
        assert all(parameter.grad is None for parameter in self.parameters())
        tensors = (x, self.get_parameter("layer1.0.conv1.weight"))
        layouts = {tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors}
        assert len(layouts) == 1
        seen.append((self.training, torch.is_inference_mode_enabled(), tuple(x.shape), layouts.pop()))
        return forward(self, x)

    monkeypatch.setattr(CifarResNet, "forward", spy)
    bench_models([TINY], batch_size=2, device="cpu", compiled=False, seconds=0)
    shape = (2, 3, 32, 32)
    # a first pass, then two passes in a round that warms up and in each of three that count
    evaluation, training = ([(train, not train, shape, last) for last in (False, True)] for train in (False, True))
    assert sorted(seen[:18]) == sorted(9 * evaluation)
    assert sorted(seen[18:]) == sorted(9 * training)


def test_why_nothing_is_compiled_is_said_in_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    result = bench_models([TINY], batch_size=2, device="cpu", seconds=0)
    assert variants(result) == expected(TINY, "eager", "compiled")
    for row in result["rows"]:
        if row["how"] == "eager":
            check_numbers(row, compiled=False)
        else:
            assert "no-such-compiler" in row["skipped"]
            assert "\n" not in row["skipped"]
            assert row["images_per_second"] is row["ratio"] is row["compile_seconds"] is None
    lines = format_table(result).splitlines()
    assert sum("skipped: " in line and line.endswith(" ...") for line in lines) == 4
    assert max(map(len, lines[1:])) <= 100


def test_a_network_that_cannot_be_compiled_is_skipped_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(function: object, **given: object) -> object:
        return broken if isinstance(function, CifarResNet) else function

    def broken(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("some kernel\nfails")

    monkeypatch.setattr(torch, "compile", compile_)
    result = bench_models([TINY], batch_size=2, device="cpu", seconds=0)
    reasons = [row["skipped"] for row in result["rows"]]
    assert reasons == 2 * [None, None, "some kernel fails", "some kernel fails"]


def test_networks_are_chosen_by_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr("cutmix_zoo.bench.models._time", lambda task, *_: chosen.append(task.model) or [])
    bench_models(["cifar_resnet1?", "cifar_resnet14", "cifar_pyr*a64"], device="cpu", compiled=False)
    assert chosen == [name for name in ("cifar_pyramidnet110_a64", "cifar_resnet14", "cifar_resnet18") for _ in PASSES]
    chosen.clear()
    bench_models(device="cpu", compiled=False)
    assert list(dict.fromkeys(chosen)) == registered_models()


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no network of this package is called 'cifar_resnet9'; did you mean cifar_"):
        bench_models([TINY, "cifar_resnet9"])
    with pytest.raises(UserError, match="'resnet50'"):
        bench_models(["resnet50"])
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        bench_models([TINY], batch_size=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device is cuda, but torch finds no GPU; use cpu"):
        bench_models([TINY], device="cuda")


def test_a_gpu_is_measured_in_both_precisions() -> None:
    found = _variants("cifar_pyramidnet110_a64", torch.device("cuda"), compiled=True)
    hows = [("naive", "contiguous"), *((how, memory) for how in ("eager", "compiled") for memory in LAYOUTS)]
    assert found == [(*how, precision) for how in hows for precision in ("float32", "bfloat16")]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", PASSES)
def test_bfloat16_is_that_of_autocast(what: Pass, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple] = []
    forward = CifarResNet.forward

    def spy(self: CifarResNet, x: torch.Tensor) -> torch.Tensor:
        logits = forward(self, x)
        seen.append((next(self.parameters()).dtype, logits.dtype))
        return logits

    monkeypatch.setattr(CifarResNet, "forward", spy)
    _make_step(Task(TINY, what, 2, torch.device("cpu")), Variant("eager", "contiguous", precision))()
    assert seen == [(torch.float32, getattr(torch, precision))]


def test_each_pass_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[torch.device] = []
    monkeypatch.setattr("cutmix_zoo.bench.models.synchronize", waits.append)
    bench_models([TINY], batch_size=2, device="cpu", compiled=False, seconds=0)
    # two layouts; a first pass, and a turn that warms up and three that count, of two passes each
    assert waits == [torch.device("cpu")] * (len(PASSES) * 2 * (1 + 4 * 2))


@pytest.mark.usefixtures("tiny_baseline")
def test_the_table() -> None:
    result = bench_models([TINY], batch_size=2, device="cpu", compiled=False, seconds=0)
    text = format_table(result)
    lines = ["", *text[text.index("images/s") :].splitlines()]  # after the environment
    assert lines[1].split() == ["images/s", "to", "naive", "compile", "[s]"]
    assert lines[2:4] == ["", f"{TINY}, forward, 2 x 3x32x32"]
    assert lines[4].split()[:3] == ["naive,", "contiguous,", "float32"]
    assert lines[4].split()[-2:] == ["1.00", "-"]
    assert lines[7:9] == ["", f"{TINY}, forward + backward, 2 x 3x32x32"]
    assert len(lines) == 12
    assert {len(line) for line in lines[4:7]} == {100}
