"""Manifests: what a checkpoint file says about itself (docs/format.md is the specification)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch

from sigprune.base.canonical_json import get, load_object, with_digest
from sigprune.base.errors import BadInput, CheckpointError, in_checkpoint
from sigprune.base.registry import JsonValue
from sigprune.values.layout import Shape
from sigprune.values.mask import digest_of_bits

SCHEMA = 2
"""The version of the manifest's layout that is written."""

KNOWN_SCHEMAS = (1, 2)
"""Those that are read: 1, of version 0.1.0, lacks ``network``. A reader refuses any other."""

_FIELDS = frozenset({
    "architecture",
    "digest",
    "kept",
    "library",
    "mask",
    "provenance",
    "schema",
    "sparsity",
    "tensors",
    "tied",
    "total",
})
"""The keys of schema 1; schema 2 has ``network`` too."""

_RANK = 64
DTYPES: Mapping[str, torch.dtype] = MappingProxyType({
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool,
        torch.uint8, torch.uint16, torch.uint32, torch.uint64,
        torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
        torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz,
        torch.float8_e8m0fnu,
        torch.complex64,
    )
})  # fmt: skip
"""What safetensors stores and reads back, each by one name (not ``half``; ``uint4`` has no storage)."""

_DENSE = frozenset({"shape", "dtype", "digest"})
_MASKED = frozenset({"kept", "codec", "bits", "parts"})


