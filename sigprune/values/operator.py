"""Operators: linear maps given by their products; Jacobians of a view are some."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from sigprune.base.errors import BadInput, one_line
from sigprune.base.renamed import old_keywords
from sigprune.base.tensors import Tensors
from sigprune.values.batch import Batch, BatchLike
from sigprune.values.taps import INPUT, OUTPUT, first_tensor, moving, reading
from sigprune.values.view import View, empty_filter, expect_view


@dataclass(frozen=True, eq=False)
class Operator:
    """One linear map (outputs × inputs) per example.

    Attributes:
        shape: (outputs, inputs) of each example's map.
        examples: how many maps there are.
        matmat: (count, examples, inputs) -> (count, examples, outputs), each example's J v for every v.
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
    matmat: Callable[[Tensor], Tensor]
    rmatmat: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __deepcopy__(self, memo: object) -> Operator:
        return self  # immutable, and its products are closures, which deepcopy shares anyway

    def __reduce__(self) -> NoReturn:
        raise BadInput(
            "an Operator cannot be pickled: its products hold the graph of a forward pass; measure it and "
            "pickle the Spectrum, or pickle the View and make the Operator again"
        )

    @property
    def adjoint(self) -> Operator:
        """The transposed maps."""
        return replace(self, shape=self.shape[::-1], matmat=self.rmatmat, rmatmat=self.matmat)


@old_keywords(most_gib="max_memory_gib")
def jacobian(
    view: View,
    batch: BatchLike,
    *,
    of: str = OUTPUT,
    at: str = INPUT,
    params: Tensors | None = None,
    dtype: torch.dtype | None = None,
    joint: bool = False,
    max_memory_gib: float = 1.0,
) -> Operator:
    """The Jacobian of one place of a network with respect to another, example by example.

    The continuous input is the image, or the embedded tokens of a token model. Examples must not see each
    other, so BatchNorm must not use batch statistics, unless the batch is taken as one ``joint`` example.
    Each product with a vector costs one backward pass (``rmatmat``) or one forward-mode pass (``matmat``).
    Where a part of the network has no forward-mode derivative, or none that can be batched, the derivative
    of a backward pass takes its place.
    The map is that of the parameters at the time of the call.

    Memory: the graph of a forward pass, kept as long as the operator, and the products that are batched.
    Where they would take more than ``max_memory_gib``, examples are taken in parts, and the graph of a part
    is made again for every call of ``rmatmat``, at the cost of a forward pass. At least one example and one
    product are taken at a time, whatever the bound.

    Args:
        view: the network.
        batch: what a data loader yields.
        of: ``output`` (logits), ``features`` (what the classifier is given), or a stage: its output.
        at: ``input``, or a stage: its output.
        params: parameters to use instead of the module's own (masked ones, say).
        dtype: compute in this dtype; float64 for checks.
        joint: one map of the whole batch, which may couple its examples.
        max_memory_gib: bound on the memory of graphs and batched products, in GiB; vectors that go in and
            come out are not counted.

    Returns:
        Operator with shape (outputs per example, inputs per example); products come in the dtype used.

    Raises:
        BadInput: examples see each other and ``joint`` is not set, there is no example, no continuous input,
            no differentiable path, a parameter that is not finite, or the network is random.
        UnknownName: there is no such stage.

    Source: Lee et al. 2020 (arXiv 1906.06307), section 3; singular values of this map are the JSVs.

    Example:
        >>> from sigprune import describe, jacobian
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2)))
        >>> jacobian(view, torch.randn(5, 8)).shape
        (2, 8)
        >>> jacobian(view, torch.randn(5, 8), of="0").shape
        (4, 8)
    """
    expect_view(view)
    if not joint:
        _expect_single_examples(view)
    batch = view.read(batch)
    tensors = view.params() | (params or {})
    if dtype is not None:
        tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
    expect_finite(tensors)
    if (reason := empty_filter(view, tensors)) is not None:
        raise BadInput(reason)
    batch = view.embedded(tensors, batch)
    if dtype is not None:
        batch = batch.to(next(iter(batch.inputs.values())).device, dtype)
    _expect_finite_inputs(batch)
    few = None if joint else batch.part(0, 2)
    pilot = _Part.of(view, tensors, few or batch, of, at, joint=joint)
    footprint = _expect_one_function(view, tensors, pilot)
    graph = pilot.linearise()
    _expect_single_maps(graph, f"{at} to {of}", joint=joint)
    room = max_memory_gib * 2**30 / 2
    parts = [pilot]
    if few is not None and len(few) < len(batch):
        size = max(1, int(room / max(footprint.graph, 1)))
        parts = [_Part.of(view, tensors, part, of, at, joint=joint) for part in split(batch, size)]
        graph = parts[0].linearise() if len(parts) == 1 else graph
    at_once = _products_at_once(footprint.activation * len(parts[0].point), room, graph.output.device)
    return _operator(parts, graph, at_once)


