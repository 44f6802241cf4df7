"""The Jacobian as an operator: dense references, adjointness, finite differences."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator
from sigprune.models.opening import describe
from sigprune.propagation.measurement import measure
from sigprune.values.operator import jacobian, recording_graph
from tests.support.networks import labelled, seeded, small_views


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
    torch.testing.assert_close(operator.matmat(v[None])[0], torch.einsum("eoi,ei->eo", dense, v))
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
    left = (operator.matmat(v[None])[0] * u).sum(1)
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
    torch.testing.assert_close(operator.matmat(v[None])[0], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_memory_bound_takes_examples_in_parts_and_changes_nothing(network):
    """Products and spectra are those of the whole batch, and no two graphs are alive at once."""
    view = small_views()[network].using("eval")
    inputs = labelled(view, examples=7)[0][0]
    whole, parts = jacobian(view, inputs), jacobian(view, inputs, max_memory_gib=1e-9)
    draw = generator(3, "test", "parts")
    v = torch.randn(2, 7, whole.shape[1], generator=draw)
    u = torch.randn(3, 7, whole.shape[0], generator=draw)
    assert (parts.shape, parts.examples) == (whole.shape, 7)
    torch.testing.assert_close(parts.matmat(v), whole.matmat(v))
    torch.testing.assert_close(parts.rmatmat(u), whole.rmatmat(u))
    with recording_graph(view.params().values()) as together:
        whole.rmatmat(u)
    assert together.bytes == 0  # kept since the operator was made
    with recording_graph(view.params().values()) as one:
        parts.rmatmat(u[:, :1].expand(-1, 7, -1))
    assert one.bytes > 0


def test_the_graph_of_a_bounded_operator_is_within_the_bound():
    """A layer of 4,096 units holds 16 KiB for each example: a bound of 256 KiB takes them in parts."""
    view = describe(torch.nn.Sequential(torch.nn.Linear(8, 4096), torch.nn.Tanh(), torch.nn.Linear(4096, 2)))
    inputs = torch.randn(64, 8, generator=generator(4, "test"))
    alive: list[int] = []

    class Watch(torch.nn.Tanh):
        def forward(self, x):
            alive.append(len(x))
            return super().forward(x)

    view.module[1] = Watch()
    operator = jacobian(view, inputs, max_memory_gib=256 / 2**20)
    alive.clear()
    operator.rmatmat(torch.randn(1, 64, 2))
    assert sum(alive) == 64
    assert max(alive) * 4096 * 4 <= 256 * 2**10 / 2


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
    with pytest.raises(BadInput, match="holds no example"):
        jacobian(describe(torch.nn.Linear(3, 2)), torch.zeros(0, 3))


def test_forward_mode_through_attention():
    """torch's fused inference kernel of nn.MultiheadAttention has no derivatives."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).requires_grad_(False)
    operator = jacobian(describe(layer, example=torch.zeros(1, 3, 8)), torch.randn(2, 3, 8))
    v, u = torch.randn(2, 24), torch.randn(1, 2, 24)
    left, right = (operator.matmat(v[None])[0] * u[0]).sum(1), (operator.rmatmat(u)[0] * v).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def dense_jacobian(function, x):
    return torch.autograd.functional.jacobian(function, x)


