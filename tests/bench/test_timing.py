from functools import partial

import pytest
import torch

from cutmix_zoo.bench.timing import interleave, one_thread


def test_rounds_are_interleaved_and_the_first_is_not_counted() -> None:
    calls: list[str] = []
    timings = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert set(timings) == {"a", "b"}
    assert all(0 <= timing.low <= timing.median <= timing.high for timing in timings.values())


def test_milliseconds_and_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    # a first round of 9 s, then rounds of 1, 2, 3, 4 and 5 ms
    now, durations = 0.0, iter([9, 0.001, 0.002, 0.003, 0.004, 0.005])

    def work() -> None:
        nonlocal now
        now += next(durations)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert interleave({"a": work}, repeats=5)["a"] == pytest.approx((3, 2, 4))


def test_rounds_end_when_the_time_is_spent_but_three_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    calls: list[str] = []

    def work() -> None:
        nonlocal now
        now += 1
        calls.append("a")

    monkeypatch.setattr("time.perf_counter", lambda: now)
    for seconds, rounds in ((0, 3), (4, 3), (4.5, 4), (100, 6)):
        calls.clear()
        interleave({"a": work}, repeats=6, seconds=seconds)
        assert len(calls) == 1 + rounds


def test_only_the_last_call_of_a_turn_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, called = 0.0, []

    def work(name: str) -> None:
        nonlocal now
        now += 1 if called[-2:] == [name] * 2 else 100
        called.append(name)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    timings = interleave({name: partial(work, name) for name in "ab"}, repeats=2, calls=3)
    assert "".join(called) == "aaabbb" * 3
    assert timings["a"] == timings["b"] == pytest.approx((1000, 1000, 1000))


def test_one_thread_is_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
