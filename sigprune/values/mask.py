"""Masks: one boolean per entry, True = keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sigprune.base.errors import BadInput, MaskViolated
from sigprune.base.readonly import ReadOnlyDict
from sigprune.base.tensors import Tensors, number, placed_like, tally

_ORIGINAL = "_orig"
_WRITTEN = "they were written after apply_(view, mask), or after the last step inside hold(...)"


@dataclass(frozen=True, eq=False, repr=False)
class Mask:
    """Which entries of which weights are kept. Explicit: never inferred from zeros.

    Attributes:
        keep: weight name -> boolean tensor of the weight's stored shape, on the CPU; True = keep.

    Raises:
        BadInput: a tensor is not boolean.

    Example:
        >>> mask = Mask({"fc.weight": torch.tensor([[True, False], [False, False]])})
        >>> mask.kept, mask.total, mask.sparsity
        (1, 4, 0.75)
    """

    keep: Mapping[str, Tensor]

    def __repr__(self) -> str:
        return f"Mask({len(self.keep)} weights, {self.kept:,} of {self.total:,} entries kept)"

    def __post_init__(self) -> None:
        for name, tensor in self.keep.items():
            if tensor.dtype is not torch.bool:
                raise BadInput(f"mask of {name}: expected a boolean tensor, got {tensor.dtype}")
        object.__setattr__(self, "keep", ReadOnlyDict({k: v.cpu() for k, v in self.keep.items()}))

    @classmethod
    def dense(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mask:
        """The mask that keeps everything."""
        return cls({name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()})

    @classmethod
    def from_torch_prune(cls, module: nn.Module) -> Mask:
        """The masks that ``torch.nn.utils.prune`` put on a model, by the names of the plain parameters.

        Call it first, then ``torch.nn.utils.prune.remove(part, "weight")`` for every pruned part: that writes
        the zeros and gives the parameters their names back. Then describe the model and go on with the mask.

        Args:
            module: the pruned model; it is not changed.

        Raises:
            BadInput: nothing of it is pruned.

        Example:
            >>> from torch.nn.utils import prune
            >>> layer = prune.l1_unstructured(nn.Linear(4, 2), "weight", amount=3)
            >>> mask = Mask.from_torch_prune(layer)
            >>> _ = prune.remove(layer, "weight")
            >>> mask.check(dict(layer.named_parameters()))
            >>> mask
            Mask(1 weights, 5 of 8 entries kept)
        """
        buffers = dict(module.named_buffers())
        keep = {
            name.removesuffix(_ORIGINAL): buffers[mask] != 0
            for name, _ in module.named_parameters()
            if name.endswith(_ORIGINAL) and (mask := f"{name.removesuffix(_ORIGINAL)}_mask") in buffers
        }
        if not keep:
            raise BadInput(
                f"{type(module).__name__}: expected parameters that torch.nn.utils.prune has pruned, got "
                "none (after prune.remove their masks are gone)"
            )
        return cls(keep)

    @property
    def kept(self) -> int:
        """Number of kept entries."""
        return sum(tally(t) for t in self.keep.values())

    @property
    def total(self) -> int:
        """Number of entries."""
        return sum(t.numel() for t in self.keep.values())

    @property
    def sparsity(self) -> float:
        """Fraction removed, in [0, 1]."""
        return 1.0 - self.kept / self.total if self.total else 0.0

    def counts(self) -> dict[str, tuple[int, int]]:
        """Weight name -> (kept, total)."""
        return {name: (tally(t), t.numel()) for name, t in self.keep.items()}

    def __and__(self, other: Mask) -> Mask:
        """Entries kept by both; the masks must have the same names."""
        self._same_names(other)
        return Mask({name: t & other.keep[name] for name, t in self.keep.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask) or self.keep.keys() != other.keep.keys():
            return False
        return all(torch.equal(t, other.keep[name]) for name, t in self.keep.items())

    def __hash__(self) -> int:
        return hash(self.digest())

    def jaccard(self, other: Mask) -> float:
        """Entries kept by both over entries kept by either; 1.0 for equal masks (of the same names)."""
        shared = self._shared(other).values()
        both, either = sum(pair[0] for pair in shared), sum(pair[1] for pair in shared)
        return both / either if either else 1.0

    def overlap(self, other: Mask) -> dict[str, float]:
        """Weight name -> :meth:`jaccard` of that weight alone; 1.0 where both keep nothing.

        Two random masks of density d overlap by d / (2 - d). Time: one pass over the masks.

        Raises:
            BadInput: the masks are of different weights or shapes.

        Example:
            >>> mask = Mask({"fc.weight": torch.tensor([True, True, False])})
            >>> mask.overlap(Mask({"fc.weight": torch.tensor([False, True, True])}))
            {'fc.weight': 0.3333333333333333}
        """
        return {
            name: both / either if either else 1.0 for name, (both, either) in self._shared(other).items()
        }

    def digest(self) -> str:
        """:func:`digest_of_bits` of its tensors, whatever their order."""
        return digest_of_bits({
            name: (tuple(tensor.shape), fingerprint_of_bits(tensor)) for name, tensor in self.keep.items()
        })

    def apply_(self, tensors: Tensors) -> None:
        """Set the removed entries of the named tensors to +0.0, in place (NaN among the kept ones stays).

        Raises:
            BadInput: a masked weight is missing or has another shape; then nothing is changed.
        """
        self._fits(tensors)
        with torch.no_grad():
            for name, keep in self.keep.items():
                tensors[name].masked_fill_(placed_like(~keep, tensors[name]), 0.0)

    def check(self, tensors: Mapping[str, Tensor], *, why: str = _WRITTEN) -> None:
        """Make sure that every removed entry is exactly zero.

        Args:
            tensors: at least those that the mask names.
            why: what the message says may be the cause.

        Raises:
            MaskViolated: names the first weight that disagrees, and how many of its entries do.
            BadInput: a masked weight is missing or has another shape.
        """
        self._fits(tensors)
        for name, keep in self.keep.items():
            removed = placed_like(~keep, tensors[name])
            alive = number((tensors[name].detach() != 0).logical_and(removed).sum())
            if alive:
                raise MaskViolated(f"{name}: {alive} entries that the mask removed are not zero; {why}")

    def _fits(self, tensors: Mapping[str, Tensor]) -> None:
        for name, keep in self.keep.items():
            if name not in tensors or tensors[name].shape != keep.shape:
                got = tuple(tensors[name].shape) if name in tensors else "no such weight"
                raise BadInput(f"mask of {name}: expected shape {tuple(keep.shape)}, got {got}")

    def _shared(self, other: Mask) -> dict[str, tuple[int, int]]:
        """Weight name -> entries kept by both, and by either."""
        self._same_names(other)
        other._fits(dict(self.keep))
        return {
            name: (int((t & other.keep[name]).count_nonzero()), int((t | other.keep[name]).count_nonzero()))
            for name, t in self.keep.items()
        }

    def _same_names(self, other: Mask) -> None:
        different = sorted(self.keep.keys() ^ other.keep.keys())
        if different:
            raise BadInput(f"masks of different weights: {different[0]} is in only one of them")


def digest_of_bits(masks: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    """SHA-256 of a mask from those of its tensors, so that no two tensors need to be in memory together.

    Args:
        masks: name -> shape, and SHA-256 of the tensor's packed bits.

    Returns:
        SHA-256 of the canonical JSON (sorted keys, no blanks, ASCII) of ``{name: [[sizes], SHA-256]}``.
    """
    plain = {name: [list(shape), bits] for name, (shape, bits) in masks.items()}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint_of_bits(keep: Tensor) -> str:
    """SHA-256 of :func:`pack_bits` of a boolean tensor."""
    return hashlib.sha256(pack_bits(keep).data).hexdigest()


def pack_bits(keep: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """A boolean tensor as ceil(n / 8) bytes: entry i is bit (i mod 8) of byte (i div 8)."""
    return np.packbits(keep.detach().cpu().contiguous().reshape(-1).numpy(), bitorder="little")
