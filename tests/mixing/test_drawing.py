import copy
import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cutmix_zoo.keys import SampleKey, Stream, generator_for
from cutmix_zoo.mixing import (
    BoxPlan,
    CutMix,
    ErasePlan,
    IdentityPlan,
    MixedTarget,
    MixPlan,
    Scheduled,
    drawing,
    plan_for,
)
from cutmix_zoo.mixing.drawing import PlanSource
from tests.mixing.helpers import generator, random_images

SHAPE = (4, 6, 5)
IMAGES = random_images(4, 3, 6, 5)


@dataclass(frozen=True)
class Probe:
    """Writes down what it is asked for and the number that its generator gives."""

    asked: list[tuple[tuple[int, ...], int, dict[str, Any]]] = field(default_factory=list, compare=False)

    def draw(self, *shape: int, generator: torch.Generator, **context: Any) -> MixPlan:
        self.asked.append((shape, _number(generator), context))
        return IdentityPlan(*shape)

    @property
    def numbers(self) -> list[int]:
        return [number for _, number, _ in self.asked]

    @property
    def progress(self) -> list[float | None]:
        return [context.get("progress") for *_, context in self.asked]


def _number(state: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=state))


def _draw(source: PlanSource, *keys: SampleKey | None) -> None:
    for key in keys:
        source.draw(*SHAPE, images=IMAGES, key=key)


def test_the_plan_of_a_step_is_drawn_with_all_that_names_it() -> None:
    mix = Probe()
    plan = plan_for(mix, *SHAPE, seed=1, epoch=2, step=3, rank=4, progress=0.5, images=IMAGES, map_sizes=[(6, 5)])
    ((shape, number, context),) = mix.asked
    assert plan.shape == shape == SHAPE
    assert number == _number(generator_for(1, Stream.MIX, 2, 3, 4))
    assert list(context) == ["progress", "images", "map_sizes"]
    assert context["progress"] == 0.5
    assert context["images"] is IMAGES
    assert context["map_sizes"] == [(6, 5)]


def test_with_keys_the_plan_is_that_of_the_step() -> None:
    mix = Probe()
    _draw(PlanSource(mix, seed=7, rank=2), SampleKey(3, 5, 11), SampleKey(3, 6, 0), SampleKey(3, 5, 8))
    # the sample does not count, the order of the batches neither
    expected = [_number(generator_for(7, Stream.MIX, 3, step, 2)) for step in (5, 6, 5)]
    assert mix.numbers == expected
    assert all(shape == SHAPE and context["images"] is IMAGES for shape, _, context in mix.asked)


def test_without_keys_one_stream_is_drawn_from() -> None:
    torch.manual_seed(3)
    mix = Probe()
    _draw(PlanSource(mix, seed=7, rank=2), None, None, SampleKey(0, 0, 0), None)
    stream = generator_for(3, Stream.MIX, 7, 2)
    # a batch with a key between them changes nothing
    assert [mix.numbers[i] for i in (0, 1, 3)] == [_number(stream) for _ in range(3)]
    for settings in ({"seed": 8, "rank": 2}, {"seed": 7, "rank": 1}):
        other = Probe()
        _draw(PlanSource(other, **settings), None)
        assert other.numbers[0] not in mix.numbers


def test_in_a_worker_the_stream_is_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    mix = Probe()
    source = PlanSource(mix)
    for seed in (1, 2):
        monkeypatch.setattr(drawing, "get_worker_info", lambda seed=seed: SimpleNamespace(seed=seed))
        _draw(source, None, None)
    expected = [generator_for(seed, Stream.MIX, 0, 0) for seed in (1, 2)]
    assert mix.numbers == [_number(state) for state in expected for _ in range(2)]


def test_a_copy_starts_its_stream_anew() -> None:
    mix = Probe()
    source = PlanSource(mix)
    _draw(source, None, None)
    again = pickle.loads(pickle.dumps(source))
    _draw(again, None, None)
    assert again.mix.numbers[2:] == mix.numbers


def test_progress_is_known_where_the_length_of_the_run_is() -> None:
    mix = Probe()
    source = PlanSource(mix, epochs=4)
    for epoch in range(4):
        source.set_epoch(epoch)
        _draw(source, None)
    assert mix.progress == [0.0, 0.25, 0.5, 0.75]
    # a key says it by itself; a run that goes on beyond its end has no more than all of it behind it
    _draw(source, *[SampleKey(epoch, 0, 0) for epoch in (0, 1, 3, 4, 9)])
    assert mix.progress[4:] == [0.0, 0.25, 0.75, 1.0, 1.0]
    without = Probe()
    _draw(PlanSource(without), None, SampleKey(1, 0, 0))
    assert [list(context) for *_, context in without.asked] == [["images"]] * 2


def test_without_the_length_scheduled_methods_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="MixCollate and MixTransform need epochs="):
        _draw(PlanSource(Scheduled(CutMix())), None)


def test_the_switch() -> None:
    mix = Probe()
    source = PlanSource(mix)
    assert source.enabled is True
    source.enabled = False
    assert source.enabled is False
    plan = source.draw(*SHAPE, images=IMAGES, key=SampleKey(0, 0, 0))
    assert isinstance(plan, IdentityPlan)
    assert plan.shape == SHAPE
    _draw(source, None)
    assert mix.asked == []
    source.enabled = True
    _draw(source, None)
    assert len(mix.asked) == 1


