"""The Jacobian as an operator: dense references, adjointness, finite differences."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.errors import BadInput
from sigprune.base.seeds import generator
from sigprune.values.operator import jacobian
from sigprune.verbs.measuring import measure
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
    with pytest.raises(BadInput, match="couples the examples"):
        jacobian(view, labelled(view)[0])
