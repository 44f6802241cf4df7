"""Which weights of a model get a gradient, and what explains the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn

from sigprune.base.rng import global_stream
from sigprune.base.tensors import Tensors
from sigprune.families.adapters.transformers.outputs import _floats
from sigprune.values.view import View


class Pass:
    """A forward pass through a view and the gradients of the mean square of its output.

    Attributes:
        output: what the view reads.
        gradients: by weight; a weight that the output does not depend on is missing.
        apart: weights that the forward pass does not reach (their module is not called), or on which only
            an output depends that the view does not read.
    """

    def __init__(self, view: View) -> None:
        params = view.params()
        leaves = {w.name: params[w.name].clone().requires_grad_() for w in view.weights}
        outputs: list[object] = []
        called: set[str] = set()

        def read(output: object) -> Tensor:
            outputs.append(output)
            return view.read_output(output)

        with ExitStack() as stack, global_stream(0, "forward"):
            for path, module in view.module.named_modules():
                handle = module.register_forward_pre_hook(_noting(called, path))
                stack.callback(handle.remove)
            self.output = replace(view, read_output=read).forward(leaves, view.example)
        self.gradients = _gradients(self.output.square().mean(), leaves)
        without = {name: leaf for name, leaf in leaves.items() if name not in self.gradients}
        others = [t.sum() for t in _floats(outputs[0]) if t.requires_grad]
        elsewhere = _gradients(sum(others, torch.zeros(())), without) if without else {}
        self.apart = {name for name in without if name in elsewhere or _owner(name) not in called}

    def silent(self, view: View) -> list[str]:
        """The weights with no gradient, or one of zeros, that are not apart."""
        none = torch.zeros(1)
        return [
            w.name
            for w in view.weights
            if w.name not in self.apart and not self.gradients.get(w.name, none).any()
        ]


def _noting(called: set[str], path: str) -> Callable[[nn.Module, object], None]:
    return lambda _module, _inputs: called.add(path)


def _owner(name: str) -> str:
    return name.rpartition(".")[0].removesuffix(".parametrizations.weight")


def _gradients(value: Tensor, leaves: Tensors) -> Tensors:
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, retain_graph=True)
    return {name: g for name, g in zip(leaves, found, strict=True) if g is not None}
