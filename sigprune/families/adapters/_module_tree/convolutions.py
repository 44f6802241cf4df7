"""Convolutions: what the module that owns a kernel does with it."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from sigprune.families.adapters._module_tree.sites import Site
from sigprune.values.convolution import Convolution

_SAME = frozenset({"Conv2dSame", "Conv2dSameExport"})


def convolution_of(site: Site) -> Convolution | None:
    """Stride, padding and dilation of a convolution's kernel; None for every other parameter."""
    owner = site.owner
    if site.local != "weight" or not isinstance(owner, _ConvNd):
        return None
    stride, dilation, taps = (tuple(map(int, of)) for of in (owner.stride, owner.dilation, owner.kernel_size))
    if _pads_itself(owner) or owner.padding == "same":
        padding = None
    elif owner.padding == "valid":
        padding = ((0, 0),) * len(taps)
    else:
        padding = tuple((int(side), int(side)) for side in owner.padding)
    return Convolution(
        stride=stride,
        dilation=dilation,
        padding=padding,
        border=owner.padding_mode,
        transposed=owner.transposed,
        output_padding=tuple(map(int, owner.output_padding)) if owner.transposed else (),
    )


def _pads_itself(owner: nn.Module) -> bool:
    """Whether it pads by the size of each input: timm's and BiT's convolutions of TensorFlow models."""
    facts = {**vars(owner), **dict(owner.named_children())}
    return type(owner).__name__ in _SAME or bool(facts.get("same_pad")) or facts.get("pad") is not None
