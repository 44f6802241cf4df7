"""Canonical JSON: one text for each value, with a digest of itself; and reading of texts within bounds."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, cast

from sigprune.base.errors import BadInput, CheckpointError, TooLarge, in_checkpoint
from sigprune.base.registry import JsonValue

T = TypeVar("T")

MAX_BYTES = 64 * 2**20
"""Bytes of a text that is read: configurations (2 MB with 20,000 classes), indices, reports, cards."""

MAX_VALUES = 2**21
"""Values in a JSON text. The smallest take two bytes of text and sixty of memory."""

MAX_LEVELS = 100
"""Objects and lists inside each other in a JSON text; Python's JSON fails at 500 to 1000."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half a character, which no UTF-8 text can hold, unless the other half follows."""


def with_digest(plain: Mapping[str, JsonValue]) -> str:
    """Canonical JSON (sorted keys, no blanks, ASCII) that carries the SHA-256 of the text without it.

    Raises:
        BadInput: something in it is not plain, finite JSON.
    """
    return _dump({**plain, "digest": hashlib.sha256(_dump(plain).encode()).hexdigest()})


def _dump(plain: Mapping[str, JsonValue]) -> str:
    try:
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"expected plain, finite JSON values, got {error}") from error


def expect_readable(plain: Mapping[str, JsonValue]) -> None:
    """Make sure that :func:`load_object` will take values that are to be written.

    Raises:
        BadInput: they are nested too deeply.
    """
    try:
        _expect_shallow(dict(plain))
    except CheckpointError as error:
        raise BadInput(str(error)) from error


def load_object(text: str) -> dict[str, JsonValue]:
    """A JSON object within :data:`MAX_VALUES` and :data:`MAX_LEVELS`.

    Raises:
        TooLarge: the text is beyond them.
        CheckpointError: it is none, or has a key twice, or half a character.
    """
    # Each value but the first follows one of these signs; those in strings make the bound a stricter one.
    values = 1 + sum(text.count(sign) for sign in ",[{")
    if values > MAX_VALUES:
        raise TooLarge(f"expected JSON of at most {MAX_VALUES:,} values, got up to {values:,}")
    try:
        plain = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise _too_deep() from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"expected JSON, got {text[:40]!r}... ({error})") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"expected a JSON object, got {type(plain).__name__}")
    _expect_shallow(plain)
    if _SURROGATE.search(text):
        _expect_whole_characters(plain)
    return cast("dict[str, JsonValue]", plain)


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise CheckpointError(f"expected each key once, got {twice!r} twice")
    return found


def _too_deep() -> TooLarge:
    return TooLarge(f"expected JSON of at most {MAX_LEVELS} levels, got values nested more deeply")


def _expect_shallow(plain: dict[str, JsonValue]) -> None:
    level: list[dict[str, JsonValue] | list[JsonValue]] = [plain]
    for _ in range(MAX_LEVELS):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _expect_whole_characters(plain: dict[str, JsonValue]) -> None:
    try:
        json.dumps(plain, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"expected text, got half a character: {error}") from error


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file, no more of which is read than ``max_bytes`` bytes.

    Raises:
        TooLarge: it is longer; names it.
        CheckpointError: it is missing, no file, or no UTF-8; names it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise CheckpointError(f"{path}: expected a file, got a folder or a device")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            size = path.stat().st_size
            raise TooLarge(f"{path}: expected at most {max_bytes:,} bytes, got {size:,}")
        return content.decode()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected a text in UTF-8, got {error}") from error


def read_object(path: Path) -> dict[str, JsonValue]:
    """The JSON object in a file, within the bounds of :func:`read_text` and :func:`load_object`.

    Raises:
        CheckpointError: it is missing or damaged; names it.
    """
    text = read_text(path)
    with in_checkpoint(str(path)):
        return load_object(text)


def get(plain: Mapping[str, JsonValue], key: str, kind: type[T]) -> T:
    """The value of a key.

    Raises:
        CheckpointError: there is none, or it is of another kind.
    """
    if key not in plain:
        raise CheckpointError(f"{key}: expected {kind.__name__}, got nothing")
    value = plain[key]
    if not isinstance(value, kind):
        raise CheckpointError(f"{key}: expected {kind.__name__}, got {value!r}")
    return value
