import pytest
import torch
from torch import nn

from cutmix_zoo.data.settings import InputSpec
from cutmix_zoo.evaluation.classifier import Classifier


def make(**options: bool) -> Classifier:
    torch.default_generator.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.num_classes = 4
    spec = InputSpec((3, 6, 5), (0.2, 0.4, 0.6), (0.1, 0.2, 0.3))
    return Classifier(network.train(), spec, torch.device("cpu"), **options)


def test_inputs_are_pixels_less_their_mean_over_their_deviation() -> None:
    images = torch.randint(256, (2, 3, 6, 5), dtype=torch.uint8)
    classifier = make()
    mean, std = torch.tensor([0.2, 0.4, 0.6])[:, None, None], torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    expected = (images.double() / 255 - mean) / std
    torch.testing.assert_close(classifier.to_input(images).double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(classifier.to_pixels(images).double(), images.double() / 255, rtol=0, atol=1e-7)
    torch.testing.assert_close(classifier.normalize(classifier.to_pixels(images)).double(), expected, rtol=0, atol=1e-5)


def test_gradients_reach_the_pixels_and_logits_have_none() -> None:
    classifier = make()
    pixels = torch.rand(2, 3, 6, 5, requires_grad=True)
    gradient = torch.autograd.grad(classifier.normalize(pixels).sum(), pixels)[0]
    torch.testing.assert_close(gradient[0, :, 0, 0], 1 / torch.tensor([0.1, 0.2, 0.3]))
    logits = classifier.logits(classifier.normalize(pixels))
    assert (logits.requires_grad, logits.dtype, logits.shape) == (False, torch.float32, (2, 4))


def test_the_network_is_put_into_evaluation_mode() -> None:
    classifier = make()
    assert not any(module.training for module in classifier.network.modules())
    assert classifier.num_classes == 4


@pytest.mark.parametrize("channels_last", [False, True])
def test_inputs_lie_as_asked_for(channels_last: bool) -> None:
    inputs = make(channels_last=channels_last).to_input(torch.zeros(2, 3, 6, 5, dtype=torch.uint8))
    assert inputs.is_contiguous(memory_format=torch.channels_last) == channels_last
