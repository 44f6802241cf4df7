"""Canonical JSON: one text for each value, with a digest of itself; and careful reading of such texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, cast

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.base.family import Plain

T = TypeVar("T")


def signed(plain: Mapping[str, Plain]) -> str:
    """Canonical JSON (sorted keys, no blanks, ASCII) that carries the SHA-256 of the text without it.

    Raises:
        BadInput: something in it is not plain, finite JSON.
    """
    return _dump({**plain, "digest": hashlib.sha256(_dump(plain).encode()).hexdigest()})


def _dump(plain: Mapping[str, Plain]) -> str:
    try:
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"expected plain, finite JSON values, got {error}") from error


def load_object(text: str) -> dict[str, Plain]:
    """A JSON object.

    Raises:
        CheckpointError: the text is none.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"expected JSON, got {text[:40]!r}... ({error})") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"expected a JSON object, got {type(plain).__name__}")
    return cast("dict[str, Plain]", plain)


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        CheckpointError: it is missing, or no UTF-8; names it.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected a text in UTF-8, got {error}") from error


def get(plain: Mapping[str, Plain], key: str, kind: type[T]) -> T:
    """The value of a key.

    Raises:
        CheckpointError: it is of another kind.
    """
    value = plain[key]
    if not isinstance(value, kind):
        raise CheckpointError(f"{key}: expected {kind.__name__}, got {value!r}")
    return value
