import pytest
import timm
import torch
from torch import nn

from cutmix_zoo.bench.naive_pyramidnet import NaivePyramidNet
from cutmix_zoo.keys import isolated_rng


@pytest.mark.parametrize("training", [True, False])
def test_the_naive_network_computes_what_ours_does(training: bool) -> None:
    with isolated_rng(0):
        ours = timm.create_model("cifar_pyramidnet110_a64").double().train(training)
        naive = NaivePyramidNet().double().train(training)
        images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    naive.load_state_dict(ours.state_dict())
    labels = torch.tensor([1, 0, 9])
    logits, expected = naive(images), ours(images)
    torch.testing.assert_close(logits, expected)
    nn.functional.cross_entropy(logits, labels).backward()
    nn.functional.cross_entropy(expected, labels).backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert [name for name, _ in naive.named_parameters()] == list(gradients)
    for name, parameter in naive.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])
    for name, buffer in naive.named_buffers():
        torch.testing.assert_close(buffer, ours.get_buffer(name))
