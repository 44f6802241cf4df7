"""Building a network from a configuration that somebody else wrote, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules import module as torch_module

from sigprune.base.errors import TooLarge
from sigprune.format.network_config import max_modules


@contextmanager
def bounded_modules(tensors: int, place: object) -> Iterator[None]:
    """The block builds a network for so many tensors; one that becomes far larger is given up at once.

    A configuration of a few bytes may ask for a million layers, whose tensors no file holds.

    Args:
        tensors: names that the files have.
        place: what messages call the configuration.

    Raises:
        TooLarge: the network has far more parameters, buffers and modules.
    """
    most, own, count = max_modules(tensors), threading.get_ident(), 0

    def too_large() -> TooLarge:
        return TooLarge(
            f"{place}: it makes a network of more than {most:,} parameters, buffers and modules; its files "
            f"hold {tensors:,} tensors: they are of different architectures"
        )

    def counted(parent: nn.Module, name: str, child: object) -> None:
        del parent, name, child
        nonlocal count
        if threading.get_ident() == own:
            count += 1
            if count > most:
                raise too_large()

    hooks = (
        torch_module.register_module_parameter_registration_hook(counted),
        torch_module.register_module_buffer_registration_hook(counted),
        torch_module.register_module_module_registration_hook(counted),
    )
    try:
        yield
    except Exception as error:
        if count > most:
            raise too_large() from error
        raise
    else:
        if count > most:  # whoever built it has caught the error
            raise too_large()
    finally:
        for hook in hooks:
            hook.remove()
