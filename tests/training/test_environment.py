import platform

import accelerate
import pytest
import timm
import torch
import torchvision

import cutmix_zoo
from cutmix_zoo.training.environment import device_name, environment, versions


def test_versions_are_those_that_are_installed() -> None:
    modules = (cutmix_zoo, accelerate, timm, torch, torchvision)
    found = versions()
    assert found.pop("python") == platform.python_version()
    # a build may have a suffix of its own, such as +cu130
    assert {name: found[name].partition("+")[0] for name in found} == {
        module.__name__: module.__version__.partition("+")[0] for module in modules
    }


def test_a_device_is_named_so_that_a_reader_can_find_another() -> None:
    torch.set_num_threads(2)
    assert device_name(torch.device("cpu")) == "CPU, 2 threads"
    assert environment(torch.device("cpu")) == {**versions(), "device": "CPU, 2 threads"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_named_by_its_model() -> None:
    assert device_name(torch.device("cuda")) == torch.cuda.get_device_name()
