"""The Hub: whole checkpoints go up in one commit, and come down whole or not at all.

``HF_TOKEN`` (or a stored login), ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_CACHE`` hold as huggingface_hub
reads them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sigprune.base.errors import BadInput, CheckpointError, one_line
from sigprune.base.folders import new_folder, taking
from sigprune.effects.card import card, plain_card
from sigprune.effects.report import Report
from sigprune.families.adapters._hub import fetch, listing
from sigprune.values.packed import is_packed_file, read_manifest
from sigprune.verbs.beside import with_plug_in
from sigprune.verbs.files import DENSE, DENSE_INDEX
from sigprune.verbs.inspecting import check
from sigprune.verbs.locating import CONFIG, local_folder, repository

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

CARD, REPORT = "README.md", "report.json"
_SAFE = frozenset({
    ".json",
    ".jsonl",
    ".md",
    ".model",
    ".png",
    ".safetensors",
    ".svg",
    ".txt",
    ".yaml",
    ".yml",
})
"""Endings of files that hold no code: nothing else is sent or fetched, and no pickle ever."""

_DENSE = re.compile(rf"{re.escape(DENSE)}|{re.escape(DENSE_INDEX)}|model-\d{{5}}-of-\d{{5}}\.safetensors")


@dataclass(frozen=True)
class Upload:
    """What a push sends.

    Attributes:
        files: path in the repository -> bytes.
        left_out: path in the folder -> why it is not sent.
        made: path -> text that differs from the folder's own: the card names the repository.
    """

    files: Mapping[str, int]
    left_out: Mapping[str, str]
    made: Mapping[str, str]


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        url: of the commit or pull request.
        commit: its id.
        upload: what was sent.
        deleted: weights of an earlier push that these would not have replaced.
    """

    url: str
    commit: str
    upload: Upload
    deleted: tuple[str, ...] = ()


