"""Small networks and data that many tests share."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from sigprune.base.rng import generator
from sigprune.models.opening import describe
from sigprune.values.view import View

PAPER_WIDTHS = (784, 100, 100, 100, 100, 100, 100, 10)


def mlp(
    widths: tuple[int, ...] = (12, 16, 16, 5), activation: type[nn.Module] | None = nn.Tanh
) -> nn.Sequential:
    """Fully connected layers; no activation after the last."""
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        if index and activation:
            layers.append(activation())
        layers.append(nn.Linear(fan_in, fan_out))
    return nn.Sequential(*layers)


class SmallConv(nn.Module):
    """Convolution, BatchNorm, grouped convolution, pooling, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.head(torch.relu(self.conv2(x)).mean((2, 3)))


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every parameter redrawn from our own stream (independent of torch's global state)."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            draws = torch.randn(p.shape, generator=generator(seed, "test", name))
            p.copy_(draws / max(p.shape[-1], 1) ** 0.5 if p.dim() > 1 else 1 + 0.1 * draws)
    return module


def small_views() -> dict[str, View]:
    """A fully connected and a convolutional network, with seeded values."""
    return {
        "mlp": describe(seeded(mlp())),
        "conv": describe(seeded(SmallConv()), example=torch.zeros(1, 3, 8, 8)),
    }


def labelled(view: View, examples: int = 24, batches: int = 3, classes: int = 4, seed: int = 0) -> list:
    """Seeded Gaussian inputs of the view's own shape with random labels."""
    shape = next(iter(view.example.inputs.values())).shape[1:]
    draw = generator(seed, "test", "batches")
    return [
        (torch.randn(examples, *shape, generator=draw), torch.randint(classes, (examples,), generator=draw))
        for _ in range(batches)
    ]


class FlatConv(nn.Module):
    """A convolution and a classifier that takes its output for images of 8x8 pixels only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


def checkpointing(module: nn.Module) -> nn.Module:
    """A model of transformers that computes activations again in the backward pass."""
    if "activation_checkpointing_enable" in dir(module):
        module.activation_checkpointing_enable()
    else:
        module.gradient_checkpointing_enable()
    return module
