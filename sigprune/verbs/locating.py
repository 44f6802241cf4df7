"""Where the files of a packed model are: in a local folder, or in a repository of the Hub."""

from __future__ import annotations

from pathlib import Path

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.families.adapters._hub import fetch
from sigprune.values.packed import PACKED, PACKED_INDEX, read_index
from sigprune.verbs.opening import Reference, split_ref

CONFIG = "config.json"


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
    if Path(ref).expanduser().exists():
        return local_folder(ref, revision)
    reference = repository(ref, revision)
    place = f"{reference.name}@{reference.revision}" if reference.revision else reference.name
    folder = _fetched(reference, PACKED, reference.revision)
    if folder is None:
        folder = _fetched(reference, PACKED_INDEX, reference.revision)
        if folder is None:
            raise CheckpointError(
                f"{place}: the repository has neither {PACKED} nor {PACKED_INDEX}: sigprune did not write "
                "it; `sigprune convert` packs a dense one"
            )
        index = read_index((folder / PACKED_INDEX).read_text(encoding="utf-8"))
        for name in index.shards:
            if _fetched(reference, name, folder.name) is None:
                raise CheckpointError(f"{place}: {PACKED_INDEX} names {name}, which the repository lacks")
    if config:
        _fetched(reference, CONFIG, folder.name)
    return folder


def repository(ref: str | Path, revision: str | None) -> Reference:
    """The repository that a reference names.

    Raises:
        CheckpointError: it names none.
        BadInput: it names one at two revisions.
    """
    place, _, own = str(ref).partition("@")
    try:
        reference = split_ref(place, own or None, hint=False)
    except BadInput:
        reference = None
    if reference is None or reference.kind != "hub":
        raise CheckpointError(
            f"{ref}: no such folder; expected one that sigprune wrote, or a repository user/repo[@revision]"
        )
    return split_ref(str(ref), revision)


def local_folder(ref: str | Path, revision: str | None) -> Path:
    """The local folder that a reference names.

    Raises:
        CheckpointError: there is none, or it is a file.
        BadInput: a revision of a folder.
    """
    folder = Path(ref).expanduser()
    if not folder.exists():
        raise CheckpointError(f"{ref}: no such folder; expected one that sigprune wrote")
    if not folder.is_dir():
        raise CheckpointError(f"{ref}: expected a folder that sigprune wrote, got a file; name its folder")
    if revision is not None:
        raise BadInput(f"{ref}: a local folder has no revisions; leave out revision={revision!r}")
    return folder


def _fetched(reference: Reference, name: str, revision: str | None) -> Path | None:
    """The snapshot folder that holds the file; None if the repository has no such file."""
    path = fetch(reference.name, name, revision, reference.name)
    return None if path is None else path.parent
