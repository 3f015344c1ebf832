import pytest
import timm

from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.preprocessing import with_preprocessing


def test_it_is_the_networks_and_the_rest_stays() -> None:
    asked = {
        "input_size": (3, 40, 48),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
    }
    net = timm.create_model("cifar_resnet8", pretrained_cfg_overlay=asked)
    found = with_preprocessing(DataSettings("folder", root="x", crop_pct=0.5), net)
    assert found == DataSettings("folder", root="x", **asked)


def test_what_is_tested_at_another_size_is_measured_at_it() -> None:
    net = timm.create_model("resnet18.a1_in1k")
    assert net.pretrained_cfg["input_size"] == (3, 224, 224)
    found = with_preprocessing(DataSettings("folder"), net)
    assert (found.input_size, found.crop_pct) == ((3, 288, 288), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_mode": "squash"}, "asks for crop_mode 'squash'"),
        ({"crop_pct": 1.15}, "preprocessing that cannot be made: crop_pct"),
        ({"interpolation": "random"}, "preprocessing that cannot be made: interpolation"),
    ],
)
def test_what_cannot_be_made_is_refused(change: dict[str, object], message: str) -> None:
    net = timm.create_model("cifar_resnet8", pretrained_cfg_overlay=change)
    with pytest.raises(UserError, match=message):
        with_preprocessing(DataSettings("folder"), net)