def split(batch: Batch, size: int) -> Iterator[Batch]:
    """Parts of at most so many examples, of a batch that can be split."""
    for start in range(0, len(batch), size):
        part = batch.part(start, start + size)
        if part is not None:  # always, where it can be split at all
            yield part


def _expect_single_examples(view: View) -> None:
    coupled = [
        n for n, m in view.module.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is None
    ]
    if view.batchnorm == "batch" or coupled:
        where = f" ({coupled[0]} has no other)" if coupled else ": take 'fresh' or 'eval', or joint=True"
        raise BadInput(f"a per-example Jacobian needs BatchNorm without the statistics of a batch{where}")


def expect_finite(tensors: Tensors) -> None:
    """What asks for derivatives says to parameters that have none.

    Raises:
        BadInput: one holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadInput(f"the parameter {name} holds NaN or infinity: there is no Jacobian")


def _expect_finite_inputs(batch: Batch) -> None:
    for name, values in batch.inputs.items():
        bad = int((~values.isfinite()).sum()) if values.is_floating_point() else 0
        if bad and name != "attention_mask":  # of added masks minus infinity is a value
            raise BadInput(
                f"the input {name} holds {bad:,} of {values.numel():,} values that are NaN or infinite: "
                "there is no Jacobian; look at the data and how they are normalised"
            )


Run = Callable[[Tensor], Tensor]


def _path(view: View, tensors: Tensors, batch: Batch, of: str, at: str) -> tuple[Run, Tensor]:
    """The function from one place to another, (examples, ...) -> (examples, n), and the point."""
    name = next((k for k, v in batch.inputs.items() if v.is_floating_point()), None)
    if at == INPUT and name is None:
        raise BadInput(
            f"{view.architecture} takes integers ({', '.join(batch.inputs)}) and has no entry for "
            f"embeddings: there is no Jacobian at its input; take it at a stage: {', '.join(view.stages())}"
        )

    def forward(inputs: Batch) -> Tensor:
        if of == OUTPUT:
            return view.forward(tensors, inputs)
        with reading(view, of) as tap:
            view.forward(tensors, inputs)
        return tap.read(len(batch))

    def from_input(x: Tensor) -> Tensor:
        return forward(replace(batch, inputs={**batch.inputs, str(name): x})).flatten(1)

    def from_stage(step: Tensor) -> Tensor:
        with moving(view, at, step):
            return forward(batch).flatten(1)

    if at == INPUT:
        # images of one channel may repeat it
        return from_input, batch.inputs[str(name)].detach().contiguous()
    with torch.no_grad(), reading(view, at) as tap:
        view.forward(tensors, batch)
    return from_stage, torch.zeros_like(tap.read(len(batch)))


@dataclass(frozen=True, eq=False)
class _Graph:
    """One forward pass, from ``leaf`` to ``output``."""

    leaf: Tensor
    output: Tensor


@dataclass(frozen=True)
class _Footprint:
    """Bytes per example: of what a graph holds beside the parameters, and of the largest activation."""

    graph: float
    activation: float


@dataclass(frozen=True, eq=False)
class _Part:
    """The map at some of the examples.

    Attributes:
        run: the function, (examples, ...) -> (examples, n).
        point: where it is differentiated.
        maps: how many maps there are: one per example, or one of them all.
    """

    run: Run
    point: Tensor
    maps: int

    @classmethod
    def of(cls, view: View, tensors: Tensors, batch: Batch, of: str, at: str, *, joint: bool) -> _Part:
        run, point = _path(view, tensors, batch, of, at)
        return cls(run, point, 1 if joint else len(point))

    def linearise(self) -> _Graph:
        """The graph of a forward pass."""
        leaf = self.point.clone().requires_grad_()
        with differentiable(), torch.enable_grad():
            return _Graph(leaf, self.run(leaf.clone()))  # some models change their input in place

    def forward_mode(self, vectors: Tensor) -> Tensor:
        """(examples, inputs) -> (maps, outputs)."""
        product: Tensor = torch.func.jvp(self.run, (self.point,), (vectors.reshape(self.point.shape),))[1]
        return product.detach().reshape(self.maps, -1)

    def twice_backward(self, vectors: Tensor) -> Tensor:
        """(k, examples, inputs) -> (k, maps, outputs).

        A backward pass computes Jᵀu, which is linear in u; a second one, through the first with v, gives J v.

        Raises:
            BadInput: the backward pass cannot be differentiated, or its derivative is not its adjoint.
        """
        graph = self.linearise()
        products: list[Tensor] = []
        with differentiable(), torch.enable_grad():
            u = torch.ones_like(graph.output, requires_grad=True)
            try:
                (pulled,) = torch.autograd.grad(graph.output, graph.leaf, u, create_graph=True)
                for one in vectors.reshape(-1, *pulled.shape):
                    products += torch.autograd.grad(pulled, u, one, retain_graph=True)
            except RuntimeError as error:
                raise BadInput(f"{_NO_MATMAT}: {one_line(error)}") from error
        for one, product in zip(vectors, products, strict=True):  # ⟨u, J v⟩ = ⟨Jᵀu, v⟩
            terms = (u * product).detach().double(), (pulled.flatten() * one.flatten()).detach().double()
            bound = 100 * torch.finfo(u.dtype).eps * sum(float(term.abs().sum()) for term in terms)
            if abs(float(terms[0].sum() - terms[1].sum())) > bound:
                raise BadInput(f"{_NO_MATMAT}: the derivative of that pass is not its adjoint")
        return torch.stack(products).reshape(len(vectors), self.maps, -1)


_NO_MATMAT = (
    "a part of the network has no forward-mode derivative (an autograd.Function without jvp?), and its "
    "backward pass cannot be differentiated, so that J v is unknown"
)


@dataclass(eq=False)
class GraphSize:
    """What graphs hold for backward passes beside the parameters.

    Attributes:
        storages: address -> bytes; tensors that share memory count once.
    """

    storages: dict[int, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """In total."""
        return sum(self.storages.values())


@contextmanager
def recording_graph(parameters: Iterable[Tensor]) -> Iterator[GraphSize]:
    """Record what the graphs that are made inside hold beside the parameters.

    Such a graph does not notice tensors that are changed in place: take no derivatives of it.
    """
    size = GraphSize()
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def hold(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.requires_grad and storage.data_ptr() not in known:
            size.storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would be a reference cycle

    hooks = torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor)
    with torch.enable_grad(), hooks:
        yield size


def _expect_one_function(view: View, tensors: Tensors, part: _Part) -> _Footprint:
    """Run twice under other random numbers, once recording what a graph would hold."""
    largest = part.point.nbytes

    def look(_module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
        nonlocal largest
        tensor = first_tensor(output)
        largest = max(largest, 0 if tensor is None else tensor.nbytes)

    handles = [module.register_forward_hook(look) for module in view.module.modules()]
    devices = [part.point.device] if part.point.is_cuda else []
    outputs = []
    try:
        for seed in (0, 1):
            with torch.random.fork_rng(devices), differentiable(), recording_graph(tensors.values()) as graph:
                torch.manual_seed(seed)
                outputs.append(part.run(part.point.clone().requires_grad_().clone()).detach())
    finally:
        for handle in handles:
            handle.remove()
    scale = float(outputs[0].nan_to_num().abs().max())
    if float((outputs[0] - outputs[1]).nan_to_num().abs().max()) > 1e-3 * scale:
        raise BadInput(
            f"{view.architecture} gives another output each time (dropout or noise that evaluation mode does "
            "not switch off): there is no Jacobian of one function"
        )
    return _Footprint(graph.bytes / len(part.point), largest / len(part.point))


def _expect_single_maps(graph: _Graph, places: str, *, joint: bool) -> None:
    """There is a path, and the last example's output depends on that example alone."""
    leaf, output = graph.leaf, graph.output
    if len(output) != len(leaf):
        raise BadInput(f"expected one output per example, got {len(output)} for {len(leaf)} examples")
    if not output.requires_grad:
        raise BadInput(f"there is no differentiable path from {places}: it is the wrong way round, or cut")
    (last,) = torch.autograd.grad(output[-1].sum(), leaf, retain_graph=True, allow_unused=True)
    if last is None:
        raise BadInput(f"there is no differentiable path from {places}: it is the wrong way round, or cut")
    if not joint and bool(last[:-1].nan_to_num().any()):  # NaN tells of overflow, not of dependence
        raise BadInput(
            "the output of the last example depends on the others (a sequence-first recurrent layer? "
            "then batch_first=True): there is no Jacobian of one example, take joint=True"
        )


