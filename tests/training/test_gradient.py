import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.gradient import LEFT_OUT, GradientGuard, NotFiniteError

FINE, BAD = torch.tensor(1.0), torch.tensor(float("nan"))


def parameters(*gradients: list[float] | None) -> list[nn.Parameter]:
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(2))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        made.append(parameter)
    return made


@pytest.mark.parametrize("clip_norm", [0.5, 100.0])
def test_clipping_is_torchs(clip_norm: float) -> None:
    ours, theirs = (parameters([3.0, 0.0], None, [0.0, 4.0]) for _ in range(2))
    assert GradientGuard(clip_norm).clip(ours) == clip_grad_norm_(theirs, clip_norm) == 5
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is other.grad is None or torch.equal(one.grad, other.grad)


def test_without_a_norm_nothing_is_clipped() -> None:
    held = parameters([3e5, 4e5])
    assert GradientGuard().clip(held) == 5e5
    assert held[0].grad.tolist() == [3e5, 4e5]


def test_the_first_bad_gradient_stops() -> None:
    guard = GradientGuard()
    assert guard.admits(FINE, "step 1")
    with pytest.raises(NotFiniteError, match="the gradient of step 2 is not finite"):
        guard.admits(BAD, "step 2")
    assert issubclass(NotFiniteError, UserError)


def test_as_many_are_skipped_as_allowed_also_after_a_resume() -> None:
    guard = GradientGuard(may_skip=3, skipped=1)
    admitted = [guard.admits(norm, "here") for norm in (FINE, BAD, FINE, BAD)]
    assert admitted == [True, False, True, False]
    assert guard.skipped == 3
    with pytest.raises(NotFiniteError, match="step 9"):
        guard.admits(BAD, "step 9")


def test_a_scaler_may_leave_out_many_but_not_without_end() -> None:
    guard = GradientGuard()
    for applied in [False] * (LEFT_OUT - 1) + [True] + [False] * (LEFT_OUT - 1):
        guard.count(applied=applied, place="here")
    with pytest.raises(NotFiniteError, match=f"the gradient of step 7 and of the {LEFT_OUT - 1} updates before"):
        guard.count(applied=False, place="step 7")


def test_it_says_whether_it_would_skip() -> None:
    guard = GradientGuard(may_skip=1)
    assert guard.may_skip_more
    guard.admits(BAD, "here")
    assert not guard.may_skip_more


def test_a_device_is_looked_at_now_and_then_and_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # no GPU is needed to be one: only what is asked of a norm before it is looked at
    class OnDevice:
        device = torch.device("cuda")

        def __init__(self, value: torch.Tensor) -> None:
            self.value = value

    monkeypatch.setattr("cutmix_zoo.training.gradient.torch.isfinite", lambda norm: norm.value == norm.value)
    monkeypatch.setattr("cutmix_zoo.training.gradient.PATIENCE", 4)
    guard = GradientGuard()
    norms = [OnDevice(norm) for norm in (FINE, BAD, BAD, FINE)]
    for step, norm in enumerate(norms[:3]):
        assert guard.admits(norm, f"step {step}")
    with pytest.raises(NotFiniteError, match="step 1 is"):
        guard.admits(norms[3], "step 3")
    assert guard.admits(norms[1], "step 7")
    with pytest.raises(NotFiniteError, match="step 7 is"):
        guard.check()
    guard.check()  # everything has been looked at