def plan_push(folder: str | Path, repo: str, *, dense: bool = True, sparse: bool = True) -> Upload:
    """What :func:`push` would send; nothing is sent, and no network is asked.

    Raises:
        CheckpointError: the folder holds no packed model.
        BadInput: neither dense nor packed weights are wanted, or the dense ones are not there.
    """
    if not dense and not sparse:
        raise BadInput("a push without dense and without packed weights would send no model")
    folder = local_folder(folder, None)
    manifest = read_manifest(folder)
    files: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            reason = _reason_to_leave(name, dense=dense, sparse=sparse)
            if reason is None:
                files[name] = path.stat().st_size
            else:
                left_out[name] = reason
    if dense and not files.keys() & {DENSE, DENSE_INDEX}:
        raise BadInput(f"{folder}: it has no {DENSE}; push the packed model alone with --no-dense")
    made = {CARD: _card(folder, repo, dense=dense, sparse=sparse)}
    if not sparse and manifest.library == "transformers":
        made[CONFIG] = with_plug_in((folder / CONFIG).read_text(encoding="utf-8"), packed=False)
    files |= {name: len(text.encode()) for name, text in made.items()}
    return Upload(dict(sorted(files.items())), left_out, made)


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dense: bool = True,
    sparse: bool = True,
) -> Pushed:
    """Send a checkpoint folder to a repository of the Hub, as one commit, after checking every bit of it.

    A repository or branch that does not exist is made. Weights of an earlier push under names that this one
    does not use are deleted in the same commit, so that nothing stale is loaded; without ``dense`` a
    repository that holds no packed model keeps its own dense weights. If a push is cut off, nothing has
    changed; pushed again, files that arrived are not sent again. The card names the repository, unless
    somebody has edited it.

    Args:
        folder: what ``run``, ``prune``, ``save`` or ``convert`` wrote.
        repo: ``user/repo``.
        private: of a repository that is made.
        revision: branch; None is ``main``.
        create_pr: open a pull request instead of committing.
        dense: send ``model.safetensors``, which timm and transformers load without sigprune.
        sparse: send the packed model.

    Raises:
        CheckpointError: the folder holds no packed model, or a damaged one.
        BadInput: the Hub refuses, or cannot be reached; says what to do.

    Example:
        >>> from sigprune import push
        >>> push("runs/quickstart", "user/digits-sparse").url  # doctest: +SKIP
        'https://huggingface.co/user/digits-sparse/commit/...'
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    upload = plan_push(folder, repo, dense=dense, sparse=sparse)
    folder = local_folder(folder, None)
    check(folder)
    api = HfApi(library_name="sigprune")
    with _telling(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repo, branch=revision, exist_ok=True)
    parent, there = listing(repo, revision, repo)
    ours = dense or any(is_packed_file(name) for name in there)
    stale = sorted(name for name in there if ours and _is_weights(name) and name not in upload.files)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, upload.made[name].encode() if name in upload.made else folder / name)
        for name in upload.files
    ]
    operations += [CommitOperationDelete(name) for name in stale]
    with _telling(repo):
        done = api.create_commit(
            repo,
            operations,
            commit_message=f"Sparse checkpoint, {read_manifest(folder).sparsity:.1%} removed",
            revision=revision,
            create_pr=create_pr,
            parent_commit=parent,
        )
    return Pushed(str(done.pr_url or done.commit_url), str(done.oid), upload, tuple(stale))


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
    reference = repository(ref, revision)
    name = reference.name
    with new_folder(folder or name.rpartition("/")[2]) as staging:
        commit, files = listing(name, reference.revision, name)
        if not any(is_packed_file(file) for file in files):
            raise CheckpointError(
                f"{name}: the repository holds no packed model; `sigprune convert` packs a dense one"
            )
        wanted = [file for file in files if not _reason_to_leave(file, dense=dense, sparse=True)]
        for file in wanted:
            path, target = fetch(name, file, commit, name), _inside(staging, file, name)
            if path is None:
                raise CheckpointError(f"{name}: it lists {file}, and does not have it")
            target.parent.mkdir(parents=True, exist_ok=True)
            with taking(staging, sum(files[name] for name in wanted)):
                shutil.copyfile(path, target)
        check(staging)
    return Path(folder or name.rpartition("/")[2])


def _is_weights(name: str) -> bool:
    return is_packed_file(name) or _DENSE.fullmatch(name) is not None


def _reason_to_leave(name: str, *, dense: bool, sparse: bool) -> str | None:
    """Why a file stays where it is; None if it travels."""
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    if path.suffix not in _SAFE and path.name != "LICENSE":
        return "no weights, text or picture (pickles and programs never travel)"
    if not dense and _DENSE.fullmatch(name):
        return "dense weights were not asked for"
    if not sparse and is_packed_file(name):
        return "packed weights were not asked for"
    return None


def _inside(folder: Path, name: str, place: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        raise CheckpointError(f"{place}: a file name that leads elsewhere: {name!r}")
    return folder.joinpath(*parts)


def _card(folder: Path, repo: str, *, dense: bool, sparse: bool) -> str:
    """The folder's own card if somebody wrote or edited it, else a fresh one that names the repository."""
    path = folder / CARD
    own = path.read_text(encoding="utf-8") if path.is_file() else None
    report = Report.read(folder) if (folder / REPORT).is_file() else None
    if own is not None and (report is None or own != card(report)):
        return own
    if report is None:
        return plain_card(read_manifest(folder), repo=repo, dense=dense, sparse=sparse)
    return card(report, repo=repo, dense=dense, sparse=sparse)


@contextmanager
def _telling(repo: str) -> Iterator[None]:
    """What the Hub refused, in one line that says what to do."""
    from huggingface_hub import constants

    try:
        yield
    except Exception as error:  # connections, disks and names raise errors of three libraries
        raise BadInput(f"{repo}: {_refusal(error, repo, constants.ENDPOINT)}") from error


def _refusal(error: Exception, repo: str, hub: str) -> str:
    from huggingface_hub import errors, get_token

    if isinstance(error, errors.HFValidationError):
        return "no valid name of a repository; expected user/repo of letters, digits and single . _ -"
    if not isinstance(error, errors.HfHubHTTPError):
        return (
            f"the upload to {hub} was cut off ({one_line(error)}); nothing was committed, push again: what "
            "arrived is not sent again"
        )
    status = error.response.status_code
    token = "the token in use" if get_token() else "no token is set, and none"
    known = {
        401: f"{hub} does not know who asks: {token} is not valid; set HF_TOKEN or log in (hf auth login)",
        403: f"{token} may not write to {repo}; set HF_TOKEN to one with write access, or open a pull "
        "request (--create-pr)",
        404: f"{hub} has no such repository, or it is private and {token} does not open it",
        409: "somebody else changed the branch meanwhile; nothing was committed, push again",
        412: "somebody else changed the branch meanwhile; nothing was committed, push again",
        429: f"{hub} asks to wait; nothing was committed, push again later",
    }
    why = known.get(status, f"{hub} answered {status}; nothing was committed, push again later")
    return f"{why} ({one_line(error)})" if status not in known else why
