"""The Jacobian as an operator: dense references, adjointness, finite differences."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.errors import BadInput
from sigprune.base.seeds import generator
from sigprune.values.operator import jacobian
from sigprune.verbs.measuring import measure
from sigprune.verbs.opening import describe
from tests.networks import labelled, small_views


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_products_against_the_dense_jacobian(network):
    view = small_views()[network]
    inputs = labelled(view, examples=3)[0][0].double()
    twin = view.module.double().eval()
    operator = jacobian(view.using("eval"), inputs, dtype=torch.float64)
    outputs, size = operator.shape
    dense = torch.stack([
        torch.autograd.functional.jacobian(lambda x: twin(x[None])[0], x).reshape(outputs, size)
        for x in inputs
    ])
    draw = generator(0, "test", "vectors")
    v = torch.randn(3, size, generator=draw, dtype=torch.float64)
    u = torch.randn(4, 3, outputs, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(operator.matvec(v), torch.einsum("eoi,ei->eo", dense, v))
    torch.testing.assert_close(operator.rmatmat(u), torch.einsum("eoi,keo->kei", dense, u))
    torch.testing.assert_close(operator.rmatmat(u[:1]), operator.rmatmat(u)[:1])
    spectrum = measure(operator)
    torch.testing.assert_close(spectrum.values, torch.linalg.svdvals(dense))


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_adjointness(network):
    """<J v, u> = <v, Jᵀ u> for every example."""
    view = small_views()[network]
    operator = jacobian(view, labelled(view)[0], dtype=torch.float64)
    draw = generator(1, "test", "adjoint")
    v = torch.randn(operator.examples, operator.shape[1], generator=draw, dtype=torch.float64)
    u = torch.randn(operator.examples, operator.shape[0], generator=draw, dtype=torch.float64)
    left = (operator.matvec(v) * u).sum(1)
    right = (v * operator.rmatmat(u[None])[0]).sum(1)
    torch.testing.assert_close(left, right)


def test_finite_differences():
    view = small_views()["mlp"]
    inputs = labelled(view, examples=2)[0][0].double()
    view.module.double()
    operator = jacobian(view, inputs, dtype=torch.float64)
    v = torch.randn(2, operator.shape[1], generator=generator(2, "test"), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        slope = (view.module(inputs + step * v) - view.module(inputs - step * v)) / (2 * step)
    torch.testing.assert_close(operator.matvec(v), slope, rtol=1e-6, atol=1e-8)


def test_given_parameters_are_used():
    view = small_views()["mlp"]
    zeros = {name: torch.zeros_like(p) for name, p in view.params().items()}
    assert not measure(jacobian(view, labelled(view)[0], params=zeros)).values.any()


def test_coupled_examples_are_refused():
    view = small_views()["conv"].using("batch")
    with pytest.raises(BadInput, match="take 'fresh' or 'eval'"):
        jacobian(view, labelled(view)[0])
    norm = torch.nn.BatchNorm1d(4, track_running_stats=False)
    with pytest.raises(BadInput, match="1 has no other"):
        jacobian(describe(torch.nn.Sequential(torch.nn.Linear(6, 4), norm)), torch.randn(5, 6))
    recurrent = describe(SequenceFirst(), example=torch.zeros(3, 1, 6))
    with pytest.raises(BadInput, match=r"depends on the others .*batch_first=True"):
        jacobian(recurrent, torch.randn(5, 5, 6))


class SequenceFirst(torch.nn.Module):
    """torch's default: the first axis counts steps, not examples."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.LSTM(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x)[0]


def test_inputs_without_a_jacobian_are_refused():
    view = describe(torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(8, 2)))
    with pytest.raises(BadInput, match="takes integers"):
        jacobian(view, torch.tensor([[1, 2]]))
    with pytest.raises(BadInput, match="at least one example"):
        jacobian(describe(torch.nn.Linear(3, 2)), torch.zeros(0, 3))


def test_forward_mode_through_attention():
    """torch's fused inference kernel of nn.MultiheadAttention has no derivatives."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).requires_grad_(False)
    operator = jacobian(describe(layer, example=torch.zeros(1, 3, 8)), torch.randn(2, 3, 8))
    v, u = torch.randn(2, 24), torch.randn(1, 2, 24)
    left, right = (operator.matvec(v) * u[0]).sum(1), (operator.rmatmat(u)[0] * v).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