@dataclass(frozen=True)
class Masked:
    """How a masked tensor is stored.

    Attributes:
        kept: number of entries that the mask keeps.
        codec: the member that packed it.
        bits: SHA-256 of the mask as :func:`~sigprune.values.mask.pack_bits` packs it.
        parts: suffix of each stored part -> SHA-256 of its bytes; the main part has the suffix "".
    """

    kept: int
    codec: str
    bits: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """What the manifest says about one tensor.

    Attributes:
        shape: of the dense tensor.
        dtype: torch's name of it, e.g. ``bfloat16``.
        digest: SHA-256 of the dense tensor's little-endian bytes, whatever the codec.
        masked: how it is packed; None for a tensor without a mask, stored as it is.
    """

    shape: Shape
    dtype: str
    digest: str
    masked: Masked | None = None

    @property
    def kept(self) -> int | None:
        """Number of entries that the mask keeps; None without a mask."""
        return None if self.masked is None else self.masked.kept

    @property
    def total(self) -> int:
        """Number of entries of the dense tensor."""
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself.

        Raises:
            CheckpointError: no file can hold it.
        """
        if self.dtype not in DTYPES:
            raise CheckpointError(f"expected a dtype among {', '.join(DTYPES)}, got {self.dtype!r}")
        return DTYPES[self.dtype]

    def to_plain(self) -> dict[str, JsonValue]:
        """The entry as plain JSON."""
        plain: dict[str, JsonValue] = {"shape": list(self.shape), "dtype": self.dtype, "digest": self.digest}
        if self.masked is None:
            return plain
        own = self.masked
        return plain | {"kept": own.kept, "codec": own.codec, "bits": own.bits, "parts": dict(own.parts)}


@dataclass(frozen=True)
class Manifest:
    """What a file says about itself: stored as canonical JSON that carries its own digest.

    Attributes:
        library: the adapter that rebuilds the model.
        architecture: that library's name of it.
        tensors: state-dict name -> what is stored; tied copies once.
        tied: state-dict name of a tied copy -> the name it is stored under.
        provenance: what the caller added: recipe, digest of the recipe, versions.
        network: what of ``config.json`` makes the network, as
            :func:`~sigprune.format.network_config.network_of` has it;
            None in schema 1, which does not say it.
    """

    library: str
    architecture: str
    tensors: Mapping[str, Entry]
    tied: Mapping[str, str]
    provenance: Mapping[str, JsonValue] = field(default_factory=dict)
    network: Mapping[str, JsonValue] | None = None

    @classmethod
    def union(cls, shards: Sequence[Manifest]) -> Manifest:
        """The manifest of a model whose tensors are spread over files.

        Raises:
            CheckpointError: two files hold the same tensor, or are of different models; a tied copy is of no
                stored tensor, or stored itself.
        """
        first = shards[0]
        tensors: dict[str, Entry] = {}
        tied: dict[str, str] = {}
        for shard in shards:
            if replace(shard, tensors={}, tied={}) != replace(first, tensors={}, tied={}):
                raise CheckpointError("the files are not of one model: library, provenance or network differ")
            for name in shard.tensors.keys() & tensors.keys():
                raise CheckpointError(f"{name}: two of the files hold it")
            tensors |= shard.tensors
            tied |= shard.tied
        for alias, name in tied.items():
            if alias in tensors or name not in tensors:
                raise CheckpointError(f"{alias}: expected a copy of a stored tensor, got one of {name!r}")
        return replace(first, tensors=tensors, tied=tied)

    @property
    def schema(self) -> int:
        """The version of the layout: that which was read, or :data:`SCHEMA`."""
        return 1 if self.network is None else SCHEMA

    @property
    def mask_digest(self) -> str:
        """Digest of the :class:`~sigprune.values.mask.Mask`."""
        return digest_of_bits({
            name: (entry.shape, entry.masked.bits)
            for name, entry in self.tensors.items()
            if entry.masked is not None
        })

    @property
    def codecs(self) -> tuple[str, ...]:
        """The codecs that masked tensors are packed with, in the order of their names."""
        return tuple(sorted({entry.masked.codec for entry in self.tensors.values() if entry.masked}))

    @property
    def masked(self) -> tuple[str, ...]:
        """Names of the tensors that have a mask."""
        return tuple(name for name, entry in self.tensors.items() if entry.masked is not None)

    def parts(self) -> frozenset[str]:
        """The names that its tensors have in the file: of masked ones one for each part.

        Raises:
            CheckpointError: two would have one name.
        """
        names = [
            name + suffix
            for name, entry in self.tensors.items()
            for suffix in (("",) if entry.masked is None else entry.masked.parts)
        ]
        found = frozenset(names)
        if len(found) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise CheckpointError(f"{twice}: two tensors would have this name in the packed file")
        return found

    @property
    def kept(self) -> int:
        """Number of entries that the mask keeps."""
        return sum(entry.kept or 0 for entry in self.tensors.values())

    @property
    def total(self) -> int:
        """Number of entries under the mask."""
        return sum(entry.total for entry in self.tensors.values() if entry.masked is not None)

    @property
    def sparsity(self) -> float:
        """Fraction removed, in [0, 1]."""
        return 1.0 - self.kept / self.total if self.total else 0.0

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no blanks, ASCII; ``digest`` is the SHA-256 of the text without it.

        Raises:
            BadInput: the provenance holds something that is not plain, finite JSON.
        """
        plain: dict[str, JsonValue] = {
            "schema": self.schema,
            "library": self.library,
            "architecture": self.architecture,
            "tensors": {name: entry.to_plain() for name, entry in self.tensors.items()},
            "tied": dict(self.tied),
            "mask": self.mask_digest,
            "kept": self.kept,
            "total": self.total,
            "sparsity": self.sparsity,
            "provenance": dict(self.provenance),
        }
        if self.network is not None:
            plain["network"] = dict(self.network)
        return with_digest(plain)

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Read what :meth:`to_json` wrote.

        Raises:
            CheckpointError: not JSON, an unknown schema, a field that is missing, unknown or of the wrong
                kind, counts that do not add up, a text that does not have its own digest.
        """
        with in_checkpoint("manifest"):
            return cls._parse(text)

    @classmethod
    def _parse(cls, text: str) -> Manifest:
        plain = load_object(text)
        schema = plain.get("schema")
        if type(schema) is not int or schema not in KNOWN_SCHEMAS:
            known = " or ".join(map(str, KNOWN_SCHEMAS))
            raise CheckpointError(
                f"expected schema {known}, got {schema!r}; a newer sigprune wrote it: upgrade sigprune"
            )
        fields = _FIELDS if schema == 1 else _FIELDS | {"network"}
        if plain.keys() != fields:
            raise CheckpointError(f"missing or unknown field {min(plain.keys() ^ fields)!r}")
        tied = get(plain, "tied", dict)
        manifest = cls(
            library=get(plain, "library", str),
            architecture=get(plain, "architecture", str),
            tensors={name: _entry(name, value) for name, value in get(plain, "tensors", dict).items()},
            tied={name: get(tied, name, str) for name in tied},
            provenance=get(plain, "provenance", dict),
            network=None if schema == 1 else get(plain, "network", dict),
        )
        if not manifest._writes(text):
            raise CheckpointError("its text and its own digest or counts disagree; it was changed")
        return manifest

    def _writes(self, text: str) -> bool:
        try:
            return self.to_json() == text
        except BadInput:
            return False


def _entry(name: str, plain: JsonValue) -> Entry:
    where = f"tensor {name}"
    fields = set(plain) if isinstance(plain, dict) else set()
    if not isinstance(plain, dict) or fields not in (_DENSE, _DENSE | _MASKED):
        raise CheckpointError(
            f"{where}: expected {', '.join(sorted(_DENSE))}, and for a masked one "
            f"{', '.join(sorted(_MASKED))}, got {plain!r}"
        )
    shape = get(plain, "shape", list)
    sizes = len(shape) <= _RANK and all(type(n) is int and 0 <= n < 2**63 for n in shape)
    if not sizes or math.prod(shape) >= 2**63:
        raise CheckpointError(
            f"{where}: expected at most {_RANK} non-negative sizes and less than 2^63 entries, "
            f"got {str(shape)[:200]}"
        )
    entry = Entry(tuple(shape), get(plain, "dtype", str), get(plain, "digest", str))
    with in_checkpoint(where):
        _ = entry.torch_dtype
    if fields == _DENSE:
        return entry
    kept, parts = plain["kept"], get(plain, "parts", dict)
    if type(kept) is not int or not 0 <= kept <= entry.total:
        raise CheckpointError(f"{where}: expected 0 to {entry.total} kept entries, got {kept!r}")
    if "" not in parts:
        raise CheckpointError(f"{where}: its parts lack the main one, got {sorted(parts)}")
    digests = {suffix: get(parts, suffix, str) for suffix in parts}
    return replace(entry, masked=Masked(kept, get(plain, "codec", str), get(plain, "bits", str), digests))
