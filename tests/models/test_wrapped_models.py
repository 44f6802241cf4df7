"""A wrapper of torch around a whole model: the view is that of the model inside, under its plain names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from sigprune.base.errors import UnsupportedModel
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import apply_, prune
from tests.support.networks import mlp, seeded

WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "checkpointed": checkpoint_wrapper,
    "distributed": nn.parallel.DistributedDataParallel,
    "compiled, then distributed": lambda m: nn.parallel.DistributedDataParallel(
        torch.compile(m, backend="eager")
    ),
    "distributed, then compiled": lambda m: torch.compile(
        nn.parallel.DistributedDataParallel(m), backend="eager"
    ),
}


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_model_inside_is_described(wrapper):
    module = seeded(mlp())
    plain, view = describe(module), describe(WRAPPERS[wrapper](module))
    assert view.module is module
    assert (view.weights, dict(view.skipped), view.prunable) == (
        plain.weights, dict(plain.skipped), plain.prunable,
    )  # fmt: skip
    mask = prune(view, sparsity=0.5, score="magnitude")
    assert mask == prune(plain, sparsity=0.5, score="magnitude")


def test_the_average_is_described_not_what_it_is_of():
    module = seeded(mlp())
    average = AveragedModel(module)
    view = describe(average)
    assert view.weights == describe(module).weights
    apply_(view, prune(view, sparsity=0.5, score="magnitude"))
    assert (average.module[0].weight == 0).any()
    assert not (module[0].weight == 0).any()


def test_a_wrapped_model_of_a_library_is_one_of_the_library():
    view = describe(nn.DataParallel(open_model("timm:test_resnet")))
    assert (view.library, view.architecture) == ("timm", "test_resnet")


def test_an_example_is_one_of_the_model_inside():
    view = describe(nn.DataParallel(seeded(mlp())), example=torch.zeros(2, 12))
    assert view.forward({}, view.example).shape == (2, 5)


def test_a_class_of_ones_own_that_is_called_like_a_wrapper_is_none():
    class DataParallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    assert [weight.name for weight in describe(DataParallel()).weights] == ["module.weight"]


def test_a_wrapper_of_ones_own_is_told_how_to_be_described():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, *args: Tensor) -> Tensor:
            return self.inner(*args)

    with pytest.raises(UnsupportedModel, match=r"no named input.*describe\(model\.inner\)"):
        describe(Wrapped())


def flattened(module: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it runs on the CPU, and is not the newest
        return FullyShardedDataParallel(module, device_id=torch.device("cpu"))


def compiled_by_jit(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated
        return torch.jit.script(module)


def traced(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.trace(module, torch.zeros(1, 12))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (flattened, "FullyShardedDataParallel.*before it is wrapped"),
        (lambda m: nn.Sequential(flattened(m), nn.Linear(5, 2)), "^0 is a FullyShardedDataParallel"),
        (compiled_by_jit, "ScriptModule.*before it is scripted or traced"),
        (traced, "ScriptModule.*before it is scripted or traced"),
    ],
)
def test_where_the_plain_modules_are_lost_that_is_said(wrap, message):
    with pytest.raises(UnsupportedModel, match=message):
        describe(wrap(seeded(mlp())))