class Cube(torch.autograd.Function):
    """x³, with a backward pass alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class CubeOnce(Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return Cube.backward(ctx, grad)


class CubeCut(Cube):
    """Its gradient has no path to what it is computed from."""

    @staticmethod
    def backward(ctx, grad):
        return Cube.backward(ctx, grad) + 0.5 * grad.detach()


class Cubed(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = torch.nn.Linear(4, 5), torch.nn.Linear(5, 3), function

    def forward(self, x):
        return self.last(self.function.apply(self.first(x)))


def test_parts_without_a_forward_mode_derivative_are_differentiated_twice_backward():
    view = describe(seeded(Cubed(Cube)).double())
    x = torch.randn(2, 4, dtype=torch.float64)
    operator = jacobian(view, x)
    first, last = view.module.first, view.module.last
    for _ in range(2):
        found = operator.matmat(torch.eye(4, dtype=torch.float64)[:, None].expand(4, 2, 4))
        for example, vectors in zip(x, found.transpose(0, 1), strict=True):
            expected = last.weight @ torch.diag(3 * first(example) ** 2) @ first.weight
            torch.testing.assert_close(vectors.T, expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [CubeOnce, CubeCut])
def test_backward_passes_that_cannot_be_differentiated_are_told(function):
    operator = jacobian(describe(seeded(Cubed(function))), torch.randn(2, 4))
    with pytest.raises(BadInput, match=r"no forward-mode derivative .* J v is unknown: "):
        operator.matmat(torch.randn(3, 2, 4))


def test_layer_to_layer_maps_against_dense_jacobians():
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)
    ).double()
    view, x = describe(net), torch.randn(2, 6, dtype=torch.float64, generator=generator(3, "test"))
    hidden = [x]
    for layer in net:
        hidden.append(layer(hidden[-1]))
    for at, of in [(0, 3), (1, 3), (1, 5), (3, 5), (0, 5)]:
        operator = jacobian(
            view, x, at="input" if at == 0 else str(at - 1), of="output" if of == 5 else str(of - 1)
        )
        for example in range(2):
            dense = dense_jacobian(net[at:of], hidden[at][example])
            eye = torch.eye(dense.shape[1], dtype=torch.float64)[:, None].expand(-1, 2, -1)
            torch.testing.assert_close(operator.matmat(eye)[:, example].T, dense)
            eye = torch.eye(dense.shape[0], dtype=torch.float64)[:, None].expand(-1, 2, -1)
            torch.testing.assert_close(operator.rmatmat(eye)[:, example], dense)
    features = jacobian(view, x, of="features")
    torch.testing.assert_close(
        features.matmat(torch.ones(1, 2, 6).double()),
        jacobian(view, x, of="3").matmat(torch.ones(1, 2, 6).double()),
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules()), "hooks as found"


def test_the_map_of_a_batch_whose_examples_are_coupled():
    view = small_views()["conv"].using("batch")
    inputs = labelled(view, examples=3)[0][0]
    operator = jacobian(view, inputs, joint=True, dtype=torch.float64)
    assert operator.examples == 1
    twin = view.module.double().train()
    twin_state = {k: v.clone() for k, v in twin.state_dict().items()}
    dense = dense_jacobian(twin, inputs.double()).reshape(operator.shape)
    twin.load_state_dict(twin_state)
    torch.testing.assert_close(measure(operator).values[0], torch.linalg.svdvals(dense))


@pytest.mark.parametrize("max_memory_gib", [1e-9, 4.0])
def test_memory_bounds_change_no_value(max_memory_gib):
    view = small_views()["conv"]
    operator = jacobian(view, labelled(view)[0], dtype=torch.float64, max_memory_gib=max_memory_gib)
    u = torch.randn(5, operator.examples, operator.shape[0], dtype=torch.float64)
    v = torch.randn(5, operator.examples, operator.shape[1], dtype=torch.float64)
    torch.testing.assert_close(operator.rmatmat(u)[2:3], operator.rmatmat(u[2:3]))
    torch.testing.assert_close(operator.matmat(v)[2:3], operator.matmat(v[2:3]))
    torch.testing.assert_close(operator.adjoint.matmat(u), operator.rmatmat(u))


class Odd(torch.nn.Module):
    """Stages that are called twice, give other structures, couple, draw, or cut the path."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind, self.first, self.pair, self.last = (
            kind,
            torch.nn.Linear(4, 4),
            Pair(),
            torch.nn.Linear(4, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(self.first(x))
        x = self.pair(x)["hidden"][0]
        if self.kind == "random":
            x = torch.nn.functional.dropout(x, 0.5, training=True)
        if self.kind == "cut":
            x = x.detach()
        return self.last(x.flip(0) if self.kind == "coupled" else x)


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        return {"count": 1, "hidden": (self.inner(x), x)}


def test_stages_of_other_structures():
    net = Odd().double()
    view, x = describe(net, example=torch.zeros(1, 4)), torch.randn(2, 4, dtype=torch.float64)
    operator = jacobian(view, x, at="pair")
    torch.testing.assert_close(measure(operator).values[0], torch.linalg.svdvals(net.last.weight))
    assert jacobian(view, x, of="pair").shape == (4, 4)


@pytest.mark.parametrize(
    ("kind", "places", "message"),
    [
        ("", {"of": "frist"}, r"unknown stage 'frist'; did you mean first\?"),
        ("", {"at": ""}, r"unknown stage ''; known: features, first, input, last, output, pair"),
        ("", {"of": "first"}, r"the stage 'first' is called 2 times in a forward pass, expected 1"),
        ("", {"at": "last", "of": "pair"}, r"no differentiable path from last to pair: it is the wrong way"),
        ("random", {}, r"gives another output each time \(dropout or noise"),
        ("cut", {}, r"there is no differentiable path from input to output"),
        ("coupled", {}, r"depends on the others .* take joint=True"),
    ],
)
def test_places_that_have_no_jacobian(kind, places, message):
    view = describe(Odd(kind), example=torch.zeros(1, 4))
    with pytest.raises(BadInput, match=message):
        jacobian(view, torch.randn(3, 4), **places)


def test_parameters_that_are_not_finite_are_named():
    view = small_views()["mlp"]
    with torch.no_grad():
        view.params()[view.weights[1].name][0, 0] = torch.nan
    with pytest.raises(BadInput, match=f"the parameter {view.weights[1].name} holds NaN or infinity"):
        jacobian(view, labelled(view)[0])


def test_inputs_and_outputs_that_are_not_finite_are_blamed_on_nothing_else():
    """Gradients of NaN are NaN everywhere: no sign that one example depends on another."""
    view = small_views()["mlp"]
    batch = torch.full((2, 12), torch.inf)
    with pytest.raises(BadInput, match=r"input holds 24 of 24 values that are NaN or infinite"):
        jacobian(view, batch)
    loud = describe(torch.nn.Sequential(torch.nn.Linear(4, 4), Squaring(), torch.nn.Linear(4, 2)))
    with torch.no_grad():
        loud.module[0].weight.fill_(1e30)
    spectrum = measure(jacobian(loud, torch.ones(3, 4)))
    assert not spectrum.values.isfinite().all()


class Squaring(torch.nn.Module):
    """Overflows where its input is large; the gradient is infinite there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().square()
