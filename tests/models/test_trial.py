import pytest
import timm
import torch

from cutmix_zoo.models.trial import try_image


def test_an_image_of_nothing_is_computed_without_batch_statistics() -> None:
    network = timm.create_model("cifar_resnet8", in_chans=1).train()
    logits = try_image(network, (1, 9, 5))
    assert torch.equal(logits, network.eval()(torch.zeros(1, 1, 9, 5)))
    assert network.bn1.num_batches_tracked == 0


@pytest.mark.parametrize("size", [(3, 28, 28), (1, 0, 4)])
def test_what_is_not_taken_is_said_in_one_line(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"^\S.*\S$") as caught:
        try_image(timm.create_model("vit_tiny_patch16_224", in_chans=1, depth=1), size)
    assert "\n" not in str(caught.value)
