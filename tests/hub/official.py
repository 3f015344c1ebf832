"""The networks of the official CutMix code, written anew from their description with the official key names.

The tests save them in the authors' format, and compare what our networks make of the import.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu


def conv(ins: int, outs: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, side, stride, side // 2, bias=False)


class PyramidBlock(nn.Module):
    """Norm, 1x1, norm, ReLU, 3x3, norm, ReLU, 1x1, norm; zeros are concatenated to the shortcut."""

    def __init__(self, ins: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1, self.conv1 = nn.BatchNorm2d(ins), conv(ins, width, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3, stride)
        self.bn3, self.conv3 = nn.BatchNorm2d(width), conv(width, 4 * width, 1)
        self.bn4 = nn.BatchNorm2d(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv1(self.bn1(x))
        branch = self.conv2(relu(self.bn2(branch)))
        branch = self.bn4(self.conv3(relu(self.bn3(branch))))
        shortcut = avg_pool2d(x, 2) if self.stride == 2 else x
        zeros = torch.zeros(len(x), branch.shape[1] - shortcut.shape[1], *branch.shape[2:])
        return branch + torch.cat([shortcut, zeros], dim=1)


class PyramidNet(nn.Module):
    """For CIFAR: a stem without ReLU, three stages whose width grows with every block, a pool of 8x8."""

    def __init__(self, depth: int, alpha: int, num_classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 9
        width, ins = 16.0, 16
        self.conv1, self.bn1 = conv(3, 16, 3), nn.BatchNorm2d(16)
        for stage in (1, 2, 3):
            layers = []
            for index in range(blocks):
                width += alpha / (3 * blocks)
                layers.append(PyramidBlock(ins, round(width), 2 if stage > 1 and index == 0 else 1))
                ins = 4 * round(width)
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.bn_final, self.fc = nn.BatchNorm2d(ins), nn.Linear(ins, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        return self.fc(avg_pool2d(relu(self.bn_final(x)), 8).flatten(1))


class ResidualBlock(nn.Module):
    """1x1, 3x3, 1x1, each with its norm, ReLU between them and after the sum; a projection where the shape changes."""

    def __init__(self, ins: int, width: int, stride: int, groups: int = 1, mid: int = 0) -> None:
        super().__init__()
        mid = mid or width
        self.conv1, self.bn1 = conv(ins, mid, 1), nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3, self.bn3 = conv(mid, 4 * width, 1), nn.BatchNorm2d(4 * width)
        same = stride == 1 and ins == 4 * width
        self.downsample = None if same else nn.Sequential(conv(ins, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        branch = relu(self.bn1(self.conv1(x)))
        branch = self.bn3(self.conv3(relu(self.bn2(self.conv2(branch)))))
        return relu(branch + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """For CIFAR (three stages from 16 channels) and ImageNet (four from 64, behind a strided stem with pooling)."""

    def __init__(self, blocks: list[int], num_classes: int, *, imagenet: bool, groups: int = 1, base: int = 64) -> None:
        super().__init__()
        self.imagenet, start = imagenet, 64 if imagenet else 16
        self.conv1 = conv(3, start, 7, 2) if imagenet else conv(3, start, 3)
        self.bn1, ins = nn.BatchNorm2d(start), start
        for stage, count in enumerate(blocks):
            width, layers = start * 2**stage, []
            for index in range(count):
                stride = 2 if stage and index == 0 else 1
                layers.append(ResidualBlock(ins, width, stride, groups, width * base // 64 * groups))
                ins = 4 * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(ins, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        if self.imagenet:
            x = nn.functional.max_pool2d(x, 3, 2, 1)
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x)
        return self.fc(x.mean(dim=(2, 3)))


def trained(net: nn.Module) -> nn.Module:
    """Give a network statistics as training does, from noise: small enough that the logits stay finite."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                count = module.num_features
                module.running_mean.copy_(0.1 * torch.randn(count, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(count, generator=generator))
                module.weight.copy_(0.2 + 0.2 * torch.rand(count, generator=generator))
                module.bias.copy_(0.1 * torch.randn(count, generator=generator))
                module.num_batches_tracked.fill_(1234)
    return net.eval()


def checkpoint(net: nn.Module) -> dict[str, object]:
    """What the authors' training script saves, optimizer state and all."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    last = list(net.parameters())[-1]
    optimizer.state[last]["momentum_buffer"] = torch.ones_like(last)
    return {
        "epoch": 287,
        "arch": "pyramidnet",
        "state_dict": {f"module.{key}": value for key, value in net.state_dict().items()},
        "best_err1": 14.23,
        "best_err5": 2.5,
        "optimizer": optimizer.state_dict(),
    }
