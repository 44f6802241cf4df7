"""Manifests: what a checkpoint says about itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import torch

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.base.family import Plain
from sigprune.values.layout import Shape

SCHEMA = 1
"""The version of the manifest's layout; a reader refuses any other."""

PACKED = "model.sparse.safetensors"
"""The file of a checkpoint folder that carries the manifest."""

_FIELDS = frozenset({
    "architecture",
    "codec",
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

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """What the manifest says about one tensor.

    Attributes:
        shape: of the dense tensor.
        dtype: torch's name of it, e.g. ``bfloat16``.
        digest: SHA-256 of the dense tensor's little-endian bytes, whatever the codec.
        kept: number of entries that the mask keeps; None for a tensor without a mask, stored as it is.
    """

    shape: Shape
    dtype: str
    digest: str
    kept: int | None = None

    @property
    def total(self) -> int:
        """Number of entries of the dense tensor."""
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself.

        Raises:
            CheckpointError: this torch has no such dtype.
        """
        found = vars(torch).get(self.dtype)
        if not isinstance(found, torch.dtype):
            raise CheckpointError(f"expected the name of a torch dtype, got {self.dtype!r}")
        return found

    def to_plain(self) -> dict[str, Plain]:
        """The entry as plain JSON."""
        plain: dict[str, Plain] = {"shape": list(self.shape), "dtype": self.dtype, "digest": self.digest}
        return plain if self.kept is None else plain | {"kept": self.kept}


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself: stored as canonical JSON that carries its own digest.

    Attributes:
        codec: how the masked tensors are stored.
        library: the adapter that rebuilds the model.
        architecture: that library's name of it.
        tensors: state-dict name -> what is stored; tied copies once.
        tied: state-dict name of a tied copy -> the name it is stored under.
        mask_digest: digest of the :class:`~sigprune.values.mask.Mask`.
        provenance: what the caller added: recipe, digest of the recipe, versions.
    """

    codec: str
    library: str
    architecture: str
    tensors: Mapping[str, Entry]
    tied: Mapping[str, str]
    mask_digest: str
    provenance: Mapping[str, Plain] = field(default_factory=dict)

    @property
    def masked(self) -> tuple[str, ...]:
        """Names of the tensors that have a mask."""
        return tuple(name for name, entry in self.tensors.items() if entry.kept is not None)

    @property
    def kept(self) -> int:
        """Number of entries that the mask keeps."""
        return sum(entry.kept or 0 for entry in self.tensors.values())

    @property
    def total(self) -> int:
        """Number of entries under the mask."""
        return sum(entry.total for entry in self.tensors.values() if entry.kept is not None)

    @property
    def sparsity(self) -> float:
        """Fraction removed, in [0, 1]."""
        return 1.0 - self.kept / self.total if self.total else 0.0

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no blanks, ASCII; ``digest`` is the SHA-256 of the text without it.

        Raises:
            BadInput: the provenance holds something that is not plain, finite JSON.
        """
        plain: dict[str, Plain] = {
            "schema": SCHEMA,
            "codec": self.codec,
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
        return _dump(plain | {"digest": hashlib.sha256(_dump(plain).encode()).hexdigest()})

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Read what :meth:`to_json` wrote.

        Raises:
            CheckpointError: not JSON, an unknown schema, a field that is missing, unknown or of the wrong
                kind, counts that do not add up, a text that does not have its own digest.
        """
        plain = _load(text)
        if plain.get("schema") != SCHEMA:
            raise CheckpointError(
                f"manifest: expected schema {SCHEMA}, got {plain.get('schema')!r}; "
                "a newer sigprune wrote it: upgrade sigprune"
            )
        if plain.keys() != _FIELDS:
            raise CheckpointError(f"manifest: missing or unknown field {min(plain.keys() ^ _FIELDS)!r}")
        tied = _get(plain, "tied", dict)
        manifest = cls(
            codec=_get(plain, "codec", str),
            library=_get(plain, "library", str),
            architecture=_get(plain, "architecture", str),
            tensors={name: _entry(name, value) for name, value in _get(plain, "tensors", dict).items()},
            tied={name: _get(tied, name, str) for name in tied},
            mask_digest=_get(plain, "mask", str),
            provenance=_get(plain, "provenance", dict),
        )
        if not manifest._writes(text):
            raise CheckpointError("manifest: its text and its own digest or counts disagree; it was changed")
        return manifest

    def _writes(self, text: str) -> bool:
        try:
            return self.to_json() == text
        except BadInput:
            return False


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder, from the first bytes of its packed file; no tensor is read.

    A safetensors file starts with the length of its header (eight bytes, little-endian) and the header, JSON
    whose ``__metadata__`` holds the manifest.

    Raises:
        CheckpointError: there is no such file, or it does not start like that; names the file.
    """
    path = folder / PACKED
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length < path.stat().st_size else b""
        plain = _load(header.decode())
        return Manifest.parse(_get(_get(plain, "__metadata__", dict), "sigprune", str))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; expected a folder that save() or run() wrote"
        ) from error
    except KeyError as error:
        raise CheckpointError(f"{path}: its header has no {error}; sigprune did not write it") from error
    except (CheckpointError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _dump(plain: Mapping[str, Plain]) -> str:
    try:
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"manifest: expected plain, finite JSON values, got {error}") from error


def _load(text: str) -> dict[str, Plain]:
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"manifest: expected JSON, got {text[:40]!r}... ({error})") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"manifest: expected a JSON object, got {type(plain).__name__}")
    return cast("dict[str, Plain]", plain)


def _get(plain: Mapping[str, Plain], key: str, kind: type[T]) -> T:
    value = plain[key]
    if not isinstance(value, kind):
        raise CheckpointError(f"manifest: {key}: expected {kind.__name__}, got {value!r}")
    return value


def _entry(name: str, plain: Plain) -> Entry:
    if not isinstance(plain, dict) or plain.keys() - {"kept"} != {"shape", "dtype", "digest"}:
        raise CheckpointError(
            f"manifest: tensor {name}: expected shape, dtype, digest and perhaps kept, got {plain!r}"
        )
    shape = _get(plain, "shape", list)
    if not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise CheckpointError(
            f"manifest: tensor {name}: expected a shape of non-negative integers, got {shape}"
        )
    kept = plain.get("kept")
    entry = Entry(
        tuple(shape), _get(plain, "dtype", str), _get(plain, "digest", str), cast("int | None", kept)
    )
    if kept is not None and not (type(kept) is int and 0 <= kept <= entry.total):
        raise CheckpointError(
            f"manifest: tensor {name}: expected 0 to {entry.total} kept entries, got {kept!r}"
        )
    return entry