def test_the_switch_and_the_epoch_are_shared_with_copies() -> None:
    source = PlanSource(Probe(), epochs=4)
    twin = copy.copy(source)
    source.enabled = False
    assert twin.enabled is False
    twin.enabled = True
    assert source.enabled is True
    source.set_epoch(2)
    _draw(twin, None)
    assert twin.mix.progress == [0.5]  # type: ignore[attr-defined]


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_a_run_has_a_whole_number_of_epochs(epochs: Any) -> None:
    with pytest.raises(ValueError, match=f"epochs must be a whole number of at least 1, got {epochs}"):
        PlanSource(CutMix(), epochs=epochs)


def test_epochs_the_run_does_not_have() -> None:
    source = PlanSource(CutMix(), epochs=4)
    with pytest.raises(ValueError, match="epoch must be a whole number of at least 0, got -1"):
        source.set_epoch(-1)
    with pytest.raises(ValueError, match="epoch must be below epochs=4, got 4"):
        source.set_epoch(4)
    PlanSource(CutMix()).set_epoch(400)


@pytest.mark.parametrize("mix", ["cutmix", None, CutMix])
def test_only_methods_are_taken(mix: Any) -> None:
    with pytest.raises(TypeError, match=r"mix must be a mixing method such as CutMix\(\), got"):
        PlanSource(mix)


def test_what_is_drawn_is_the_methods_plan() -> None:
    source = PlanSource(CutMix(per="sample"), seed=5)
    plan = source.draw(*SHAPE, images=IMAGES, key=SampleKey(1, 2, 3))
    expected = CutMix(per="sample").draw(*SHAPE, generator=generator_for(5, Stream.MIX, 1, 2, 0))
    assert torch.equal(plan.apply(IMAGES), expected.apply(IMAGES))
    assert not torch.equal(plan.boxes, CutMix(per="sample").draw(*SHAPE, generator=generator()).boxes)


def test_labels_are_mixed_as_the_settings_say() -> None:
    # the upper half of each image is the previous one's
    plan = BoxPlan(*SHAPE, torch.arange(4).roll(1), torch.tensor([0, 0, 3, 5]))
    labels = torch.tensor([0, 1, 2, 2])
    expected = [[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]]
    assert PlanSource(CutMix(), 3).target(plan, labels).tolist() == expected
    smooth = [[0.75 * share + 0.25 / 3 for share in row] for row in expected]
    torch.testing.assert_close(PlanSource(CutMix(), 3, 0.25).target(plan, labels), torch.tensor(smooth))
    kept = PlanSource(CutMix(), 3, 0.25, keep_plan=True).target(plan, labels)
    assert isinstance(kept, MixedTarget)
    torch.testing.assert_close(kept.dense(), torch.tensor(smooth))
    assert PlanSource(CutMix()).target(plan, torch.tensor([4.0, 8.0, 0.0, 0.0])).tolist() == [2.0, 6.0, 4.0, 0.0]
    erased = ErasePlan(1, 1, 2, torch.tensor([[0, 0, 1, 1]]))
    masks = torch.tensor([[[3, 4]]])
    assert PlanSource(CutMix()).target(erased, masks).tolist() == [[[255, 4]]]
    assert PlanSource(CutMix(), ignore_index=-1).target(erased, masks).tolist() == [[[-1, 4]]]


def test_an_epoch_that_nobody_says_is_not_taken_for_the_first() -> None:
    source = PlanSource(Scheduled(CutMix()), epochs=4)
    with pytest.raises(ValueError, match="and set_epoch"):
        _draw(source, None)
    _draw(source, SampleKey(0, 0, 0))  # a key says it
    source.set_epoch(0)
    _draw(source, None)


def test_copies_have_a_switch_that_their_own_workers_see() -> None:
    source = copy.deepcopy(PlanSource(CutMix(), epochs=4))
    assert source._enabled.is_shared()
    assert source._epoch.is_shared()


@pytest.mark.parametrize("epoch", [1.5, True, "1", None])
def test_an_epoch_is_a_whole_number(epoch: Any) -> None:
    with pytest.raises(ValueError, match="epoch must be a whole number of at least 0, got"):
        PlanSource(CutMix()).set_epoch(epoch)


@pytest.mark.parametrize(("name", "value"), [("seed", 1.5), ("seed", "1"), ("seed", True), ("rank", 0.0), ("rank", -1)])
def test_seed_and_rank_are_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a whole number.*, got {value!r}$"):
        PlanSource(CutMix(), **{name: value})
    PlanSource(CutMix(), seed=np.int64(-3), rank=np.int64(2))


def test_the_stream_is_seeded_once_for_each_seed_it_meets_as_the_docstring_says() -> None:
    mix = Probe()
    source = PlanSource(mix)
    with torch.random.fork_rng():
        for seed in (3, 3, 4, 3):  # set again, another one, gone back to
            torch.manual_seed(seed)
            _draw(source, None)
    three, four = generator_for(3, Stream.MIX, 0, 0), generator_for(4, Stream.MIX, 0, 0)
    first = _number(three)
    assert mix.numbers == [first, _number(three), _number(four), first]
