import pytest
import timm
from timm.data import ImageNetInfo

from cutmix_zoo.models.labels import known_label_names, label_names


def network(num_classes: int, **config: object) -> timm.models.ResNet:
    return timm.create_model("resnet18", num_classes=num_classes, device="meta", pretrained_cfg_overlay=config)


@pytest.mark.parametrize("names", [["ant", "bee"], ("ant", "bee"), {"1": "bee", "0": "ant"}, {0: "ant", 1: "bee"}])
def test_names_are_those_of_the_config(names: object) -> None:
    net = network(2, label_names=names)
    assert known_label_names(net) == label_names(net) == ("ant", "bee")


def test_names_of_other_classes_do_not_count() -> None:
    net = network(2, label_names=["ant", "bee", "cat"])
    assert known_label_names(net) is None
    assert label_names(net) == ("class 0", "class 1")


@pytest.mark.parametrize(("tag", "num_classes", "subset"), [("a1_in1k", 1000, "1k"), ("fb_in22k", 21841, "22k")])
def test_imagenet_is_known_by_the_tag(tag: str, num_classes: int, subset: str) -> None:
    names = label_names(network(num_classes, tag=tag))
    info = ImageNetInfo(f"imagenet-{subset}")
    assert len(names) == num_classes
    assert names[17] == info.index_to_description(17)


@pytest.mark.parametrize(("tag", "num_classes"), [("mine", 1000), (None, 1000), ("a1_in1k", 10), ("a1_in1k", 0)])
def test_other_classifiers_are_not_taken_for_imagenets(tag: str | None, num_classes: int) -> None:
    net = network(num_classes, tag=tag)
    assert known_label_names(net) is None
    assert label_names(net)[-1:] == ((f"class {num_classes - 1}",) if num_classes else ())
