"""Sources: ``hf-hub:user/repo@revision`` or ``local-dir:folder``, which hold ``config.json`` and weights.

A repository becomes a folder of the local cache, at one commit, so that libraries read folders only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sigprune.base.canonical_json import read_object
from sigprune.base.errors import BadInput, CheckpointError
from sigprune.base.registry import JsonValue
from sigprune.base.safetensors_header import declared_size
from sigprune.format.names import CONFIG, DENSE, DENSE_INDEX
from sigprune.sources.hub_client import fetch
from sigprune.sources.local_files import file_in

HUB, FOLDER = "hf-hub:", "local-dir:"


def plain_name(source: str) -> bool:
    """Whether it is a library's own name of an architecture rather than a repository or a folder."""
    return not source.startswith((HUB, FOLDER))


def split_source(source: str) -> tuple[str, str | None]:
    """A repository or folder, and the revision if it is a repository and has one."""
    if source.startswith(FOLDER):
        return source.removeprefix(FOLDER), None
    repository, _, revision = source.removeprefix(HUB).partition("@")
    return repository, revision or None


def place_of(source: str) -> str:
    """What messages call it."""
    return source.removeprefix(FOLDER).removeprefix(HUB)


def folder_of(source: str) -> Path:
    """The folder with its ``config.json``; of a repository the snapshot of one commit in the local cache.

    Raises:
        BadInput: there is no such file, or it cannot be fetched.
    """
    path = _file(source, CONFIG, None)
    if path is None:
        raise BadInput(
            f"{place_of(source)}: it has no config.json, which says what model it is; expected a model in "
            "the layout of timm or transformers"
        )
    return path.parent


def read_config(source: str) -> Mapping[str, JsonValue]:
    """The ``config.json`` of a repository or folder.

    Raises:
        BadInput: there is none, it cannot be fetched, or it is no JSON object.
    """
    return _object(folder_of(source) / CONFIG, place_of(source))


def weights_of(source: str, folder: Path | None, *, named: JsonValue = None, sharded: bool = False) -> Path:
    """The file of weights beside ``config.json``; safetensors only, and whole.

    Args:
        source: the repository or folder.
        folder: what :func:`folder_of` gave for it, so that weights come from the same commit; None where its
            ``config.json`` is not needed.
        named: the file that the configuration names, if it names one.
        sharded: several files under an index will do, all of which are then there.

    Raises:
        BadInput: there is no such file, it cannot be fetched, or it is not whole.
    """
    names = (DENSE, DENSE_INDEX) if sharded else (DENSE,)
    if named is not None:
        names = (_safe(str(named), place_of(source)),)
    for name in names:
        path = _file(source, name, folder)
        if path is not None:
            for part in _shards(path, source, folder) if name.endswith(".json") else [path]:
                _check_whole(part, place_of(source))
            return path
    raise BadInput(
        f"{place_of(source)}: it has no {' or '.join(names)}, and pickles (.bin, .pth) are never loaded; "
        "choose a revision or repository with safetensors, leave pretrained out, or make a folder of the "
        "tensors of such a file by `sigprune convert --weights FILE SOURCE NEW`"
    )


def unfit(source: str, what: str) -> BadInput:
    """The error that the weights of a source are not those of its model."""
    return BadInput(
        f"{place_of(source)}: its weights are not those of its architecture: {what}; choose another "
        "revision, drop the arguments that change the architecture, or leave pretrained out"
    )


def _file(source: str, name: str, folder: Path | None) -> Path | None:
    place, revision = split_source(source)
    if source.startswith(FOLDER):
        return file_in(Path(place), name)
    return fetch(place, name, folder.name if folder else revision, place_of(source))


def _object(path: Path, place: str) -> dict[str, JsonValue]:
    try:
        return read_object(path)
    except CheckpointError as error:
        raise BadInput(f"{place}: cannot read its {path.name}: {error}") from error


def _safe(name: str, place: str) -> str:
    """A file that is a safetensors file, or an index of such, beside the configuration."""
    if Path(name).name != name or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise BadInput(
            f"{place}: expected a safetensors file as weights, got {name!r}; pickles are never loaded"
        )
    return name


def _shards(index: Path, source: str, folder: Path | None) -> list[Path]:
    place, found = place_of(source), []
    parts = _object(index, place).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise BadInput(f"{place}: expected a weight_map in its {index.name}, got {type(parts).__name__}")
    for name in sorted({_safe(str(part), place) for part in parts.values()}):
        path = _file(source, name, folder)
        if path is None:
            raise BadInput(
                f"{place}: its {index.name} names {name}, which is not there; the upload is incomplete"
            )
        found.append(path)
    return found


def _check_whole(path: Path, place: str) -> None:
    """Whether the file is as long as its header says: 8 bytes, so many bytes of JSON, and the tensors."""
    size = path.stat().st_size
    try:
        whole = declared_size(path)
    except CheckpointError as error:
        whole, why = None, f": {error}"
    else:
        why = f": its {size} bytes do not match its header"
    if whole != size:
        raise BadInput(
            f"{place}: {path.name} is truncated or no safetensors file{why}; delete {path.resolve()} and "
            "fetch it again"
        )
