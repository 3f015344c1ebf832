import argparse
from collections.abc import Callable

import numpy as np
import pytest

from cutmix_zoo.checks import (
    positive_number,
    require_choice,
    require_count,
    require_fraction,
    require_positive,
    whole_number,
)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", None, True])
def test_positive_refuses(value: object) -> None:
    with pytest.raises(ValueError, match="alpha must be a finite number above 0, got"):
        require_positive("alpha", value)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", None, False])
def test_fraction_refuses(value: object) -> None:
    with pytest.raises(ValueError, match="prob must be a number from 0 to 1, got"):
        require_fraction("prob", value)


@pytest.mark.parametrize("value", [0, -1, 10.5, "10", None, True])
def test_count_refuses(value: object) -> None:
    with pytest.raises(ValueError, match="num_classes must be a whole number of at least 1, got"):
        require_count("num_classes", value)


def test_choice_lists_the_words() -> None:
    with pytest.raises(ValueError, match="per must be one of batch, sample, got 'elem'"):
        require_choice("per", "elem", ("batch", "sample"))


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        (require_positive, ("alpha", np.float32(0.2))),
        (require_fraction, ("prob", 0)),
        (require_fraction, ("prob", 1.0)),
        (require_count, ("num_classes", np.int64(1))),
        (require_choice, ("per", "batch", ("batch", "sample"))),
    ],
)
def test_good_values_pass(check: Callable[..., None], arguments: tuple[object, ...]) -> None:
    assert check(*arguments) is None


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf"])
def test_positive_numbers_of_a_command_line(text: str) -> None:
    assert positive_number("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match=f"must be a finite number above 0, got {text}"):
        positive_number(text)


def test_whole_numbers_of_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=whole_number(1))
    assert parser.parse_args(["--images", "2"]).images == 2
    for text, message in (("0", "must be at least 1, got 0"), ("1.5", "invalid whole number value: '1.5'")):
        with pytest.raises(SystemExit):
            parser.parse_args(["--images", text])
        assert message in capsys.readouterr().err
