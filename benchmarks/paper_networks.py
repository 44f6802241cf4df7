"""The networks of Lee et al. 2020 as plain modules: fully connected, VGG16-C-like, ResNet with option A.

Biases are kept everywhere, also before BatchNorm, as in the authors' release. Parameters with biases, without
those of BatchNorm: MLP-7 130,010; VGG16 10,526,538; ResNet-32 463,018; ResNet-56 850,986.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(depth: int = 7, activation: type[nn.Module] | None = nn.Tanh) -> nn.Sequential:
    """784-100-...-100-10; no activation after the last layer."""
    widths = (784, *(100 for _ in range(depth - 1)), 10)
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        if index and activation:
            layers.append(activation())
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


# channels, kernel size; None: halve the image
_VGG = (
    (64, 3), (64, 3), None, (128, 3), (128, 3), None, (256, 3), (256, 3), (256, 1), None,
    (512, 3), (512, 3), (512, 1), None, (512, 3), (512, 3), (512, 1), None,
)  # fmt: skip


def vgg16(classes: int = 10) -> nn.Sequential:
    """VGG16-C for images of 32 pixels: third convolutions are 1x1; two hidden layers of 512."""
    layers: list[nn.Module] = []
    channels = 3
    for entry in _VGG:
        if entry is None:
            layers.append(nn.MaxPool2d(2))
            continue
        width, size = entry
        layers += [
            nn.Conv2d(channels, width, size, padding=size // 2),
            nn.BatchNorm2d(width, eps=1e-3),
            nn.ReLU(),
        ]
        channels = width
    layers.append(nn.Flatten())
    for _ in range(2):
        layers += [nn.Linear(512, 512), nn.BatchNorm1d(512, eps=1e-3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, classes))


class Block(nn.Module):
    """Two convolutions and a shortcut without weights: averaged over 2x2 pixels, new channels zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.norm1 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.more = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if self.more:
            x = functional.pad(functional.avg_pool2d(x, 2), (0, 0, 0, 0, self.more // 2, self.more // 2))
        return torch.relu(x + y)


class ResNet(nn.Module):
    """Depth 6n + 2: three stages of n blocks, 16, 32 and 64 channels; activation after the sum."""

    def __init__(self, depth: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16, eps=1e-3)
        widths = [16, *(width for width in (16, 32, 64) for _ in range((depth - 2) // 6))]
        self.blocks = nn.Sequential(*(Block(*pair) for pair in itertools.pairwise(widths)))
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.norm(self.conv(x))))
        return self.head(x.mean((2, 3)))
