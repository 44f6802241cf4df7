"""Processes that score together, as ``accelerate launch`` or ``torchrun`` start them (torch.distributed)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, distributed, tensor

from sigprune.base.errors import BadInput
from sigprune.base.registry import JsonValue


def count() -> int:
    """How many processes work together; 1 where no process group was made."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if count() > 1 else 0


def average_(tensors: Iterable[Tensor]) -> None:
    """The mean over all processes, in place and the same bits in each; nothing to do in a single one.

    Every process calls this with as many tensors of the same shapes in the same order.
    """
    processes = count()
    if processes > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)
            tensor.div_(processes)


def total(value: int) -> int:
    """The sum of a number over all processes."""
    if count() == 1:
        return value
    reduced = tensor(value)
    distributed.all_reduce(reduced)
    return int(reduced)


def expect_equal(value: JsonValue | Callable[[], JsonValue], what: str) -> None:
    """Make sure that all processes hold the same; each of them raises if one differs.

    A function is called only where there are several processes.

    Raises:
        BadInput: says what each of them holds.
    """
    processes = count()
    if processes > 1:
        values: list[JsonValue] = [None] * processes
        distributed.all_gather_object(values, value() if callable(value) else value)
        if any(other != values[0] for other in values):
            listed = ", ".join(f"process {rank}: {other}" for rank, other in enumerate(values))
            raise BadInput(f"{what} must be the same in all processes, got {listed}")
