"""GraSP, NTK-SAP and ProsPr against naive float64 references, on masked networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator
from sigprune.families.objectives import objectives
from sigprune.families.scores import scores
from sigprune.models.opening import describe
from sigprune.values.batch import Batch
from sigprune.values.mask import Mask
from sigprune.values.problem import Problem
from sigprune.values.view import View
from tests.reference.curvature import grasp_by_hessian, ntk_sap_by_masks, prospr_by_differences
from tests.support.networks import labelled, mlp, seeded

LABELS = objectives.get("labels").objective


def masked(density: float = 0.7) -> tuple[View, Mask]:
    """A small float64 network with some entries removed."""
    view = describe(seeded(mlp((3, 5, 4, 4))).double())
    draws = {n: torch.rand(s, generator=generator(0, "test", n)) for n, s in view.prunable_shapes().items()}
    return view, Mask({n: d < density for n, d in draws.items()})


def problem(view: View, mask: Mask, data: list | None, objective=LABELS) -> Problem:
    return Problem(view, mask, generator(0, "test", "score"), objective, data)


def uneven(view: View) -> list:
    """Batches of other sizes: a sum over batches is no mean over examples."""
    return [(x[: 24 - 7 * i], y[: 24 - 7 * i]) for i, (x, y) in enumerate(labelled(view))]


@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("density", [0.7, 1.0])
def test_grasp_is_theta_times_the_hessian_times_the_gradient(density, temperature):
    view, mask = masked(density)
    data = uneven(view)
    ranked = scores.get("grasp").score(problem(view, mask, data), temperature=temperature)
    expected = grasp_by_hessian(view.module, dict(mask.keep), data, temperature)
    assert any(bool((t < 0).any()) for t in ranked.values()), "signed"
    for name, reference in expected.items():
        torch.testing.assert_close(ranked[name], reference, rtol=1e-9, atol=1e-12 / temperature**2)


def test_grasp_of_a_linear_loss_is_zero():
    view = describe(nn.Linear(3, 2).double())

    def linear(output: Tensor, batch: Batch) -> Tensor:
        return output.mean()

    dense = Mask.dense(view.prunable_shapes())
    ranked = scores.get("grasp").score(problem(view, dense, [torch.ones(2, 3)], linear))
    assert not ranked["weight"].any()


def test_grasp_keeps_gradient_flow_where_snip_removes_it():
    """Removing the entries of highest score lowers the squared gradient more than removing the lowest."""
    view, _ = masked()
    data, dense = labelled(view), Mask.dense(view.prunable_shapes())
    ranked = scores.get("grasp").score(problem(view, dense, data), temperature=1.0)

    def flow_without(name: str, index: int) -> float:
        keep = {n: k.clone() for n, k in dense.keep.items()}
        keep[name].view(-1)[index] = False
        leaves = problem(view, Mask(keep), data).leaves()
        loss = sum(LABELS(view.forward(leaves, view.read(b)), view.read(b)) for b in data)
        gradients = torch.autograd.grad(loss, [leaves[n] for n in keep])
        return sum(float((g * keep[n]).square().sum()) for g, n in zip(gradients, keep, strict=True))

    every = sorted((float(v), n, i) for n, t in ranked.items() for i, v in enumerate(t.view(-1)))
    lowest, highest = every[0][1:], every[-1][1:]
    assert flow_without(*highest) < flow_without(*lowest)


@pytest.mark.parametrize("batches", [1, 2])
def test_ntk_sap_is_the_derivative_in_the_mask(batches):
    view, mask = masked()
    ranked = scores.get("ntk_sap").score(problem(view, mask, None), batches=batches, examples=6)
    draw = generator(0, "test", "score")
    with_digest = []
    for _ in range(batches):
        moves = {n: 0.01 * torch.randn(k.shape, generator=draw).double() for n, k in mask.keep.items()}
        with_digest.append((moves, torch.randn(6, 3, generator=draw).double()))
    if batches == 1:
        expected = ntk_sap_by_masks(view.module, dict(mask.keep), with_digest[0][1], with_digest[0][0])
        for name, reference in expected.items():
            torch.testing.assert_close(ranked[name], reference, rtol=1e-5, atol=1e-8)
    else:
        alone = [ntk_sap_by_masks(view.module, dict(mask.keep), z, moves) for moves, z in with_digest]
        for name, value in ranked.items():
            most, least = alone[0][name] + alone[1][name], (alone[0][name] - alone[1][name]).abs()
            either = torch.minimum((value - most).abs(), (value - least).abs())
            assert float(either.max()) < 1e-5, "signed sums over batches"


def test_ntk_sap_refuses_integers():
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids).mean(1))

    view = describe(Table(), example=torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(BadInput, match="continuous input"):
        scores.get("ntk_sap").score(problem(view, Mask.dense(view.prunable_shapes()), None))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_prospr_is_the_derivative_through_training(momentum):
    view, mask = masked()
    data = labelled(view, batches=5)
    options = {"steps": 3, "lr": 0.5, "momentum": momentum}
    ranked = scores.get("prospr").score(problem(view, mask, data), **options)
    expected = prospr_by_differences(view.module, dict(mask.keep), data, **options)
    for name, reference in expected.items():
        torch.testing.assert_close(ranked[name], reference, rtol=1e-5, atol=1e-8)
    first = scores.get("prospr").score(problem(view, mask, data), first_order=True, **options)
    assert not all(torch.allclose(first[n], ranked[n], rtol=1e-2) for n in ranked)


def test_prospr_reads_few_batches_again():
    view, mask = masked()
    few, again = labelled(view, batches=2), labelled(view, batches=2) * 2
    ranked = [scores.get("prospr").score(problem(view, mask, data)) for data in (few, again)]
    assert all(torch.equal(ranked[0][n], ranked[1][n]) for n in mask.keep)


def test_prospr_of_tiny_steps_is_snip():
    view, mask = masked()
    data = labelled(view, batches=4)
    for first_order in (False, True):
        ranked = scores.get("prospr").score(problem(view, mask, data), lr=1e-9, first_order=first_order)
        expected = scores.get("snip").score(problem(view, mask, data[3:]))
        for name in expected:
            torch.testing.assert_close(ranked[name], expected[name], rtol=1e-6, atol=1e-9)


def test_prospr_refuses_a_momentum_of_one():
    view, mask = masked()
    with pytest.raises(BadInput, match="0 <= momentum < 1, got 1"):
        scores.get("prospr").score(problem(view, mask, labelled(view)), momentum=1.0)


class Once(torch.autograd.Function):
    """The identity, which can be differentiated once."""

    @staticmethod
    def forward(_ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_ctx, gradient: Tensor) -> Tensor:
        return gradient * 1


@pytest.mark.parametrize("name", ["grasp", "prospr"])
def test_a_network_without_second_derivatives_is_refused(name):
    class Net(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](Once.apply(self[0](x)))

    view = describe(Net(nn.Linear(3, 4), nn.Linear(4, 4)))
    with pytest.raises(BadInput, match="has no second derivatives"):
        scores.get(name).score(problem(view, Mask.dense(view.prunable_shapes()), labelled(view)))
