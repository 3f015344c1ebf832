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
    clock = iter([0, 9, 9, 9.001, 10, 10.002, 11, 11.003, 12, 12.004, 13, 13.005])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert interleave({"a": lambda: None}, repeats=5)["a"] == pytest.approx((3, 2, 4))


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


def test_one_thread_is_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
