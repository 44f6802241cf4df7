"""The Hub: whole checkpoints go up in one commit, and come down whole or not at all.

``HF_TOKEN`` (or a stored login), ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_CACHE`` hold as huggingface_hub
reads them.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sigprune.base.atomic_dir import new_folder, taking
from sigprune.base.errors import BadInput, CheckpointError
from sigprune.checkpoint.inspection import check
from sigprune.checkpoint.locate import local_folder, repository
from sigprune.format.index import not_packed, read_manifest
from sigprune.format.names import is_dense_file, is_packed_file
from sigprune.hub.errors import telling
from sigprune.hub.existing_repo import merge_into_existing
from sigprune.hub.upload_plan import Upload, plan_push, reason_to_leave
from sigprune.propagation.emptied import EmptiedWeights
from sigprune.sources.hub_client import fetch, listing

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        url: of the commit or pull request.
        commit: its id.
        upload: what was sent.
        deleted: weights of an earlier push that these would not have replaced.
        unchanged: everything was there already; ``url`` and ``commit`` are of the commit that holds it, and
            no pull request was opened.
    """

    url: str
    commit: str
    upload: Upload
    deleted: tuple[str, ...] = ()
    unchanged: bool = False


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dense: bool | None = None,
    sparse: bool = True,
) -> Pushed:
    """Send a checkpoint folder to a repository of the Hub, as one commit, after checking every bit of it.

    A repository or branch that does not exist is made. Weights of an earlier push under names that this one
    does not use are deleted in the same commit, so that nothing stale is loaded; without ``dense`` a
    repository that holds no packed model keeps its own dense weights and card. If a push is cut off,
    nothing has changed; pushed again, files that arrived are not sent again. The card names the repository,
    unless somebody has edited it.

    Args:
        folder: what ``run``, ``prune``, ``save`` or ``convert`` wrote.
        repo: ``user/repo``.
        private: of a repository that is made.
        revision: branch; None is ``main``.
        create_pr: open a pull request instead of committing.
        dense: send ``model.safetensors``, which timm and transformers load without sigprune; None: if it is
            there.
        sparse: send the packed model.

    Raises:
        CheckpointError: the folder holds no packed model, or a damaged one.
        BadInput: the Hub refuses, or cannot be reached; or dense weights that stay there are of another
            model; says what to do.

    Warns:
        EmptiedWeights: the checkpoint says that its mask keeps nothing of a weight, a block or any path.

    Example:
        >>> from sigprune import push
        >>> push("runs/quickstart", "user/digits-sparse").url  # doctest: +SKIP
        'https://huggingface.co/user/digits-sparse/commit/...'
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    upload = plan_push(folder, repo, dense=dense, sparse=sparse)
    for line in upload.warnings:
        warnings.warn(line, EmptiedWeights, stacklevel=2)
    folder = local_folder(folder, None)
    check(folder)
    api = HfApi(library_name="sigprune")
    with telling(repo, sending=False):
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repo, branch=revision, exist_ok=True)
    parent, there = listing(repo, revision, repo)
    if not _ours(upload, there):
        upload = merge_into_existing(upload, folder, repo, parent, there)
    stale = _stale(upload, there)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, upload.made[name].encode() if name in upload.made else folder / name)
        for name in upload.files
    ]
    operations += [CommitOperationDelete(name) for name in stale]
    with telling(repo, sending=True):
        done = api.create_commit(
            repo,
            operations,
            commit_message=f"Sparse checkpoint, {read_manifest(folder).sparsity:.1%} removed",
            revision=revision,
            create_pr=create_pr,
            parent_commit=parent,
        )
    unchanged = done.oid == parent or (create_pr and done.pr_url is None)
    return Pushed(str(done.pr_url or done.commit_url), str(done.oid), upload, stale, unchanged)


def would_delete(
    upload: Upload, repo: str, *, revision: str | None = None, create_pr: bool = False
) -> tuple[str, ...]:
    """The weights that :func:`push` would delete there; only the list of files is asked.

    Raises:
        BadInput: the repository cannot be read.
    """
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        _, there = listing(repo, revision, repo)
    except BadInput as error:
        if create_pr or not isinstance(error.__cause__, RevisionNotFoundError):
            raise
        _, there = listing(repo, None, repo)  # a push makes the branch, and it begins as a copy of main
    return _stale(upload, there)


def pull(
    ref: str, folder: str | Path | None = None, *, revision: str | None = None, dense: bool = False
) -> Path:
    """Fetch a checkpoint from the Hub into a new folder, at one commit, every bit checked.

    Args:
        ref: ``user/repo[@revision]``.
        folder: a new or empty folder; None: one named like the repository. It appears when everything is
            there, and not at all on any failure; files that arrived before one are not fetched again.
        revision: branch, tag or commit.
        dense: fetch the dense weights too; they are rebuilt from the packed ones by ``convert``.

    Returns:
        The folder.

    Raises:
        CheckpointError: the repository holds no packed model, or a damaged one.
        BadInput: it cannot be reached.
        FolderExists: the folder is not empty.
        NoSpace: the disk is full.

    Example:
        >>> from sigprune import load, pull
        >>> load(pull("user/digits-sparse", "digits")).mask.sparsity  # doctest: +SKIP
        0.9
    """
    reference = repository(ref, revision, folders=False)
    name = reference.name
    with new_folder(folder or name.rpartition("/")[2]) as staging:
        commit, files = listing(name, reference.revision, name)
        if not any(is_packed_file(file) for file in files):
            raise not_packed(reference.full_name, files)
        wanted = [file for file in files if not reason_to_leave(file, dense=dense, sparse=True)]
        for file in wanted:
            path, target = fetch(name, file, commit, name), _inside(staging, file, name)
            if path is None:
                raise CheckpointError(f"{name}: it lists {file}, and does not have it")
            target.parent.mkdir(parents=True, exist_ok=True)
            with taking(staging, sum(files[name] for name in wanted)):
                shutil.copyfile(path, target)
        check(staging)
    return Path(folder or name.rpartition("/")[2])


def _stale(upload: Upload, there: Iterable[str]) -> tuple[str, ...]:
    """Weights of an earlier push; dense ones beside no packed model are somebody else's."""
    weights = {name for name in there if is_packed_file(name) or is_dense_file(name)}
    return tuple(sorted(weights - upload.files.keys())) if _ours(upload, there) else ()


def _ours(upload: Upload, there: Iterable[str]) -> bool:
    """Whether dense weights there, if any, are replaced or were pushed by us."""
    return any(map(is_dense_file, upload.files)) or any(map(is_packed_file, there))


def _inside(folder: Path, name: str, place: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        raise CheckpointError(f"{place}: a file name that leads elsewhere: {name!r}")
    return folder.joinpath(*parts)
