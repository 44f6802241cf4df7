"""Operators: linear maps given by their two products; the input-output Jacobian of a view is one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from sigprune.base.errors import BadInput
from sigprune.base.tensors import Tensors
from sigprune.values.batch import BatchLike
from sigprune.values.view import View, expect_view


@dataclass(frozen=True, eq=False)
class Operator:
    """One linear map (outputs × inputs) per example.

    Attributes:
        shape: (outputs, inputs) of each example's map.
        examples: how many maps there are.
        matvec: (examples, inputs) -> (examples, outputs), each example's J v.
        rmatmat: (count, examples, outputs) -> (count, examples, inputs), each example's Jᵀ u for every u.
        dtype: of the products.
        device: of the products.

    Example:
        >>> a = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> operator = Operator((2, 3), 1, lambda v: v @ a.T, lambda u: u @ a)
        >>> operator.rmatmat(torch.eye(2)[:, None, :]).squeeze(1)
        tensor([[2., 0., 0.],
                [0., 1., 0.]])
    """

    shape: tuple[int, int]
    examples: int
    matvec: Callable[[Tensor], Tensor]
    rmatmat: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"


def jacobian(
    view: View, batch: BatchLike, *, params: Tensors | None = None, dtype: torch.dtype | None = None
) -> Operator:
    """The Jacobian of the output (logits) with respect to the continuous input, example by example.

    The continuous input is the image, or the embedded tokens of a token model. Examples must not see each
    other, so BatchNorm must not use batch statistics. One forward pass; each product costs one backward
    (``rmatmat``, per row of the argument) or one forward-mode pass (``matvec``). The map is that of the
    parameters at the time of the call.

    Args:
        view: the network.
        batch: what a data loader yields.
        params: parameters to use instead of the module's own (masked ones, say).
        dtype: compute in this dtype; float64 for checks.

    Returns:
        Operator with shape (outputs per example, inputs per example); products come in the dtype used.

    Raises:
        BadInput: BatchNorm uses batch statistics, examples see each other in another way, there is no
            example, or no continuous input.

    Source: Lee et al. 2020 (arXiv 1906.06307), section 3; singular values of this map are the JSVs.

    Example:
        >>> from sigprune import describe, jacobian
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2)))
        >>> jacobian(view, torch.randn(5, 8)).shape
        (2, 8)
    """
    expect_view(view)
    coupled = [
        n for n, m in view.module.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is None
    ]
    if view.batchnorm == "batch" or coupled:
        where = f" ({coupled[0]} has no other)" if coupled else ": take 'fresh' or 'eval'"
        raise BadInput(f"a per-example Jacobian needs BatchNorm without the statistics of a batch{where}")
    batch = view.read(batch)
    if len(batch) == 0:
        raise BadInput("a Jacobian needs at least one example, got an empty batch")
    tensors = view.params() | (params or {})
    if dtype is not None:
        tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
        batch = batch.to(next(iter(batch.inputs.values())).device, dtype)
    if view.embed is not None:
        batch = view.embed(batch)
    name = next((k for k, v in batch.inputs.items() if v.is_floating_point()), None)
    if name is None:
        raise BadInput(
            f"{view.architecture} takes integers ({', '.join(batch.inputs)}) and has no entry for "
            "embeddings: there is no Jacobian with respect to them"
        )
    point = batch.inputs[name].detach()

    def run(x: Tensor) -> Tensor:
        moved = replace(batch, inputs={**batch.inputs, name: x})
        return view.forward(tensors, moved).flatten(1)

    return _linearise(run, point)


def _linearise(run: Callable[[Tensor], Tensor], point: Tensor) -> Operator:
    leaf = point.clone().requires_grad_()
    with _differentiable(), torch.enable_grad():
        output = run(leaf.clone())  # some models change their input in place
    if len(output) != len(point):
        raise BadInput(f"expected one output per example, got {len(output)} for {len(point)} examples")
    if len(point) > 1:
        (last,) = torch.autograd.grad(output[-1].sum(), leaf, retain_graph=True)
        if bool(last[:-1].any()):
            raise BadInput(
                "the output of the last example depends on the others (a sequence-first recurrent layer? "
                "then batch_first=True): there is no Jacobian of one example"
            )

    def matvec(vectors: Tensor) -> Tensor:
        with _differentiable(), warnings.catch_warnings():
            # torch's own forward-mode rules are still scripted, and say so when first used
            warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)
            product: Tensor = torch.func.jvp(run, (point,), (vectors.reshape(point.shape),))[1]
            return product.detach()

    def rmatmat(cotangents: Tensor) -> Tensor:
        if len(cotangents) == 1:
            (rows,) = torch.autograd.grad(output, leaf, cotangents[0], retain_graph=True)
            return rows.flatten(1)[None]
        (rows,) = torch.autograd.grad(output, leaf, cotangents, retain_graph=True, is_grads_batched=True)
        return rows.flatten(2)

    shape = (output.shape[1], point[0].numel())
    return Operator(shape, len(point), matvec, rmatmat, output.dtype, output.device)


@contextmanager
def _differentiable() -> Iterator[None]:
    """The one attention kernel that has forward-mode and batched reverse-mode derivatives everywhere."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # has none either
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