_CACHE = 2**24
"""Bytes of an activation from which on batched products on a CPU take longer than one after the other."""


def _products_at_once(activation: float, room: float, device: torch.device) -> int:
    """A batched product holds a few tensors of the size of the largest activation for each vector."""
    bound = room if device.type != "cpu" else min(room, 4 * _CACHE)
    return max(1, int(bound / (4 * activation)))


def _operator(parts: list[_Part], graph: _Graph, at_once: int) -> Operator:
    """The map of all parts; ``graph`` is that of a single part, which keeps it, or of a few examples."""
    maps, output = sum(part.maps for part in parts), graph.output
    grouped = len(parts[0].point) // parts[0].maps  # examples that are taken as one
    outputs, inputs = grouped * output[0].numel(), grouped * parts[0].point[0].numel()
    kept = graph if len(parts) == 1 else None

    def backward(part: _Part, cotangents: Tensor) -> Tensor:
        one = kept or part.linearise()

        def reverse_mode(vectors: Tensor) -> Tensor:
            rows = vectors.reshape(one.output.shape)
            return torch.autograd.grad(one.output, one.leaf, rows, retain_graph=True)[0].reshape(
                part.maps, inputs
            )

        def reverse_modes(vectors: Tensor) -> Tensor:
            many = vectors.reshape(-1, *one.output.shape)
            (rows,) = torch.autograd.grad(
                one.output, one.leaf, many, retain_graph=True, is_grads_batched=True
            )
            return rows.reshape(-1, part.maps, inputs)

        return _in_parts(reverse_modes, reverse_mode, cotangents, at_once)

    forward_mode = True

    def forward(part: _Part, vectors: Tensor) -> Tensor:
        nonlocal forward_mode
        if forward_mode:
            try:
                with differentiable():
                    return _in_parts(torch.func.vmap(part.forward_mode), part.forward_mode, vectors, at_once)
            except (RuntimeError, NotImplementedError) as error:
                if not lacks_forward_mode(error):
                    raise
                forward_mode = False
        return part.twice_backward(vectors)

    def over_parts(product: Callable[[_Part, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def of_all(vectors: Tensor) -> Tensor:
            each = vectors.split([part.maps for part in parts], 1)
            return torch.cat([product(part, own) for part, own in zip(parts, each, strict=True)], 1)

        return of_all

    return Operator(
        (outputs, inputs), maps, over_parts(forward), over_parts(backward), output.dtype, output.device
    )


def lacks_forward_mode(error: RuntimeError | NotImplementedError) -> bool:
    """Whether torch says that a function has no forward-mode derivative, or none that can be batched."""
    text = str(error).lower()
    return any(
        word in text for word in ("forward ad", "forward mode", "forward-mode", "jvp", "vmap", "functorch")
    )


def _in_parts(
    many: Callable[[Tensor], Tensor], one: Callable[[Tensor], Tensor], vectors: Tensor, most: int
) -> Tensor:
    """Products of at most so many vectors at a time; a single one is not batched."""
    parts = vectors.split(most)
    return torch.cat([one(part[0])[None] if len(part) == 1 else many(part) for part in parts])


@contextmanager
def differentiable() -> Iterator[None]:
    """The one attention kernel that has forward-mode and batched reverse-mode derivatives everywhere."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # has none either
    try:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # torch's own forward-mode rules are still scripted, and say so when first used
            warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
