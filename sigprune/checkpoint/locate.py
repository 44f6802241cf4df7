"""Where the files of a packed model are: in a local folder, or in a repository of the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sigprune.base.canonical_json import read_text
from sigprune.base.errors import BadInput, CheckpointError, nearest
from sigprune.format.index import not_packed, read_index
from sigprune.format.names import CONFIG, PACKED, PACKED_INDEX
from sigprune.models.opening import parse_ref
from sigprune.sources.hub_client import fetch, listing
from sigprune.sources.local_files import file_in
from sigprune.sources.reference import ModelRef, local_path


def packed_folder(ref: str | Path, revision: str | None = None, *, config: bool = True) -> Path:
    """The folder that holds a packed model; of a repository only its files are fetched, at one commit.

    Args:
        ref: a local folder, or a repository ``user/repo[@revision]``.
        revision: branch, tag or commit of a repository, if ``ref`` names none.
        config: fetch the ``config.json`` too.

    Raises:
        CheckpointError: there is no such folder, or the repository holds no packed model.
        BadInput: the revision of a local folder, or a repository that cannot be reached.
    """
    if local_path(ref) is not None:
        return local_folder(ref, revision)
    reference = repository(ref, revision)
    place = reference.full_name
    folder = _fetched(reference, PACKED, reference.revision, asked(ref, reference))
    if folder is None:
        folder = _fetched(reference, PACKED_INDEX, reference.revision)
        if folder is None:
            raise not_packed(place, _files(reference))
        index = read_index(read_text(folder / PACKED_INDEX))
        for name in index.shards:
            if _fetched(reference, name, folder.name) is None:
                raise CheckpointError(f"{place}: {PACKED_INDEX} names {name}, which the repository lacks")
    if config:
        _fetched(reference, CONFIG, folder.name)
    return folder


def repository(ref: str | Path, revision: str | None, *, folders: bool = True) -> ModelRef:
    """The repository that a reference names.

    Args:
        ref: ``user/repo[@revision]``.
        revision: branch, tag or commit, if ``ref`` names none.
        folders: a folder would have been as good.

    Raises:
        CheckpointError: it names none.
        BadInput: it names one at two revisions.
    """
    place, _, own = str(ref).partition("@")
    try:
        reference = parse_ref(place, own or None, hint=False)
    except BadInput:
        reference = None
    if reference is not None and reference.kind == "hub":
        return parse_ref(str(ref), revision)
    wanted = "a repository user/repo[@revision]"
    if folders:
        raise CheckpointError(f"{_absent(ref)}; expected one that sigprune wrote, or {wanted}")
    here = ", got a folder here, which need not be fetched" if local_path(ref) is not None else ""
    raise CheckpointError(f"{ref}: expected {wanted}{here}")


def asked(ref: str | Path, reference: ModelRef) -> str:
    """What messages call a repository that may not exist: a mistyped folder has the same form."""
    if reference.revision or str(ref) != reference.name:
        return reference.name
    return f"{_absent(ref)}; on the Hub"


def local_folder(ref: str | Path, revision: str | None) -> Path:
    """The local folder that a reference names.

    Raises:
        CheckpointError: there is none, or it is a file; its weights or ``config.json`` are links out of it.
        BadInput: a revision of a folder.
    """
    folder = local_path(ref)
    if folder is None:
        raise CheckpointError(f"{_absent(ref)}; expected one that sigprune wrote")
    if not folder.is_dir():
        raise CheckpointError(f"{ref}: expected a folder that sigprune wrote, got a file; name its folder")
    if revision is not None:
        raise BadInput(f"{ref}: a local folder has no revisions; leave out revision={revision!r}")
    for path in folder.iterdir():
        if path.name == CONFIG or ".safetensors" in path.name:
            file_in(folder, path.name)
    return folder


def _absent(ref: str | Path) -> str:
    """That there is no such folder, and which one beside it may be meant."""
    parent, name = local_path(Path(ref).parent), Path(ref).name
    readable = parent is not None and parent.is_dir() and os.access(parent, os.R_OK)
    siblings = [other.name for other in parent.iterdir() if other.is_dir()] if parent and readable else []
    near = "".join(f" (did you mean {Path(ref).parent / one}?)" for one in nearest(name, siblings, count=1))
    return f"{ref}: no such folder{near}"


def _fetched(reference: ModelRef, name: str, revision: str | None, place: str = "") -> Path | None:
    """The snapshot folder that holds the file; None if the repository has no such file."""
    path = fetch(reference.name, name, revision, place or reference.name)
    return None if path is None else path.parent


def _files(reference: ModelRef) -> Iterable[str]:
    """The files of a repository, for a message; none where only the cache has answered so far."""
    try:
        return listing(reference.name, reference.revision, reference.name)[1]
    except BadInput:
        return ()
